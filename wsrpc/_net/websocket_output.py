"""`WebSocketOutput`: the outgoing half of a WebSocket on an asyncio transport."""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress

from msgspec import Struct
from websockets.extensions import Extension
from websockets.frames import Frame, Opcode

from .._base.closing import CloseCode, CloseInfo
from ..errors import ConnectionLost
from ..limits import Limits
from ..transport import ConnectionInfo
from .asyncio_privates import waiting_bytes
from .backpressure import Backpressure
from .delivery import Delivery
from .frames import CLOSE, FIN, PING, PONG, FrameWriter

RSV1 = 0x40
"""Marks the first frame of a compressed message."""
LARGEST_UNSENT = 128 * 1024
"""Bytes that the operating system accepts before it has sent earlier bytes. By default, Linux accepts up to 4 MiB. On a
slow network, everything else would wait behind them, pings too, and the high-water mark would be reached only then.
(Linux asks for more at half of this number. With less, a busy event loop could not keep a fast network busy.)"""
BYTES_ACKED = 120
"""Offset of the field ``tcpi_bytes_acked`` in the structure ``tcp_info`` of Linux."""


class OpeningResult(Struct, frozen=True, kw_only=True):
    """The result of an opening handshake.

    Attributes:
        client: whether this side has dialed.
        compression: the extension on which both sides have agreed.
        info: describes the connection.
        read: bytes that were read.
        written: bytes that were written.
    """

    client: bool
    info: ConnectionInfo
    compression: Extension | None = None
    read: int = 0
    written: int = 0


