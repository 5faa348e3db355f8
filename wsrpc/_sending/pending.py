"""Requests of this side: their options, and the table of those that await an answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Container
from typing import Any

from msgspec import UNSET, Struct, UnsetType, field

from .._base.names import Offline, Source
from .._base.scheduler import Scheduler, Timer
from .._protocol.messages import WireMessage
from .._session.waiting import Told, WaitingMessage
from ..errors import ConnectionLost, TooManyRequests
from .retry import Retry

__all__ = ["MAX_REMEMBERED", "NO_OPTIONS", "InFlight", "Pending", "PendingRequests", "RequestOptions"]

FIRST_ID, LAST_ID = 2**30, 2**31 - 1
MAX_REMEMBERED = 1024
"""How many ids of ended requests or channels are remembered, to recognize messages that come too late for them."""


class RequestOptions(Struct, frozen=True, eq=False):
    """Options of one request. See `Caller.request` for those that its caller gives."""

    returns: Any = UNSET
    timeout: float | UnsetType | None = UNSET
    offline: Offline | None = None
    send: Source | None = None
    retry: Retry | None = None
    idempotent: bool = False
    wants_channel: bool = False
    """The answer is to be a channel."""
    relayed: bool = False
    """It is another node's, with ``wants_channel``: the answer is passed on, a channel or not."""
    within_call: bool = False
    """It belongs to a call that has begun, which has one such request at a time. `Limits.pending` does not count it:
    `TooManyRequests` would come too late."""
    member: str | None = None
    """The member of a contract that was called, such as ``Chat.say``, for errors."""


NO_OPTIONS = RequestOptions()
"""The options of every request that is made without any."""


class InFlight(Struct, eq=False):
    """Requests that were sent in one session and are not answered yet, in numbers."""

    requests: int = 0
    """With the cancelled ones: each occupies the remote peer until it is answered."""
    bytes: int = 0
    """Without the cancelled ones."""
    waiting: int = 0
    """Bytes of the requests that wait for a handler at the remote peer: the sum of their ``waits_there``."""
    given_up: dict[int, int] = field(default_factory=dict[int, int])
    """Ids of the cancelled requests that are not answered yet, and by how much each counts in ``requests``."""
    freed: Callable[[], None] | None = None
    """Called at each answer. None unless a caller waits in `RemoteCapacity`."""

    def watch(self, freed: Callable[[], None] | None) -> None:
        """Call ``freed`` at each answer from now on. None: call nothing any more."""
        self.freed = freed


class Pending(Struct, eq=False):
    """One pending request. The result of its future is the answer or an exception object.

    The exception of the future is never set: asyncio would complain that nobody retrieved it if the caller was
    cancelled in the same turn of the event loop.
    """

    id: int
    event: str
    future: asyncio.Future[WireMessage | Exception]
    timeout: float | None
    deadline: float | None
    waiting: WaitingMessage | None = None
    """Its message, while that waits for a connection."""
    turn: asyncio.Future[bool] | None = None
    """The future that it waits for while the connection is full."""
    flight: InFlight | None = None
    """The numbers of the session in which it was sent. None until it is sent."""
    waits_there: int = 0
    """Bytes that count in `InFlight.waiting`: the remote peer ran no further handler when its turn came."""
    size: int = 0
    """Bytes that count in `InFlight.bytes`."""
    h: int | None = None
    """The anonymous channel on which it was made."""
    bound: bool = False
    """Whether it fails with the present connection even if it was not sent."""
    wants_channel: bool = False
    """The answer is to be a channel."""
    channel: Any = None
    """The channel that has answered it."""

    def take_back(self) -> bool:
        """Take its message back, if that waits for a connection. Return False if it does not."""
        waiting, self.waiting = self.waiting, None
        return waiting is not None and waiting.take_back()


