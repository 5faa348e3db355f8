"""`Connection`: the receiver of one transport."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, cast

from ..._base.closing import CloseInfo, sendable
from ..._base.logs import logger
from ...errors import ConnectionLost
from ...transport import Receiver, Traffic, Transport
from ..wire.control import Control, write_control

Receive = Callable[[bytes | bytearray, bool], None]


class ConnectionOwner(Protocol):
    """What a connection belongs to: a session, or an `IncomingResume` that looks for one."""

    def update_full(self) -> None:
        """Find out whether there is room, because ``above_high_water`` has changed."""

    def connection_lost(self, connection: Connection, info: CloseInfo, /) -> None:
        """The connection has ended. Called once."""


class Connection:
    """One connection, which belongs to one owner at a time. It is dropped when the connection ends.

    The transport delivers each message straight to ``receive``, a function of the owner.

    Raises:
        TypeError: ``transport`` is not a transport.
    """

    __slots__ = (
        "above_high_water",
        "ended",
        "offered",
        "owner",
        "read_ended",
        "receive",
        "send",
        "started",
        "transport",
    )

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        try:
            self.send: Callable[[bytes, bool], None] = transport.send
        except AttributeError as exc:
            raise TypeError(
                f"bind() takes a transport (see wsrpc.transport.Transport), got {transport!r}: {exc}"
            ) from None
        self.receive: Receive = ignore_message
        self.read_ended: Callable[[], None] = ignore_end
        self.owner: ConnectionOwner | None = None
        self.started = False
        self.offered: list[str] | None = None
        """The features that this side has offered on it, when it asked to resume a session."""
        self.above_high_water = False
        """The transport holds more unsent bytes than its high-water mark."""
        self.ended: CloseInfo | None = None

    def start_receiving(self, receive: Receive, read_ended: Callable[[], None]) -> None:
        """Let messages in. Those that arrived before are delivered within this call."""
        self.receive, self.read_ended = receive, read_ended
        if not self.started:
            self.started = True
            self.transport.start(cast("Receiver", self))  # pyright takes the bound callables for methods

    def send_control(self, control: Control) -> None:
        """Send a control message that is about this connection, and so is not counted and never waits."""
        with suppress(ConnectionLost):  # the transport reports that itself
            self.send(write_control(control), True)

    def set_receive(self, receive: Receive) -> None:
        """Deliver the messages that follow to ``receive``."""
        self.receive = receive

    def stop_receiving(self) -> None:
        """Ignore the messages that follow."""
        self.receive = ignore_message

    def disown(self) -> None:
        """Let nothing through any more: the owner has moved on without this connection."""
        self.owner = None
        self.receive, self.read_ended = ignore_message, ignore_end

    async def close(self, code: int | None, reason: str = "") -> None:
        """Close the connection, whatever the code and the reason; see `close_transport`."""
        await close_transport(self.transport, code, reason)

    def drop(self, info: CloseInfo) -> None:
        """Drop the connection now, as if its transport had told of the end."""
        self.connection_lost(info)
        self.transport.abort()

    def session_survives(self) -> None:
        """Tell the transport that a dead connection ends without a Close frame."""
        report: Callable[[], None] | None = getattr(self.transport, "session_survives", None)
        if report is not None:
            report()

    @property
    def traffic(self) -> Traffic | None:
        """The traffic that the transport has counted. None if it does not count."""
        return getattr(self.transport, "traffic", None)

    # ------------------------------------------------------------ callbacks of the transport

    def pause_sending(self) -> None:
        """Note that the transport holds more unsent bytes than its high-water mark."""
        self.above_high_water = True
        if self.owner is not None:
            self.owner.update_full()

    def resume_sending(self) -> None:
        """Go on, because the transport has drained."""
        self.above_high_water = False
        if self.owner is not None:
            self.owner.update_full()

    def connection_lost(self, info: CloseInfo, /) -> None:
        """Report that the connection has ended."""
        self.ended = info
        if self.owner is not None:
            self.owner.connection_lost(self, info)


async def close_transport(transport: Transport, code: int | None, reason: str = "") -> None:
    """Close a connection, and return when it has ended. Cancelling is safe: the closing continues.

    Every connection that the core closes is closed here, so that no code or reason can keep it open. They are sent as
    far as they are `sendable`. If the transport raises all the same, the connection is dropped.
    """
    try:
        await transport.close(*sendable(code, reason))
    except Exception as exc:
        logger.error("closing a connection failed, so it is dropped: %r", transport, exc_info=exc)
        transport.abort()


def ignore_message(payload: bytes | bytearray, text: bool, /) -> None:
    """Ignore a message that came before anything receives messages, or after the end."""


def ignore_end() -> None:
    """Ignore the end of a read: nothing waits for it."""
