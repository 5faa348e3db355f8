"""PendingRequests that we sent and that await their answer: ids, futures, deadlines."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Container
from typing import Any

from msgspec import Struct, field

from .._base.scheduler import Scheduler, Timer
from .._protocol.messages import WireMessage
from ..errors import ConnectionLost, TooManyRequests

__all__ = ["MAX_REMEMBERED", "InFlight", "Pending", "PendingRequests"]

FIRST_ID, LAST_ID = 2**30, 2**31 - 1
MAX_REMEMBERED = 1024
"""Ids of what has ended that are kept, to tell latecomers from what never was."""


class InFlight(Struct, eq=False):
    """What one session has sent that the remote peer has not answered yet."""

    requests: int = 0
    """A cancelled one, too, takes a place over there until it is answered."""
    bytes: int = 0
    """Without those of the cancelled ones."""
    waiting: int = 0
    """Bytes of requests for which the remote peer had no free place: the sum of their ``waits_there``."""
    given_up: dict[int, int] = field(default_factory=dict[int, int])
    """Ids that were cancelled and are not answered yet: how many places each takes over there."""
    freed: Callable[[], None] | None = None
    """Called at each answer, while a caller waits for a place."""


class Pending(Struct, eq=False):
    """One request in the air. The future's result is the answer or an exception object.

    It is never the future's *exception*: asyncio would complain about one that nobody retrieved, when
    the caller was cancelled in the same turn.
    """

    id: int
    event: str
    future: asyncio.Future[WireMessage | Exception]
    timeout: float | None
    deadline: float | None
    ticket: int | None = None
    """Where it waits in the outbox; None once it was handed to the transport."""
    turn: asyncio.Future[bool] | None = None
    """What it waits for while the line is full."""
    flight: InFlight | None = None
    """That of the session in which it was sent; None until then."""
    waits_there: int = 0
    """Bytes that count in `InFlight.waiting`: the remote peer had no free place when its turn came."""
    size: int = 0
    """Bytes, once it was sent, if it takes a handler's place there."""
    h: int | None = None
    """The anonymous channel on which it was made."""
    bound: bool = False
    """Fails with the present connection, also if it was not sent."""
    opens: Callable[[int], Any] | None = None
    """Makes the channel of an answer that is one; None if none is wanted."""
    channel: Any = None
    """What ``opens`` made."""


class PendingRequests:
    """The table of pending requests.

    Ids start at a random point and never meet those of JavaScript and Go peers, which count up from 1:
    JavaScript keeps one table for channels of both directions and would settle its own requests with our
    cancellations (observed with ws-wrapper 4.3.1). Whoever dialed takes the odd ids, whoever accepted the
    even ones.
    """

    def __init__(self, loop: Scheduler, *, odd: bool, limit: int, expired: Callable[[Pending], None]) -> None:
        """``expired`` is called with each request whose deadline is over."""
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
        """That of the present session, or of the last one."""
        self.taken: Container[int] = ()
        """Ids of the anonymous channels that requests of this session have opened."""

    def __len__(self) -> int:
        return len(self._pending)

    def open(
        self,
        event: str,
        timeout: float | None,
        h: int | None = None,
        opens: Callable[[int], Any] | None = None,
        counted: bool = True,
    ) -> Pending:
        """A new entry with an id of its own. ``h`` is the anonymous channel that it belongs to.

        One that is not ``counted`` belongs to a call that was begun, of which there is at most one at a time.

        Raises:
            TooManyRequests: at the limit.
        """
        pending = self._pending
        if len(pending) >= self._limit and counted:
            raise TooManyRequests(
                f"{len(pending)} requests are pending already (Limits.pending={self._limit}): "
                "await some of them before sending more"
            )
        number = self._next
        while number in pending or number in self.taken:
            number = number + 2 if number + 2 <= LAST_ID else self._first
        self._next = number + 2 if number + 2 <= LAST_ID else self._first
        deadline = None
        if timeout is not None:
            deadline = self._loop.time() + timeout
            if self._timer is None or deadline < self._timer_at:
                self._set_timer(deadline)
        entry = pending[number] = Pending(number, event, self._loop.create_future(), timeout, deadline)
        if opens is not None:
            entry.opens = opens
        if h is not None:
            entry.h = h
            self._on_channel.setdefault(h, set()).add(entry)
        return entry

    def was_sent(self, pending: Pending, size: int) -> None:
        """It was handed to the transport, in ``size`` bytes."""
        pending.ticket = None
        flight = pending.flight = self.flight
        if pending.h is None:  # what is asked on a channel may go to a reader, which takes no place
            flight.requests += 1
            flight.bytes += size
            pending.size = size

    def enter_waiting_room(self, pending: Pending, size: int) -> None:
        """Count ``size`` bytes that a request takes of the remote peer's waiting room."""
        pending.waits_there = size
        self.flight.waiting += size

    def leave_waiting_room(self, pending: Pending) -> None:
        """Count them no more. Idempotent."""
        self.flight.waiting -= pending.waits_there
        pending.waits_there = 0

    def settle(self, message: WireMessage) -> Pending | None:
        """Give an answer to whoever waits for it; None if nobody does."""
        pending = self._pending.pop(message.i, None)
        if pending is not None:
            self._left(pending)
            if not pending.future.done():
                pending.future.set_result(message)
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
        """Forget a request whose caller left; False if it had been settled already."""
        if self._pending.pop(pending.id, None) is None:
            return False
        self._left(pending)
        pending.future.cancel()  # if it is not done: somebody else may wait for the end of all
        if not self._pending:
            self.stop()  # on a closed client nothing else would, and it would live on until then
        return True

    def unsettled(self) -> list[asyncio.Future[WireMessage | Exception]]:
        """What is done when those that are pending have ended."""
        return [pending.future for pending in self._pending.values() if not pending.future.done()]

    def _left(self, pending: Pending) -> None:
        """It is not in the table any more."""
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
        """Those that were made on anonymous channel ``h``."""
        return list(self._on_channel.get(h, ()))

    def all(self) -> list[Pending]:
        return list(self._pending.values())

    def give_up(self, pending: Pending) -> None:
        """Remember what was cancelled, so that a channel created too late is aborted instead of leaking there."""
        flight = self.flight
        places = flight.given_up[pending.id] = int(pending.h is None)
        flight.requests += places
        if len(flight.given_up) > MAX_REMEMBERED:
            flight.requests -= flight.given_up.pop(next(iter(flight.given_up)))

    def was_given_up(self, number: int) -> bool:
        """Whether ``number`` was cancelled lately; asking forgets it."""
        flight = self.flight
        places = flight.given_up.pop(number, None)
        if places is None:
            return False
        flight.requests -= places
        if flight.freed is not None:
            flight.freed()
        return True

    def end_session(self, code: int, reason: str) -> None:
        """Fail what was sent in the session that ends, and what may not wait for another connection."""
        flight, self.flight = self.flight, InFlight()
        for pending in self.all():
            pending.waits_there = 0  # those that are left take places on the next connection
            if pending.flight is flight:
                self.fail(pending, ConnectionLost(code, reason, "unknown"))
            elif pending.bound:
                self.fail(pending, ConnectionLost(code, reason, "not_sent"))
        if not self._pending:
            self.stop()

    def stop(self) -> None:
        """Let no timer outlive the peer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # One timer serves all requests. A timer for each would cost more than the rest of sending: nearly
    # every request is answered long before its deadline, and looking through the table once in a while
    # is cheap beside that.

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