class PendingRequests:
    """Table of the pending requests.

    Ids start at a random number and never meet those of JavaScript and Go peers, which count from 1. JavaScript keeps
    one table for the channels of both directions, and would settle its own requests with our cancellations (observed
    with ws-wrapper 4.3.1). The side that dialed uses odd ids, the side that accepted even ones.

    Args:
        limit: `Limits.pending`.
        expired: called with each request whose deadline is over.
    """

    def __init__(self, loop: Scheduler, *, odd: bool, limit: int, expired: Callable[[Pending], None]) -> None:
        self._loop = loop
        self._limit = limit
        self._expired = expired
        self._pending: dict[int, Pending] = {}
        self._first = FIRST_ID + (1 if odd else 0)
        self._next = self._first + 2 * random.randrange((LAST_ID - FIRST_ID) // 4)
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._on_channel: dict[int, set[Pending]] = {}
        self.flight = InFlight()
        """The numbers of the present session, or of the last one."""
        self._taken: Container[int] = ()
        """Ids of the anonymous channels that requests of this session have opened."""

    def __len__(self) -> int:
        return len(self._pending)

    def avoid(self, ids: Container[int]) -> None:
        """Give no request one of these ids."""
        self._taken = ids

    def open(self, event: str, timeout: float | None, h: int | None, options: RequestOptions) -> Pending:
        """Add a request, with a new id, and return it.

        Args:
            timeout: seconds. None for no limit.
            h: the anonymous channel that it belongs to.

        Raises:
            TooManyRequests: at the limit.
        """
        pending = self._pending
        if len(pending) >= self._limit and not options.within_call:
            raise TooManyRequests(
                f"{len(pending)} requests are pending already (Limits.pending={self._limit}): "
                "await some of them before sending more"
            )
        number = self._next
        while number in pending or number in self._taken:
            number = number + 2 if number <= LAST_ID - 2 else self._first
        self._next = number + 2 if number <= LAST_ID - 2 else self._first
        deadline = None
        if timeout is not None:
            deadline = self._loop.time() + timeout
            if self._timer is None or deadline < self._timer_at:
                self._set_timer(deadline)
        entry = pending[number] = Pending(number, event, self._loop.create_future(), timeout, deadline)
        if options.wants_channel:
            entry.wants_channel = True
        if h is not None:
            entry.h = h
            self._on_channel.setdefault(h, set()).add(entry)
        return entry

    def was_sent(self, pending: Pending, size: int) -> None:
        """Note that a request was handed to the transport, in ``size`` bytes."""
        pending.waiting = None
        flight = pending.flight = self.flight
        if pending.h is None:  # on a channel a reader may answer, so it does not count as a handler
            flight.requests += 1
            flight.bytes += size
            pending.size = size

    def told(self, pending: Pending) -> Told:
        """Return what is told that the message of a request was sent, or never will be."""

        def told(error: Exception | None) -> None:
            if error is not None:
                self.fail(pending, error)
            elif pending.waiting is not None:
                self.was_sent(pending, len(pending.waiting.payload))

        return told

    def enter_waiting_room(self, pending: Pending, size: int) -> None:
        """Count ``size`` bytes of a request that will wait for a handler at the remote peer."""
        pending.waits_there = size
        self.flight.waiting += size

    def leave_waiting_room(self, pending: Pending) -> None:
        """Stop counting them. Idempotent."""
        self.flight.waiting -= pending.waits_there
        pending.waits_there = 0

    def settle(self, message: WireMessage) -> Pending | None:
        """Give an answer to the caller that waits for it, and return the request. None if there is no such request."""
        pending = self._pending.pop(message.i, None)
        if pending is None:
            return None
        flight = pending.flight
        if pending.h is None and flight is not None and not pending.waits_there:
            # Most requests, and the same as `_left` without a call.
            flight.requests -= 1
            flight.bytes -= pending.size
        else:
            self._left(pending)
        future = pending.future
        if not future.done():
            future.set_result(message)
        freed = self.flight.freed
        if freed is not None:
            freed()
        return pending

    def fail(self, pending: Pending, error: Exception) -> None:
        """End a request with ``error``."""
        if not pending.future.done():
            pending.future.set_result(error)
        self.drop(pending)
        if pending.turn is not None and not pending.turn.done():
            pending.turn.set_result(False)

    def find(self, number: int) -> Pending | None:
        return self._pending.get(number)

    def drop(self, pending: Pending) -> bool:
        """Forget a request whose caller has left. Return False if it was settled already."""
        if self._pending.get(pending.id) is not pending:  # settled, and another request may have its id
            return False
        del self._pending[pending.id]
        self._left(pending)
        pending.future.cancel()  # if it is not done: `unsettled` may have returned it
        if not self._pending:
            self.stop()  # nothing else would stop the timer of a closed client, and it would keep the client alive
        return True

    def unsettled(self) -> list[asyncio.Future[WireMessage | Exception]]:
        """Return the futures of the requests that are not settled yet."""
        return [pending.future for pending in self._pending.values() if not pending.future.done()]

    def _left(self, pending: Pending) -> None:
        """Stop counting a request that is not in the table any more."""
        if pending.waits_there:
            self.leave_waiting_room(pending)
        if pending.h is None:
            flight = pending.flight
            if flight is not None:
                flight.requests -= 1
                flight.bytes -= pending.size
            return
        others = self._on_channel.get(pending.h)
        if others is not None:
            others.discard(pending)
            if not others:
                del self._on_channel[pending.h]

    def on_channel(self, h: int) -> list[Pending]:
        """Return the requests on anonymous channel ``h``."""
        return list(self._on_channel.get(h, ()))

    def all(self) -> list[Pending]:
        """Return all pending requests."""
        return list(self._pending.values())

    def unsent(self) -> list[Pending]:
        """Return the requests that were not sent yet."""
        return [pending for pending in self._pending.values() if pending.flight is None]

    def give_up(self, pending: Pending) -> None:
        """Remember a cancelled request, so that a channel which answers it too late is aborted and does not leak."""
        flight = self.flight
        places = flight.given_up[pending.id] = int(pending.h is None)
        flight.requests += places
        if len(flight.given_up) > MAX_REMEMBERED:
            flight.requests -= flight.given_up.pop(next(iter(flight.given_up)))

    def was_given_up(self, number: int) -> bool:
        """Return whether request ``number`` was cancelled lately, and forget that."""
        flight = self.flight
        places = flight.given_up.pop(number, None)
        if places is None:
            return False
        flight.requests -= places
        if flight.freed is not None:
            flight.freed()
        return True

    def end_session(self, lost: ConnectionLost) -> None:
        """Fail the requests that were sent in the session, and those that may not wait for another connection."""
        flight, self.flight = self.flight, InFlight()
        for pending in list(self._pending.values()):
            pending.waits_there = 0  # what is left is counted on the next connection
            if pending.flight is flight:
                self.fail(pending, lost.for_outcome("unknown"))
            elif pending.bound:
                self.fail(pending, lost.for_outcome("not_sent"))
        if self._timer is not None and not self._pending:
            self.stop()

    def stop(self) -> None:
        """Stop the timer: it must not outlive the peer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # One timer serves all requests. A timer for each request would cost more than the rest of sending it. Nearly every
    # request is answered long before its deadline, so looking through the table once in a while is cheap.

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        earliest: float | None = None
        late: list[Pending] = []
        for pending in self._pending.values():
            deadline = pending.deadline
            if deadline is None:
                continue
            if deadline <= now:
                late.append(pending)
            elif earliest is None or deadline < earliest:
                earliest = deadline
        if earliest is not None:
            self._set_timer(earliest)
        for pending in late:
            self._expired(pending)
