"""`HttpTransport`: one end of a connection that HTTP requests carry. It has no network.

A *carrier* removes the bytes that wait to be sent by `pop_output`, and passes the bytes that have arrived to `feed`. On
a server, responses carry what is sent, and POSTs what arrives; on a client, it is the other way round. Whatever breaks
ends the connection; the session then resumes on another one, and resends what was lost.
"""

from __future__ import annotations

import asyncio

from .._base.closing import CloseCode, CloseInfo, check_close
from .._net.backpressure import Backpressure
from .._net.deadlines import bytes_leave
from .._net.delivery import Delivery
from .._net.heartbeat import Heartbeat
from ..errors import ConnectionLost
from ..limits import Limits
from ..transport import ConnectionInfo, Receiver, Traffic
from .http_frames import (
    BINARY,
    CLOSE,
    LARGEST_FRAME,
    MORE,
    NOTHING,
    OPENED,
    PING,
    PONG,
    TEXT,
    FramesIn,
    FramesOut,
    FrameTooLong,
)


class Closing:
    """An end that one side has begun, and its time limit."""

    __slots__ = ("info", "timer", "undelivered")

    def __init__(self, info: CloseInfo, undelivered: int, timer: asyncio.TimerHandle) -> None:
        self.info = info
        """How the connection ends if the other side answers."""
        self.undelivered: tuple[int, ...] = (undelivered,)
        """The unconfirmed bytes when this side closed, and each time that its limit was over."""
        self.timer = timer


