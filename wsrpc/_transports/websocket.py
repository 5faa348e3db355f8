"""WebSocketTransport: the default transport, on the Sans-I/O layer of the `websockets` library.

When an opening handshake is over, a `WebSocketConnection` takes over the connection. It splits what arrives into frames
(`FrameReader`), and delivers plain messages itself, as they are parsed. All other frames go to the library, which
judges and answers them: control frames, fragments, compressed messages, violations. What one read caused is written at
once.
"""

from __future__ import annotations

import asyncio
import logging
import typing
from collections.abc import Callable
from contextlib import suppress

from msgspec import Struct
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from .._base.closing import CloseCode, CloseInfo, check_close
from .._base.logs import quieten, safe_logger
from ..errors import ConnectionLost
from ..limits import Limits
from ..transport import ConnectionInfo, Receiver, Traffic
from .compression import Compression
from .deadlines import deadlines_of
from .delivery import Delivery
from .fairness import MUCH, READ, next_read, turns_of
from .frames import TEXT as TEXT_FRAME
from .frames import FrameReader, FrameWriter
from .heartbeat import Heartbeat, StallWatch

__all__ = ["LIBRARY_LOGGER", "Opened", "Underlying", "WebSocketConnection", "WebSocketTransport"]

LIBRARY_LOGGER = safe_logger("wsrpc.websockets")
"""The library's own log. wsrpc logs what the library would say at INFO itself, with the peer's id."""
LIBRARY_LOGGER.setLevel(logging.WARNING)
LIBRARY_LOGGER.addFilter(quieten)

CLOSE_FRAME = 0x88
LAST_FRAGMENT, LAST_FRAGMENT_OF_CLIENT = b"\x80\x00", b"\x80\x80\0\0\0\0"


class Send(typing.Protocol):
    """`Transport.send`."""

    def __call__(self, payload: bytes, text: bool = True, /) -> None: ...


class Underlying(Struct, frozen=True, weakref=True):
    """What lies below a `WebSocketTransport`: `ConnectionInfo.underlying`.

    Attributes:
        transport: the asyncio transport. Its ``get_extra_info`` knows the socket and the certificate.
        request: the request of the opening handshake, of the `websockets` library.
        response: the response; None on the side that accepted the connection.
    """

    transport: asyncio.Transport
    request: Request | None = None
    response: Response | None = None


class Opened(Struct, frozen=True):
    """The result of an opening handshake.

    Attributes:
        library: the library's protocol. It is open, and has not seen any frame.
        compression: the extension on which both sides have agreed.
        info: describes the connection.
        read: bytes that were read.
        written: bytes that were written.
    """

    library: ClientProtocol | ServerProtocol
    compression: Compression | None
    info: ConnectionInfo
    read: int = 0
    written: int = 0


