"""The default transport, on the `websockets` library, and dialing with it.

The library's own connection stays in charge of the opening handshake, keepalive, TLS, proxies, redirects and
closing. A subclass, entered by the documented ``create_connection=``, takes messages as they are parsed,
without the library's queue and the tasks around it, and writes at once what one read caused. Plain frames, which are
nearly all, are taken apart here; whatever else comes (control frames, fragments, violations) goes to the library.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl as ssl_module
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidStatus, InvalidURI
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Event
from websockets.typing import Subprotocol

from ._close import CloseCode, CloseInfo, check_close
from ._frames import Framer
from ._unframer import Unframer
from ._url import BadURL, check_url
from .errors import ConnectionLost, HandshakeRejected
from .limits import Limits
from .transport import ConnectionInfo, Receiver

__all__ = ["LIBRARY_LOGGER", "WebSocketServerConnection", "WebSocketTransport", "dial"]

LIBRARY_LOGGER = logging.getLogger("wsrpc.websockets")
"""The library's own log: what it says at INFO, wsrpc says too, with the peer's id."""
LIBRARY_LOGGER.setLevel(logging.WARNING)

TEXT, BINARY, CONT = Opcode.TEXT, Opcode.BINARY, Opcode.CONT

FIRST_PIECE, LARGEST_PIECE = 1024, 32 * 1024
"""Bytes that are written together: little at first, so that the other side can begin while this one goes on, then
twice as much each time, up to where joining more costs more than another write. (Two Python ends with 64 requests
pending: 1.9 times the rate of one piece a read, because neither waits for the other.)"""


class WebSocketTransport:
    """One WebSocket connection of the `websockets` library as a `Transport`."""

    def __init__(self, connection: Connection, *, masked: bool) -> None:
        self._connection = connection
        self._protocol = connection.protocol
        self._loop = connection.loop
        self._frame = Framer(masked=masked).frame
        self.receiver: Receiver | None = None
        """Who gets the messages, after `start`."""
        self._early: list[tuple[bytes | bytearray, bool]] = []
        self._parts: bytearray | None = None
        self._parts_text = True
        self._paused = False
        self._reading = False
        self._out: list[bytes] = []
        self._gathered = 0
        self._broken = False
        self._piece = FIRST_PIECE
        self._flush_scheduled = False
        self._closing: asyncio.Task[None] | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._written = 0
        self._dropped = ""
        self.stall = Limits().stall
        """Seconds for which a write may make no progress."""
        self._ended: CloseInfo | None = None
        self._info: ConnectionInfo | None = None

    # ------------------------------------------------------------ the contract

    @property
    def info(self) -> ConnectionInfo:
        if self._info is None:
            self._info = _describe(self._connection)
        return self._info

    @property
    def unsent(self) -> int:
        return self._gathered + self._connection.transport.get_write_buffer_size()

    def start(self, receiver: Receiver, /) -> None:
        self.receiver = receiver
        if self._paused:
            receiver.pause_sending()
        early, self._early = self._early, []
        self._reading = True
        for payload, text in early:
            receiver.receive(payload, text)
        self._reading = False
        receiver.read_ended()
        self._flush()
        if self._ended is not None:
            # It ended before anybody listened: say so soon, not inside this call.
            self._loop.call_soon(receiver.connection_lost, self._ended)
        elif early:
            self._connection.transport.resume_reading()

    def send(self, payload: bytes, text: bool = True, /) -> None:
        if self._protocol.state is not OPEN or self._broken:
            raise ConnectionLost(*self._close_code(), "not_sent")
        if self._protocol.extensions:
            # Compression and the like belong to the library: it builds the frame.
            if text:
                self._protocol.send_text(payload)
            else:
                self._protocol.send_binary(payload)
        else:
            self._frame(self._out, payload, text)
        self._gathered += len(payload) + 2  # no frame is shorter, so that an empty message counts, too
        if self._gathered >= self._piece:
            self._piece = min(2 * self._piece, LARGEST_PIECE)
            self._flush()
        elif not self._reading and not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._turn_ended)

    def flush(self) -> None:
        self._flush()

    async def drain(self) -> None:
        self._flush()
        with suppress(OSError):  # that the connection broke is told to the receiver, not to whoever waits for room
            await self._connection.drain()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        check_close(code, reason)
        if self._closing is None:
            self._closing = self._loop.create_task(self._close(code, reason))
        await asyncio.shield(self._closing)

    def abort(self) -> None:
        self._connection.transport.abort()

    # ------------------------------------------------------------ writing

    def _flush(self) -> None:
        """Write what was gathered."""
        if self._gathered:
            self._gathered = 0
            self._connection.send_data()
            # asyncio swallows what is written on a broken socket, and tells of it in a later turn of the loop, which
            # whoever sends on and on never lets come.
            self._broken = self._connection.transport.is_closing()

    def _turn_ended(self) -> None:
        self._flush_scheduled = False
        self._piece = FIRST_PIECE
        self._flush()

    def _take_gathered(self) -> bytes:
        """Hand the frames that were built here to the connection, which is about to write."""
        out = self._out
        if not out:
            return b""
        data = b"".join(out)
        out.clear()
        self._gathered = 0
        return data

    async def _close(self, code: int, reason: str) -> None:
        connection = self._connection
        self._flush()
        try:
            async with asyncio.timeout(connection.close_timeout):
                # The library waits for the write buffer first, which need never drain.
                await connection.close(code, reason)
        except TimeoutError:
            connection.transport.abort()
        await connection.wait_closed()

    def _close_code(self) -> tuple[int, str]:
        protocol = self._protocol
        rcvd, sent = protocol.close_rcvd, protocol.close_sent
        first = sent if sent is not None and (rcvd is None or not protocol.close_rcvd_then_sent) else rcvd
        if first is not None:
            return int(first.code), first.reason
        return CloseCode.ABNORMAL, self._dropped

    # ------------------------------------------------------------ what the connection tells

    def _frame_received(self, frame: Frame) -> None:
        """A data frame, in order; messages are put together here."""
        if frame.opcode is CONT:
            assert self._parts is not None
            self._parts += frame.data
            if frame.fin:
                payload, self._parts = self._parts, None
                self._deliver(payload, self._parts_text)
        elif frame.fin:
            self._deliver(bytes(frame.data), frame.opcode is TEXT)
        else:
            self._parts = bytearray(frame.data)
            self._parts_text = frame.opcode is TEXT

    def _deliver(self, payload: bytes | bytearray, text: bool) -> None:
        if self.receiver is not None:
            self.receiver.receive(payload, text)
        else:
            if not self._early:
                self._connection.transport.pause_reading()
            self._early.append((payload, text))

    def _read_started(self) -> None:
        self._reading = True

    def _read_ended(self) -> None:
        self._reading = False
        if self.receiver is not None:
            self.receiver.read_ended()
        self._piece = FIRST_PIECE
        self._flush()
        if self._protocol.state is not OPEN and self._protocol.close_expected() and self._close_timer is None:
            # The other side said goodbye, or broke the rules and was told so, and now owes the end of the TCP
            # connection, for which the library waits only where it is itself called.
            self._close_timer = self._loop.call_later(self._connection.close_timeout or 0.0, self.abort)

    def _pause_sending(self) -> None:
        self._paused = True
        self._watch_progress(-1)
        if self.receiver is not None:
            self.receiver.pause_sending()

    def _watch_progress(self, before: int) -> None:
        """While writing is paused: drop the connection if nothing has left since ``before`` bytes had.

        The library's own ping does not see this: it waits for the write buffer first.
        """
        progress = self._written - self._connection.transport.get_write_buffer_size()
        if progress == before:
            self._dropped = f"nothing could be written for {self.stall:g} s"
            self.abort()
        else:
            self._stall_timer = self._loop.call_later(self.stall, self._watch_progress, progress)

    def _resume_sending(self) -> None:
        self._paused = False
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        if self.receiver is not None:
            self.receiver.resume_sending()

    def _connection_lost(self, exc: Exception | None) -> None:
        protocol = self._protocol
        cause = exc or protocol.close_exc.__cause__
        if cause is not None and not self._dropped:
            self._dropped = str(cause)
        code, reason = self._close_code()
        clean = protocol.close_rcvd is not None and protocol.close_sent is not None
        self._ended = CloseInfo(code, reason, was_clean=clean)
        for timer in (self._close_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._out.clear()
        self._gathered = 0
        if self.receiver is not None:
            self.receiver.connection_lost(self._ended)

    def __repr__(self) -> str:
        return f"<WebSocketTransport {self._protocol.state.name.lower()} {self.info.remote}>"


class _Pushing(Connection):
    """What both sides' connections do differently from the library's."""

    wsrpc: WebSocketTransport
    unframer: Unframer
    plain = False
    """Whether the library is between two messages, so that plain frames need not go through it."""

    def process_event(self, event: Event) -> None:
        if not isinstance(event, Frame):
            super().process_event(event)  # the opening handshake
            return
        receiver = self.wsrpc.receiver
        opcode = event.opcode
        if event.fin and (opcode is TEXT or opcode is BINARY) and receiver is not None:
            data: Any = event.data
            receiver.receive(data, opcode is TEXT)
        elif opcode is TEXT or opcode is BINARY or opcode is CONT:
            self.wsrpc._frame_received(event)
        else:
            super().process_event(event)

    def data_received(self, data: bytes) -> None:
        self.wsrpc._read_started()
        try:
            receiver = self.wsrpc.receiver
            if self.plain:
                if self.protocol.state is OPEN and receiver is not None:
                    data = bytes(self.unframer.feed(data, receiver))
                    if not data:
                        return
                else:
                    data = bytes(self.unframer.take_rest()) + data
            super().data_received(data)
            self.plain = receiver is not None and _is_between_messages(self.protocol)
        finally:
            self.wsrpc._read_ended()

    def send_data(self) -> None:
        data = self.wsrpc._take_gathered()
        if data:
            self.wsrpc._written += len(data)
            self.transport.write(data)
        super().send_data()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.wsrpc._pause_sending()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.wsrpc._resume_sending()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.wsrpc._connection_lost(exc)

    def _jitter_pings(self) -> None:
        # Many clients that came back together must not beat together ever after.
        if self.ping_interval is not None:
            self.ping_interval *= random.uniform(0.9, 1.0)


class WebSocketClientConnection(_Pushing, ClientConnection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._jitter_pings()
        self.wsrpc = WebSocketTransport(self, masked=True)
        self.unframer = Unframer(masked=False, largest=_largest(self.protocol))


class WebSocketServerConnection(_Pushing, ServerConnection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._jitter_pings()
        self.wsrpc = WebSocketTransport(self, masked=False)
        self.unframer = Unframer(masked=True, largest=_largest(self.protocol))


# What the library calls these has changed between its versions, and is not documented. Where it is not found, all
# frames go through the library, which is slower and nothing else.


def _is_between_messages(protocol: Any) -> bool:
    """Whether the library has dealt with all that it was given, and no message is half there."""
    return (
        protocol.state is OPEN
        and not protocol.extensions
        and not protocol.debug  # the library is to log each frame
        and not getattr(getattr(protocol, "reader", None), "buffer", "unknown")
        and getattr(protocol, "current_size", getattr(protocol, "cur_size", "unknown")) is None
    )


def _largest(protocol: Any) -> int:
    """The largest message that may be taken past the library."""
    largest: int | None = getattr(protocol, "max_message_size", getattr(protocol, "max_size", 0))
    return sys.maxsize if largest is None else largest


def _describe(connection: Connection) -> ConnectionInfo:
    request = connection.request
    assert request is not None, "the opening handshake is over"
    path, _, query = request.path.partition("?")
    headers: dict[str, str] = {}
    for name, value in request.headers.raw_items():
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return ConnectionInfo(
        path=path,
        query=MappingProxyType(dict(parse_qsl(query, keep_blank_values=True))),
        headers=MappingProxyType(headers),
        origin=headers.get("origin"),
        remote=_address(connection.remote_address),
        local=_address(connection.local_address),
        subprotocol=connection.subprotocol,
        underlying=connection,
    )


def _address(address: Any) -> tuple[str, int] | None:
    return (address[0], address[1]) if address.__class__ is tuple and len(address) >= 2 else None


# ---------------------------------------------------------------- dialing


async def dial(
    url: str,
    *,
    limits: Limits | None = None,
    headers: Mapping[str, str] | None = None,
    subprotocols: Sequence[str] | None = None,
    ssl: ssl_module.SSLContext | None = None,
    proxy: str | bool | None = True,
) -> WebSocketTransport:
    """Open a connection to a ``ws://`` or ``wss://`` URL. Cancelling is safe.

    Raises:
        HandshakeRejected: the server answered with another status than 101.
        OSError, TimeoutError, websockets.exceptions.InvalidHandshake: nobody answered, or not as a WebSocket server.
        ValueError: for a URL that is none.
    """
    check_url(url, tls=ssl is not None)
    limits = limits or Limits()
    options: dict[str, Any] = {} if ssl is None else {"ssl": ssl}
    try:
        connection = await connect(
            url,
            create_connection=WebSocketClientConnection,
            compression=None,
            additional_headers=None if headers is None else dict(headers),
            subprotocols=None if subprotocols is None else [Subprotocol(name) for name in subprotocols],
            proxy=proxy or None,
            open_timeout=limits.open_timeout,
            ping_interval=limits.ping_interval,
            ping_timeout=limits.ping_timeout,
            close_timeout=limits.close_timeout,
            max_size=limits.message,
            max_queue=None,
            write_limit=limits.high_water,
            logger=LIBRARY_LOGGER,
            **options,
        )
    except InvalidURI as exc:
        raise BadURL(f"a URL names a host, got {url!r}") from exc
    except InvalidStatus as exc:
        body = bytes(exc.response.body or b"").decode(errors="replace")
        headers = {name.lower(): value for name, value in exc.response.headers.raw_items()}
        raise HandshakeRejected(exc.response.status_code, body, headers) from exc
    assert isinstance(connection, WebSocketClientConnection)
    connection.wsrpc.stall = limits.stall
    return connection.wsrpc
