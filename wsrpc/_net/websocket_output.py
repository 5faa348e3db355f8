"""Output: the outgoing half of a WebSocket on a transport of asyncio."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from msgspec import Struct
from websockets.extensions import Extension
from websockets.frames import Frame, Opcode

from .._base.closing import CloseCode, CloseInfo
from ..errors import ConnectionLost
from ..limits import Limits
from ..transport import ConnectionInfo
from .frames import CLOSE, FIN, PING, PONG, FrameWriter
from .heartbeat import StallWatch

RSV1 = 0x40
"""Marks the first frame of a compressed message."""
BYTES_ACKED = 120
"""Where Linux has the field ``tcpi_bytes_acked`` in the structure ``tcp_info``."""


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
    """Sends messages and control frames, in order, and knows whether there is room and how the connection ends.

    Args:
        write_close: writes a Close frame with a payload, in place of this object.
    """

    def __init__(
        self,
        tcp: asyncio.Transport,
        limits: Limits,
        opened: OpeningResult,
        write_close: Callable[[bytes], None] | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(loop, masked=opened.client)
        self._client = opened.client
        self._tcp = tcp
        self._loop = loop
        self._limits = limits
        self._compression = opened.compression
        self._write_close = write_close
        self._stall_watch: StallWatch | None = None
        """None while there is room."""
        self._fragmenting = False
        """Whether the next fragment continues a message."""
        self._answers = 0
        """Bytes of answers to pings that were sent since there was no room."""
        self._close: tuple[int, str] | None = None
        """Code and reason of the first Close frame, sent or received."""
        self._cause: tuple[int, str] | None = None
        """Code and reason of the end if there is no Close frame."""
        self.close_sent = False
        self.close_received = False
        self.written = opened.written
        self._added = 0
        """Bytes that TLS has added to those that were written, where `backlog` asks the socket."""
        self.open = not tcp.is_closing()
        """Whether messages can be sent."""
        self.diverts = not self.open or self._compression is not None

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
        # What is written on a broken socket is dropped, and that is reported in a later turn of the loop, which a
        # caller that sends without a pause never lets come.
        if tcp.is_closing():
            self.shut()

    # ------------------------------------------------------------ room

    @property
    def full(self) -> bool:
        """Whether there is no room: more bytes than the high-water mark wait to be written."""
        return self._stall_watch is not None

    def filled(self) -> None:
        """Begin to count answers, and to watch: there is no room from now on."""
        self._answers = 0
        self._stall_watch = StallWatch(self, self._loop, self._limits)
        self._stall_watch.start()

    def has_room(self) -> None:
        """Stop watching: there is room again, or the connection is over. Idempotent."""
        watch, self._stall_watch = self._stall_watch, None
        if watch is not None:
            watch.stop()

    def answer(self, payload: bytes) -> None:
        """Answer a ping."""
        if not self.open:
            return
        if self.full:
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
            self.closed(CloseCode.NO_STATUS if code is None else code, reason)
            payload = b"" if code is None else code.to_bytes(2, "big") + reason.encode()
            if self._write_close is None:
                self.add_frame(CLOSE, payload)
                self.flush()
            else:
                self.flush()
                self._write_close(payload)
                self.written += len(payload) + (6 if self._client else 2)

    def closed(self, code: int, reason: str) -> None:
        """Note that a Close frame leaves."""
        self.shut()
        self.close_sent = True
        self._close = self._close or (code, reason)

    def end(self) -> None:
        """End the connection as a server does after the closing handshake. A client waits for its server to do so."""
        self.flush()
        if self._client or self._tcp.is_closing():
            return
        # Where possible only the sending half is ended, so that all data that was written arrives.
        if self._tcp.can_write_eof():
            with suppress(OSError, RuntimeError):  # the connection is broken already, which is reported elsewhere
                self._tcp.write_eof()
        else:  # TLS
            self._tcp.close()

    def ended(self, error: Exception | None) -> CloseInfo:
        """Let go of everything: the connection is over, maybe because of ``error``."""
        self.shut()
        self.pop_frames()
        self.has_room()
        drop = self._cause or (CloseCode.ABNORMAL, str(error or "unexpected end of stream"))
        return CloseInfo(*(self._close or drop), was_clean=self.close_sent and self.close_received)

    # ------------------------------------------------------------ what `Heartbeat` and `StallWatch` use

    def backlog(self) -> int:
        tcp, size = self._tcp, 0
        inner: Any = tcp
        while inner is not None:
            size += inner.get_write_buffer_size()
            # asyncio's TLS writes through a transport of its own, which takes large pieces, and does not count them.
            # It has no public name.
            inner = getattr(getattr(inner, "_ssl_protocol", None), "_transport", None)
        # The transport under the TLS of uvloop or picows cannot be reached. On Linux the socket says how many bytes the
        # remote peer's system has received.
        if sys.platform == "linux" and tcp.get_extra_info("ssl_object") and not hasattr(tcp, "_ssl_protocol"):
            with suppress(OSError, AttributeError):  # not TCP, or closed
                tcp_info = tcp.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
                received = int.from_bytes(tcp_info[BYTES_ACKED : BYTES_ACKED + 8], sys.byteorder)
                self._added = max(self._added, received - self.written)
                size = max(size, self.written + self._added - received)
        return size

    def send_ping(self, payload: bytes) -> None:
        if self.open:
            self.add_frame(PING, payload)
            self.flush()

    def drop(self, code: int, reason: str) -> None:
        self._cause = (code, reason)
        if code != CloseCode.ABNORMAL:
            # If the remote peer is there after all, and has room for it, it learns why.
            self.close(code, reason)
        self.shut()
        self._tcp.abort()
