"""Connections of the `websockets` library, as the default transport uses them.

The library stays in charge of the opening handshake, TLS, proxies, redirects and closing. A subclass, entered by the
documented ``create_connection=``, takes messages as they are parsed, without the library's queue and the tasks around
it, and writes at once what one read caused. Plain frames, which are nearly all, are taken apart by an `Unframer`;
whatever else comes (control frames, fragments, violations) goes to the library.

The library's keepalive is off, because it does not find every dead line: its ping waits until a full line has room,
which on a dead one it never has, and it ends the connection by a closing handshake, whose time comes on top.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import suppress
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidHandshake, InvalidHeader, InvalidStatus, NegotiationError
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Event

from .._base.closing import CloseCode
from .._base.logs import quieten, safe_logger
from ..errors import HandshakeRejected, one_line
from ..handshake import Handshake
from ..limits import Limits
from ..transport import Traffic
from .fairness import MUCH, READ, Turns, turns_of
from .health import Health
from .heartbeat import Heartbeat, StallWatch
from .unframer import Unframer
from .websocket import WebSocketTransport

__all__ = ["WebSocketClientConnection", "WebSocketServerConnection", "library_options"]

LIBRARY_LOGGER = safe_logger("wsrpc.websockets")
"""The library's own log: what it says at INFO, wsrpc says too, with the peer's id."""
LIBRARY_LOGGER.setLevel(logging.WARNING)
LIBRARY_LOGGER.addFilter(quieten)

READ_OF_LARGE = 256 * 1024
"""Bytes that one read takes at most in the middle of a large message."""

END_OF_REQUEST = b"\r\n\r\n"

TEXT, BINARY, CONT, PING, PONG = Opcode.TEXT, Opcode.BINARY, Opcode.CONT, Opcode.PING, Opcode.PONG


def library_options(limits: Limits) -> dict[str, Any]:
    """What the library is told, whether it dials or listens."""
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


class _Pushing(Connection):
    """What both sides' connections do differently from the library's."""

    # Python gives up sharing the keys of instances' dicts where there are more than 30, and the library uses most.
    __slots__ = (
        "hard_cap",
        "heartbeat",
        "is_opening",
        "missing",
        "plain",
        "pongs",
        "read",
        "stall_watch",
        "turns",
        "unframer",
        "written",
        "wsrpc",
    )

    wsrpc: WebSocketTransport
    unframer: Unframer
    heartbeat: Heartbeat
    stall_watch: StallWatch
    is_opening: bool
    """Whether this side still judges the opening handshake, so that only the request may be looked at."""
    plain: bool
    """Whether the library is between two messages, so that plain frames need not go through it."""
    written: int
    """Bytes handed over for writing."""
    read: int
    """Bytes that came in."""
    missing: int
    """Bytes of a message for which the next read makes room."""
    pongs: int
    """Bytes of those that were added to the line since it is full."""
    hard_cap: int
    turns: Turns | None
    """A server's connections read in turns."""

    def _set_up(self, limits: Limits, *, client: bool) -> None:
        self.plain = self.is_opening = False
        self.read = self.written = self.pongs = self.missing = 0
        self.hard_cap = limits.hard_cap
        self.turns = None if client else turns_of(self.loop)
        self.heartbeat = Heartbeat(self, self.loop, limits)
        self.stall_watch = StallWatch(self, self.loop, limits)
        self.wsrpc = WebSocketTransport(
            self, self.heartbeat, masked=client, largest=limits.message, take_at_most=self._take_at_most
        )
        self.wsrpc.count = self.traffic
        self.unframer = Unframer(masked=not client, largest=_largest(self.protocol))

    def use_limits(self, limits: Limits) -> None:
        """Keep other bounds than those that were given, from the end of the opening handshake on."""
        self.hard_cap = limits.hard_cap
        self.heartbeat = self.wsrpc._heartbeat = Heartbeat(self, self.loop, limits)
        self.stall_watch = StallWatch(self, self.loop, limits)
        self.close_timeout = limits.close_timeout
        self.transport.set_write_buffer_limits(limits.high_water)
        self.wsrpc.largest = limits.message

    def _take_at_most(self, size: int) -> None:
        protocol: Any = self.protocol
        if self.wsrpc.takes_pieces:
            protocol.max_message_size, protocol.max_fragment_size = None, size
            self.unframer.largest = size
        else:
            protocol.max_message_size = size
            self.unframer.largest = _largest(protocol)

    # ------------------------------------------------------------ what the library and asyncio tell

    def process_event(self, event: Event) -> None:
        if not isinstance(event, Frame):
            super().process_event(event)  # the opening handshake
            return
        receiver = self.wsrpc.receiver
        opcode = event.opcode
        if event.fin and (opcode is TEXT or opcode is BINARY or opcode is CONT):
            self.unframer.messages += 1
        if event.fin and (opcode is TEXT or opcode is BINARY) and receiver is not None:
            data: Any = event.data
            receiver.receive(data, opcode is TEXT)
        elif opcode is TEXT or opcode is BINARY or opcode is CONT:
            self.wsrpc._frame_received(event)
        else:
            if opcode is PONG:
                self.heartbeat.pong(bytes(event.data))
            elif opcode is PING and self.wsrpc._paused:
                self.pongs += len(event.data) + 2
                if self.pongs > self.hard_cap:  # whoever pings on and on, and does not read the answers
                    self.drop(CloseCode.SLOW_CONSUMER, "slow consumer")
            super().process_event(event)

    def _take_request(self, data: bytes) -> bytes:
        """The part of ``data`` that belongs to the request."""
        return data

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._make_room(0)

    def _make_room(self, missing: int) -> None:
        self.missing = missing
        transport: Any = self.transport
        with suppress(AttributeError):  # not asyncio's own, uvloop's for instance
            transport.max_size = min(missing + READ, READ_OF_LARGE)

    def data_received(self, data: bytes) -> None:
        if self.is_opening:
            data = self._take_request(data)
            if not data:
                return
        self.wsrpc._read_started()
        size = len(data)
        self.read += size
        began = self.loop.time() if size >= MUCH else 0.0
        try:
            receiver = self.wsrpc.receiver
            if self.plain:
                if self.protocol.state is OPEN and receiver is not None:
                    data = bytes(self.unframer.feed(data, receiver))
                    if self.unframer.missing != self.missing:
                        self._make_room(self.unframer.missing)
                    if not data:
                        return
                    pong = self.unframer.only_pong(data)
                    if pong is not None and self.heartbeat.pong(pong):
                        return
                else:
                    data = bytes(self.unframer.take_rest()) + data
            super().data_received(data)
            self.plain = receiver is not None and _is_between_messages(self.protocol)
        finally:
            self.wsrpc._read_ended(size >= READ)
            if size >= MUCH:
                self._much_came(self.loop.time() - began)

    def _much_came(self, seconds: float) -> None:
        """What came in one read was much, and took so long."""
        turns = self.turns
        if turns is not None and not turns.take(seconds) and self.wsrpc._hold_back():
            turns.wait(seconds, self.wsrpc._read_on)

    def eof_received(self) -> None:
        super().eof_received()
        self.wsrpc._expect_end()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.pongs = 0
        self.stall_watch.start()
        self.wsrpc._pause_sending()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.stall_watch.stop()
        self.wsrpc._resume_sending()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.heartbeat.stop()
        self.stall_watch.stop()
        self.wsrpc._connection_lost(exc)

    # ------------------------------------------------------------ writing

    def send_data(self) -> None:
        # In place of the library's, to count what is written.
        data = self.wsrpc._take_gathered()
        pieces = self.protocol.data_to_send()
        if pieces:
            # Together: thousands of answers to pings, one by one, would take asyncio seconds on a line that is full.
            data += b"".join(pieces)
        if data:
            self.written += len(data)
            self.transport.write(data)
        if b"" in pieces:  # the end
            if self.transport.can_write_eof():
                with suppress(OSError, RuntimeError):  # the connection is broken already, which is told elsewhere
                    self.transport.write_eof()
            else:  # TLS
                self.transport.close()

    def backlog(self) -> int:
        size = 0
        transport: Any = self.transport
        while transport is not None:
            size += transport.get_write_buffer_size()
            # asyncio's TLS writes through a transport of its own, which takes large pieces, and does not count them.
            transport = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
        return size

    def traffic(self) -> Traffic:
        return Traffic(self.unframer.messages, self.wsrpc.sent, self.read, self.written)

    def send_ping(self, payload: bytes) -> None:
        self.protocol.send_ping(payload)
        self.send_data()

    def drop(self, code: int, reason: str) -> None:
        self.wsrpc._cause = (code, reason)
        if code != CloseCode.ABNORMAL and self.protocol.state is OPEN:
            # Should somebody be there after all, and have room for it, it costs nothing to say why.
            self.protocol.send_close(code, reason)
            self.send_data()
        self.transport.abort()


