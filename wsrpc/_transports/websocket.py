"""The default transport, on the `websockets` library: a connection (see ``_transports.connection``) as peers see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl

from websockets.asyncio.connection import Connection
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN

from .._base.closing import CloseCode, CloseInfo, check_close
from .._base.headers import JoinedHeaders, address
from .._base.scheduler import spawn_later
from ..errors import ConnectionLost
from ..transport import ConnectionInfo, Receiver, Traffic
from .frames import Framer
from .heartbeat import Heartbeat

__all__ = ["WebSocketTransport"]

TEXT, BINARY, CONT = Opcode.TEXT, Opcode.BINARY, Opcode.CONT

FIRST_PIECE, LARGEST_PIECE = 1024, 32 * 1024
"""Bytes that are written together: little at first, so that the other side can begin while this one goes on, then
twice as much each time, up to where joining more costs more than another write. (Two Python ends with 64 requests
pending: 1.9 times the rate of one piece a read, because neither waits for the other.)"""


class WebSocketTransport:
    """One WebSocket connection of the `websockets` library as a `Transport`."""

    def __init__(
        self,
        connection: Connection,
        heartbeat: Heartbeat,
        *,
        masked: bool,
        largest: int,
        take_at_most: Callable[[int], None],
    ) -> None:
        self._connection = connection
        self._largest = largest
        self._take_at_most = take_at_most
        self._heartbeat = heartbeat
        self._protocol = connection.protocol
        self._loop = connection.loop
        framer = Framer(masked=masked)
        self._frame = framer.frame
        self._parts_of_frame = framer.parts
        self.receiver: Receiver | None = None
        """Who gets the messages, after `start`."""
        self._early: list[tuple[bytes | bytearray, bool]] = []
        self._parts: bytearray | None = None
        self._parts_text = True
        self._receive_piece: Callable[[bytes, bool, bool], None] | None = None
        self._receiving = True
        self._sending_pieces = False
        self._paused = False
        self._reading = False
        self._out: list[bytes] = []
        self._sent = 0
        """Messages that were handed to the connection; those in ``_out`` come on top, which costs no message time."""
        self.count: Callable[[], Traffic] = Traffic
        """Given by the connection, which sees the bytes."""
        self._gathered = 0
        self._broken = False
        self._piece = FIRST_PIECE
        self._flush_scheduled = False
        self._closing: asyncio.Task[None] | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        self._cause: tuple[int, str] = (CloseCode.ABNORMAL, "")  # where no Close frame says it
        self._ended: CloseInfo | None = None
        self._info: ConnectionInfo | None = None

    # ------------------------------------------------------------ the contract

    @property
    def info(self) -> ConnectionInfo:
        if self._info is None:
            self._info = _describe(self._connection)
        return self._info

    @info.setter
    def info(self, info: ConnectionInfo) -> None:
        self._info = info

    @property
    def unsent(self) -> int:
        return self._gathered + self._connection.transport.get_write_buffer_size()

    @property
    def traffic(self) -> Traffic:
        return self.count()

    def start(self, receiver: Receiver, /) -> None:
        self.receiver = receiver
        if self._paused:
            receiver.pause_sending()
        early, self._early = self._early, []
        self._reading = True
        for payload, text in early:
            receiver.receive(payload, text)
        self._hand_on_pieces(receiver)
        self._reading = False
        receiver.read_ended()
        self._flush()
        if self._ended is not None:
            # It ended before anybody listened: say so soon, not inside this call.
            self._loop.call_soon(receiver.connection_lost, self._ended)
            return
        if self._receiving:
            self._go_on_receiving()

    def send(self, payload: bytes, text: bool = True, /) -> None:
        protocol = self._protocol
        if protocol.state is not OPEN or self._broken:
            raise ConnectionLost(*self._close_code(), "not_sent")
        if protocol.extensions:
            # Compression and the like belong to the library: it builds the frame.
            self._sent += 1
            if text:
                protocol.send_text(payload)
            else:
                protocol.send_binary(payload)
        else:
            self._frame(self._out, payload, text)
        # No frame is shorter than by 2 bytes more, so that an empty message counts, too.
        self._gathered = gathered = self._gathered + len(payload) + 2
        if gathered >= self._piece:
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

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        check_close(code, reason)
        if self._closing is None:
            self._heartbeat.stop()  # from here on `close_timeout` bounds everything
            self._receiving = True
            self._resume_reading()  # for the other side's Close frame; paused also where nobody has called `start`
            self._closing = spawn_later(self._close(code, reason))
        await asyncio.shield(self._closing)

    def abort(self) -> None:
        self._connection.transport.abort()

    @property
    def largest(self) -> int:
        return self._largest

    @largest.setter
    def largest(self, size: int) -> None:
        self._largest = size
        self._take_at_most(size)

    @property
    def takes_pieces(self) -> bool:
        """Whether the receiver is handed on the frames of a message."""
        return self._receive_piece is not None

    def pause_receiving(self) -> None:
        if self._receiving and self._closing is None and not self._connection.transport.is_closing():
            self._receiving = False
            self._heartbeat.stop()  # its answers would not be read
            self._connection.transport.pause_reading()

    def resume_receiving(self) -> None:
        if not self._receiving:
            self._receiving = True
            if self.receiver is not None:
                self._go_on_receiving()

    def send_piece(self, payload: bytes, text: bool, last: bool, /) -> None:
        if self._protocol.state is not OPEN or self._broken:
            raise ConnectionLost(*self._close_code(), "not_sent")
        if self._sending_pieces:
            self._protocol.send_continuation(payload, last)
        elif text:
            self._protocol.send_text(payload, last)
        else:
            self._protocol.send_binary(payload, last)
        self._sending_pieces = not last
        self._gathered += len(payload) + 2
        self._flush()  # what is sent after it must not overtake it: the library gathers by itself

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

    @property
    def sent(self) -> int:
        """Messages that were taken for sending."""
        return self._sent + len(self._out) // self._parts_of_frame

    def _take_gathered(self) -> bytes:
        """Hand the frames that were built here to the connection, which is about to write."""
        out = self._out
        if not out:
            return b""
        data = b"".join(out)
        self._sent = self.sent
        out.clear()
        self._gathered = 0
        return data

    async def _close(self, code: int | None, reason: str) -> None:
        connection = self._connection
        close: Any = connection.close  # hands on None, too, although its annotation does not say so
        self._flush()
        try:
            async with asyncio.timeout(connection.close_timeout):
                # The library waits for the write buffer first, which need never drain.
                await close(code, reason)
        except TimeoutError:
            connection.transport.abort()
        await connection.wait_closed()

    def _close_code(self) -> tuple[int, str]:
        protocol = self._protocol
        rcvd, sent = protocol.close_rcvd, protocol.close_sent
        first = sent if sent is not None and (rcvd is None or not protocol.close_rcvd_then_sent) else rcvd
        if first is not None:
            return int(first.code), first.reason
        return self._cause

    # ------------------------------------------------------------ what the connection tells

    def _hand_on_pieces(self, receiver: Receiver) -> None:
        """If it wants them."""
        receive_piece: Callable[[bytes, bool, bool], None] | None = getattr(receiver, "receive_piece", None)
        if receive_piece is not None:
            self._receive_piece = receive_piece
            self._take_at_most(self._largest)
            if self._parts is not None:
                parts, self._parts = self._parts, None
                receive_piece(bytes(parts), self._parts_text, False)

    def _go_on_receiving(self) -> None:
        self._resume_reading()
        # Not before: until now an answer need not have been read.
        if self._protocol.state is OPEN and self._closing is None:
            self._heartbeat.start()

    def _hold_back(self) -> bool:
        """Read nothing for a while, until `_read_on`; False if nothing is read, or nobody takes it, anyway."""
        transport = self._connection.transport
        if self.receiver is None or not self._receiving or transport.is_closing():
            return False
        transport.pause_reading()
        return True

    def _read_on(self) -> None:
        if self._receiving:  # else the pause was asked for by a user, who ends it
            self._resume_reading()

    def _resume_reading(self) -> None:
        if not self._connection.transport.is_closing():
            self._connection.transport.resume_reading()

    def _frame_received(self, frame: Frame) -> None:
        """A data frame, in order; messages are put together here, unless the receiver takes pieces."""
        if self._receive_piece is not None:
            if frame.opcode is not CONT:
                self._parts_text = frame.opcode is TEXT
            self._receive_piece(bytes(frame.data), self._parts_text, frame.fin)
        elif frame.opcode is CONT:
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

    def _read_ended(self, filled: bool = False) -> None:
        """``filled``: it took as much as one read may, so that most likely the next one goes on with the same burst."""
        self._reading = False
        if self.receiver is not None:
            self.receiver.read_ended()
        if not filled:  # else the other side has begun, and more small writes would only cost
            self._piece = FIRST_PIECE
        self._flush()
        if self._protocol.state is not OPEN and self._protocol.close_expected():
            self._expect_end()

    def _expect_end(self) -> None:
        """The other side said goodbye, or broke the rules and was told so, or will not send any more: now it owes the
        end of the TCP connection, for which the library waits only where it is itself called."""
        self._heartbeat.stop()
        if self._close_timer is None:
            self._close_timer = self._loop.call_later(self._connection.close_timeout or 0.0, self.abort)

    def _pause_sending(self) -> None:
        self._paused = True
        if self.receiver is not None:
            self.receiver.pause_sending()

    def _resume_sending(self) -> None:
        self._paused = False
        if self.receiver is not None:
            self.receiver.resume_sending()

    def _connection_lost(self, exc: Exception | None) -> None:
        protocol = self._protocol
        cause = exc or protocol.close_exc.__cause__
        if cause is not None and not self._cause[1]:
            self._cause = (CloseCode.ABNORMAL, str(cause))
        code, reason = self._close_code()
        clean = protocol.close_rcvd is not None and protocol.close_sent is not None
        self._ended = CloseInfo(code, reason, was_clean=clean)
        if self._close_timer is not None:
            self._close_timer.cancel()
        self._out.clear()
        self._gathered = 0
        if self.receiver is not None:
            self.receiver.connection_lost(self._ended)
        # From here on nothing comes, and what refers to each other would wait for the garbage collector, which stops
        # everything for as long as it takes: after some hundred connections a tenth of a second.
        self.receiver = self._receive_piece = None
        count = self.count()
        self.count = lambda: count

    def __repr__(self) -> str:
        return f"<WebSocketTransport {self._protocol.state.name.lower()} {self.info.remote}>"


def _describe(connection: Connection) -> ConnectionInfo:
    request = connection.request
    assert request is not None, "the opening handshake is over"
    path, _, query = request.path.partition("?")
    headers = JoinedHeaders(request.headers)
    return ConnectionInfo(
        path=path,
        query=MappingProxyType(dict(parse_qsl(query, keep_blank_values=True))),
        headers=headers,
        origin=headers.get("origin"),
        remote=address(connection.remote_address),
        local=address(connection.local_address),
        subprotocol=connection.subprotocol,
        underlying=connection,
    )
