"""`PendingRequests`: the requests that await an answer. `InFlight`: how many of these occupy the remote peer."""

from __future__ import annotations

import asyncio
import enum
import random
from collections.abc import Container
from typing import TYPE_CHECKING, TypeVar

from msgspec import UNSET, Struct, UnsetType

from ..._base.names import ChannelRef
from ..._base.scheduler import Timer
from ...errors import ConnectionLost, Outcome, TooManyRequests
from ..session.offline_queue import Encoded
from ..session.peer_host import PeerHost
from ..wire.call_context import milliseconds
from ..wire.control import Announced
from ..wire.messages import RequestOptions, WireMessage
from ..wire.terms import Terms
from .gate import Gate, Waiter

if TYPE_CHECKING:
    from ..channels.channel_core import ChannelCore

FIRST_ID, LAST_ID = 2**30, 2**31 - 1
_LAST_BUT_ONE = LAST_ID - 2
MAX_REMEMBERED = 1024
"""How many ids of ended requests or channels are remembered, to recognize messages that arrive too late."""


V = TypeVar("V")


def remember(ids: dict[int, V], number: int, value: V) -> None:
    """Add an id for which messages may still arrive, and remove the oldest id if there are too many."""
    ids[number] = value
    if len(ids) > MAX_REMEMBERED:
        del ids[next(iter(ids))]


PASSED_ON = 0.5
"""Seconds after the timeout of a request, within which the node that passes it on reports whether it was sent."""


class RequestState(enum.Enum):
    """State of a request to the remote peer, with the answer to each question that the code asks about a request.

    Only `PendingRequests`, `InFlight` and `Outbox.request_now` change it, together with the counts of `InFlight`.
    """

    #         meaning; the outcome if it fails now; whether it counts as in flight; whether its bytes count
    WAITS = ("its caller waits for room", "not_sent", False, False)
    QUEUED = ("its message waits for the `open` handlers or for the next session", "not_sent", False, False)
    HELD = ("its message waits for another connection of its session", "not_sent", True, True)
    SENT = ("a connection has got its message", "unknown", True, True)
    ABANDONED = ("it was sent, and has failed, and the remote peer has not answered", "unknown", True, False)
    ENDED = ("it was answered, or has failed, and the remote peer does nothing for it", None, False, False)

    def __init__(self, meaning: str, outcome: Outcome | None, counts: bool, bytes_count: bool) -> None:
        self.meaning = meaning
        self.outcome: Outcome | None = outcome
        """Whether its handler may have run, if the request fails now. None if it cannot fail."""
        self.counts = counts
        """Whether the request counts in `InFlight.requests`, because it occupies the remote peer."""
        self.bytes_count = bytes_count
        """Whether its bytes count in `InFlight.bytes`."""


# Constants, because Python 3.11 looks members of an enum up slowly, and each request needs these.
WAITS, QUEUED, HELD = RequestState.WAITS, RequestState.QUEUED, RequestState.HELD
SENT, ABANDONED, ENDED = RequestState.SENT, RequestState.ABANDONED, RequestState.ENDED


class InFlight:
    """Number and size of the requests that occupy the remote peer in one session, by their `RequestState`.

    A wsrpc peer announces how many handlers it runs at once, and how much may wait for these handlers. A request above
    these limits waits on this side, at `PendingRequests.capacity_gate`, so that the remote peer need not refuse it. A
    plain peer has no limit. Each session has its own object, because its remote peer may announce other limits.

    A request on an anonymous channel does not count, because a reader may answer it.
    """

    __slots__ = ("abandoned", "bytes", "requests", "waiting")

    def __init__(self) -> None:
        self.requests = 0
        self.bytes = 0
        self.waiting = 0
        """Bytes of the requests that wait for a handler at the remote peer: the sum of `Pending.waiting_bytes`."""
        self.abandoned: dict[int, bool] = {}
        """Ids of the abandoned requests, and whether each counts. A channel that answers an abandoned request is
        aborted."""

    def move(self, pending: Pending, state: RequestState) -> None:
        """Change the state of a request, and count the request by its new state."""
        was, pending.state = pending.state, state
        if pending.h is None:
            more = state.bytes_count - was.bytes_count
            self.requests += state.counts - was.counts
            self.bytes += pending.size * more
            self.waiting += pending.waiting_bytes * more
        if state is ABANDONED:
            self.abandoned[pending.id] = pending.h is None
            if len(self.abandoned) > MAX_REMEMBERED:
                self.remove_abandoned(next(iter(self.abandoned)))

    def remove_abandoned(self, number: int) -> bool:
        """Remove abandoned request ``number``, because it is answered. Return False if there is no such request."""
        counted = self.abandoned.pop(number, None)
        self.requests -= counted or 0
        return counted is not None

    def is_full(self, limits: Announced) -> bool:
        """Return whether there is no room for another request, whatever its size."""
        return self.requests >= limits.running + limits.waiting

    def waiting_bytes(self, limits: Announced, size: int) -> int | None:
        """Return how many bytes of a request wait for a handler, if it is sent now. None if there is no room for it.

        Do not call this while `is_full` is true.
        """
        if self.requests < limits.running and (self.bytes == 0 or self.bytes + size <= limits.running_bytes):
            return 0
        return size if self.waiting + size <= limits.waiting_bytes else None


