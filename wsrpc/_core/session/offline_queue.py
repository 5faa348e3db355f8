"""`OfflineQueue`: the messages of one peer that wait for a connection."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from ...errors import ConnectionLost, QueueFull, WsrpcError
from .peer_host import PeerHost


class Encoded(Struct, eq=False):
    """An encoded message, which can wait in an `OfflineQueue`: a response, a control message or a broadcast.

    An event or a request is an `Outgoing`, which overrides the methods.
    """

    payload: bytes = b""
    text: bool = True
    of_session: bool = True
    """Whether the message ends with the session. Otherwise it is a message of the user, which waits for any session,
    and was encoded before anything was negotiated."""
    queue: OfflineQueue | None = None
    """The queue in which the message waits. None if it does not wait there."""

    def withdraw(self) -> bool:
        """Remove the message from its queue. Return False if the message does not wait there."""
        if self.queue is None:
            return False
        self.queue.remove(self)
        return True

    def encoded(self) -> tuple[bytes, bool] | None:
        """Return the message as it leaves the queue, and whether it is text. None if it has to wait.

        Raises:
            ValueError, WsrpcError: the remote peer does not accept it, or might not.
        """
        return self.payload, self.text

    def was_sent(self) -> None:
        """The message was sent from the queue."""

    def was_refused(self, error: Exception) -> bool:
        """The message was removed from the queue, and will never be sent. Return whether its sender gets ``error``."""
        return False


class OfflineQueue:
    """The messages of one peer that wait for a connection, in order, from one session to the next.

    The user's messages wait for any session, and also while `open` handlers run. `Limits.offline` limits them. All
    other messages end with their session, and `Limits.replay_bytes` limits them: see `Session.full`.
    """

    __slots__ = ("_host", "_limits", "_messages", "session_size", "user_count", "user_size")

    def __init__(self, host: PeerHost) -> None:
        self._host = host
        self._limits = host.settings.limits
        self._messages: dict[Encoded, None] = {}
        self.session_size = 0
        """Bytes of the messages that end with the session."""
        self.user_count = 0
        """Number of the user's messages."""
        self.user_size = 0
        """Bytes of the user's messages."""

    def __len__(self) -> int:
        return len(self._messages)

    def all(self) -> list[Encoded]:
        """Return the messages, oldest first."""
        return list(self._messages)

    def add(self, message: Encoded) -> None:
        """Append a message."""
        message.queue = self
        self._messages[message] = None
        self._count(message, 1)
        if not message.of_session:
            self._host.owner.message_queued()

    def check_room(self, size: int, why: Callable[[], str]) -> None:
        """Check that a message of the user, of ``size`` bytes, may wait.

        Args:
            why: returns the reason why it waits.

        Raises:
            QueueFull: too many messages of the user wait already.
        """
        count, total, limits = self.user_count, self.user_size, self._limits
        if count >= limits.offline or total + size > limits.offline_bytes:
            raise QueueFull(
                f"{why()}, and {count} messages ({total} bytes) wait already "
                f"(Limits.offline={limits.offline}, Limits.offline_bytes={limits.offline_bytes})"
            )

    def remove(self, message: Encoded) -> None:
        """Remove a message."""
        message.queue = None
        del self._messages[message]
        self._count(message, -1)

    def _count(self, message: Encoded, more: int) -> None:
        size = more * len(message.payload)
        if message.of_session:
            self.session_size += size
        else:
            self.user_count += more
            self.user_size += size
            self._host.current.update()

    def send(self, send: Callable[[bytes, bool], object], *, include_user_messages: bool) -> None:
        """Send the messages, oldest first, until one has to wait longer.

        Raises:
            ConnectionLost: the connection has refused a message, which still waits.
        """
        for message in self.all():
            if message.queue is None or not (include_user_messages or message.of_session):
                continue
            try:
                encoded = message.encoded()
            except (ValueError, WsrpcError) as exc:  # refused by what the remote peer has announced since then
                self.refuse(message, exc)
                continue
            if encoded is None:
                return
            send(*encoded)
            message.withdraw()
            message.was_sent()

    # ------------------------------------------------------------ messages that are not sent

    def refuse(self, message: Encoded, error: Exception) -> None:
        """Drop a message, and report the error to its sender, or in the log."""
        self.remove(message)
        if not message.was_refused(error) and not message.of_session:
            self._host.log.warn("an event that waited for a connection was not sent: %s", error)

    def end_session(self, lost: ConnectionLost) -> None:
        """Drop the messages of the session, which is over."""
        for message in self.all():
            if message.of_session:
                self.refuse(message, lost.for_outcome("not_sent"))

    def drop_all(self) -> None:
        """Drop all events, because there will be no connection. The caller has withdrawn the requests before."""
        lost = self.all()
        for message in lost:
            self.remove(message)
        if lost:
            events, were = ("event", "was") if len(lost) == 1 else ("events", "were")
            self._host.log.warn("%d %s that waited for a connection %s not sent", len(lost), events, were)
