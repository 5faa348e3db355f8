"""`WebSocketTransport`: the default transport.

A `WebSocketTransport` is what a peer uses. Its subclass `WebSocketConnection` is the asyncio protocol: it parses with a
`FrameReader`, delivers messages, answers control frames and violations, and ends the connection. All messages that are
sent while one read is handled are written together.
"""

from __future__ import annotations

import asyncio
import logging
import typing
from collections.abc import Callable

from msgspec import Struct
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response

from .._base.closing import CloseCode, CloseInfo, check_close
from .._base.logs import logger
from ..limits import Limits
from ..transport import Receiver, Traffic
from .asyncio_privates import limit_read, release_transport
from .deadlines import LARGEST_CLOSING, Deadlines, bytes_leave
from .delivery import Delivery
from .frames import CONTROL, FIN, PING, PONG, RESERVED, FrameReader
from .heartbeat import Heartbeat
from .loop_budget import BUDGETED_READ, SMALL_READ, loop_budget_of, next_read, shared
from .websocket_output import OpeningResult, WebSocketOutput


class Send(typing.Protocol):
    """`Transport.send`."""

    def __call__(self, payload: bytes, text: bool = True, /) -> None: ...


class Underlying(Struct, frozen=True, weakref=True):
    """Value of `ConnectionInfo.underlying` for a `WebSocketTransport`.

    Attributes:
        transport: the asyncio transport. Its ``get_extra_info`` returns the socket and the certificate.
        request: the request of the opening handshake, as an object of the `websockets` library.
        response: the response. None on the side that accepted the connection.
    """

    transport: asyncio.Transport
    request: Request | None = None
    response: Response | None = None


class WebSocketTransport:
    """Default transport: frames of RFC 6455 on a transport of asyncio."""

    def __init__(
        self,
        tcp: asyncio.Transport,
        opened: OpeningResult,
        limits: Limits,
        lost: Callable[[Exception | None], None] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        tcp.set_write_buffer_limits(limits.high_water_bytes)
        self.info = opened.info
        self._tcp = tcp
        self._compression = opened.compression
        self._delivery = Delivery(tcp.pause_reading)
        self._reader = reader = FrameReader(masked=not opened.client, bytes=opened.read)
        self._output = output = WebSocketOutput(tcp, limits, opened, self._delivery)
        self.send: Send = output.add
        """Send a message; see `Transport`. (This is an attribute, because a method would cost one more call for each
        message.)"""
        self._heartbeat = Heartbeat(output, loop, limits, reader)
        if opened.client:
            self._heartbeat.ping_sooner(self._delivery.waits)
        self.acknowledged = self._heartbeat.acknowledged
        """Handle acknowledged messages; see `Transport`."""
        self._receiving = True
        """Whether the user wants to receive; see `pause_receiving`."""
        self._closing = False
        """Whether `close` was called."""
        self._deadlines = shared(loop, Deadlines, limits.close_timeout, WebSocketTransport._overdue)
        """Time limits for the ends of connections. This connection is added when it starts to end."""
        # `WebSocketOutput.undelivered` when this connection started to end, and each time that its limit was over.
        self._undelivered: tuple[int, ...] = ()
        self._over: asyncio.Future[None] | None = None
        """Done when the connection has ended. None while nobody waits."""
        self._lost = lost
        self._ended: CloseInfo | None = None
        # Clients need no budget: they share the event loop with the rest of a program, not with other connections.
        self._loop_budget = None if opened.client else loop_budget_of(loop)
        self.largest = limits.message_bytes

    # ------------------------------------------------------------ the contract

    @property
    def unsent(self) -> int:
        # If asyncio's TLS transport is closed twice, as some hosts do, its method would fail.
        if self._ended is not None:
            return 0
        return self._output.unwritten + self._tcp.get_write_buffer_size()

    def session_survives(self) -> None:
        self._heartbeat.session_survives()

    @property
    def traffic(self) -> Traffic:
        return Traffic(self._reader.messages, self._output.sent, self._reader.bytes, self._output.written)

    def start(self, receiver: Receiver, /) -> None:
        if self._output.backpressure.full:
            receiver.pause_sending()
        self._output.in_read = True
        self._delivery.start(receiver)
        self._limit_reader()
        receiver.read_ended()
        self._output.release(in_burst=True)
        if self._ended is not None:
            # The connection ended before there was a receiver. Report the end soon, not inside this call.
            asyncio.get_running_loop().call_soon(receiver.connection_lost, self._ended)
            return
        if self._receiving:
            self._continue_receiving()

    def flush(self) -> None:
        self._output.flush()

    async def drain(self) -> None:
        self._output.flush()
        await self._output.backpressure.drain()

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        check_close(code, reason)
        if self._ended is not None:
            return
        if not self._closing:
            self._closing = True
            self._expect_end()
            self._receiving = True
            self._resume_reading()  # for the remote peer's Close frame; reading is also paused until `start`
            if self._delivery.receiver is None:
                self._delivery.keep_no_more()  # reading would stop before the Close frame
            self._output.close(code, reason)
        if self._over is None:
            self._over = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._over)

    def abort(self) -> None:
        if self._closing and self._ended is None and (left := self._output.undelivered()) > LARGEST_CLOSING:
            level = logging.WARNING if self._output.client else logging.INFO  # any client can cause it on a server
            logger.log(level, "%d bytes were not sent before the end of %r", left, self)
        self._reader.ignore_rest()
        self._delivery.ignore_rest()
        self._tcp.abort()

    def drop(self, code: int, reason: str) -> None:
        """End the connection now, and report this code."""
        self._delivery.ignore_rest()
        self._output.drop(code, reason)

    @property
    def largest(self) -> int:
        return self._largest

    @largest.setter
    def largest(self, size: int) -> None:
        self._largest = size
        self._limit_reader()

    def pause_receiving(self) -> None:
        if self._receiving and not self._closing and not self._tcp.is_closing():
            self._receiving = False
            self._heartbeat.read_pongs(False)
            self._tcp.pause_reading()

    def resume_receiving(self) -> None:
        if not self._receiving:
            self._receiving = True
            if self._delivery.receiver is not None:
                self._continue_receiving()

    def send_piece(self, payload: bytes, text: bool, last: bool, /) -> None:
        self._output.send_fragment(payload, text, last)

    def __repr__(self) -> str:
        state = "closed" if self._ended is not None else "open" if self._output.open else "closing"
        paused = "" if self._receiving else " receiving paused"
        return f"<WebSocketTransport {state} {self.info.remote} unsent={self.unsent}{paused}>"

    # ------------------------------------------------------------ reading

    def _continue_receiving(self) -> None:
        self._resume_reading()
        # Not before: until now, responses to pings may not have been read.
        if self._output.open:
            self._heartbeat.read_pongs(True)

    def _resume_reading(self) -> None:
        if not self._tcp.is_closing():
            self._tcp.resume_reading()

    def _limit_reader(self) -> None:
        """Let the reader refuse messages, or for a receiver of pieces frames, that exceed `largest`."""
        self._reader.largest = self._largest - self._delivery.fragment_bytes
        self._reader.plain = self._compression is None and not self._delivery.in_message and not self._reader.stopped

    def _expect_end(self) -> None:
        """Abort the connection if it does not end within ``close_timeout``, and no bytes leave. Idempotent.

        Called when either side has closed, has broken the rules, or will not send any more.
        """
        self._heartbeat.stop()
        self._undelivered = self._undelivered or (self._output.undelivered(),)
        self._deadlines.add(self)

    def _overdue(self) -> None:
        """Abort the connection, which has not ended in time, unless messages still leave that the remote peer reads."""
        self._undelivered += (self._output.undelivered(),)
        if (
            self._closing
            and not self._output.close_received
            and bytes_leave(self._undelivered, self._heartbeat.pop_acknowledged())
        ):
            self._deadlines.add(self)
        else:
            self.abort()


