"""`Connection`: the receiver of one transport."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, cast

from ..._base.closing import CloseInfo, sendable
from ..._base.logs import logger
from ...errors import ConnectionLost
from ...transport import Receiver, Traffic, Transport
from ..wire.control import Ack, Control, Gone, read_control, write_control

Receive = Callable[[bytes | bytearray, bool], None]


class ConnectionOwner(Protocol):
    """Owner of a connection: a session, or an `IncomingResume` that searches for a session."""

    def update_full(self) -> None:
        """``above_high_water`` has changed."""

    def connection_lost(self, connection: Connection, info: CloseInfo, /) -> None:
        """The connection has ended. Called once."""


class Connection:
    """One connection, which has one owner at a time. The owner drops the object when the connection has ended.

    The transport passes each message straight to ``receive``, a function of the owner.

    Raises:
        TypeError: ``transport`` is not a transport.
    """

    __slots__ = (
        "above_high_water",
        "acknowledged",
        "closing",
        "ended",
        "offered",
        "owner",
        "read_ended",
        "receive",
        "send",
        "started",
        "transport",
        "waits",
    )

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        try:
            self.send: Callable[[bytes, bool], None] = transport.send
        except AttributeError as exc:
            raise TypeError(
                f"bind() takes a transport (see wsrpc.transport.Transport), got {transport!r}: {exc}"
            ) from None
        self.acknowledged: Callable[[], None] = getattr(transport, "acknowledged", ignore_end)
        """Tells the transport that the remote peer has acknowledged messages, so it is alive."""
        self.receive: Receive = ignore_message
        self.read_ended: Callable[[], None] = ignore_end
        self.owner: ConnectionOwner | None = None
        self.started = False
        self.offered: list[str] | None = None
        """The features that this side has offered when it asked to resume a session on this connection."""
        self.above_high_water = False
        """Whether the transport holds more unsent bytes than its high-water mark."""
        self.closing = False
        """Whether messages are ignored, because this side closes the connection."""
        self.ended: CloseInfo | None = None
        self.waits: Callable[[], bool] = bool
        """Returns whether something waits for the remote peer, so that a dead connection must be noticed soon."""

    def start_receiving(self, receive: Receive, read_ended: Callable[[], None]) -> None:
        """Receive messages from now on. Messages that have already arrived are received within this call."""
        self.receive, self.read_ended = receive, read_ended
        if not self.started:
            self.started = True
            self.transport.start(cast("Receiver", self))  # pyright takes the bound callables for methods

    def send_control(self, control: Control) -> None:
        """Send a control message that is about this connection. It is not counted, and never waits."""
        with suppress(ConnectionLost):  # the transport reports that itself
            self.send(write_control(control), True)

    def stop_receiving(self) -> None:
        """Ignore all further messages. Only the transport still learns that the remote peer acknowledges messages."""
        self.closing, self.receive = True, self._receive_closing

    def _receive_closing(self, payload: bytes | bytearray, text: bool, /) -> None:
        if text and isinstance(read_control(payload), Ack):
            self.acknowledged()

    def disown(self) -> None:
        """Pass nothing to the owner any more: it continues without this connection."""
        self.owner = None
        self.receive, self.read_ended, self.waits = ignore_message, ignore_end, bool

    async def close(self, code: int | None, reason: str = "") -> None:
        """Close the connection, whatever the code and the reason; see `close_transport`."""
        if self.offered is not None:  # the server may have a session on it that this side has not, or no longer
            self.send_control(Gone("closed"))
        await close_transport(self.transport, code, reason)

    def drop(self, info: CloseInfo) -> None:
        """Drop the connection now, as if its transport had reported the end."""
        self.connection_lost(info)
        self.transport.abort()

    def mark_resumable(self, waits: Callable[[], bool] = bool) -> None:
        """Tell the transport that a dead connection ends without a Close frame. ``waits``: see the attribute."""
        self.waits = waits
        report: Callable[[], None] | None = getattr(self.transport, "session_survives", None)
        if report is not None:
            report()

    @property
    def traffic(self) -> Traffic | None:
        """The traffic that the transport has counted. None if it does not count."""
        return getattr(self.transport, "traffic", None)

    # ------------------------------------------------------------ callbacks of the transport

    def pause_sending(self) -> None:
        """The transport holds more unsent bytes than its high-water mark."""
        self.above_high_water = True
        if self.owner is not None:
            self.owner.update_full()

    def resume_sending(self) -> None:
        """The transport has drained."""
        self.above_high_water = False
        if self.owner is not None:
            self.owner.update_full()

    def connection_lost(self, info: CloseInfo, /) -> None:
        """The connection has ended."""
        self.ended = info
        if self.owner is not None:
            self.owner.connection_lost(self, info)


async def close_transport(transport: Transport, code: int | None, reason: str = "") -> None:
    """Close a connection, and return when it has ended. Cancelling is safe: the closing continues.

    The core closes all connections by this function, so that no code or reason can keep a connection open. Code and
    reason are sent as far as they are `sendable`. If the transport raises an exception, the connection is dropped.
    """
    try:
        await transport.close(*sendable(code, reason))
    except Exception as exc:
        logger.error("closing a connection failed, so it is dropped: %r", transport, exc_info=exc)
        transport.abort()


def ignore_message(payload: bytes | bytearray, text: bool, /) -> None:
    """Ignore a message that has arrived before the owner receives messages, or after it has stopped."""


def ignore_end() -> None:
    """Ignore the end of a read: nothing waits for it."""
