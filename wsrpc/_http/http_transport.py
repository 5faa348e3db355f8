"""`HttpTransport`: one end of a connection that HTTP requests carry. It has no network.

A *carrier* removes the bytes that wait to be sent by `pop_output`, and passes the bytes that have arrived to `feed`. On
a server, responses carry what is sent, and POSTs what arrives; on a client, it is the other way round.

The bytes are frames: a byte with the kind, four bytes with the length, and the payload. A message that is longer than
`PIECE` travels in several frames, of which all but the last have the bit `MORE`. Whatever breaks ends the connection;
the session then resumes on another one, and resends what was lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from struct import Struct

from .._base.closing import CloseCode, CloseInfo, check_close
from .._net.backpressure import Backpressure
from .._net.deadlines import bytes_leave
from .._net.delivery import Delivery
from .._net.heartbeat import Heartbeat
from ..errors import ConnectionLost
from ..limits import Limits
from ..transport import ConnectionInfo, Receiver, Traffic

TRANSPORT, CONNECTION, NUMBER = "wsrpc-transport", "wsrpc-connection", "wsrpc-number"
"""Names of headers: how the response carries what is sent, the id of a connection, and the number of a request."""
NO_ROOM = 425
"""Status of the response to a POST that must be sent again. (Proxies answer 503 or 429 themselves.)"""
HEAD = Struct(">BI")
"""The kind of a frame, and the length of its payload."""
TEXT, BINARY, CLOSE, PING, PONG, OPENED, NOTHING = range(7)
"""Kinds of frames. `OPENED` is the first one of a server, with the id of the connection. `NOTHING` shows that the
connection works."""
MORE = 0x80
"""Bit of the kind of a data frame: the message continues in the next data frame."""
PIECE = 32 * 1024
"""Maximum bytes of the payload of a frame, and about those of the first body that carries what is sent."""
MOST = 256 * 1024
"""About the maximum bytes of a later body: they double while bodies go through quickly. (nginx accepts 1 MiB.)"""
QUICK = 1.0
"""Seconds within which such a body has gone through. While a body is on its way, nothing shows that it moves."""


def frame(kind: int, payload: bytes = b"") -> bytes:
    return HEAD.pack(kind, len(payload)) + payload


async def happens(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event. Return whether it has happened in time."""
    if not event.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
    return event.is_set()


