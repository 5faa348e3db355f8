"""Pending requests: the table of those that await an answer, and `InFlight`, which decides when one more is sent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Container
from typing import TYPE_CHECKING

from msgspec import Struct

from .._base.names import ChannelRef
from .._base.scheduler import Timer
from .._protocol.messages import RequestOptions, WireMessage
from .._protocol.settings import Terms
from .._session.host import Host
from .._session.queue import Entry, Report
from ..errors import ConnectionLost, TooManyRequests
from .gate import Gate, Turn

if TYPE_CHECKING:
    from .._channels.core import ChannelCore

FIRST_ID, LAST_ID = 2**30, 2**31 - 1
MAX_REMEMBERED = 1024
"""How many ids of ended requests or channels are remembered, to recognize messages that come too late for them."""


PASSED_ON = 0.5
"""Seconds after the timeout of a request in which the node that passes it on says whether it was sent."""


class InFlight:
    """Requests that were sent in one session and are not answered yet, in numbers.

    A wsrpc peer announces how many handlers it runs at once, and how much may wait for them. A request beyond that
    waits on this side, at `PendingRequests.capacity`, so that the remote peer need not refuse it. A plain peer has no
    limit. Nothing is known of the remote peer of the next session, which has an object of its own.

    A request on an anonymous channel does not count, because a reader may answer it.
    """

    __slots__ = ("bytes", "given_up", "requests", "waiting")

    def __init__(self) -> None:
        self.requests = 0
        """With the cancelled ones: each occupies the remote peer until it is answered."""
        self.bytes = 0
        """Without the cancelled ones."""
        self.waiting = 0
        """Bytes of the requests that wait for a handler at the remote peer: the sum of their ``waits_there``."""
        self.given_up: dict[int, int] = {}
        """Ids of the cancelled requests that are not answered yet, and by how much each counts in ``requests``."""

    # ------------------------------------------------------------ requests that come and go

    def was_sent(self, pending: Pending, size: int) -> None:
        """Note that a request was handed to the transport, in ``size`` bytes."""
        pending.entry = None
        pending.flight = self
        if pending.h is None:
            self.requests += 1
            self.bytes += size
            pending.size = size

    def left(self, pending: Pending) -> None:
        """Stop counting a request that was sent."""
        self.leave_waiting_room(pending)
        if pending.h is None:
            self.requests -= 1
            self.bytes -= pending.size

    def give_up(self, pending: Pending) -> None:
        """Remember a cancelled request, so that a channel which answers it too late is aborted and does not leak."""
        places = self.given_up[pending.id] = int(pending.h is None)
        self.requests += places
        if len(self.given_up) > MAX_REMEMBERED:
            self.requests -= self.given_up.pop(next(iter(self.given_up)))

    def forget_given_up(self, number: int) -> bool:
        """Forget that request ``number`` was cancelled, because it is answered. Return whether it was."""
        places = self.given_up.pop(number, None)
        self.requests -= places or 0
        return places is not None

    # ------------------------------------------------------------ room for another request

    def is_scarce(self, terms: Terms) -> bool:
        """Return whether the remote peer may not accept a request at once."""
        return self.requests >= terms.announced.running or self.bytes > terms.room_for_any

    def take(self, pending: Pending, terms: Terms, size: int) -> bool:
        """Return whether the remote peer can accept a request of ``size`` bytes, and count where it waits there."""
        limits = terms.announced
        needed = size
        if self.requests < limits.running and (self.bytes == 0 or self.bytes + needed <= limits.running_bytes):
            needed = 0
        if needed and (
            self.requests >= limits.running + limits.waiting or self.waiting + needed > limits.waiting_bytes
        ):
            return False
        pending.waits_there = needed
        self.waiting += needed
        return True

    def leave_waiting_room(self, pending: Pending) -> None:
        """Stop counting the bytes with which a request waits for a handler at the remote peer. Idempotent."""
        self.waiting -= pending.waits_there
        pending.waits_there = 0


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
    options: RequestOptions
    h: int | None = None
    """The anonymous channel on which it was made."""
    entry: Entry | None = None
    """Its message, while that waits for a connection."""
    turn: Turn | None = None
    """Its turn, while it waits for room: that of the connection or that of the remote peer."""
    accepted: bool = False
    """Whether it has waited until the remote peer can accept it."""
    flight: InFlight | None = None
    """Those of the session in which it was sent. None until it is sent."""
    waits_there: int = 0
    """Bytes that count in `InFlight.waiting`: the remote peer ran no further handler when its turn came."""
    size: int = 0
    """Bytes that count in `InFlight.bytes`."""
    channel: ChannelCore | None = None
    """The channel that has answered it."""


class PendingRequests:
    """Table of the pending requests.

    Ids start at a random number and never meet those of JavaScript and Go peers, which count from 1. JavaScript keeps
    one table for the channels of both directions, and would settle its own requests with our cancellations (observed
    with ws-wrapper 4.3.1). The side that dialed uses odd ids, the side that accepted even ones.

    Args:
        odd: whether the ids are odd.
    """

    def __init__(self, host: Host, *, odd: bool) -> None:
        self._host = host
        self._loop = host.loop
        self._limit = host.settings.limits.pending
        self._pending: dict[int, Pending] = {}
        self._first = FIRST_ID + (1 if odd else 0)
        self._next = self._first + 2 * random.randrange((LAST_ID - FIRST_ID) // 4)
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._on_channel: dict[int, set[Pending]] = {}
        self.flight = InFlight()
        """Those of the present session, or of the last one."""
        self.capacity = Gate(self._loop)
        """The callers that wait until the remote peer can accept another request."""
        self._taken: Container[int] = ()
        """Ids of the anonymous channels that requests of this session have opened."""

    def __len__(self) -> int:
        return len(self._pending)

    def avoid(self, ids: Container[int]) -> None:
        """Give no request one of these ids."""
        self._taken = ids

    def open(self, channel: ChannelRef, event: str, timeout: float | None, options: RequestOptions) -> Pending:
        """Add a request, with a new id, and return it.

        Args:
            timeout: seconds. None for no limit.

        Raises:
            TooManyRequests: at the limit.
        """
        pending = self._pending
        if len(pending) >= self._limit and not options.within_call:
            raise TooManyRequests(
                f"{len(pending)} requests are pending already (Limits.pending={self._limit}): "
                "await some of them before sending more"
            )
        number, given_up = self._next, self.flight.given_up
        while number in pending or number in self._taken or number in given_up:
            number = number + 2 if number <= LAST_ID - 2 else self._first
        self._next = number + 2 if number <= LAST_ID - 2 else self._first
        deadline = None
        if timeout is not None:
            deadline = self._loop.time() + timeout + (PASSED_ON if options.is_passed_on else 0.0)
            if self._timer is None or deadline < self._timer_at:
                self._set_timer(deadline)
        entry = pending[number] = Pending(number, event, self._loop.create_future(), timeout, deadline, options)
        if isinstance(channel, int):
            entry.h = channel
            self._on_channel.setdefault(channel, set()).add(entry)
        return entry

    def must_wait(self, pending: Pending, terms: Terms) -> bool:
        """Return whether a request has to wait at ``capacity`` before it is sent."""
        return pending.h is None and not pending.accepted and (self.capacity.busy or self.flight.is_scarce(terms))

    def report(self, pending: Pending) -> Report:
        """Return a function to call when the message of a request is sent, or when it never will be."""

        def report(error: Exception | None) -> None:
            if error is not None:
                self.fail(pending, error)
            elif pending.entry is not None:
                self.flight.was_sent(pending, len(pending.entry.payload))

        return report

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
        if self.capacity.busy:
            self.capacity.wake()
        return pending

    def was_given_up(self, number: int) -> bool:
        """Return whether request ``number`` was cancelled lately. It occupies the remote peer no more."""
        was = self.flight.forget_given_up(number)
        if was and self.capacity.busy:
            self.capacity.wake()
        return was

    def fail(self, pending: Pending, error: Exception) -> None:
        """End a request with ``error``."""
        if not pending.future.done():
            pending.future.set_result(error)
        self.drop(pending)
        if pending.turn is not None:
            pending.turn.wake()

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
        if pending.flight is not None:
            pending.flight.left(pending)
        else:
            self.flight.leave_waiting_room(pending)
        h = pending.h
        if h is not None and (others := self._on_channel.get(h)) is not None:
            others.discard(pending)
            if not others:
                del self._on_channel[h]

    def on_channel(self, h: int) -> list[Pending]:
        """Return the requests on anonymous channel ``h``."""
        return list(self._on_channel.get(h, ()))

    def all(self) -> list[Pending]:
        """Return all pending requests."""
        return list(self._pending.values())

    def unsent(self) -> list[Pending]:
        """Return the requests that were not sent yet."""
        return [pending for pending in self._pending.values() if pending.flight is None]

    def end_session(self, lost: ConnectionLost) -> None:
        """Fail the requests that were sent in the session."""
        flight, self.flight = self.flight, InFlight()
        for pending in list(self._pending.values()):
            pending.waits_there = 0  # what is left is counted on the next connection
            if pending.flight is flight:
                self.fail(pending, lost.for_outcome("unknown"))
        self.capacity.wake_all()
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
            self._host.expired(pending)