class HttpTransport:
    """One end of a connection. It is a `wsrpc.transport.Transport`.

    Args:
        info: the information about the connection.
        limits: the limits of the connection.
        dialed: whether this is the client's end.
    """

    def __init__(self, info: ConnectionInfo, limits: Limits, *, dialed: bool = False) -> None:
        self.info = info
        self.largest = limits.message_bytes
        self._dialed = dialed
        self._limits = limits
        self.id = ""
        """The id of the connection. Empty on a client until it has arrived."""
        self._out = FramesOut()
        self._in = FramesIn()
        self._delivery = Delivery(self._update_reading)
        self._backpressure = Backpressure(self._delivery, limits)
        self._heartbeat = Heartbeat(self, asyncio.get_running_loop(), limits)
        self._receiving = True
        """Whether the user wants to receive; see `pause_receiving`."""
        self.readable = asyncio.Event()
        """Set while carriers may pass on what arrives."""
        self.readable.set()
        self._closing: Closing | None = None
        """None if no side has closed."""
        self.close_received = False
        """Whether a Close frame has arrived."""
        self.over: asyncio.Future[CloseInfo] = asyncio.get_running_loop().create_future()
        """Done at the end of the connection. Carriers then end."""

    # ------------------------------------------------------------ the contract

    @property
    def unsent(self) -> int:
        return self._out.unsent

    @property
    def written(self) -> int:
        return self._out.written

    @property
    def output(self) -> asyncio.Event:
        """Set while something waits to be sent, and at the end."""
        return self._out.ready

    def backlog(self) -> int:
        """Return the bytes that nothing has confirmed, for `StallWatch` and `Heartbeat`."""
        return self._out.unconfirmed

    @property
    def traffic(self) -> Traffic:
        return Traffic(self._in.messages, self._out.messages, self._in.read, self._out.written)

    def acknowledged(self) -> None:
        self._heartbeat.acknowledged()

    def session_survives(self) -> None:
        self._heartbeat.session_survives()

    def start(self, receiver: Receiver, /) -> None:
        if self._backpressure.full:
            receiver.pause_sending()
        self._delivery.start(receiver)
        receiver.read_ended()
        if self.over.done():
            self.over.get_loop().call_soon(receiver.connection_lost, self.over.result())
        self._update_reading()

    def send(self, payload: bytes, text: bool = True, /) -> None:
        self.send_piece(payload, text, True)

    def send_piece(self, payload: bytes, text: bool, last: bool, /) -> None:
        if self.over.done() or self._closing is not None:
            info = self.over.result() if self._closing is None else self._closing.info
            raise ConnectionLost(info.code, info.reason, "not_sent")
        self._out.add_message(payload, text, last)
        if not self._backpressure.full and self.unsent > self._high_water:
            self._backpressure.filled(self)

    @property
    def _high_water(self) -> int:
        """The unsent bytes above which senders wait. On a client whose bodies have grown, there is room for the next
        one, because each body waits for the answer to the last one."""
        body = self._out.body_limit
        return max(self._limits.high_water_bytes, body if self._dialed and body > LARGEST_FRAME else 0)

    def flush(self) -> None:
        """Do nothing, because carriers take what is sent in the next turn of the event loop."""

    async def drain(self) -> None:
        await self._backpressure.drain()

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        self._close(check_close(code, reason), reason)
        await asyncio.shield(self.over)

    def _close(self, code: int, reason: str) -> None:
        """Send a Close frame, and drop the connection if it does not end in time, and no bytes leave. Idempotent."""
        if self._closing is not None or self.over.done():
            return
        timer = self.over.get_loop().call_later(self._limits.close_timeout, self._overdue)
        self._closing = Closing(CloseInfo(code, reason, was_clean=True), self._out.unconfirmed, timer)
        self._heartbeat.stop()
        if self._delivery.receiver is None:
            self._delivery.keep_no_more()
        self._update_reading()
        self._out.add(CLOSE, b"" if code == CloseCode.NO_STATUS else code.to_bytes(2, "big") + reason.encode())

    def _overdue(self) -> None:
        closing = self._closing
        assert closing is not None
        closing.undelivered += (self._out.unconfirmed,)
        if not self.close_received and bytes_leave(closing.undelivered, self._heartbeat.pop_acknowledged()):
            closing.timer = self.over.get_loop().call_later(self._limits.close_timeout, self._overdue)
        else:
            self._end(CloseInfo(closing.info.code, closing.info.reason))

    def abort(self) -> None:
        self.drop(CloseCode.ABNORMAL, "aborted")

    def drop(self, code: int, reason: str) -> None:
        """End the connection now, without a Close frame."""
        self._delivery.ignore_rest()
        self.over.get_loop().call_soon(self._end, CloseInfo(code, reason))

    def pause_receiving(self) -> None:
        if self._receiving and self._closing is None:
            self._receiving = False
            self._heartbeat.read_pongs(False)
            self._update_reading()

    def resume_receiving(self) -> None:
        self._receiving = True
        self._update_reading()

    def _update_reading(self) -> None:
        """Let carriers pass on what arrives, unless messages must be kept, or the user does not want any."""
        if self._closing is not None or self.over.done():
            self.readable.set()
        elif self._receiving and self._delivery.receiver is not None:
            self.readable.set()
            self._heartbeat.read_pongs(True)
        else:
            self.readable.clear()

    def __repr__(self) -> str:
        state = "closed" if self.over.done() else "open" if self._closing is None else "closing"
        return f"<HttpTransport {state} {self.info.remote} unsent={self.unsent}>"

    # ------------------------------------------------------------ for carriers: out

    def pop_output(self) -> bytes:
        """Remove and return what waits to be sent, or a part of it. Then call `carried`."""
        body = self._out.pop(self.over.get_loop().time())
        if self.over.done():
            self._out.ready.set()
        if self._backpressure.full and self.unsent <= self._high_water // 4:
            self._backpressure.has_room()
        return body

    def carried(self) -> None:
        """Record that what a carrier has popped was written."""
        self._out.carried(self.over.get_loop().time())
        if self.close_received and self._out.empty and self._closing is not None:
            self._end(self._closing.info)

    def announce(self, id: str) -> None:
        """Send the id of the connection, as a server."""
        self.id = id
        self._out.add(OPENED, id.encode())

    def send_nothing(self) -> None:
        """Show that this side is there."""
        self._out.add(NOTHING)

    def send_ping(self, payload: bytes) -> None:
        """Send a ping, as `Heartbeat` asks."""
        self._out.add(PING, payload)

    # ------------------------------------------------------------ for carriers: in

    def feed(self, data: bytes) -> None:
        """Handle bytes that have arrived."""
        before = self._in.messages
        try:
            for kind, payload in self._in.feed(data):
                self._receive(kind, payload)
                if self.over.done():
                    return
        except FrameTooLong as exc:
            self._refuse(CloseCode.PROTOCOL_ERROR, str(exc))
        if self._in.messages > before and self._delivery.receiver is not None:
            self._delivery.receiver.read_ended()

    def _receive(self, kind: int, payload: bytes) -> None:
        delivery = self._delivery
        if kind & ~MORE in (TEXT, BINARY) and self.id:  # until it has an id, nobody reads them
            if delivery.fragment_bytes + len(payload) > self.largest:
                self._refuse(CloseCode.MESSAGE_TOO_BIG, f"more than {self.largest} bytes")
            self._in.messages += not kind & MORE
            delivery.frame(payload, kind & ~MORE == TEXT, not kind & MORE)
        elif kind == CLOSE:
            self._receive_close(payload)
        elif kind == PING:
            self._out.answer(payload)
        elif kind == PONG:
            self._heartbeat.pong(payload)
        elif kind == OPENED and not self.id and payload.isascii():
            self.id = payload.decode()
        elif kind != NOTHING:
            self._refuse(CloseCode.PROTOCOL_ERROR, f"a frame of kind {kind}")

    def _receive_close(self, payload: bytes) -> None:
        self.close_received = True
        if self._closing is not None:
            self._end(self._closing.info)
            return
        try:
            reason = payload[2:].decode()
            code = check_close(int.from_bytes(payload[:2], "big") if payload else None, reason)
        except ValueError:
            code, reason = CloseCode.PROTOCOL_ERROR, "a Close frame that is not valid"
        self._refuse(code, reason)  # its end is `carried`

    def _refuse(self, code: int, reason: str) -> None:
        """Close, and ignore further messages."""
        self._delivery.ignore_rest()
        self._close(code, reason)

    # ------------------------------------------------------------ the end

    def lost(self, reason: str) -> None:
        """End the connection, because a carrier has failed."""
        self._end(CloseInfo(CloseCode.ABNORMAL, reason))

    def _end(self, info: CloseInfo) -> None:
        if self.over.done():
            return
        if self._closing is not None:
            self._closing.timer.cancel()
            if self.close_received:
                info = self._closing.info  # even if the own Close frame does not arrive
        self.over.set_result(info)
        self._heartbeat.stop()
        self._out.end()
        self._backpressure.end()
        self.readable.set()
        if self._delivery.receiver is not None:
            self._delivery.receiver.connection_lost(info)
        self._delivery.stop()