class WebSocketClientConnection(_Pushing, ClientConnection):
    def __init__(self, *args: Any, limits: Limits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._set_up(limits, client=True)

    async def handshake(self, *args: Any, **kwargs: Any) -> None:
        # With an exception of ours the library does not follow a redirect, which it does for InvalidStatus: version
        # 16.0 with all headers, 17 with all but three.
        try:
            await super().handshake(*args, **kwargs)
        except InvalidStatus as exc:
            response = exc.response
            said = {name.lower(): value for name, value in response.headers.raw_items()}
            body = bytes(response.body or b"").decode(errors="replace")
            raise HandshakeRejected(response.status_code, body, said) from None
        except InvalidHandshake as exc:
            raise presentable(exc) from None


def presentable(exc: InvalidHandshake) -> InvalidHandshake:
    """``exc``, or an error that says the same in one line of bounded length, without the subprotocols of the answer.

    The library quotes the answer. A server may send a token back, or control characters for the terminal on which
    Python writes the exceptions that end a program.
    """
    if isinstance(exc, NegotiationError) and "subprotocol" in str(exc):
        return NegotiationError("the server chose a subprotocol that was not offered")
    if isinstance(exc, InvalidHeader) and exc.name.lower() == "sec-websocket-protocol":
        return NegotiationError("the server answered with a Sec-WebSocket-Protocol that is not one subprotocol")
    text = one_line(exc)
    return exc if text == str(exc) else InvalidHandshake(text)


class WebSocketServerConnection(_Pushing, ServerConnection):
    __slots__ = ("_early", "_line_end", "_open_timeout", "_patience", "asked")

    asked: Handshake
    """What the client wanted, and what it is to get."""
    is_head = False
    """Whether it only asks, by HEAD, how the server is."""

    def __init__(self, *args: Any, limits: Limits, health: Health | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.health = health
        self._set_up(limits, client=False)
        self.is_opening = True
        self._line_end = b""
        self._early: bytes | None = None
        """What came behind the request; None until its end."""
        self._open_timeout = limits.open_timeout
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._patience = self.loop.call_later(self._open_timeout, self.wsrpc.abort)

    def requested(self) -> None:
        """The client has said what it wants; how long the answer takes is nothing of its doing."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.requested()
        super().connection_lost(exc)
        # What refers to each other would wait for the garbage collector, see `WebSocketTransport`.
        del self.wsrpc, self.heartbeat, self.stall_watch
        _forget_parser(self.protocol)

    async def close(self, code: Any = 1000, reason: str = "") -> None:
        # The library closes each connection once more when its handler is done, by an exception that nobody sees.
        if hasattr(self, "wsrpc"):  # it is not lost
            await super().close(code, reason)

    def _take_request(self, data: bytes) -> bytes:
        if self._early is not None:
            self._keep(data)
            return b""
        if not self.read and self.health is not None:
            as_get = self.health.as_get(data)
            self.is_head = as_get is not None
            data = data if as_get is None else as_get
        before = self._line_end
        end = (before + data).find(END_OF_REQUEST)
        if end < 0:
            self._line_end = (before + data)[1 - len(END_OF_REQUEST) :]
            return data
        size = end + len(END_OF_REQUEST) - len(before)
        self._line_end = self._early = b""
        if size < len(data):
            self._keep(data[size:])
        return data[:size]

    def _keep(self, data: bytes) -> None:
        """Keep what came too early, and read nothing more, so that it is one read at most."""
        assert self._early is not None
        self._early += data
        self.transport.pause_reading()

    def opened(self) -> None:
        """The opening handshake is over: look at what has come behind the request.

        Reading goes on when the transport is started.
        """
        self.is_opening = False
        early, self._early = self._early, None
        if early:
            self.data_received(early)


# What the library calls these has changed between its versions, and is not documented. Where it is not found, all
# frames go through the library, which is slower and nothing else.


def _is_between_messages(protocol: Any) -> bool:
    """Whether the library has dealt with all that it was given, and no message is half there."""
    return (
        protocol.state is OPEN
        and not protocol.extensions
        and not protocol.debug  # the library is to log each frame
        and not getattr(getattr(protocol, "reader", None), "buffer", "unknown")
        and getattr(protocol, "current_size", "unknown") is None
        and _waits_in(getattr(protocol, "parser", None)) == "at_eof"
    )


def _waits_in(parser: Any) -> str:
    """Where the library waits for more: in a frame, whose head it takes out of its buffer, or between two."""
    while (inner := getattr(parser, "gi_yieldfrom", None)) is not None:
        parser = inner
    return getattr(parser, "__name__", "")


def _forget_parser(protocol: Any) -> None:
    """It is over: let go of the generator, and of the frames in which it ended, which refer to the protocol."""
    with suppress(AttributeError):
        protocol.parser.close()
        if protocol.parser_exc is not None:
            protocol.parser_exc.__traceback__ = None


def _largest(protocol: Any) -> int:
    """The largest message that may be taken past the library."""
    largest: int | None = getattr(protocol, "max_message_size", 0)
    return sys.maxsize if largest is None else largest