class WebSocketConnection(WebSocketTransport, asyncio.Protocol):
    """The default transport as an asyncio protocol. The constructor makes it the protocol of ``tcp``.

    This is a subclass, so that users of `WebSocketTransport` see only the methods of `Transport`.

    Args:
        tcp: the asyncio transport, on which reading may be paused.
        opened: the result of the opening handshake.
        limits: the limits of the connection.
        lost: a function that is called when the connection has ended.
    """

    def __init__(
        self,
        tcp: asyncio.Transport,
        opened: OpeningResult,
        limits: Limits,
        lost: Callable[[Exception | None], None] | None = None,
    ) -> None:
        super().__init__(tcp, opened, limits, lost)
        self._limit_read(SMALL_READ)
        tcp.set_protocol(self)

    # ------------------------------------------------------------ one read

    def data_received(self, data: bytes) -> None:
        reader, receiver = self._reader, self._delivery.receiver
        size, messages = len(data), reader.messages
        started = asyncio.get_running_loop().time() if size >= BUDGETED_READ else 0.0
        self._output.in_read = True
        reader.bytes += size
        try:
            reader.feed(data, self._delivery if receiver is None else receiver, self)
        finally:
            self._read_ended(size, reader.messages - messages, started)

    def _read_ended(self, size: int, messages: int, started: float) -> None:
        """End a read of ``size`` bytes that completed ``messages`` messages."""
        receiver = self._delivery.receiver
        if receiver is not None and self._ended is None:
            receiver.read_ended()
        # A read of the maximum size is most likely followed by more of the same burst.
        self._output.release(in_burst=size >= self._read_size)
        if size >= BUDGETED_READ:
            self._limit_read(next_read(size, messages))
            self._large_read(asyncio.get_running_loop().time() - started)

    def _limit_read(self, size: int) -> None:
        """Read at most ``size`` bytes at once from now on."""
        self._read_size = size
        limit_read(self._tcp, size)

    def _large_read(self, seconds: float) -> None:
        """Spend the `LoopBudget` after a read that took ``seconds`` to handle. Stop reading if nothing remains."""
        turns, tcp = self._loop_budget, self._tcp
        if turns is None or turns.spend(seconds):
            return
        if self._delivery.receiver is not None and self._receiving and not tcp.is_closing():
            tcp.pause_reading()
            turns.wait(seconds, self._resume_after_wait)

    def _resume_after_wait(self) -> None:
        if self._receiving:  # else the user has paused receiving, and will resume it
            self._resume_reading()

    # ------------------------------------------------------------ frames that are not plain messages

    def frame(self, first: int, payload: bytes, /) -> None:
        """Handle a frame. Its ``first`` byte consists of FIN, the reserved bits and the opcode."""
        if first & CONTROL:
            self._control_frame(first, payload)
        else:
            self._data_frame(first, payload)
        if self._tcp.is_closing():
            self._reader.ignore_rest()

    def _control_frame(self, first: int, payload: bytes) -> None:
        if first & RESERVED:
            self.finish(CloseCode.PROTOCOL_ERROR, "reserved bits must be 0")
        elif not first & FIN:
            self.finish(CloseCode.PROTOCOL_ERROR, "fragmented control frame")
        elif first == PING:
            self._output.answer(payload)
        elif first == PONG:
            self._heartbeat.pong(payload)
        else:
            self._close_frame(payload)

    def _data_frame(self, first: int, payload: bytes) -> None:
        opcode, delivery = first & 0x0F, self._delivery
        # The first reserved bit marks the first frame of a compressed message. Before version 16.1, the library ignores
        # this bit in later frames, where it is not allowed.
        if self._compression is not None and (opcode or not first & 0x40):
            try:
                frame = Frame(Opcode(opcode), payload, first >= FIN, *(bool(first & bit) for bit in (0x40, 0x20, 0x10)))
                frame = self._compression.decode(frame, max_size=self._reader.largest)
                frame.check()
            except PayloadTooBig:
                self.too_big(None)
                return
            except ProtocolError as exc:
                self.finish(CloseCode.PROTOCOL_ERROR, str(exc))
                return
            payload = bytes(frame.data)
        elif first & RESERVED:
            self.finish(CloseCode.PROTOCOL_ERROR, "reserved bits must be 0")
            return
        if delivery.in_message is not (opcode == Opcode.CONT):
            expected = "expected a" if delivery.in_message else "unexpected"
            self.finish(CloseCode.PROTOCOL_ERROR, f"{expected} continuation frame")
        elif len(payload) > self._reader.largest:
            self.too_big(len(payload))
        else:
            self._reader.messages += first >= FIN
            delivery.frame(payload, opcode == Opcode.TEXT, first >= FIN)
            self._limit_reader()

    def _close_frame(self, payload: bytes) -> None:
        code, reason = None, ""
        try:
            if payload:
                reason = payload[2:].decode()
                code = check_close(int.from_bytes(payload[:2], "big"), reason)
        except UnicodeDecodeError as exc:
            self.finish(CloseCode.INVALID_DATA, f"{exc.reason} at position {exc.start}")
        except ValueError:
            too_short = len(payload) == 1
            self.finish(CloseCode.PROTOCOL_ERROR, "close frame too short" if too_short else "invalid status code")
        else:
            self._output.close_received = True
            self.finish(code, reason)

    def finish(self, code: int | None, reason: str, /) -> None:
        """Close, and ignore all further bytes, because the remote peer has closed or has broken the rules."""
        self._reader.ignore_rest()
        self._output.close(code, reason)
        self._output.end()
        self._expect_end()

    def too_big(self, size: int | None, /) -> None:
        """Close the connection because of a data frame with ``size`` bytes, more than `FrameReader.largest`."""
        before = self._delivery.fragment_bytes
        bytes_of_frame = "" if size is None else f" with {size} bytes"
        after = f" after reading {before} bytes" if before else ""
        self.finish(CloseCode.MESSAGE_TOO_BIG, f"frame{bytes_of_frame}{after} exceeds limit of {self._largest} bytes")

    # ------------------------------------------------------------ writing

    def pause_writing(self) -> None:
        """Handle asyncio's report that more bytes than the high-water mark wait to be written."""
        self._output.filled()

    def resume_writing(self) -> None:
        """Handle asyncio's report that there is room again."""
        self._output.backpressure.has_room()

    # ------------------------------------------------------------ the end

    def eof_received(self) -> None:
        """Handle asyncio's report that the remote peer will not send any more."""
        self._output.flush()
        self._output.shut()
        self._expect_end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle asyncio's report that the connection has ended."""
        self._heartbeat.stop()
        self._deadlines.remove(self)
        self._ended = info = self._output.ended(exc)
        receiver = self._delivery.receiver
        if receiver is not None:
            receiver.connection_lost(info)
        # Nothing arrives from now on. Without these lines, circles of references would wait for the garbage collector,
        # which stops the program: after some hundred connections, for a tenth of a second.
        self._delivery.stop()
        if self._over is not None:
            self._over.set_result(None)
        lost, self._lost = self._lost, None  # whose object may refer to this one
        if lost is not None:
            lost(exc)
        release_transport(self._tcp)