class WebSocketTransport:
    """Default transport, which uses the frames of the `websockets` library on a transport of asyncio."""

    def __init__(self, tcp: asyncio.Transport, opened: Opened, limits: Limits) -> None:
        loop = asyncio.get_running_loop()
        client = isinstance(opened.library, ClientProtocol)
        self.info = opened.info
        self._tcp = tcp
        self._library = opened.library
        self._compression = opened.compression
        self._delivery = Delivery(tcp.pause_reading)
        self._reader = FrameReader(masked=not client, bytes=opened.read)
        self._output = output = _Output(tcp, opened, limits, loop, masked=client)
        self.send: Send = output.add
        """Send a message; see `Transport`. (This is an attribute, because a method would cost one more call for each
        message.)"""
        self._heartbeat = Heartbeat(output, loop, limits)
        # A client shares the loop with the rest of its program, not with other connections.
        self._turns = None if client else turns_of(loop)
        self._receiving = True
        """Whether the user wants to receive; see `pause_receiving`."""
        self._closing = False
        """Whether `close` was called."""
        self._deadlines = deadlines_of(loop, limits.close_timeout)
        """Those of ends; this connection is among them once it is to end."""
        self._room: asyncio.Future[None] | None = None
        """Done when there is room again; made when somebody waits for it."""
        self._over: asyncio.Future[None] | None = None
        """Done when the connection has ended; made when somebody waits for it."""
        self._ended: CloseInfo | None = None
        self.largest = limits.message

    # ------------------------------------------------------------ the contract

    @property
    def unsent(self) -> int:
        return self._output.unwritten + self._tcp.get_write_buffer_size()

    def session_survives(self) -> None:
        self._heartbeat.session_survives()

    @property
    def traffic(self) -> Traffic:
        return Traffic(self._reader.messages, self._output.sent, self._reader.bytes, self._output.written)

    def start(self, receiver: Receiver, /) -> None:
        if self._output.full:
            receiver.pause_sending()
        self._output.held = True
        self._delivery.start(receiver)
        self._limit_reader()
        receiver.read_ended()
        self._output.release(in_burst=True)
        if self._ended is not None:
            # It ended before there was a receiver: report that soon, not inside this call.
            asyncio.get_running_loop().call_soon(receiver.connection_lost, self._ended)
            return
        if self._receiving:
            self._continue_receiving()

    def flush(self) -> None:
        self._output.flush()

    async def drain(self) -> None:
        self._output.flush()
        if self._output.full:
            if self._room is None:
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)

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
        self._reader.ignore_rest()
        self._delivery.ignore_rest()
        self._tcp.abort()

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
            self._heartbeat.stop()  # the answers to its pings would not be read
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

    # ------------------------------------------------------------ for both parts

    def _continue_receiving(self) -> None:
        self._resume_reading()
        # Not before: until now an answer to a ping need not have been read.
        if self._output.open:
            self._heartbeat.start()

    def _resume_reading(self) -> None:
        if not self._tcp.is_closing():
            self._tcp.resume_reading()

    def _limit_reader(self) -> None:
        """Let the reader refuse messages, or for a receiver that takes pieces frames, that exceed `largest`."""
        largest = self._largest - self._delivery.held
        self._reader.largest = largest
        self._reader.plain = self._compression is None and not self._delivery.in_message and not self._reader.stopped
        if self._compression is not None:
            self._compression.largest = largest

    def _expect_end(self) -> None:
        """Abort the connection if it does not end within ``close_timeout``. Idempotent.

        For when either side has closed, has broken the rules, or will not send any more.
        """
        self._heartbeat.stop()
        self._deadlines.add(self._tcp)


