"""Messages that wait for a connection, and the callers that are told when they leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

from msgspec import Struct

from .._base.queues import BoundedQueue
from .._base.scheduler import Scheduler
from .._protocol.codecs import Codec
from .._protocol.messages import Event, Raw, Request
from ..errors import ConnectionLost, MessageTooBig, QueueFull
from ..limits import Limits
from .pending import Pending, PendingRequests

__all__ = ["OfflineQueue"]

Told = Callable[[Exception | None], None]
"""Called with None when a message is sent, or with the error if it never will be."""


class Entry(Struct, frozen=True):
    """One message that waits."""

    payload: bytes
    raw: bool
    text: bool
    told: Told | None
    bound: bool
    """Whether it is for the present connection only."""
    of_session: bool = False
    """Whether it belongs to the present session, and ends with it. It was checked and encoded for that."""


def _size(entry: Entry) -> int:
    return len(entry.payload)


class OfflineQueue(BoundedQueue[Entry]):
    """Queue of the messages that one peer sends on its next connection, or after the `open` handlers of this one.

    A message is encoded when it is kept, because nothing is negotiated on that connection yet. A ``bound`` message is
    sent on the present connection or not at all.

    What belongs to a session that has no connection waits here as well, so that the order of all messages stays. It
    ends with the session, and does not count in the bounds of the user's messages: `Limits.replay` bounds it.
    `Outbound` says which messages these are.

    Args:
        queued: called when a message begins to wait.
        warn: writes a line into the log, about events whose senders were told that they wait.
    """

    __slots__ = ("_behind_session", "_codec", "_of_session", "_queued", "_warn", "session_size")

    def __init__(self, codec: Codec, limits: Limits, queued: Callable[[], None], warn: Callable[..., None]) -> None:
        super().__init__(_size, limits.offline_bytes, limits.offline)
        self._codec = codec
        self._queued = queued
        self._warn = warn
        self._behind_session = 0
        """Of the messages with a lower ticket than this, those of the session leave first."""
        self._of_session = 0
        """How many messages belong to the session."""
        self.session_size = 0
        """Bytes of the messages that belong to the session."""

    # ------------------------------------------------------------ counting

    def fits(self, size: int) -> bool:
        """Return whether another message of the user's would stay within both bounds."""
        users, users_size = len(self) - self._of_session, self.size - self.session_size
        return users < self.max_items and users_size + size <= self.max_size

    def put(self, item: Entry, key: Hashable = None) -> int:
        if item.of_session:
            self._of_session += 1
            self.session_size += len(item.payload)
        return super().put(item, key)

    def take(self, ticket: int) -> Entry | None:
        entry = super().take(ticket)
        if entry is not None and entry.of_session:
            self._of_session -= 1
            self.session_size -= len(entry.payload)
        return entry

    # ------------------------------------------------------------ messages that come

    def keep(self, message: Event | Request | Raw, told: Told | None = None, *, bound: bool = False) -> int:
        """Keep a message, and return its ticket.

        Raises:
            QueueFull: too much is kept already.
        """
        if isinstance(message, Raw):
            return self._add(Entry(message.payload, True, message.text, told, bound))
        return self._add(Entry(self._codec.encode(message), False, self._codec.text, told, bound))

    def keep_request(
        self,
        message: Event | Request,
        pending: Pending,
        requests: PendingRequests,
        of_session: tuple[bytes, bool] | None = None,
    ) -> None:
        """Keep the message of a pending request.

        Args:
            of_session: the message, encoded, and whether it is text, if it belongs to the session. It is kept
                however much waits already.

        Raises:
            QueueFull: too much is kept already.
        """

        def told(error: Exception | None) -> None:
            if error is None:
                requests.was_sent(pending, size)
            else:
                requests.fail(pending, error)

        if of_session is None:
            payload = self._codec.encode(message)
            size = len(payload)
            pending.ticket = self._add(Entry(payload, False, self._codec.text, told, pending.bound))
        else:
            size = len(of_session[0])
            pending.ticket = self.keep_for_session(*of_session, told)

    def keep_for_session(self, payload: bytes, text: bool, told: Told | None = None) -> int:
        """Keep a message that belongs to the present session, however much waits already. Return its ticket."""
        return self.put(Entry(payload, False, text, told, False, True))

    def end_session(self, why: ConnectionLost) -> None:
        """Drop the messages of the session, which is over."""
        for ticket in [ticket for ticket, entry in self.items.items() if entry.of_session]:
            entry = self.take(ticket)
            if entry is not None and entry.told is not None:
                entry.told(why.for_outcome("not_sent"))

    def _add(self, entry: Entry) -> int:
        if not self.fits(len(entry.payload)):
            raise QueueFull(
                f"not connected, and {len(self) - self._of_session} messages ({self.size - self.session_size} bytes) "
                f"wait already (Limits.offline={self.max_items}, Limits.offline_bytes={self.max_size})"
            )
        ticket = self.put(entry)
        self._queued()
        return ticket

    async def keep_and_wait(self, message: Event | Request | Raw, loop: Scheduler) -> None:
        """Wait until an event is sent, after the `open` handlers of the present connection. Cancelling is safe.

        Raises:
            ConnectionLost: ``"not_sent"``, the connection has ended before.
            QueueFull: too much is kept already.
        """
        sent: asyncio.Future[Exception | None] = loop.create_future()

        def told(error: Exception | None) -> None:
            if not sent.done():
                sent.set_result(error)

        ticket = self.keep(message, told, bound=True)
        try:
            error = await sent
        except asyncio.CancelledError:
            self.take(ticket)  # unless it was sent in this very turn of the event loop
            raise
        if error is not None:
            raise error

    # ------------------------------------------------------------ messages that leave

    def flush(
        self,
        send: Callable[[bytes, bool], None],
        unchecked: int,
        refusal: Callable[[bytes, bool], MessageTooBig | None],
    ) -> None:
        """Send everything, oldest first, except for messages that the remote peer would not accept.

        If ``send`` raises, the error goes on to the caller. That message and those behind it stay.

        Args:
            unchecked: `Terms.unchecked`.
            refusal: `Outbound.refusal`, which is asked about larger messages.
        """
        if self.items and self.size > unchecked:
            self._refuse_too_big(unchecked, refusal)
        if self._behind_session:
            self.flush_session(send, self._behind_session)
            self._behind_session = 0
        while (first := self.first()) is not None:
            ticket, entry = first
            send(entry.payload, entry.text)
            self.take(ticket)
            if entry.told is not None:
                entry.told(None)

    def flush_session(self, send: Callable[[bytes, bool], None], before: int | None = None) -> None:
        """Send what belongs to the present session, oldest first. The rest still waits for the `open` handlers.

        If ``send`` raises, the error goes on to the caller. That message and those behind it stay.

        Args:
            before: send only what has a lower ticket.
        """
        for ticket, entry in list(self.items.items()):
            if entry.of_session and (before is None or ticket < before):
                send(entry.payload, entry.text)
                self.take(ticket)
                if entry.told is not None:
                    entry.told(None)

    def put_session_first(self) -> None:
        """Let what waits for the session leave before all else that waits now. What comes later leaves in its turn."""
        self._behind_session = self._next

    def _refuse_too_big(self, unchecked: int, refusal: Callable[[bytes, bool], MessageTooBig | None]) -> None:
        for ticket, entry in list(self.items.items()):
            if (
                not entry.of_session
                and len(entry.payload) > unchecked
                and (error := refusal(entry.payload, entry.raw)) is not None
            ):
                self._refuse(ticket, error, "an event that waited for a connection was not sent: %s")

    def refuse_bound(self, why: ConnectionLost) -> None:
        """Drop the messages that are bound to the present connection: they will not be sent on it."""
        for ticket in [ticket for ticket, entry in self.items.items() if entry.bound]:
            error = ConnectionLost(why.code, why.reason, "not_sent")  # a new one for each caller that raises it
            self._refuse(ticket, error, "an event that waited for the `open` handlers was not sent: %s")

    def _refuse(self, ticket: int, error: Exception, text: str) -> None:
        entry = self.take(ticket)
        if entry is None:
            return
        if entry.told is None:
            self._warn(text, error)
        else:
            entry.told(error)

    def discard(self) -> None:
        """Drop all events, because no connection will come. The requests must have been taken out before."""
        lost = len(self.clear())
        self._of_session = self.session_size = 0
        if lost:
            events, were = ("event", "was") if lost == 1 else ("events", "were")
            self._warn("%d %s that waited for a connection %s not sent", lost, events, were)
