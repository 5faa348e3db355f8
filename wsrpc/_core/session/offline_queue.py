"""`OfflineQueue`: the messages of one peer that wait for a connection."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from ...errors import ConnectionLost, QueueFull
from .peer_host import PeerHost

Report = Callable[[Exception | None], None]
"""Called with None when a message is sent, or with the error if it will never be sent."""


class Entry(Struct, eq=False):
    """One message in an `OfflineQueue`. Its sender can withdraw it."""

    payload: bytes
    text: bool
    of_session: bool = True
    """Whether the message ends with the session. Otherwise it is a message of the user, which waits for any session,
    and was encoded before anything was negotiated."""
    report: Report | None = None
    encode: Callable[[], tuple[bytes, bool] | None] | None = None
    """Encodes the message again when it is sent, because it is large or has a context. None for other messages."""
    queue: OfflineQueue | None = None
    """The queue in which the message waits. None if the message was sent or withdrawn."""

    def encoded(self) -> tuple[bytes, bool] | None:
        """Return the message as it is sent now, and whether it is text. None if it has to wait.

        Raises:
            ValueError, WsrpcError: the remote peer does not accept it, or might not.
        """
        return (self.payload, self.text) if self.encode is None else self.encode()

    def withdraw(self) -> bool:
        """Remove the message from its queue. Return False if the message no longer waits."""
        if self.queue is None:
            return False
        self.queue.remove(self)
        return True

    def message_sent(self) -> None:
        """The message was sent."""
        self.withdraw()
        if self.report is not None:
            self.report(None)


class OfflineQueue:
    """The messages of one peer that wait for a connection, in order, from one session to the next.

    The user's messages wait for any session, and also while `open` handlers run. `Limits.offline` limits them. All
    other messages end with their session, and `Limits.replay_bytes` limits them: see `Session.full`.
    """

    __slots__ = ("_entries", "_host", "_limits", "session_size", "user_count", "user_size")

    def __init__(self, host: PeerHost) -> None:
        self._host = host
        self._limits = host.settings.limits
        self._entries: dict[Entry, None] = {}
        self.session_size = 0
        """Bytes of the messages that end with the session."""
        self.user_count = 0
        """Number of the user's messages."""
        self.user_size = 0
        """Bytes of the user's messages."""

    def __len__(self) -> int:
        return len(self._entries)

    def all(self) -> list[Entry]:
        """Return the messages, oldest first."""
        return list(self._entries)

    def add(self, entry: Entry, why: str = "") -> None:
        """Append a message.

        Args:
            why: the reason why a message of the user waits.

        Raises:
            QueueFull: too many messages of the user wait already.
        """
        if not entry.of_session:
            self._check_room(len(entry.payload), why)
        entry.queue = self
        self._entries[entry] = None
        self._count(entry, 1)
        if not entry.of_session:
            self._host.owner.message_queued()

    def _check_room(self, size: int, why: str) -> None:
        count, total, limits = self.user_count, self.user_size, self._limits
        if count >= limits.offline or total + size > limits.offline_bytes:
            raise QueueFull(
                f"{why}, and {count} messages ({total} bytes) wait already "
                f"(Limits.offline={limits.offline}, Limits.offline_bytes={limits.offline_bytes})"
            )

    def remove(self, entry: Entry) -> None:
        """Remove a message."""
        entry.queue = None
        del self._entries[entry]
        self._count(entry, -1)

    def _count(self, entry: Entry, more: int) -> None:
        size = more * len(entry.payload)
        if entry.of_session:
            self.session_size += size
        else:
            self.user_count += more
            self.user_size += size
            self._host.current.update()

    # ------------------------------------------------------------ messages that are not sent

    def refuse(self, entry: Entry, error: Exception) -> None:
        """Drop a message, and report the error to its sender."""
        self.remove(entry)
        if entry.report is not None:
            entry.report(error)
        elif not entry.of_session:
            self._host.log.warn("an event that waited for a connection was not sent: %s", error)

    def end_session(self, lost: ConnectionLost) -> None:
        """Drop the messages of the session, which is over."""
        for entry in self.all():
            if entry.of_session:
                self.refuse(entry, lost.for_outcome("not_sent"))

    def drop_all(self) -> None:
        """Drop all events, because there will be no connection. The caller has withdrawn the requests before."""
        lost = self.all()
        for entry in lost:
            self.remove(entry)
        if lost:
            events, were = ("event", "was") if len(lost) == 1 else ("events", "were")
            self._host.log.warn("%d %s that waited for a connection %s not sent", len(lost), events, were)