class Pending(Struct, eq=False):
    """One pending request. The result of its future is the answer or an exception object.

    The exception of the future is never set. If the caller was cancelled in the same turn of the event loop, asyncio
    would log that nobody retrieved the exception.
    """

    id: int
    event: str
    future: asyncio.Future[WireMessage | Exception]
    timeout: float | None
    deadline: float | None
    options: RequestOptions
    state: RequestState = WAITS
    h: int | None = None
    """The anonymous channel on which the request was made. None for other requests."""
    waiter: Waiter | None = None
    """The place of its caller in a line, while the caller waits for room."""
    queued: Encoded | None = None
    """Its message, while the message is in the queue."""
    size: int = 0
    """Bytes of its message."""
    waiting_bytes: int = 0
    """Bytes that count in `InFlight.waiting`. 0 if the remote peer had a free handler for the request."""
    channel: ChannelCore | None = None
    """The channel that has answered the request."""
    awaits_report: bool = False
    """Whether its timeout is over, and the node that passes it on is to report whether it was sent."""

    def remaining_ms(self, now: float) -> int | UnsetType:
        """Return the time that its handler has, in milliseconds. UNSET if the request does not say it."""
        if self.deadline is None or not self.options.sends_timeout:
            return UNSET
        return 0 if self.awaits_report else milliseconds(self.deadline - now)


