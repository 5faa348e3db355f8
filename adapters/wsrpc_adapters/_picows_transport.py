"""A connection of picows as a `Transport`.

picows parses: it calls ``on_ws_frame`` for each frame, and answers frames that break the rules of RFC 6455 where it
sees it. It writes each frame by itself, which for small messages is most of what they cost; so data frames are built
here, and what one read caused is written together. Everything that is no data frame leaves by picows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from picows import WSError, WSFrame, WSListener, WSMsgType, WSTransport

from wsrpc import CloseCode, CloseInfo, ConnectionInfo, ConnectionLost, Limits
from wsrpc.adapting import MUCH, READ, Framer, Heartbeat, StallWatch, Turns, check_close, turns_of
from wsrpc.transport import Receiver, Traffic

__all__ = ["PicowsTransport"]

TEXT, BINARY, CONTINUATION = WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION
PING, PONG, CLOSE = WSMsgType.PING, WSMsgType.PONG, WSMsgType.CLOSE

FIRST_PIECE, LARGEST_PIECE = 1024, 32 * 1024
"""Bytes that are written together: little at first, so that the other side can begin while this one goes on, then
twice as much each time, up to where joining more costs more than another write."""


class _Tap(asyncio.BufferedProtocol):
    """Between the event loop and picows: picows does not tell where a read ends, nor that nothing more will come."""

    def __init__(self, picows: Any, transport: PicowsTransport) -> None:
        self._transport = transport
        self._picows = picows
        self._feed: Callable[[int], None] = picows.buffer_updated
        self._whole_buffer: Callable[[int], memoryview] = picows.get_buffer
        # Who sends little does without what bounds a read: until its first large one the buffer is small anyway.
        self.get_buffer = picows.get_buffer  # type: ignore[method-assign]

    def buffer_updated(self, nbytes: int) -> None:
        transport = self._transport
        transport._read += nbytes
        if transport._deaf:
            return  # picows still has room for it in its buffer, again and again, as it is not told
        transport._reading = True
        if nbytes < MUCH:
            self._feed(nbytes)
            transport._read_ended()
            return
        self.get_buffer = self._bounded_buffer  # type: ignore[method-assign]
        began = transport._loop.time()
        self._feed(nbytes)
        transport._read_ended(filled=nbytes >= READ)
        transport._much_came(transport._loop.time() - began)

    def _bounded_buffer(self, sizehint: int) -> memoryview:
        # picows doubles its buffer whenever a read has filled it. With a client that sends on and on it came to
        # megabytes, and all the messages in them were dealt with in one go.
        return self._whole_buffer(sizehint)[:READ]

    def eof_received(self) -> bool | None:
        self._transport._eof_received()
        keep: bool | None = self._picows.eof_received()
        return keep

    def pause_writing(self) -> None:
        self._transport._pause_sending()

    def resume_writing(self) -> None:
        self._transport._resume_sending()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not self._transport._cause[1]:
            self._transport._cause = (CloseCode.ABNORMAL, str(exc))
        self._picows.connection_lost(exc)


class PicowsTransport(WSListener):
    """One connection, from the end of its opening handshake. ``opened`` is called then, with this."""

    def __init__(
        self, limits: Limits, *, client: bool, opened: Callable[[PicowsTransport], None] | None = None
    ) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._opened = opened
        self._largest = limits.message
        self._heartbeat = Heartbeat(self, self._loop, limits)
        self._stall_watch = StallWatch(self, self._loop, limits)
        # A client has turns of its own: it shares the loop with the rest of its program, not with other connections.
        self._turns = Turns(self._loop) if client else turns_of(self._loop)
        self._frame = Framer(masked=client).frame
        self._ws: WSTransport
        self._tcp: asyncio.Transport
        self._info: ConnectionInfo | None = None
        self._receiver: Receiver | None = None
        self._plain: Receiver | None = None
        """The receiver, while whole messages may go to it as they are."""
        self._receive_piece: Callable[[bytes, bool, bool], None] | None = None
        self._early: list[tuple[bytes, bool]] = []
        self._parts: bytearray | None = None
        self._parts_text = True
        self._deaf = False
        self._reading = False
        self._receiving = True
        self._open = True
        self._sending_pieces = False
        self._out: list[bytes] = []
        self._gathered = 0
        self._piece = FIRST_PIECE
        self._flush_scheduled = False
        self._room: asyncio.Future[None] | None = None
        self._pongs = 0
        self._close_sent = self._close_received = False
        self._said: tuple[int, str] | None = None
        """Code and reason of whichever side closed first."""
        self._cause: tuple[int, str] = (CloseCode.ABNORMAL, "")
        """The same where no Close frame says it."""
        self._close_timer: asyncio.TimerHandle | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._ended: CloseInfo | None = None
        self.over: asyncio.Future[None] = self._loop.create_future()
        """Done when the connection is over."""
        self.written = 0
        """Bytes handed over for writing."""
        self._read = self._received = self._sent = 0
        """Bytes that came in; messages that came in, and that were handed over."""

    @property
    def connection(self) -> WSTransport:
        """picows' own object."""
        return self._ws

    # ------------------------------------------------------------ the contract

    @property
    def info(self) -> ConnectionInfo:
        assert self._info is not None, "the opening handshake is over"
        return self._info

    @info.setter
    def info(self, info: ConnectionInfo) -> None:
        self._info = info

    @property
    def unsent(self) -> int:
        return self._gathered + self._tcp.get_write_buffer_size()

    @property
    def traffic(self) -> Traffic:
        return Traffic(self._received, self._sent, self._read, self.written)

    def start(self, receiver: Receiver, /) -> None:
        self._receiver = receiver
        self._receive_piece = getattr(receiver, "receive_piece", None)
        if self._room is not None:
            receiver.pause_sending()
        early, self._early = self._early, []
        self._reading = True
        for payload, text in early:
            receiver.receive(payload, text)
        if self._receive_piece is not None and self._parts is not None:
            self._receive_piece(bytes(self._parts), self._parts_text, False)
            self._parts = bytearray()
        self._reading = False
        receiver.read_ended()
        self._flush()
        if self._ended is not None:
            # It ended before anybody listened: say so soon, not inside this call.
            self._loop.call_soon(receiver.connection_lost, self._ended)
            return
        if not self._deaf and self._parts is None:
            self._plain = receiver
        if self._receiving:
            self._go_on_receiving()

    def send(self, payload: bytes, text: bool = True, /) -> None:
        if not self._open:
            raise ConnectionLost(*(self._said or self._cause), "not_sent")
        self._sent += 1
        self._frame(self._out, payload, text)
        self._gathered += len(payload) + 2
        if self._gathered >= self._piece:
            self._piece = min(2 * self._piece, LARGEST_PIECE)
            self._flush()
        elif not self._reading and not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._turn_ended)

    def send_piece(self, payload: bytes, text: bool, last: bool, /) -> None:
        if not self._open:
            raise ConnectionLost(*(self._said or self._cause), "not_sent")
        self._flush()
        kind = CONTINUATION if self._sending_pieces else TEXT if text else BINARY
        self._sending_pieces = not last
        self._sent += last
        self._ws.send(kind, payload, last)
        self._count(payload)

    def flush(self) -> None:
        self._flush()

    async def drain(self) -> None:
        self._flush()
        while self._room is not None:
            await asyncio.shield(self._room)

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        check_close(code, reason)
        if self._open:
            self._receiving = True
            self._tcp.resume_reading()  # for the other side's Close frame
            self._send_close(code, reason)
        await asyncio.shield(self.over)

    def abort(self) -> None:
        self._open = False
        self._end_receiving()
        self._tcp.abort()

    def pause_receiving(self) -> None:
        if self._receiving and not self._close_sent and self._ended is None:
            self._receiving = False
            self._heartbeat.stop()  # its answers would not be read
            self._tcp.pause_reading()

    def resume_receiving(self) -> None:
        if not self._receiving:
            self._receiving = True
            if self._receiver is not None:
                self._go_on_receiving()

    @property
    def largest(self) -> int:
        """Bytes of the largest inbound message. picows refuses larger frames than `listen` or `dial` told it to take,
        ``Limits.message``, whatever is assigned here."""
        return self._largest

    @largest.setter
    def largest(self, size: int) -> None:
        self._largest = size

    # ------------------------------------------------------------ what heartbeat and stall watch need

    def backlog(self) -> int:
        return self._tcp.get_write_buffer_size()

    def send_ping(self, payload: bytes) -> None:
        if self._open:
            self._flush()
            self._ws.send_ping(payload)
            self._count(payload)

    def drop(self, code: int, reason: str) -> None:
        """The line is dead."""
        self._cause = (code, reason)
        if code != CloseCode.ABNORMAL and self._open:
            # Should somebody be there after all, and have room for it, it costs nothing to say why.
            self._send_close(code, reason)
        self.abort()

    # ------------------------------------------------------------ writing

    def _flush(self) -> None:
        """Write what was gathered."""
        if self._gathered:
            self._gathered = 0
            data = b"".join(self._out)
            self._out.clear()
            if self._ws.is_close_frame_sent:
                return  # picows has seen a violation, of which `_read_ended` will hear
            self.written += len(data)
            self._tcp.write(data)
            # What is written on a broken socket is swallowed, and told of in a later turn of the loop, which whoever
            # sends on and on never lets come.
            if self._tcp.is_closing():
                self._open = False

    def _turn_ended(self) -> None:
        self._flush_scheduled = False
        self._piece = FIRST_PIECE
        self._flush()

    def _count(self, payload: bytes) -> None:
        """A frame that picows has written."""
        size = len(payload)
        self.written += size + (2 if size < 126 else 4 if size < 65536 else 10) + 4 * self._client
        if self._tcp.is_closing():
            self._open = False

    def _send_close(self, code: int | None, reason: str) -> None:
        """Write a Close frame behind what was sent before. From here on `Limits.close_timeout` bounds everything."""
        self._flush()
        self._open = False
        self._close_sent = True
        if self._said is None:
            self._said = (CloseCode.NO_STATUS if code is None else code, reason)
        ws: Any = self._ws
        if code is None:
            ws.send(CLOSE, b"")
        else:
            ws.send_close(code, reason.encode())
        self._count(reason.encode())
        self._expect_end()

    def _expect_end(self) -> None:
        """The other side owes the end of the TCP connection, or at least of its sending."""
        self._heartbeat.stop()
        if self._close_timer is None and self._ended is None:
            self._close_timer = self._loop.call_later(self._limits.close_timeout, self.abort)

    def _pause_sending(self) -> None:
        self._room = self._loop.create_future()
        self._pongs = 0
        self._stall_watch.start()
        if self._receiver is not None:
            self._receiver.pause_sending()

    def _resume_sending(self) -> None:
        self._stall_watch.stop()
        room, self._room = self._room, None
        if room is not None:
            room.set_result(None)
            if self._receiver is not None and self._ended is None:
                self._receiver.resume_sending()

    # ------------------------------------------------------------ reading

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._ws = transport
        tcp = self._tcp = transport.underlying_transport
        tcp.set_protocol(_Tap(tcp.get_protocol(), self))
        tcp.set_write_buffer_limits(self._limits.high_water)
        self._loop.call_soon(self._read_ended)  # the tap does not see the end of this read
        if self._opened is not None:
            self._opened(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        plain = self._plain
        if (
            plain is None
            or not ((kind is TEXT or kind is BINARY) and frame.fin)
            or frame.rsv1
            or frame.rsv2
            or frame.rsv3
            or frame.payload_size > self._largest
        ):
            if not self._deaf:
                self._look_at(kind, frame)
            return
        self._received += 1
        plain.receive(frame.get_payload_as_bytes(), kind is TEXT)

    def _look_at(self, kind: WSMsgType, frame: WSFrame) -> None:
        """A frame that is no whole message, or for which nobody is there yet."""
        payload = frame.get_payload_as_bytes()
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._refuse(CloseCode.PROTOCOL_ERROR, "reserved bits must be 0")
        elif kind is PING:
            self._answer(payload)
        elif kind is PONG:
            self._heartbeat.pong(payload)
        elif kind is CLOSE:
            self._other_side_closes(payload)
        elif (kind is CONTINUATION) is (self._parts is None):
            self._refuse(CloseCode.PROTOCOL_ERROR, "fragments in a wrong order")
        elif len(payload) + len(self._parts or b"") > self._largest:
            self._refuse(CloseCode.MESSAGE_TOO_BIG, f"a message has at most {self._largest} bytes")
        else:
            self._take_data(kind, payload, bool(frame.fin))

    def _take_data(self, kind: WSMsgType, payload: bytes, fin: bool) -> None:
        self._received += fin
        if self._parts is None:
            self._parts_text = kind is TEXT
            if fin:
                self._deliver(payload)
                return
            self._parts = bytearray()
            self._plain = None
        if self._receive_piece is not None:
            self._receive_piece(payload, self._parts_text, fin)
        else:
            self._parts += payload
        if fin:
            parts, self._parts = self._parts, None
            if self._receive_piece is None:
                self._deliver(bytes(parts))
            if not self._deaf:
                self._plain = self._receiver

    def _deliver(self, payload: bytes) -> None:
        if self._receiver is not None:
            self._receiver.receive(payload, self._parts_text)
        else:
            if not self._early and self._open:
                self._tcp.pause_reading()
            self._early.append((payload, self._parts_text))

    def _answer(self, payload: bytes) -> None:
        if not self._open:
            return
        if self._room is not None:
            self._pongs += len(payload) + 2
            if self._pongs > self._limits.hard_cap:  # whoever pings on and on, and does not read the answers
                self.drop(CloseCode.SLOW_CONSUMER, "slow consumer")
                return
        self._ws.send_pong(payload)
        self._count(payload)

    def _other_side_closes(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big") if payload else None
        try:
            reason = payload[2:].decode()
            if code is not None:
                check_close(code, "")
        except ValueError:  # picows looks at all this, too, but lets 1006 and 5000 pass
            self._refuse(CloseCode.PROTOCOL_ERROR, "a Close frame with a wrong code or reason")
            return
        self._close_received = True
        if not self._close_sent:
            self._said = (CloseCode.NO_STATUS if code is None else code, reason)
            self._send_close(code, reason)
        self._end_receiving()
        if not self._client:
            self._end_sending()

    def _refuse(self, code: int, reason: str) -> None:
        """The other side broke the rules: say so, and look at nothing more that comes."""
        if not self._close_sent:
            self._send_close(code, reason)
        self._end_receiving()
        if not self._client:
            self._end_sending()

    def _end_receiving(self) -> None:
        self._deaf = True
        self._plain = None

    def _end_sending(self) -> None:
        """A server is the first to end the TCP connection, by its half, so that what it wrote arrives."""
        if self._tcp.is_closing():
            return
        if self._tcp.can_write_eof():
            self._tcp.write_eof()
        else:  # TLS
            self._tcp.close()

    def _read_ended(self, filled: bool = False) -> None:
        """``filled``: it took as much as one read may, so that most likely the next one goes on with the same burst."""
        self._reading = False
        if self._receiver is not None and self._ended is None:
            self._receiver.read_ended()
        # Once the other side has begun, small writes only cost: 64 echoes of 1 KiB took 12 µs each, and take 10.
        if not filled:
            self._piece = FIRST_PIECE
        self._flush()
        if self._ws.is_close_frame_sent and not self._close_sent:
            # picows has seen a violation, has said so, and will end the connection.
            said = self._ws.close_handshake.sent
            assert said is not None
            self._said = (int(said.code), said.reason)  # type: ignore[call-overload]
            self._close_sent = True
            self._open = False
            self._end_receiving()
            self._expect_end()
            if self._client:
                self._hearing = self._loop.create_task(self._hear_out())

    async def _hear_out(self) -> None:
        """Look at picows' own exception, which the event loop would complain of otherwise."""
        with suppress(WSError):
            await self._ws.wait_disconnected()

    def _much_came(self, seconds: float) -> None:
        """What came in one read was much, and took so long: read on when there is a place for that."""
        if self._turns.take(seconds) or self._receiver is None or not self._receiving or self._tcp.is_closing():
            return
        self._tcp.pause_reading()
        self._turns.wait(seconds, self._read_on)

    def _read_on(self) -> None:
        if self._receiving and self._ended is None:  # else the pause was asked for by a user, who ends it
            self._tcp.resume_reading()

    def _go_on_receiving(self) -> None:
        if self._ended is None:
            self._tcp.resume_reading()
        # Not before: until now an answer need not have been read.
        if self._open:
            self._heartbeat.start()

    def _eof_received(self) -> None:
        self._open = False
        self._expect_end()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._heartbeat.stop()
        self._stall_watch.stop()
        if self._close_timer is not None:
            self._close_timer.cancel()
        code, reason = self._said or self._cause
        info = self._ended = CloseInfo(code, reason, was_clean=self._close_sent and self._close_received)
        self._open = False
        self._end_receiving()
        self._out.clear()
        self._gathered = 0
        room, self._room = self._room, None
        if room is not None:
            room.set_result(None)
        self.over.set_result(None)
        if self._receiver is not None:
            self._receiver.connection_lost(info)

    def __repr__(self) -> str:
        state = "closed" if self._ended is not None else "open" if self._open else "closing"
        return f"<PicowsTransport {state} {None if self._info is None else self._info.remote}>"
