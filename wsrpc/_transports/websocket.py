"""WebSocketTransport: the default transport, on the `websockets` library.

The library stays in charge of the opening handshake, TLS, proxies and closing. `WebSocketConnection`, a subclass of its
connection that ``create_connection=`` puts in place, keeps no state: it passes what asyncio and the library call to the
transport, which has the state of the connection. So messages are delivered as they are parsed, without the library's
queue and the tasks around it, and what one read caused is written at once. The transport parses plain data frames
itself (`FrameReader`); the library gets everything else: control frames, fragments, violations.

The library's keepalive is off, because it does not find every dead connection: its ping waits until there is room to
write, which a dead connection never has, and it ends the connection by a closing handshake, which takes time on top.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import typing
from collections import deque
from contextlib import suppress
from typing import Any

from websockets.asyncio.connection import Connection
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Event, Protocol

from .._base.closing import CloseCode, CloseInfo, check_close
from .._base.headers import HeadersView, address
from .._base.logs import quieten, safe_logger
from .._base.scheduler import spawn_later
from ..errors import ConnectionLost
from ..limits import Limits
from ..transport import ConnectionInfo, Receiver, Traffic
from .deadlines import Deadlines, deadlines_of
from .delivery import Delivery
from .fairness import MUCH, READ, next_read, turns_of
from .frames import TEXT as TEXT_FRAME
from .frames import FrameReader, FrameWriter
from .heartbeat import Heartbeat, StallWatch

__all__ = ["LIBRARY_LOGGER", "WebSocketConnection", "WebSocketTransport", "forget_parser", "library_options"]

LIBRARY_LOGGER = safe_logger("wsrpc.websockets")
"""The library's own log. wsrpc logs what the library would say at INFO itself, with the peer's id."""
LIBRARY_LOGGER.setLevel(logging.WARNING)
LIBRARY_LOGGER.addFilter(quieten)

TEXT, BINARY, CONT, PING, PONG = Opcode.TEXT, Opcode.BINARY, Opcode.CONT, Opcode.PING, Opcode.PONG


def library_options(limits: Limits) -> dict[str, Any]:
    """Options of the library that hold for dialing and for listening."""
    return {
        "compression": None,
        "open_timeout": limits.open_timeout,
        "ping_interval": None,
        "close_timeout": limits.close_timeout,
        "max_size": limits.message,
        "max_queue": None,
        "write_limit": limits.high_water,
        "logger": LIBRARY_LOGGER,
    }


class Send(typing.Protocol):
    """`Transport.send`."""

    def __call__(self, payload: bytes, text: bool = True, /) -> None: ...


class WebSocketTransport:
    """Default transport, which uses a WebSocket connection of the `websockets` library."""

    def __init__(self, connection: WebSocketConnection, limits: Limits) -> None:
        tcp, loop, protocol = connection.transport, connection.loop, connection.protocol
        client = isinstance(protocol, ClientProtocol)
        tcp.set_write_buffer_limits(limits.high_water)
        connection.close_timeout = limits.close_timeout
        self._connection = connection
        self._delivery = Delivery(tcp.pause_reading)
        self._reader = FrameReader(masked=not client, largest=0)
        self._output = output = _Output(connection, limits, masked=client)
        self.send: Send = output.add
        """Send a message; see `Transport`. (This is an attribute, because a method would cost one more call for each
        message.)"""
        self._heartbeat = Heartbeat(output, loop, limits)
        # A client shares the loop with the rest of its program, not with other connections.
        self._turns = None if client else turns_of(loop)
        self._receiving = True
        """Whether the user wants to receive; see `pause_receiving`."""
        self._room = READ
        """Bytes that the next read takes at most."""
        self._closing: asyncio.Task[None] | None = None
        self._deadlines: Deadlines | None = None
        """Those of ends, once this connection is to end."""
        self._ended: CloseInfo | None = None
        self._info: ConnectionInfo | None = None
        self.largest = limits.message

    # ------------------------------------------------------------ the contract

    @property
    def info(self) -> ConnectionInfo:
        if self._info is None:
            self._info = _describe(self._connection)
        return self._info

    @property
    def unsent(self) -> int:
        return self._output.unwritten + self._connection.transport.get_write_buffer_size()

    def session_survives(self) -> None:
        self._heartbeat.session_survives()

    @property
    def traffic(self) -> Traffic:
        return Traffic(self._reader.messages, self._output.sent, self._reader.bytes, self._output.written)

    def start(self, receiver: Receiver, /) -> None:
        if self._connection.paused:
            receiver.pause_sending()
        self._output.held = True
        self._delivery.start(receiver)
        self._limit_library()
        receiver.read_ended()
        self._output.release(in_burst=True)
        if self._ended is not None:
            # It ended before there was a receiver: report that soon, not inside this call.
            self._connection.loop.call_soon(receiver.connection_lost, self._ended)
            return
        if self._receiving:
            self._continue_receiving()

    def flush(self) -> None:
        self._output.flush()

    async def drain(self) -> None:
        self._output.flush()
        with suppress(OSError):  # the receiver gets to know that the connection broke, not the caller
            await self._connection.drain()

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        check_close(code, reason)
        if self._closing is None:
            self._heartbeat.stop()  # from here on `close_timeout` bounds everything
            self._receiving = True
            self._resume_reading()  # for the remote peer's Close frame; reading is also paused until `start`
            self._closing = spawn_later(self._close(code, reason))
        await asyncio.shield(self._closing)

    def abort(self) -> None:
        self._reader.ignore_rest()
        self._delivery.ignore_rest()
        self._connection.transport.abort()

    @property
    def largest(self) -> int:
        return self._largest

    @largest.setter
    def largest(self, size: int) -> None:
        self._largest = size
        self._limit_library()

    def pause_receiving(self) -> None:
        if self._receiving and self._closing is None and not self._connection.transport.is_closing():
            self._receiving = False
            self._heartbeat.stop()  # the answers to its pings would not be read
            self._connection.transport.pause_reading()

    def resume_receiving(self) -> None:
        if not self._receiving:
            self._receiving = True
            if self._delivery.receiver is not None:
                self._continue_receiving()

    def send_piece(self, payload: bytes, text: bool, last: bool, /) -> None:
        if not self._output.open:
            raise self._output.not_sent()
        self._output.send_fragment(payload, text, last)

    def __repr__(self) -> str:
        state = self._connection.protocol.state.name.lower()
        remote = None if self._connection.request is None else self.info.remote
        paused = "" if self._receiving else " receiving paused"
        return f"<WebSocketTransport {state} {remote} unsent={self.unsent}{paused}>"

    # ------------------------------------------------------------ closing

    async def _close(self, code: int | None, reason: str) -> None:
        connection = self._connection
        close: Any = connection.close  # passes on None, too, although its annotation does not say so
        self._output.flush()
        try:
            async with asyncio.timeout(connection.close_timeout):
                # The library waits for the write buffer first, which need never drain.
                await close(code, reason)
        except TimeoutError:
            self.abort()
        await connection.wait_closed()

    # ------------------------------------------------------------ reading

    def _continue_receiving(self) -> None:
        self._resume_reading()
        # Not before: until now an answer to a ping need not have been read.
        if self._connection.protocol.state is OPEN and self._closing is None:
            self._heartbeat.start()

    def _resume_reading(self) -> None:
        tcp = self._connection.transport
        if not tcp.is_closing():
            tcp.resume_reading()

    def _limit_library(self) -> None:
        """Refuse messages, or for a receiver that takes pieces frames, that are larger than `largest`."""
        protocol: Any = self._connection.protocol
        if self._delivery.takes_pieces:
            protocol.max_message_size, protocol.max_fragment_size = None, self._largest
            self._reader.largest = self._largest
        else:
            protocol.max_message_size = self._largest
            self._reader.largest = _largest(protocol)


class _Output(FrameWriter):
    """Outgoing half of a connection: everything passes through `write`, in order, and is counted there."""

    __slots__ = (
        "_answers",
        "_asks_library",
        "_fragmenting",
        "_limits",
        "_protocol",
        "_stall_watch",
        "_tcp",
        "cause",
        "open",
        "written",
    )

    def __init__(self, connection: Connection, limits: Limits, *, masked: bool) -> None:
        super().__init__(connection.loop, masked=masked)
        self._protocol = connection.protocol
        self._tcp = connection.transport
        self._limits = limits
        self._stall_watch: StallWatch | None = None
        """None while there is room."""
        self._asks_library = False
        """Whether the library may have something to write, too. It never has beside plain frames."""
        self._fragmenting = False
        """Whether the next fragment continues a message."""
        self._answers = 0
        """Bytes of answers to pings that were written since there was no room."""
        self.cause: tuple[int, str] = (CloseCode.ABNORMAL, "")
        """Close code and reason if there is no Close frame."""
        self.written = 0
        self._look()

    def _look(self) -> None:
        """Look at what the library has changed. Each of its changes is followed by a call of `write_all` or `broke`."""
        # Attributes, because the library's state is a property, and each message would call it.
        self.open = self._protocol.state is OPEN and not self._tcp.is_closing()
        """Whether messages can be sent."""
        self.diverts = not self.open or bool(self._protocol.extensions)

    def _shut(self) -> None:
        """Note that no message can be sent any more."""
        self.open = False
        self.diverts = True

    def divert(self, payload: bytes, text: bool) -> None:
        """Let the library build the frame of a message, as it does where there is compression."""
        if not self.open:
            raise self.not_sent()
        protocol = self._protocol
        if text:
            protocol.send_text(payload)
        else:
            protocol.send_binary(payload)
        self._asks_library = True
        self.added(len(payload))

    def not_sent(self) -> ConnectionLost:
        """Return the error for a message that cannot be sent any more."""
        return ConnectionLost(*self.close_code(), "not_sent")

    def close_code(self) -> tuple[int, str]:
        """Return the code and the reason with which the connection ends."""
        protocol = self._protocol
        rcvd, sent = protocol.close_rcvd, protocol.close_sent
        first = sent if sent is not None and (rcvd is None or not protocol.close_rcvd_then_sent) else rcvd
        if first is not None:
            return int(first.code), first.reason
        return self.cause

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
        pieces = self._protocol.data_to_send()
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
        if self._fragmenting:
            self._protocol.send_continuation(payload, last)
        elif text:
            self._protocol.send_text(payload, last)
        else:
            self._protocol.send_binary(payload, last)
        self._fragmenting = not last
        self.added(len(payload), last)
        # What is sent after it must not overtake it, because the library collects its frames elsewhere.
        self.write_all()

    def filled(self) -> None:
        """Begin to count answers, and to watch: there is no room from now on."""
        self._answers = 0
        self._stall_watch = StallWatch(self, asyncio.get_running_loop(), self._limits)
        self._stall_watch.start()

    def has_room(self) -> None:
        """Stop watching: there is room again, or the connection is over. Idempotent."""
        watch, self._stall_watch = self._stall_watch, None
        if watch is not None:
            watch.stop()

    def answering(self, size: int) -> None:
        """Count the answer to a ping of ``size`` bytes, for which there is no room."""
        self._answers += size + 2
        if self._answers > self._limits.hard_cap:  # the remote peer sends ping after ping and does not read the answers
            self.drop(CloseCode.SLOW_CONSUMER, "slow consumer")

    def broke(self, error: BaseException | None) -> None:
        """Take ``error`` as the reason of the end if there is no Close frame, and `drop` gave no other reason."""
        self._shut()
        if error is not None and not self.cause[1]:
            self.cause = (CloseCode.ABNORMAL, str(error))

    # What `Heartbeat` and `StallWatch` use.

    def backlog(self) -> int:
        size = 0
        tcp: Any = self._tcp
        while tcp is not None:
            size += tcp.get_write_buffer_size()
            # asyncio's TLS writes through a transport of its own, which takes large pieces, and does not count them.
            # It has no public name.
            tcp = getattr(getattr(tcp, "_ssl_protocol", None), "_transport", None)
        return size

    def send_ping(self, payload: bytes) -> None:
        self._protocol.send_ping(payload)
        self.write_all()

    def drop(self, code: int, reason: str) -> None:
        self.cause = (code, reason)
        if code != CloseCode.ABNORMAL and self._protocol.state is OPEN:
            # If the remote peer is there after all, and has room for it, it learns why.
            self._protocol.send_close(code, reason)
            self.write_all()
        self._tcp.abort()


class WebSocketCallbacks(WebSocketTransport):
    """The transport as its connection sees it, with what asyncio and the library call.

    A subclass, so that users of `WebSocketTransport` see only the contract.
    """

    def __init__(self, connection: WebSocketConnection, limits: Limits) -> None:
        super().__init__(connection, limits)
        self._make_room(READ)

    def replaced(self, limits: Limits) -> WebSocketCallbacks:
        """Return a transport with other limits that continues this one, which has carried nothing but the handshake."""
        other = WebSocketCallbacks(self._connection, limits)
        other._reader.bytes, other._output.written = self._reader.bytes, self._output.written
        if self._deadlines is not None:
            self._deadlines.discard(self._connection.transport)
            other.expect_end()
        return other

    def describe(self, info: ConnectionInfo) -> None:
        """Set `info`, in place of the description that is made of the library's request."""
        self._info = info

    # ------------------------------------------------------------ reading

    def data_received(self, data: bytes) -> None:
        connection, output, reader = self._connection, self._output, self._reader
        output.held = True
        size, filled = len(data), len(data) >= self._room
        reader.bytes += size
        messages = reader.messages
        began = connection.loop.time() if size >= MUCH else 0.0
        receiver = self._delivery.receiver
        try:
            if reader.between_frames:
                if output.open and receiver is not None:
                    message = reader.only_message(data)
                    if message is not None:
                        receiver.receive(message, data[0] == TEXT_FRAME)
                        return
                    data = bytes(reader.feed(data, receiver))
                    if not data:
                        return
                    pong = reader.only_pong(data)
                    if pong is not None and self._heartbeat.pong(pong):
                        return
                else:
                    data = bytes(reader.take_rest()) + data
            connection.parse(data)
            reader.between_frames = receiver is not None and _is_between_messages(connection.protocol)
        finally:
            receiver = self._delivery.receiver
            if receiver is not None:
                receiver.read_ended()
            # A read that took as much as it may is most likely followed by more of the same burst.
            output.release(in_burst=filled)
            if not output.open and connection.protocol.close_expected():
                self.expect_end()
            if size >= MUCH:
                room = next_read(size, reader.messages - messages)
                if room != self._room:
                    self._make_room(room)
                self._much_came(connection.loop.time() - began)

    def count_read(self, size: int) -> None:
        """Count ``size`` bytes that were read and do not come here."""
        self._reader.count(size)

    def _much_came(self, seconds: float) -> None:
        """Stop reading until there is a turn for it, after a read that took ``seconds`` to handle."""
        turns, tcp = self._turns, self._connection.transport
        if turns is None or turns.take(seconds):
            return
        if self._delivery.receiver is not None and self._receiving and not tcp.is_closing():
            tcp.pause_reading()
            turns.wait(seconds, self._turn_came)

    def _turn_came(self) -> None:
        if self._receiving:  # else the user has paused receiving, and will resume it
            self._resume_reading()

    def frame_received(self, frame: Frame) -> bool:
        """Take a frame that the library has parsed. Returns False for a control frame, which the library handles."""
        opcode = frame.opcode
        if opcode is TEXT or opcode is BINARY or opcode is CONT:
            self._reader.messages += frame.fin
            # Not where this side closes before there is a receiver: reading would stop before the Close frame.
            if self._closing is None or self._delivery.receiver is not None:
                self._delivery.frame(bytes(frame.data), opcode is TEXT, frame.fin)
            return True
        if opcode is PONG:
            self._heartbeat.pong(bytes(frame.data))
        elif opcode is PING and self._connection.paused:
            self._output.answering(len(frame.data))
        return False

    def _make_room(self, room: int) -> None:
        self._room = room
        tcp: Any = self._connection.transport
        with suppress(AttributeError):  # not asyncio's own transport, but uvloop's for instance
            tcp.max_size = room

    # ------------------------------------------------------------ writing

    def write(self) -> None:
        """Write what was gathered, and what the library has to say."""
        self._output.write_all()

    def pause_sending(self) -> None:
        self._output.filled()
        if self._delivery.receiver is not None:
            self._delivery.receiver.pause_sending()

    def resume_sending(self) -> None:
        self._output.has_room()
        if self._delivery.receiver is not None:
            self._delivery.receiver.resume_sending()

    # ------------------------------------------------------------ the end

    def expect_end(self) -> None:
        """Abort the connection if it does not end within ``close_timeout``.

        For when the remote peer has closed, has broken the rules, or will not send any more: it now has to end the TCP
        connection. The library waits for that only in its own calls.
        """
        self._heartbeat.stop()
        if self._deadlines is None:
            connection = self._connection
            self._deadlines = deadlines_of(connection.loop, connection.close_timeout or 0.0)
            self._deadlines.add(connection.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._heartbeat.stop()
        self._output.has_room()
        protocol = self._connection.protocol
        clean = protocol.close_rcvd is not None and protocol.close_sent is not None
        self._output.broke(None if clean else exc or protocol.close_exc.__cause__)
        code, reason = self._output.close_code()
        info = self._ended = CloseInfo(code, reason, was_clean=clean)
        if self._deadlines is not None:
            self._deadlines.discard(self._connection.transport)
        self._output.take()
        receiver = self._delivery.receiver
        if receiver is not None:
            receiver.connection_lost(info)
        # Nothing comes from here on. What refers to each other would wait for the garbage collector, which stops
        # everything for as long as it takes: after some hundred connections a tenth of a second.
        self._delivery.stop()


class NoMessages:
    """In place of the library's queue of messages, of 1.2 KiB for each connection: frames do not pass through it."""

    def close(self) -> None:
        """Nothing waits here."""


NO_MESSAGES: Any = NoMessages()


class WebSocketConnection(Connection):
    """Connection of the library that passes everything to a `WebSocketTransport`.

    Derive from it and from the library's class for one side. ``wsrpc`` is the transport, from `connection_made` on.
    """

    # Python gives up sharing the keys of instances' dicts where there are more than 30, and the library uses most.
    __slots__ = ("_drain_waiters", "_limits", "wsrpc")

    wsrpc: WebSocketCallbacks
    _drain_waiters: deque[asyncio.Future[None]] | None

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits

    def opened(self, limits: Limits, info: ConnectionInfo) -> None:
        """Keep ``limits``, and describe the connection by ``info``, now that the opening handshake is over."""
        if limits is not self._limits:
            self.wsrpc = self.wsrpc.replaced(limits)
        self.wsrpc.describe(info)
        self.recv_messages = NO_MESSAGES
        # In place of the method, which would be two more calls for each read: one here, one of the subclass.
        self.data_received = self.wsrpc.data_received  # type: ignore[method-assign]

    def _get_drain_waiters(self) -> deque[asyncio.Future[None]]:
        if self._drain_waiters is None:
            self._drain_waiters = deque()
        return self._drain_waiters

    def _set_drain_waiters(self, waiters: deque[asyncio.Future[None]]) -> None:
        self._drain_waiters = waiters or None

    drain_waiters: Any = property(_get_drain_waiters, _set_drain_waiters)
    """What the library keeps for each connection, in 760 bytes. Here it is made when it is needed."""

    def parse(self, data: bytes) -> None:
        """Let the library parse ``data``."""
        super().data_received(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.wsrpc = WebSocketCallbacks(self, self._limits)

    def made(self, transport: asyncio.Transport) -> None:
        """Do what `connection_made` does, without the library's queue of messages, which `opened` would drop again."""
        self.transport, self.recv_messages = transport, NO_MESSAGES
        self.wsrpc = WebSocketCallbacks(self, self._limits)

    def data_received(self, data: bytes) -> None:
        self.wsrpc.data_received(data)

    def process_event(self, event: Event) -> None:
        if not (isinstance(event, Frame) and self.wsrpc.frame_received(event)):
            super().process_event(event)

    def send_data(self) -> None:
        self.wsrpc.write()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.wsrpc.pause_sending()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.wsrpc.resume_sending()

    def eof_received(self) -> None:
        super().eof_received()
        self.wsrpc.expect_end()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.wsrpc.connection_lost(exc)


def _describe(connection: Connection) -> ConnectionInfo:
    request = connection.request
    assert request is not None, "the opening handshake is over"
    headers = HeadersView(request.headers)
    return ConnectionInfo(
        target=request.path,
        headers=headers,
        origin=headers.get("origin"),
        remote=address(connection.remote_address),
        local=address(connection.local_address),
        subprotocol=connection.subprotocol,
        underlying=connection,
    )


# The names of these attributes of the library have changed between its versions, and are not documented. Where one is
# not found, all frames go through the library, which is slower and nothing else.


def _is_between_messages(protocol: Any) -> bool:
    """Whether the library has parsed all that it was given, and no message is half there."""
    return (
        protocol.state is OPEN
        and not protocol.extensions
        and not protocol.debug  # the library is to log each frame
        and not getattr(getattr(protocol, "reader", None), "buffer", "unknown")
        and getattr(protocol, "current_size", "unknown") is None
        and _waits_in(getattr(protocol, "parser", None)) == "at_eof"
    )


def _waits_in(parser: Any) -> str:
    """Name of the function in which the library's parser waits: within a frame, or at the end of the input."""
    while (inner := getattr(parser, "gi_yieldfrom", None)) is not None:
        parser = inner
    return getattr(parser, "__name__", "")


def forget_parser(protocol: Protocol) -> None:
    """Let go of the parser of a connection that is over, and of the frames in which it ended, which refer to it."""
    library: Any = protocol
    with suppress(AttributeError):
        library.parser.close()
        if library.parser_exc is not None:
            library.parser_exc.__traceback__ = None


def _largest(protocol: Any) -> int:
    """Size of the largest message that need not pass through the library."""
    largest: int | None = getattr(protocol, "max_message_size", 0)
    return sys.maxsize if largest is None else largest