class PendingRequests:
    """Table of the pending requests.

    Ids start at a random number, so that they never equal those of JavaScript and Go peers, which count from 1.
    JavaScript has one table for the channels of both directions, and would complete its own requests with our
    cancellations (observed with ws-wrapper 4.3.1). The side that dialed uses odd ids, the side that accepted even ids.
    """

    def __init__(self, host: PeerHost) -> None:
        self._host = host
        self._loop = host.loop
        self._limit = host.settings.limits.pending
        self._pending: dict[int, Pending] = {}
        self._first = FIRST_ID + host.options.dialer
        self._next = self._first + 2 * random.randrange((LAST_ID - FIRST_ID) // 4)
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._on_channel: dict[int, set[Pending]] = {}
        self.flight = InFlight()
        """The requests of the current session, see `PeerHost.current`."""
        self.capacity_gate = Gate()
        """The callers that wait until the remote peer can accept another request."""
        self._channel_ids: Container[int] = ()
        """Ids of the anonymous channels that requests of this session have opened."""

    def __len__(self) -> int:
        return len(self._pending)

    def avoid(self, ids: Container[int]) -> None:
        """Use none of these ids for requests."""
        self._channel_ids = ids

    def add(self, channel: ChannelRef, event: str, timeout: float | None, options: RequestOptions) -> Pending:
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
        number, abandoned = self._next, self.flight.abandoned
        while number in pending or number in self._channel_ids or number in abandoned:
            number = number + 2 if number <= _LAST_BUT_ONE else self._first
        self._next = number + 2 if number <= _LAST_BUT_ONE else self._first
        deadline = None
        if timeout is not None:
            deadline = self._loop.time() + timeout
            if self._timer is None or deadline < self._timer_at:
                self._set_timer(deadline)
        entry = pending[number] = Pending(number, event, self._loop.create_future(), timeout, deadline, options)
        if channel is not None and isinstance(channel, int):
            entry.h = channel
            self._on_channel.setdefault(channel, set()).add(entry)
        return entry

    # ------------------------------------------------------------ requests that are sent

    def has_capacity(self, terms: Terms) -> bool:
        """Return whether the remote peer can start the handler of any request, and no caller waits for that."""
        flight = self.flight
        return (
            flight.requests < terms.announced.running
            and flight.bytes <= terms.room_for_any
            and not self.capacity_gate.has_callers
        )

    def message_queued(self, pending: Pending, message: Encoded, state: RequestState, waiting_bytes: int) -> None:
        """The message of a request waits in the queue: its state is now ``QUEUED`` or ``HELD``.

        Args:
            waiting_bytes: the bytes that will wait for a handler of the remote peer.
        """
        pending.queued, pending.size, pending.waiting_bytes = message, len(message.payload), waiting_bytes
        self.flight.move(pending, state)

    def queued_was_sent(self, pending: Pending) -> None:
        """The message of a request was sent from the queue."""
        if pending.state in (QUEUED, HELD):  # it may have been answered already
            pending.queued = None
            self.flight.move(pending, SENT)

    def was_sent(self, pending: Pending, size: int, waiting_bytes: int = 0) -> None:
        """A request was passed to the transport, in ``size`` bytes.

        Args:
            waiting_bytes: the bytes that wait for a handler of the remote peer.
        """
        pending.size, pending.waiting_bytes = size, waiting_bytes
        self.flight.move(pending, SENT)

    # ------------------------------------------------------------ requests that end

    def finish(self, message: WireMessage) -> Pending | None:
        """End a request with its answer, and return the request. None if there is no such request."""
        pending = self._pending.pop(message.i, None)
        if pending is None:
            return None
        if pending.state is not SENT or pending.h is not None or pending.waiting_bytes:
            self._end(pending, ENDED, message)
            return pending
        # Most requests. The same as `_end`, without a call.
        pending.state = ENDED
        flight = self.flight
        flight.requests -= 1
        flight.bytes -= pending.size
        future = pending.future
        if not future.done():
            future.set_result(message)
        if self.capacity_gate.has_callers:
            self.capacity_gate.wake()
        return pending

    def abandoned_answered(self, number: int) -> bool:
        """An answer to request ``number`` has arrived. Return whether the request was abandoned; it counts no more."""
        was = self.flight.remove_abandoned(number)
        if was and self.capacity_gate.has_callers:
            self.capacity_gate.wake()
        return was

    def fail(self, pending: Pending, error: Exception) -> None:
        """End a request with ``error``."""
        self._end(pending, ENDED, error)

    def give_up(self, pending: Pending, error: Exception | None = None) -> bool:
        """End a request, with ``error`` or because its caller was cancelled. Return whether the request was sent."""
        sent = pending.state is SENT
        self._end(pending, ABANDONED if sent else ENDED, error)
        return sent

    def remove(self, pending: Pending) -> None:
        """Remove a request whose caller does not wait any more. Nothing happens if the request has ended."""
        self._end(pending, ENDED, None)

    def find(self, number: int) -> Pending | None:
        return self._pending.get(number)

    def _end(self, pending: Pending, state: RequestState, result: WireMessage | Exception | None) -> None:
        """Remove a request and stop counting it. If it occupied the remote peer, another one may have room now.

        Args:
            result: the answer or the error. None if its caller does not wait any more.
        """
        if pending.state in (ENDED, ABANDONED):  # another request may have its id
            return
        self._pending.pop(pending.id, None)
        occupied, h = pending.state.counts, pending.h
        self.flight.move(pending, state)
        if h is not None and (others := self._on_channel.get(h)) is not None:
            others.discard(pending)
            if not others:
                del self._on_channel[h]
        if result is None:
            pending.future.cancel()  # `unfinished` may have returned it
        elif not pending.future.done():
            pending.future.set_result(result)
        if pending.waiter is not None:
            pending.waiter.wake()
        if occupied and self.capacity_gate.has_callers:
            self.capacity_gate.wake()
        if not self._pending and not isinstance(result, WireMessage):
            # The timer of a closed client would keep the client alive. After an answer, the next request needs it.
            self.stop_timer()

    def unfinished(self) -> list[asyncio.Future[WireMessage | Exception]]:
        """Return the futures of the requests that have no result."""
        return [pending.future for pending in self._pending.values() if not pending.future.done()]

    def on_channel(self, h: int) -> list[Pending]:
        """Return the requests on anonymous channel ``h``."""
        return list(self._on_channel.get(h, ()))

    def all(self) -> list[Pending]:
        """Return all pending requests."""
        return list(self._pending.values())

    def unsent(self) -> list[Pending]:
        """Return the requests that were not sent yet."""
        return [pending for pending in self._pending.values() if pending.state.outcome == "not_sent"]

    def fail_sent(self, lost: ConnectionLost) -> None:
        """Fail the requests that were sent in the session, which is over. Held requests wait for the next session."""
        for pending in self.all():
            if pending.state is SENT:
                self.fail(pending, lost.for_outcome("unknown"))
            elif pending.state is HELD:
                self.flight.move(pending, QUEUED)
                pending.waiting_bytes = 0
        self.flight = InFlight()
        self.capacity_gate.wake_all()
        if self._timer is not None and not self._pending:
            self.stop_timer()

    def stop_timer(self) -> None:
        """Stop the timer, which must not outlive the peer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # All requests share one timer. A timer for each request would cost more than the rest of sending it. Nearly every
    # request is answered long before its deadline, so the table is rarely searched.

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
            if deadline <= now and pending.options.is_passed_on and not pending.awaits_report:
                # From now on, not from the deadline: the report may have arrived while this loop was blocked.
                pending.awaits_report, pending.deadline = True, now + PASSED_ON
                deadline = pending.deadline
            if deadline <= now:
                late.append(pending)
            elif earliest is None or deadline < earliest:
                earliest = deadline
        if earliest is not None:
            self._set_timer(earliest)
        for pending in late:
            self._host.core.requester.expired(pending)
