"""PicowsTransport: a connection of picows as a `Transport`.

picows parses: it calls ``on_ws_frame`` for each frame, and answers frames that break the rules of RFC 6455 where it
detects that. It writes each frame by itself, which is most of the cost of a small message; so data frames are built
here, and those that one read caused are written together. picows writes every other frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from picows import WSError, WSFrame, WSListener, WSMsgType, WSTransport

from wsrpc import CloseCode, CloseInfo, ConnectionLost, Limits
from wsrpc.adapting import (
    MUCH,
    READ,
    Delivery,
    FrameWriter,
    Heartbeat,
    StallWatch,
    Turns,
    check_close,
    next_read,
    turns_of,
)
from wsrpc.transport import ConnectionInfo, Receiver, Traffic

from ._ending import Ending

__all__ = ["PicowsTransport"]

TEXT, BINARY, CONTINUATION = WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION
PING, PONG, CLOSE = WSMsgType.PING, WSMsgType.PONG, WSMsgType.CLOSE

LARGE_PARTS = 8 * 1024
"""Bytes of parts of frames, on average, that are not joined. (Up to Python 3.11 asyncio's own transport joins them.)"""


class PicowsTransport(WSListener):
    """One connection, from the end of its opening handshake. ``opened`` is called then, with this transport."""

    # With them CPython reads an attribute in half the time: it does not specialize the access to the dict of an object
    # whose base class is an extension type.
    __slots__ = (
        "_client",
        "_delivery",
        "_end",
        "_heartbeat",
        "_info",
        "_limits",
        "_opened",
        "_output",
        "_plain",
        "_receiving",
        "_retrieving",
        "_stall_watch",
        "_tap",
        "largest",
        "received",
    )

    _output: _Output
    _delivery: Delivery
    _heartbeat: Heartbeat
    _stall_watch: StallWatch
    _tap: _Tap

    def __init__(
        self, limits: Limits, *, client: bool, opened: Callable[[PicowsTransport], None] | None = None
    ) -> None:
        # picows wants a listener before it opens the connection. The parts that need one are made in `on_ws_connected`.
        self._limits = limits
        self._client = client
        self._opened = opened
        self.largest = limits.message
        """Size in bytes of the largest inbound message. picows refuses frames that are larger than ``Limits.message``
        of `listen` or `dial`, whatever is assigned here."""
        self._info: ConnectionInfo | None = None
        self._plain: Receiver | None = None
        """The receiver, while whole messages may be passed to it without more checks."""
        self._receiving = True
        """Whether the user wants to receive; see `pause_receiving`."""
        self.received = 0
        """Messages that were received."""
        self._end = _WsEnding()
        self._retrieving: asyncio.Task[None] | None = None
        """Keeps a reference to the task, as asyncio does not."""

    @property
    def connection(self) -> WSTransport:
        """picows' own object."""
        return self._output.ws

    @property
    def over(self) -> asyncio.Future[None]:
        """Future that is done when the connection is over."""
        return self._end.over

    # ------------------------------------------------------------ the contract

    @property
    def info(self) -> ConnectionInfo:
        assert self._info is not None, "the opening handshake is over"
        return self._info

    def describe(self, info: ConnectionInfo) -> None:
        """Take the facts of the opening handshake, which is over."""
        self._info = info

    @property
    def unsent(self) -> int:
        return self._output.unwritten + self._output.backlog()

    def session_survives(self) -> None:
        self._heartbeat.session_survives()

    @property
    def traffic(self) -> Traffic:
        return Traffic(self.received, self._output.sent, self._tap.read, self._output.written)

    def start(self, receiver: Receiver, /) -> None:
        if self._output.room is not None:
            receiver.pause_sending()
        self._output.held = True
        self._delivery.start(receiver)
        receiver.read_ended()
        self._output.release(in_burst=True)
        if self._end.info is not None:
            # It ended before there was a receiver: report that soon, not inside this call.
            asyncio.get_running_loop().call_soon(receiver.connection_lost, self._end.info)
            return
        if not self._end.deaf and not self._delivery.in_message:
            self._plain = self._delivery.receiver  # another one, if a message that was kept has started that
        if self._receiving:
            self._continue_receiving()

    def send(self, payload: bytes, text: bool = True, /) -> None:
        if not self._end.open:
            raise self._not_sent()
        self._output.add(payload, text)

    def send_piece(self, payload: bytes, text: bool, last: bool, /) -> None:
        if not self._end.open:
            raise self._not_sent()
        self._output.send_fragment(payload, text, last)

    def flush(self) -> None:
        self._output.flush()

    async def drain(self) -> None:
        self._output.flush()
        while self._output.room is not None:
            await asyncio.shield(self._output.room)

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        check_close(code, reason)
        if self._end.open:
            self._receiving = True
            self._output.tcp.resume_reading()  # for the remote peer's Close frame
            self._send_close(code, reason)
        await asyncio.shield(self._end.over)

    def abort(self) -> None:
        self._delivery.ignore_rest()
        self._overdue()

    def _overdue(self) -> None:
        """Drop the connection. What arrived before `start` is still delivered."""
        self._end.open = False
        self._stop_receiving()
        self._output.tcp.abort()

    def pause_receiving(self) -> None:
        if self._receiving and not self._end.close_sent and self._end.info is None:
            self._receiving = False
            self._heartbeat.stop()  # the answers to its pings would not be read
            self._output.tcp.pause_reading()

    def resume_receiving(self) -> None:
        if not self._receiving:
            self._receiving = True
            if self._delivery.receiver is not None:
                self._continue_receiving()

    def __repr__(self) -> str:
        remote = None if self._info is None else self._info.remote
        paused = "" if self._receiving else " receiving paused"
        return f"<PicowsTransport {self._end.state} {remote}{paused}>"

    # ------------------------------------------------------------ what Heartbeat and StallWatch use

    @property
    def written(self) -> int:
        return self._output.written

    def backlog(self) -> int:
        return self._output.backlog()

    def send_ping(self, payload: bytes) -> None:
        if self._end.open:
            self._output.flush()
            self._output.ws.send_ping(payload)
            self._output.count_frame(payload)

    def drop(self, code: int, reason: str) -> None:
        self._end.cause = (code, reason)
        if code != CloseCode.ABNORMAL and self._end.open:
            # If the remote peer is there after all, and has room for it, it learns why.
            self._send_close(code, reason)
        self.abort()

    # ------------------------------------------------------------ what picows calls

    def on_ws_connected(self, transport: WSTransport) -> None:
        tcp, loop = transport.underlying_transport, asyncio.get_running_loop()
        self._output = _Output(transport, self._end, loop, masked=self._client)
        self._delivery = Delivery(self._pause_for_start)
        self._heartbeat = Heartbeat(self, loop, self._limits)
        self._stall_watch = StallWatch(self, loop, self._limits)
        # A client has turns of its own: it shares the loop with the rest of its program, not with other connections.
        turns = Turns(loop) if self._client else turns_of(loop)
        self._tap = _Tap(tcp.get_protocol(), self, self._output, self._end, turns)
        tcp.set_protocol(self._tap)
        tcp.set_write_buffer_limits(self._limits.high_water)
        loop.call_soon(self.read_ended)  # the tap does not notice the end of this read
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
            or frame.payload_size > self.largest
        ):
            if not self._end.deaf:
                self._other_frame(kind, frame)
            return
        self.received += 1
        plain.receive(frame.get_payload_as_bytes(), kind is TEXT)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._heartbeat.stop()
        self._stall_watch.stop()
        self._stop_receiving()
        self._output.take()
        self._output.has_room()
        info = CloseInfo(*self._end.code, was_clean=self._end.close_sent and self._end.close_received)
        self._end.finish(info)
        if self._delivery.receiver is not None:
            self._delivery.receiver.connection_lost(info)

    # ------------------------------------------------------------ frames

    def _other_frame(self, kind: WSMsgType, frame: WSFrame) -> None:
        """Handle a frame that is not a whole message, or that comes before `start`."""
        payload = frame.get_payload_as_bytes()
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._refuse(CloseCode.PROTOCOL_ERROR, "reserved bits must be 0")
        elif kind is PING:
            self._answer(payload)
        elif kind is PONG:
            self._heartbeat.pong(payload)
        elif kind is CLOSE:
            self._close_received(payload)
        elif (kind is CONTINUATION) is not self._delivery.in_message:
            self._refuse(CloseCode.PROTOCOL_ERROR, "fragments in the wrong order")
        elif len(payload) + self._delivery.held > self.largest:
            self._refuse(CloseCode.MESSAGE_TOO_BIG, f"a message has at most {self.largest} bytes")
        else:
            last = bool(frame.fin)
            self.received += last
            if not last:
                self._plain = None
            self._delivery.frame(payload, kind is TEXT, last)
            if last and not self._end.deaf:
                self._plain = self._delivery.receiver

    def _answer(self, payload: bytes) -> None:
        if not self._end.open:
            return
        output = self._output
        if output.room is not None and output.count_answer(payload) > self._limits.hard_cap:
            # The remote peer sends ping after ping and does not read the answers.
            self.drop(CloseCode.SLOW_CONSUMER, "slow consumer")
            return
        output.ws.send_pong(payload)
        output.count_frame(payload)

    def _close_received(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big") if payload else None
        try:
            reason = payload[2:].decode()
            if code is not None:
                check_close(code, "")
        except ValueError:  # picows checks that, too, but accepts 1006 and 5000
            self._refuse(CloseCode.PROTOCOL_ERROR, "a Close frame with a wrong code or reason")
            return
        self._end.close_received = True
        if not self._end.close_sent:
            self._send_close(code, reason)
        self._finish()

    def _refuse(self, code: int, reason: str) -> None:
        """Close because the remote peer broke the rules, and ignore everything else that it sends."""
        if not self._end.close_sent:
            self._send_close(code, reason)
        self._finish()

    # ------------------------------------------------------------ closing

    def _not_sent(self) -> ConnectionLost:
        return ConnectionLost(*self._end.code, "not_sent")

    def _send_close(self, code: int | None, reason: str) -> None:
        """Write a Close frame behind the messages. From now on `Limits.close_timeout` bounds the rest."""
        self._output.flush()
        self._end.begin(CloseCode.NO_STATUS if code is None else code, reason)
        self._output.send_close(code, reason)
        self._expect_end()

    def _expect_end(self) -> None:
        """Abort if the remote peer does not end the TCP connection, or its sending, in time."""
        self._heartbeat.stop()
        self._end.expect(self._limits.close_timeout, self._overdue)

    def _stop_receiving(self) -> None:
        """Ignore everything else that arrives."""
        self._end.deaf = True
        self._plain = None

    def _finish(self) -> None:
        """Ignore everything else that arrives, and end the TCP connection, as the server has to (RFC 6455, 7.1.1).

        Where possible only its sending half is ended, so that all data that was written arrives.
        """
        self._stop_receiving()
        tcp = self._output.tcp
        if self._client or tcp.is_closing():
            return
        if tcp.can_write_eof():
            tcp.write_eof()
        else:  # TLS
            tcp.close()

    # ------------------------------------------------------------ reading

    def _pause_for_start(self) -> None:
        if self._end.open:
            self._output.tcp.pause_reading()

    def _continue_receiving(self) -> None:
        if self._end.info is None:
            self._output.tcp.resume_reading()
        # Not before: until now an answer to a ping need not have been read.
        if self._end.open:
            self._heartbeat.start()

    def read_ended(self, filled: bool = False) -> None:
        receiver, ws = self._delivery.receiver, self._output.ws
        if receiver is not None and self._end.info is None:
            receiver.read_ended()
        # A read that took as much as it may is most likely followed by more of the same burst.
        self._output.release(in_burst=filled)
        if ws.is_close_frame_sent and not self._end.close_sent:
            # picows has found a violation, has sent a Close frame, and will end the connection.
            sent = ws.close_handshake.sent
            assert sent is not None
            self._end.begin(int(sent.code), sent.reason)  # type: ignore[call-overload]
            self._stop_receiving()
            self._expect_end()
            if self._client:
                self._retrieving = asyncio.get_running_loop().create_task(_retrieve_error(ws))

    def much_came(self, seconds: float) -> None:
        """Stop reading until there is a turn for it, after a read that took ``seconds`` to handle."""
        turns, tcp = self._tap.turns, self._output.tcp
        if turns.take(seconds) or self._delivery.receiver is None or not self._receiving or tcp.is_closing():
            return
        tcp.pause_reading()
        turns.wait(seconds, self._turn_came)

    def _turn_came(self) -> None:
        if self._receiving and self._end.info is None:  # else the user has paused receiving, and will resume it
            self._output.tcp.resume_reading()

    # ------------------------------------------------------------ what the tap reports

    def eof_received(self) -> None:
        self._end.open = False
        self._expect_end()

    def pause_sending(self) -> None:
        self._output.full()
        self._stall_watch.start()
        if self._delivery.receiver is not None:
            self._delivery.receiver.pause_sending()

    def resume_sending(self) -> None:
        self._stall_watch.stop()
        if self._output.has_room() and self._delivery.receiver is not None and self._end.info is None:
            self._delivery.receiver.resume_sending()


class _WsEnding(Ending):
    """State of a connection, from open to closed, and what is reported of its end."""

    def __init__(self) -> None:
        super().__init__()
        self.open = True
        """Whether messages can be sent."""
        self.deaf = False
        """Whether everything that arrives is ignored."""
        self.close_sent = False
        self.close_received = False
        self.said: tuple[int, str] | None = None
        """Code and reason of the first Close frame, which either side may have sent."""
        self.cause: tuple[int, str] = (CloseCode.ABNORMAL, "")
        """Code and reason if there is no Close frame."""

    @property
    def state(self) -> str:
        return "closed" if self.info is not None else "open" if self.open else "closing"

    @property
    def code(self) -> tuple[int, str]:
        """Code and reason with which the connection ends."""
        return self.said or self.cause

    def begin(self, code: int, reason: str) -> None:
        """Note that a Close frame leaves; the first one decides the code."""
        self.open = False
        self.close_sent = True
        if self.said is None:
            self.said = (code, reason)

    def finish(self, info: CloseInfo) -> None:
        super().finish(info)
        self.open = False


class _Output(FrameWriter):
    """Outgoing half of a connection, which counts what is written."""

    __slots__ = ("_end", "_fragmenting", "_mask", "answers", "room", "tcp", "written", "ws")

    def __init__(self, ws: WSTransport, end: _WsEnding, loop: asyncio.AbstractEventLoop, *, masked: bool) -> None:
        super().__init__(loop, masked=masked)
        self.ws = ws
        self.tcp: asyncio.Transport = ws.underlying_transport
        self._end = end
        self._mask = 4 if masked else 0
        self._fragmenting = False
        """Whether the next fragment continues a message."""
        self.written = 0
        self.room: asyncio.Future[None] | None = None
        """Done when there is room again; None while there is."""
        self.answers = 0
        """Bytes of answers to pings that were written since there was no room."""

    def write(self) -> None:
        tcp = self.tcp
        parts: list[bytes] | None = None
        if self.unwritten > LARGE_PARTS * len(self._frames):
            parts, data = self.take_parts(), b""
            size = sum(map(len, parts))
        else:
            data = self.take()
            size = len(data)
        # Where picows has sent a Close frame because of a violation, `read_ended` is about to find it.
        if size and not self.ws.is_close_frame_sent:
            self.written += size
            if parts is None:
                tcp.write(data)
            else:
                tcp.writelines(parts)
            # What is written on a broken socket is dropped, and that is reported in a later turn of the loop, which a
            # caller that sends without a pause never lets come.
            if tcp.is_closing():
                self._end.open = False

    def send_fragment(self, payload: bytes, text: bool, last: bool) -> None:
        """Send a frame of a message; picows builds it."""
        self.flush()
        kind = CONTINUATION if self._fragmenting else TEXT if text else BINARY
        self._fragmenting = not last
        self.ws.send(kind, payload, last)
        self.count_frame(payload)
        self.count(last)

    def send_close(self, code: int | None, reason: str) -> None:
        ws: Any = self.ws
        if code is None:
            ws.send(CLOSE, b"")
        else:
            ws.send_close(code, reason.encode())
        self.count_frame(reason.encode())

    def count_frame(self, payload: bytes) -> None:
        """Count a frame that picows has written."""
        size = len(payload)
        self.written += size + (2 if size < 126 else 4 if size < 65536 else 10) + self._mask
        if self.tcp.is_closing():  # broken, see `write`
            self._end.open = False

    def count_answer(self, payload: bytes) -> int:
        """Count an answer to a ping; return the bytes of all of them since there was no room."""
        self.answers += len(payload) + 2
        return self.answers

    def backlog(self) -> int:
        return self.tcp.get_write_buffer_size()

    def full(self) -> None:
        """Note that more than the high-water mark is unsent."""
        self.room = asyncio.get_running_loop().create_future()
        self.answers = 0

    def has_room(self) -> bool:
        """Note that there is room again. Return False if there was room before."""
        room, self.room = self.room, None
        if room is not None:
            room.set_result(None)
        return room is not None


class _Tap(asyncio.BufferedProtocol):
    """Protocol between the event loop and picows, which does not report where a read ends, nor the end of the input."""

    def __init__(self, picows: Any, transport: PicowsTransport, output: _Output, end: _WsEnding, turns: Turns) -> None:
        self._picows = picows
        self._transport = transport
        self._output = output
        self._end = end
        self.turns = turns
        self._loop = asyncio.get_running_loop()
        self._feed: Callable[[int], None] = picows.buffer_updated
        self._whole_buffer: Callable[[int], memoryview] = picows.get_buffer
        # Reads are bounded only after the first large one, because the buffer is small until then.
        self.get_buffer = picows.get_buffer  # type: ignore[method-assign]
        self.read = 0
        """Bytes that the connection has received."""
        self._room = READ
        """Bytes that the next read takes at most."""

    def buffer_updated(self, nbytes: int) -> None:
        transport = self._transport
        self.read += nbytes
        if self._end.deaf:
            return  # picows does not see it, and offers the same part of its buffer for each read
        self._output.held = True
        if nbytes < MUCH:
            self._feed(nbytes)
            transport.read_ended()
            return
        self.get_buffer = self._bounded_buffer  # type: ignore[method-assign]
        began = self._loop.time()
        messages = transport.received
        self._feed(nbytes)
        transport.read_ended(filled=nbytes >= self._room)
        self._room = next_read(nbytes, transport.received - messages)
        transport.much_came(self._loop.time() - began)

    def _bounded_buffer(self, sizehint: int) -> memoryview:
        # picows doubles its buffer whenever a read has filled it. For a client that sends without a pause it grew to
        # megabytes, and all the messages in them were handled in one go.
        return self._whole_buffer(sizehint)[: self._room]

    def eof_received(self) -> bool | None:
        self._transport.eof_received()
        keep: bool | None = self._picows.eof_received()
        return keep

    def pause_writing(self) -> None:
        self._transport.pause_sending()

    def resume_writing(self) -> None:
        self._transport.resume_sending()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not self._end.cause[1]:
            self._end.cause = (CloseCode.ABNORMAL, str(exc))
        self._picows.connection_lost(exc)


async def _retrieve_error(ws: WSTransport) -> None:
    """Retrieve picows' own exception, of which the event loop would complain otherwise."""
    with suppress(WSError):
        await ws.wait_disconnected()
