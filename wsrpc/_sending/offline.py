"""Messages that are kept for a connection, and who waits for that with them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from msgspec import Struct

from .._base.closing import CloseInfo
from .._base.scheduler import Scheduler
from .._protocol.codecs import Codec
from .._protocol.messages import Event, Raw, Request
from ..errors import ConnectionLost, MessageTooBig, QueueFull
from ..limits import Limits
from .link import Link
from .pending import Pending, PendingRequests

__all__ = ["Kept", "Outbox", "Told"]

Told = Callable[[Exception | None], None]
"""Whoever sent a message: told None when it leaves, else why it never will."""


class Entry(Struct, frozen=True):
    payload: bytes
    told: Told | None
    bound: bool
    text: bool | None


class Outbox:
    """Encoded messages by ticket; a request's ticket lets it be taken back when its caller gives up."""

    __slots__ = ("_bytes", "_max_bytes", "_max_messages", "_messages", "_next")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._messages: OrderedDict[int, Entry] = OrderedDict()
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._bytes = 0
        self._next = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, payload: bytes, told: Told | None = None, *, bound: bool = False, text: bool | None = None) -> int:
        """Keep ``payload`` and return its ticket; ``bound`` to the present connection, it does not outlive that.

        ``text``: of a raw message, whether it is that.

        Raises:
            QueueFull: if that would go over a bound.
        """
        if len(self._messages) >= self._max_messages or self._bytes + len(payload) > self._max_bytes:
            raise QueueFull(
                f"not connected, and {len(self._messages)} messages ({self._bytes} bytes) wait already "
                f"(Limits.offline={self._max_messages}, Limits.offline_bytes={self._max_bytes})"
            )
        self._next += 1
        self._messages[self._next] = Entry(payload, told, bound, text)
        self._bytes += len(payload)
        return self._next

    def remove(self, ticket: int) -> bool:
        """Take a message back; False if it has left."""
        entry = self._messages.pop(ticket, None)
        if entry is None:
            return False
        self._bytes -= len(entry.payload)
        return True

    def flush(self, send: Callable[[bytes, bool | None], None]) -> None:
        """Send everything, oldest first, with what `put` was told of its kind.

        What ``send`` raises goes on to the caller; that message and those behind it stay.
        """
        while self._messages:
            ticket, entry = next(iter(self._messages.items()))
            send(entry.payload, entry.text)
            self.remove(ticket)
            if entry.told is not None:
                entry.told(None)

    def larger_than(self, size: int) -> list[tuple[int, bytes, bool]]:
        """The messages of more than ``size`` bytes: their tickets, their payloads, and whether they are raw."""
        entries = self._messages.items()
        return [(ticket, at.payload, at.text is not None) for ticket, at in entries if len(at.payload) > size]

    def bound(self) -> list[int]:
        """Tickets of what does not outlive the present connection."""
        return [ticket for ticket, entry in self._messages.items() if entry.bound]

    def refuse(self, ticket: int, error: Exception) -> bool:
        """Throw a message away; False if there was nobody to tell."""
        entry = self._messages[ticket]
        self.remove(ticket)
        if entry.told is not None:
            entry.told(error)
        return entry.told is not None

    def clear(self) -> int:
        """Throw everything away; says how many messages that were."""
        count = len(self._messages)
        self._messages.clear()
        self._bytes = 0
        return count


class Kept:
    """What one peer sends on its next connection, or on this one when the `open` handlers are done.

    It is encoded when it comes, as nothing is negotiated on that connection yet. What is ``bound`` is for the present
    connection, or not sent at all. ``warn`` writes a line into the log, of events whose sender was told that they wait.
    """

    __slots__ = ("_codec", "_loop", "_outbox", "_queued", "_requests", "_warn")

    def __init__(
        self,
        codec: Codec,
        limits: Limits,
        loop: Scheduler,
        requests: PendingRequests,
        warn: Callable[..., None],
        queued: Callable[[], None],
    ) -> None:
        self._codec = codec
        self._loop = loop
        self._requests = requests
        self._warn = warn
        self._outbox = Outbox(limits.offline, limits.offline_bytes)
        self._queued = queued

    def __len__(self) -> int:
        return len(self._outbox)

    def put(self, message: Event | Request | Raw, told: Told | None = None, *, bound: bool = False) -> int:
        """Keep ``message`` and return its ticket, for `take_back`.

        Raises:
            QueueFull: too much is kept already.
        """
        if isinstance(message, Raw):
            return self._put(message.payload, told, bound, text=message.text)
        return self._put(self._codec.encode(message), told, bound)

    def _put(self, payload: bytes, told: Told | None, bound: bool, text: bool | None = None) -> int:
        ticket = self._outbox.put(payload, told, bound=bound, text=text)
        self._queued()
        return ticket

    def put_request(self, message: Event | Request | Raw, pending: Pending, bound: bool) -> None:
        """The same for a request."""
        payload = message.payload if isinstance(message, Raw) else self._codec.encode(message)
        pending.ticket = self._put(payload, partial(self._request_left, pending, len(payload)), bound)

    def _request_left(self, pending: Pending, size: int, error: Exception | None) -> None:
        if error is None:
            self._requests.was_sent(pending, size)
        else:
            self._requests.fail(pending, error)

    async def put_and_wait(self, message: Event | Request | Raw) -> None:
        """Send an event when the present connection's `open` handlers are done, or not at all."""
        left: asyncio.Future[Exception | None] = self._loop.create_future()

        def told(error: Exception | None) -> None:
            if not left.done():
                left.set_result(error)

        ticket = self.put(message, told, bound=True)
        try:
            error = await left
        except asyncio.CancelledError:
            self._outbox.remove(ticket)  # unless it has left in this very turn
            raise
        if error is not None:
            raise error

    def take_back(self, ticket: int) -> None:
        """Forget a message, if it has not left."""
        self._outbox.remove(ticket)

    # ------------------------------------------------------------ what becomes of it

    def flush(self, link: Link, unchecked: int, refusal: Callable[[bytes, bool], MessageTooBig | None]) -> None:
        """Send everything, in order, except for what the remote peer would not take.

        ``refusal`` is `Outbound.refusal`, and is asked about messages of more than ``unchecked`` bytes.
        """
        text = self._codec.text
        for ticket, payload, raw in self._outbox.larger_than(unchecked):
            error = refusal(payload, raw)
            if error is not None and not self._outbox.refuse(ticket, error):
                self._warn("an event that waited for a connection was not sent: %s", error)
        self._outbox.flush(lambda payload, raw: link.send(payload, text if raw is None else raw))

    def refuse_bound(self, why: ConnectionLost) -> None:
        """What was to leave on this connection or not at all will not."""
        for ticket in self._outbox.bound():
            error = ConnectionLost(why.code, why.reason, "not_sent")  # one for each that raises it
            if not self._outbox.refuse(ticket, error):
                self._warn("an event that waited for the `open` handlers was not sent: %s", error)

    def discard(self, info: CloseInfo) -> None:
        """No connection will come: requests that wait for one fail, events are lost and the log says so."""
        self.discard_requests(info)
        lost = self._outbox.clear()
        if lost:
            events, were = ("event", "was") if lost == 1 else ("events", "were")
            self._warn("%d %s that waited for a connection %s not sent", lost, events, were)

    def discard_requests(self, info: CloseInfo) -> None:
        """PendingRequests that wait for a connection fail."""
        for pending in self._requests.all():
            if pending.flight is None:
                if pending.ticket is not None:
                    self._outbox.remove(pending.ticket)
                self._requests.fail(pending, ConnectionLost(info.code, info.reason, "not_sent"))