class HttpTransport:
    """One end of a connection. It is a `wsrpc.transport.Transport`.

    Args:
        info: the information about the connection.
        limits: the limits of the connection.
        dialed: whether this is the client's end.
    """

    def __init__(self, info: ConnectionInfo, limits: Limits, *, dialed: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self.info = info
        self._dialed = dialed
        self.largest = limits.message_bytes
        self._limits = limits
        self.id = ""
        """The id of the connection. Empty on a client until it has arrived."""
        self._waiting: deque[bytes] = deque()
        """Frames that no carrier has popped."""
        self._unsent = 0
        """Bytes of these frames, and of those that a carrier has popped and not carried."""
        self._carrying = 0
        """Bytes of the latter."""
        self._most = PIECE
        """About the maximum bytes of the next body."""
        self._popped_at = 0.0
        self._pong: bytes | None = None
        """The answer to the last ping. Earlier ones need no answer."""
        self.output = asyncio.Event()
        """Set while something waits to be sent, and at the end."""
        self._input = bytearray()
        """The part of a frame that has arrived."""
        self._delivery = Delivery(self._update_reading)
        self._receiving = True
        """Whether the user wants to receive; see `pause_receiving`."""
        self.readable = asyncio.Event()
        """Set while carriers may pass on what arrives."""
        self.readable.set()
        self._heartbeat = Heartbeat(self, self._loop, limits)
        self.acknowledged = self._heartbeat.acknowledged
        self.session_survives = self._heartbeat.session_survives
        self._backpressure = Backpressure(self._delivery, limits)
        self._closing: CloseInfo | None = None
        """How the connection ends if the other side answers. None if no side has closed."""
        self.close_received = False
        """Whether a Close frame has arrived."""
        self._undelivered: tuple[int, ...] = ()
        """`unsent` when this side closed, and each time that its limit was over."""
        self._deadline: asyncio.TimerHandle | None = None
        self.over: asyncio.Future[CloseInfo] = self._loop.create_future()
        """Done at the end of the connection. Carriers then end."""
        self.written = 0
        """Number of bytes that were added to be sent."""
        self._read, self._messages_in, self._messages_out = 0, 0, 0

    # ------------------------------------------------------------ the contract

    @property
    def unsent(self) -> int:
        return self._unsent - self._carrying

    def backlog(self) -> int:
        """Return the bytes that nothing has confirmed, for `StallWatch` and `Heartbeat`."""
        return self._unsent

    @property
    def traffic(self) -> Traffic:
        return Traffic(self._messages_in, self._messages_out, self._read, self.written)

    def start(self, receiver: Receiver, /) -> None:
        if self._backpressure.full:
            receiver.pause_sending()
        self._delivery.start(receiver)
        receiver.read_ended()
        if self.over.done():
            self._loop.call_soon(receiver.connection_lost, self.over.result())
        self._update_reading()

    def send(self, payload: bytes, text: bool = True, /) -> None:
        self._check_open()
        self._messages_out += 1
        self._send(payload, text, 0)

    def send_piece(self, payload: bytes, text: bool, last: bool, /) -> None:
        self._check_open()
        self._messages_out += last
        self._send(payload, text, 0 if last else MORE)

    def _send(self, payload: bytes, text: bool, more: int) -> None:
        kind, at = TEXT if text else BINARY, 0
        while len(payload) - at > PIECE:
            self._add(frame(kind | MORE, payload[at : at + PIECE]))
            at += PIECE
        self._add(frame(kind | more, payload[at:] if at else payload))
        if not self._backpressure.full and self.unsent > self._high_water:
            self._backpressure.filled(self)

    @property
    def _high_water(self) -> int:
        """The unsent bytes above which senders wait. On a client whose bodies have grown, there is room for the next
        one, because each body waits for the answer to the last one."""
        return max(self._limits.high_water_bytes, self._most if self._dialed and self._most > PIECE else 0)

    def _add(self, data: bytes) -> None:
        self._waiting.append(data)
        self._unsent += len(data)
        self.written += len(data)
        self.output.set()

    def _check_open(self) -> None:
        info = self.over.result() if self.over.done() else self._closing
        if info is not None:
            raise ConnectionLost(info.code, info.reason, "not_sent")

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
        self._closing = CloseInfo(code, reason, was_clean=True)
        self._heartbeat.stop()
        if self._delivery.receiver is None:
            self._delivery.keep_no_more()
        self._update_reading()
        self._undelivered = (self._unsent,)
        self._add(frame(CLOSE, b"" if code == CloseCode.NO_STATUS else code.to_bytes(2, "big") + reason.encode()))
        self._deadline = self._loop.call_later(self._limits.close_timeout, self._overdue)

    def _overdue(self) -> None:
        assert self._closing is not None
        self._undelivered += (self._unsent,)
        if not self.close_received and bytes_leave(self._undelivered, self._heartbeat.pop_acknowledged()):
            self._deadline = self._loop.call_later(self._limits.close_timeout, self._overdue)
            return
        self._end(CloseInfo(self._closing.code, self._closing.reason))

    def abort(self) -> None:
        self.drop(CloseCode.ABNORMAL, "aborted")

    def drop(self, code: int, reason: str) -> None:
        """End the connection now, without a Close frame."""
        self._delivery.ignore_rest()
        self._loop.call_soon(self._end, CloseInfo(code, reason))

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
        self._popped_at = self._loop.time()
        popped = [] if self._pong is None else [frame(PONG, self._pong)]
        self._pong = None
        while self._waiting and self._carrying < self._most:
            popped.append(self._waiting.popleft())
            self._carrying += len(popped[-1])
        if not self._waiting and not self.over.done():
            self.output.clear()
        if self._backpressure.full and self.unsent <= self._high_water // 4:
            self._backpressure.has_room()
        return b"".join(popped)

    def carried(self) -> None:
        """Record that what a carrier has popped was written."""
        if self._loop.time() - self._popped_at > QUICK:
            self._most = max(self._most // 2, PIECE)
        elif self._carrying >= self._most:
            self._most = min(self._most * 2, MOST)
        self._unsent -= self._carrying
        self._carrying = 0
        if self.close_received and not self._waiting and self._closing is not None:
            self._end(self._closing)

    def announce(self, id: str) -> None:
        """Send the id of the connection, as a server."""
        self.id = id
        self._add(frame(OPENED, id.encode()))

    def send_nothing(self) -> None:
        """Show that this side is there."""
        self._add(frame(NOTHING))

    def send_ping(self, payload: bytes) -> None:
        """Send a ping, as `Heartbeat` asks."""
        self._add(frame(PING, payload))

    # ------------------------------------------------------------ for carriers: in

    def feed(self, data: bytes) -> None:
        """Handle bytes that have arrived."""
        self._read += len(data)
        self._input += data
        before, at = self._messages_in, 0
        while len(self._input) - at >= HEAD.size and not self.over.done():
            kind, size = HEAD.unpack_from(self._input, at)
            if size > PIECE:
                self._refuse(CloseCode.PROTOCOL_ERROR, f"a frame with {size} bytes")
                self._input.clear()
                return
            if len(self._input) - at < HEAD.size + size:
                break
            at += HEAD.size + size
            self._receive(kind, bytes(self._input[at - size : at]))
        del self._input[:at]
        if self._messages_in > before and self._delivery.receiver is not None and not self.over.done():
            self._delivery.receiver.read_ended()

    def _receive(self, kind: int, payload: bytes) -> None:
        delivery = self._delivery
        if kind & ~MORE in (TEXT, BINARY) and self.id:  # until it has an id, nobody reads them
            if delivery.fragment_bytes + len(payload) > self.largest:
                self._refuse(CloseCode.MESSAGE_TOO_BIG, f"more than {self.largest} bytes")
            self._messages_in += not kind & MORE
            delivery.frame(payload, kind & ~MORE == TEXT, not kind & MORE)
        elif kind == CLOSE:
            self._receive_close(payload)
        elif kind == PING:
            self._pong = payload
            self.output.set()
        elif kind == PONG:
            self._heartbeat.pong(payload)
        elif kind == OPENED and not self.id and payload.isascii():
            self.id = payload.decode()
        elif kind != NOTHING:
            self._refuse(CloseCode.PROTOCOL_ERROR, f"a frame of kind {kind}")

    def _receive_close(self, payload: bytes) -> None:
        self.close_received = True
        if self._closing is not None:
            self._end(self._closing)
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
        if self.close_received and self._closing is not None:
            info = self._closing  # even if the own Close frame does not arrive
        self.over.set_result(info)
        self._heartbeat.stop()
        if self._deadline is not None:
            self._deadline.cancel()
        self._waiting.clear()
        self._input.clear()
        self._unsent = self._carrying = 0
        self._backpressure.end()
        self.output.set()
        self.readable.set()
        if self._delivery.receiver is not None:
            self._delivery.receiver.connection_lost(info)
        self._delivery.stop()