class WebSocketConnection(WebSocketTransport, asyncio.Protocol):
    """The transport with what asyncio, the `FrameReader` and the library tell it.

    A subclass, so that users of `WebSocketTransport` see only the contract. A new object takes over ``tcp``, on which
    reading may be paused. ``lost`` is called when the connection has ended.
    """

    def __init__(
        self,
        tcp: asyncio.Transport,
        opened: Opened,
        limits: Limits,
        lost: Callable[[Exception | None], None] | None = None,
    ) -> None:
        super().__init__(tcp, opened, limits)
        self._lost = lost
        self._set_read_size(READ)
        tcp.set_protocol(self)
        tcp.set_write_buffer_limits(limits.high_water)

    # ------------------------------------------------------------ reading

    def data_received(self, data: bytes) -> None:
        output, reader, receiver = self._output, self._reader, self._delivery.receiver
        output.held = True
        size = len(data)
        reader.bytes += size
        messages = reader.messages
        began = asyncio.get_running_loop().time() if size >= MUCH else 0.0
        try:
            if receiver is None:
                reader.feed(data, self._delivery, self)
            elif (message := reader.only_message(data)) is not None:
                receiver.receive(message, data[0] == TEXT_FRAME)
            else:
                reader.feed(data, receiver, self)
        finally:
            receiver = self._delivery.receiver
            if receiver is not None:
                receiver.read_ended()
            # A read that took as much as it may is most likely followed by more of the same burst.
            output.release(in_burst=size >= self._read_size)
            if size >= MUCH:
                room = next_read(size, reader.messages - messages)
                if room != self._read_size:
                    self._set_read_size(room)
                self._much_came(asyncio.get_running_loop().time() - began)

    def _set_read_size(self, size: int) -> None:
        self._read_size = size
        """Bytes that the next read takes at most."""
        tcp: typing.Any = self._tcp
        with suppress(AttributeError):  # not asyncio's own transport, but uvloop's for instance
            tcp.max_size = size

    def _much_came(self, seconds: float) -> None:
        """Stop reading until there is a turn for it, after a read that took ``seconds`` to handle."""
        turns, tcp = self._turns, self._tcp
        if turns is None or turns.take(seconds):
            return
        if self._delivery.receiver is not None and self._receiving and not tcp.is_closing():
            tcp.pause_reading()
            turns.wait(seconds, self._turn_came)

    def _turn_came(self) -> None:
        if self._receiving:  # else the user has paused receiving, and will resume it
            self._resume_reading()

    # ------------------------------------------------------------ frames that are not plain messages

    def frame(self, data: bytes, /) -> None:
        library = self._library
        was_open = library.state is State.OPEN
        if data[0] == CLOSE_FRAME and self._delivery.in_message:
            # RFC 6455, section 5.4, allows that: the sender has given up the message. For the library it ends here.
            library.receive_data(LAST_FRAGMENT if isinstance(library, ClientProtocol) else LAST_FRAGMENT_OF_CLIENT)
            library.events_received()
        library.receive_data(data)
        for event in library.events_received():
            assert isinstance(event, Frame)
            if event.opcode is Opcode.PING:
                self._output.answered(len(event.data))
            elif event.opcode is Opcode.CLOSE:
                self._output.close_received(bytes(event.data))
                self._stop_reading()
            else:
                self._reader.messages += event.fin
                self._delivery.frame(bytes(event.data), event.opcode is Opcode.TEXT, event.fin)
                self._limit_reader()
        if was_open and library.state is not State.OPEN and not self._reader.stopped:
            self._output.failed()
            self._stop_reading()
        if self._tcp.is_closing():
            self._reader.ignore_rest()

    def pong(self, payload: bytes, /) -> None:
        self._heartbeat.pong(payload)

    def refuse(self, code: CloseCode, reason: str, /) -> None:
        self._library.fail(code, reason)
        self._output.failed()
        self._stop_reading()

    def too_big(self, size: int, /) -> None:
        held = self._delivery.held
        after = f" after reading {held} bytes" if held else ""
        self.refuse(CloseCode.MESSAGE_TOO_BIG, f"frame with {size} bytes{after} exceeds limit of {self._largest} bytes")

    def _stop_reading(self) -> None:
        """Ignore what else arrives: the remote peer has closed, or has broken the rules."""
        self._reader.ignore_rest()
        self._output.write_all()
        self._expect_end()

    # ------------------------------------------------------------ writing

    def pause_writing(self) -> None:
        self._output.filled()
        if self._delivery.receiver is not None:
            self._delivery.receiver.pause_sending()

    def resume_writing(self) -> None:
        self._have_room()
        if self._delivery.receiver is not None:
            self._delivery.receiver.resume_sending()

    def _have_room(self) -> None:
        self._output.has_room()
        room, self._room = self._room, None
        if room is not None:
            room.set_result(None)

    # ------------------------------------------------------------ the end

    def eof_received(self) -> None:
        self._library.receive_eof()
        self._output.write_all()
        self._expect_end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._heartbeat.stop()
        self._have_room()
        self._deadlines.discard(self._tcp)
        self._ended = info = self._output.ended(exc)
        receiver = self._delivery.receiver
        if receiver is not None:
            receiver.connection_lost(info)
        # Nothing comes from here on. What refers to each other would wait for the garbage collector, which stops
        # everything for as long as it takes: after some hundred connections a tenth of a second.
        self._delivery.stop()
        vars(self._library).clear()  # its parser refers to it
        if self._over is not None:
            self._over.set_result(None)
        if self._lost is not None:
            self._lost(exc)