class WebSocketOutput(FrameWriter):
    """Sends messages and control frames, in order. Keeps whether there is room, and how the connection ends."""

    def __init__(self, tcp: asyncio.Transport, limits: Limits, opened: OpeningResult, delivery: Delivery) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(loop, masked=opened.client)
        self.client = opened.client
        self._tcp = tcp
        self._loop = loop
        self._limits = limits
        self._compression = opened.compression
        self.backpressure = Backpressure(delivery, limits)
        self._fragmenting = False
        """Whether the next fragment continues a message."""
        self._answers = 0
        """Bytes of pongs that were sent since there was no room."""
        self._close: tuple[int, str] | None = None
        """Code and reason of the first Close frame, sent or received."""
        self._cause: tuple[int, str] | None = None
        """Code and reason of the end if there is no Close frame."""
        self.close_sent = False
        self.close_received = False
        self.written = opened.written
        self._added = 0
        """Bytes that the socket has sent and ``written`` does not count: those that TLS adds, or of an HTTP library."""
        self._before_ping = 0
        """Value of ``written`` before the latest ping, or a few bytes less."""
        self.open = not tcp.is_closing()
        """Whether messages can be sent."""
        self.diverts = not self.open or self._compression is not None
        with suppress(AttributeError, OSError):  # the system does not have this option, or not for this socket
            set_option = tcp.get_extra_info("socket").setsockopt
            # With Nagle's algorithm, a message waits up to 40 ms for the acknowledgement of the one before. asyncio
            # turns it off only if the socket's ``proto`` is TCP, as `socket.create_server` and uvicorn do not set it.
            set_option(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            set_option(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, LARGEST_UNSENT)

    def shut(self) -> None:
        """Send no further messages."""
        self.open = False
        self.diverts = True

    # ------------------------------------------------------------ messages

    def divert(self, payload: bytes, text: bool) -> None:
        self._add_data(Opcode.TEXT if text else Opcode.BINARY, payload, True)

    def send_fragment(self, payload: bytes, text: bool, last: bool) -> None:
        """Send a frame of a message."""
        self._add_data(Opcode.CONT if self._fragmenting else Opcode.TEXT if text else Opcode.BINARY, payload, last)
        self._fragmenting = not last

    def _add_data(self, opcode: Opcode, payload: bytes, fin: bool) -> None:
        if not self.open:
            raise ConnectionLost(*(self._close or self._cause or (CloseCode.ABNORMAL, "")), "not_sent")
        first = opcode | (FIN if fin else 0)
        if self._compression is not None:
            frame = self._compression.encode(Frame(opcode, payload, fin))
            first |= RSV1 if frame.rsv1 else 0
            payload = bytes(frame.data)
        self.add_frame(first, payload)

    def write(self) -> None:
        tcp = self._tcp
        data = self.pop_frames()
        self.written += len(data)
        tcp.write(data)
        # Bytes that are written on a broken socket are dropped. asyncio reports this in a later turn of the event loop,
        # which never starts if a caller sends without a pause.
        if tcp.is_closing():
            self.shut()

    # ------------------------------------------------------------ room

    def filled(self) -> None:
        """Handle that more bytes than the high-water mark wait to be written: count pongs, and pause senders."""
        self._answers = 0
        self.backpressure.filled(self)

    def answer(self, payload: bytes) -> None:
        """Answer a ping."""
        if not self.open:
            return
        if self.backpressure.full:
            self._answers += len(payload) + 2
            # A remote peer that pings and pings, and does not read the answers:
            if self._answers > self._limits.hard_cap_bytes:
                self.drop(CloseCode.SLOW_CONSUMER, "slow consumer")
                return
        self.add_frame(PONG, payload)

    # ------------------------------------------------------------ the end

    def close(self, code: int | None, reason: str) -> None:
        """Send a Close frame behind the messages, if none was sent and the connection is open."""
        if self._tcp.is_closing():
            self.shut()
        if self.open:
            self.shut()
            self.close_sent = True
            self._close = self._close or (CloseCode.NO_STATUS if code is None else code, reason)
            self.add_frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason.encode())
            self.flush()

    def end(self) -> None:
        """End the connection after the closing handshake. Only a server does so: a client waits for its server."""
        self.flush()
        if self.client or self._tcp.is_closing():
            return
        # If possible, only the sending half is ended, so that all written bytes arrive.
        if self._tcp.can_write_eof():
            with suppress(OSError, RuntimeError):  # the connection is broken already, which is reported elsewhere
                self._tcp.write_eof()
        else:  # TLS
            self._tcp.close()

    def ended(self, error: Exception | None) -> CloseInfo:
        """Release everything, because the connection is over. Return how it ended. ``error`` is the cause, if any."""
        self.shut()
        self.pop_frames()
        self.backpressure.end()
        drop = self._cause or (CloseCode.ABNORMAL, str(error or "unexpected end of stream"))
        return CloseInfo(*(self._close or drop), was_clean=self.close_sent and self.close_received)

    # ------------------------------------------------------------ called by `Heartbeat` and `StallWatch`

    def backlog(self) -> int:
        size, hidden = waiting_bytes(self._tcp)
        # The operating system may have accepted all bytes, long before a slow network has carried them. As far as they
        # were written before the latest ping, count what the remote system has not confirmed. After that, the ping may
        # have been read.
        unconfirmed = self._unconfirmed()
        if size or hidden or self.written - unconfirmed < self._before_ping:
            size = max(size, unconfirmed)
        return size

    def _unconfirmed(self) -> int:
        """Return the number of written bytes that the remote system has not confirmed. Only Linux reports it."""
        if sys.platform == "linux":
            with suppress(OSError, ValueError, AttributeError):  # not TCP, or closed
                tcp_info = self._tcp.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
                received = int.from_bytes(tcp_info[BYTES_ACKED : BYTES_ACKED + 8], sys.byteorder)
                self._added = max(self._added, received - self.written)
                return self.written + self._added - received
        return 0

    def undelivered(self) -> int:
        """Return the number of accepted bytes that the remote system has not confirmed, as far as that is known."""
        return self.unwritten + max(self.backlog(), self._unconfirmed())

    def send_ping(self, payload: bytes) -> None:
        if self.open:
            self.add_frame(PING, payload)
            self.flush()
            self._before_ping = self.written - len(payload) - 6

    def drop(self, code: int, reason: str) -> None:
        self._cause = (code, reason)
        if code != CloseCode.ABNORMAL:
            # A remote peer that is still alive then gets the reason.
            self.close(code, reason)
        self.shut()
        self._tcp.abort()