class _Output(FrameWriter):
    """Outgoing half of a connection: everything passes through `write`, in order, and is counted there."""

    __slots__ = (
        "_answers",
        "_asks_library",
        "_cause",
        "_close",
        "_compresses",
        "_fragmenting",
        "_library",
        "_limits",
        "_loop",
        "_stall_watch",
        "_tcp",
        "open",
        "written",
    )

    def __init__(
        self,
        tcp: asyncio.Transport,
        opened: Opened,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        *,
        masked: bool,
    ) -> None:
        super().__init__(loop, masked=masked)
        self._library = opened.library
        self._compresses = opened.compression is not None
        self._tcp = tcp
        self._limits = limits
        self._loop = loop
        self._stall_watch: StallWatch | None = None
        """None while there is room."""
        self._asks_library = False
        """Whether the library may have something to write, too. It never has beside plain frames."""
        self._fragmenting = False
        """Whether the next fragment continues a message."""
        self._answers = 0
        """Bytes of answers to pings that were written since there was no room."""
        self._close: tuple[int, str] | None = None
        """Code and reason of the first Close frame, sent or received."""
        self._cause: tuple[int, str] = (CloseCode.ABNORMAL, "")
        """Code and reason of the end if there is no Close frame."""
        self.written = opened.written
        self._look()

    def _look(self) -> None:
        """Look at what the library has changed. Each of its changes is followed by a call of `write_all` or `ended`."""
        # Attributes, because the library's state is a property, and each message would call it.
        self.open = self._library.state is State.OPEN and not self._tcp.is_closing()
        """Whether messages can be sent."""
        self.diverts = not self.open or self._compresses

    def _shut(self) -> None:
        """Note that no message can be sent any more."""
        self.open = False
        self.diverts = True

    def divert(self, payload: bytes, text: bool) -> None:
        """Let the library build the frame of a message, as it does where there is compression."""
        self._check_open()
        if text:
            self._library.send_text(payload)
        else:
            self._library.send_binary(payload)
        self._asks_library = True
        self.added(len(payload))

    def _check_open(self) -> None:
        if not self.open:
            raise ConnectionLost(*(self._close or self._cause), "not_sent")

    def write(self) -> None:
        if self._asks_library:
            self.write_all()
            return
        data = self.take()
        self.written += len(data)
        tcp = self._tcp
        tcp.write(data)
        # asyncio drops what is written on a broken socket, and reports that in a later turn of the loop, which a
        # caller that sends without a pause never lets come.
        if tcp.is_closing():
            self._shut()

    def write_all(self) -> None:
        """Write what was added, and what the library has to write."""
        self._asks_library = False
        data = self.take()
        pieces = self._library.data_to_send()
        if pieces:
            # In one piece: asyncio would take seconds for thousands of answers to pings, if there is no room.
            data += b"".join(pieces)
        if data:
            self.written += len(data)
            self._tcp.write(data)
        self._look()
        if b"" in pieces:  # the end
            if self._tcp.can_write_eof():
                with suppress(OSError, RuntimeError):  # the connection is broken already, which is reported elsewhere
                    self._tcp.write_eof()
            else:  # TLS
                self._tcp.close()

    def send_fragment(self, payload: bytes, text: bool, last: bool) -> None:
        """Send a frame of a message; the library builds it."""
        self._check_open()
        if self._fragmenting:
            self._library.send_continuation(payload, last)
        elif text:
            self._library.send_text(payload, last)
        else:
            self._library.send_binary(payload, last)
        self._fragmenting = not last
        self.added(len(payload), last)
        # What is sent after it must not overtake it, because the library collects its frames elsewhere.
        self.write_all()

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

    def answered(self, size: int) -> None:
        """Write the library's answer to a ping of ``size`` bytes."""
        self._asks_library = True
        self.added(size, 0)
        if self.full:
            self._answers += size + 2
            if self._answers > self._limits.hard_cap:  # the remote peer pings on and on, and does not read the answers
                self.drop(CloseCode.SLOW_CONSUMER, "slow consumer")

    # ------------------------------------------------------------ the end

    def close(self, code: int | None, reason: str) -> None:
        """Write what was added, and a Close frame if there was none."""
        self._look()  # the connection may have been aborted
        if self.open:
            self._close = (CloseCode.NO_STATUS if code is None else code, reason)
            self._library.send_close(code, reason)
            self.write_all()

    def close_received(self, payload: bytes) -> None:
        """Note the Close frame of the remote peer, which the library has answered."""
        if self._close is None:
            code = int.from_bytes(payload[:2], "big") if payload else CloseCode.NO_STATUS
            self._close = (code, payload[2:].decode())

    def failed(self) -> None:
        """Note the Close frame with which the library has answered a violation."""
        self._library.receive_eof()  # so that it says which
        sent = self._library.close_exc.sent
        if self._close is None and sent is not None:
            self._close = (int(sent.code), sent.reason)

    def ended(self, error: Exception | None) -> CloseInfo:
        """Let go of everything: the connection is over, maybe because of ``error``."""
        self._library.receive_eof()
        closed = self._library.close_exc
        self._shut()
        self.take()
        cause = error or closed.__cause__
        if cause is not None and not self._cause[1]:
            self._cause = (CloseCode.ABNORMAL, str(cause))
        code, reason = self._close or self._cause
        return CloseInfo(code, reason, was_clean=closed.rcvd is not None and closed.sent is not None)

    # ------------------------------------------------------------ what `Heartbeat` and `StallWatch` use

    def backlog(self) -> int:
        size = 0
        tcp: typing.Any = self._tcp
        while tcp is not None:
            size += tcp.get_write_buffer_size()
            # asyncio's TLS writes through a transport of its own, which takes large pieces, and does not count them.
            # It has no public name.
            tcp = getattr(getattr(tcp, "_ssl_protocol", None), "_transport", None)
        return size

    def send_ping(self, payload: bytes) -> None:
        self._library.send_ping(payload)
        self.write_all()

    def drop(self, code: int, reason: str) -> None:
        self._cause = (code, reason)
        if code != CloseCode.ABNORMAL:
            # If the remote peer is there after all, and has room for it, it learns why.
            self.close(code, reason)
        self._shut()
        self._tcp.abort()
