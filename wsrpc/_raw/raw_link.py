"""`RawLink`: the inside of a raw connection. `PieceQueue`: the received pieces that nobody has read yet."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, Callable, Hashable, Iterable
from threading import get_ident
from typing import Any, NamedTuple, TypeAlias

import msgspec

from .._base.closing import CloseCode, CloseInfo
from .._base.expiry import EXPIRED
from .._base.logs import PeerLog
from .._base.scheduler import Scheduler, spawn_later
from .._core.channels.source import close_source, iterate
from .._core.sending.checks import check_thread, raw_payload
from .._core.sending.gate import Gate, Waiter
from .._core.sending.slow_readers import Slow, SlowReaderQueue
from .._core.session.connection import close_transport
from ..errors import ConnectionLost, QueueFull
from ..limits import Limits
from ..stats import PeerStats
from ..transport import Traffic, Transport

EACH = 64
"""Bytes that a piece counts for besides its own, so that empty ones are bounded, too."""


class Piece(NamedTuple):
    """A message or a part of a message. ``last`` is whether the message ends with this piece."""

    payload: bytes
    text: bool
    last: bool


class PieceQueue:
    """Queue of the received pieces of a raw connection. `next` removes and returns the oldest piece.

    While more than ``limit`` bytes wait to be read, the transport does not receive, which slows the remote peer down.
    Pieces that arrived before the connection ended can still be read.
    """

    def __init__(self, transport: Transport, limit: int) -> None:
        self._transport = transport
        self._limit = limit
        self._pieces: deque[Piece] = deque()
        self._size = 0
        self._paused = False
        self._reader: asyncio.Future[None] | None = None
        self._stopped = False
        self.ended: CloseInfo | None = None

    # ------------------------------------------------------------ receiving

    def receive(self, payload: bytes | bytearray, text: bool) -> None:
        """Add a whole message."""
        self.receive_piece(bytes(payload), text, True)

    def receive_piece(self, payload: bytes, text: bool, last: bool) -> None:
        """Add a part of a message."""
        if self._stopped:
            return
        self._pieces.append(Piece(payload, text, last))
        self._size += len(payload) + EACH
        if self._size > self._limit and not self._paused:
            self._paused = True
            self._transport.pause_receiving()
        self._wake()

    def end(self, info: CloseInfo) -> None:
        """Record that the connection has ended, and wake the reader."""
        self.ended = info
        self._wake()

    # ------------------------------------------------------------ reading

    async def next(self) -> Piece:
        """Return the next piece. Cancelling is safe: nothing is lost.

        Raises:
            ConnectionLost: the connection has ended, and all pieces have been read.
            RuntimeError: another task reads already.
        """
        self.check_alone()
        while not self._pieces:
            if self.ended is not None:
                raise ConnectionLost(self.ended.code, self.ended.reason)
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        piece = self._pieces.popleft()
        self._size -= len(piece.payload) + EACH
        if self._paused and self._size <= self._limit // 2:
            self._paused = False
            self._transport.resume_receiving()
        return piece

    def check_alone(self) -> None:
        """Check that no other task reads.

        Raises:
            RuntimeError: another task reads.
        """
        if self._reader is not None:
            raise RuntimeError("another task receives from this connection already: one at a time")

    def push_front(self, piece: Piece) -> None:
        """Make ``piece`` the next one again."""
        self._pieces.appendleft(piece)
        self._size += len(piece.payload) + EACH

    def stop(self) -> None:
        """Ignore further pieces, because this side is closing."""
        self._stopped = True

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


RawMessage: TypeAlias = str | bytes
"""A text or binary message."""

Pieces: TypeAlias = Iterable[RawMessage] | AsyncIterable[RawMessage]
"""A message, piece by piece."""

UNFINISHED = "a message was left unfinished"
"""Close reason after some pieces of a message were sent, if the rest cannot be sent."""


class RawLink:
    """Inside of a raw connection: receives from its transport, sends, and closes.

    ``pieces`` has the received pieces that nobody has read yet. ``rooms`` are those that the connection is in, or was
    in when it ended.
    ``leave_rooms()`` ends the membership in all rooms; it may be called more than once.
    """

    address: None = None
    """Only peers have addresses."""

    def __init__(
        self, transport: Transport, log: PeerLog, limits: Limits, loop: Scheduler, leave_rooms: Callable[[], None]
    ) -> None:
        self.transport = transport
        self.log = log
        self.limits = limits
        self.rooms: dict[Any, bool] = {}
        self.skipped_broadcasts = 0
        """Number of broadcasts that were left out because the remote peer reads too slowly."""
        self.overdue = False
        """Whether a broadcast has waited for this connection in vain, and the connection has not drained since."""
        self.closing = False
        """Whether this side has begun to close the connection."""
        self._user_closed = False
        """Whether the user has called `close`, or the user's function has returned."""
        self.full = False
        """Whether the transport has more unsent bytes than its high-water mark."""
        self.leave_rooms = leave_rooms
        self.pieces = PieceQueue(transport, limits.high_water_bytes)
        self.receive = self.pieces.receive
        self.receive_piece = self.pieces.receive_piece
        self._gate = Gate()
        """The callers that wait while the transport is full, including a caller that sends a message in pieces."""
        self._over = loop.create_future()
        self._midway = False
        """Whether some pieces of a message were sent, but not the last piece. Then no other message may be sent."""
        self._broadcasts = SlowReaderQueue(
            transport.send, self._cannot_send, limits.behind_bytes, log.warn, self._count_dropped
        )
        self.thread = get_ident()
        self._broken_off: asyncio.Task[None] | None = None
        """Task that closes the connection after a failure to send, or when the client's credentials expired."""
        self.closed_with: tuple[int, str] = (CloseCode.ABNORMAL, "")
        """Code and reason with which this side closes the connection."""

    # ------------------------------------------------------------ called by the transport

    def read_ended(self) -> None:
        """Do nothing: each piece has woken the reader."""

    def pause_sending(self) -> None:
        """Let senders wait, because the transport is above its high-water mark."""
        self.full = True

    def resume_sending(self) -> None:
        """Let senders continue, because the transport has drained. Waiting broadcasts are sent first."""
        self.full = False
        self._broadcasts.flush()
        self.overdue = self.overdue and self.full
        self._gate.wake()

    def connection_lost(self, info: CloseInfo, /) -> None:
        """Wake the reader and the senders, because the connection has ended."""
        self.pieces.end(info)
        if not self._over.done():
            self._over.set_result(None)
        self.full = False
        self._gate.wake_all()
        self.leave_rooms()

    # ------------------------------------------------------------ state

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, or this side closes it."""
        return self.closed_here or self.pieces.ended is not None

    @property
    def closed_here(self) -> bool:
        """Whether this side has closed the connection, or closes it."""
        return self.closing or self._broken_off is not None

    @property
    def ended(self) -> CloseInfo | None:
        """How the connection ended. None if it has not ended."""
        ended = self.pieces.ended
        return ended if ended is None else msgspec.structs.replace(ended, user_closed=self._user_closed)

    async def wait_ended(self) -> CloseInfo:
        """Wait until the connection has ended, and return how it ended. Cancelling is safe."""
        await asyncio.shield(self._over)
        assert self.ended is not None
        return self.ended

    def stats(self) -> PeerStats:
        """Return a snapshot for the server's totals. The user's function counts as a handler."""
        passed: Traffic | None = getattr(self.transport, "traffic", None)
        counted: Any = {name: getattr(passed, name, None) for name in Traffic.__struct_fields__}
        return PeerStats(
            id=self.log.id,
            uptime=0.0,
            **counted,
            unsent_bytes=self.transport.unsent,
            kept_bytes=0,
            detached=False,
            slow=self.full,
            skipped_broadcasts=self.skipped_broadcasts,
            pending=0,
            active=1,
            waiting=0,
            anonymous_channels=0,
            errors=self.log.errors,
            ignored={},
        )

    # ------------------------------------------------------------ sending

    async def send(self, payload: bytes, text: bool) -> None:
        """Send a message; see `RawConnection.send`."""
        self.check_open()
        if not (self._gate.has_callers or self.full):
            self.transport.send(payload, text)
            return
        turn = self._gate.enter()
        try:
            await self._wait_for_room(turn)
            self.transport.send(payload, text)
        finally:
            turn.exit()

    async def send_pieces(self, pieces: Pieces) -> None:
        """Send a message piece by piece; see `RawConnection.send`."""
        self.check_open()
        turn = self._gate.enter()
        kind: bool | None = None
        try:
            await self._wait_for_room(turn)
            async for piece in iterate(pieces):
                payload, text = raw_payload(piece)
                if kind is None:
                    kind = text
                elif kind is not text:
                    raise TypeError("the pieces of a message are all str or all bytes, got both")
                await self._wait_for_room(turn)
                self.transport.send_piece(payload, text, False)
                self._midway = True
            if kind is None:
                raise ValueError("there are no pieces, so there is no message: send an empty str or bytes instead")
            self.transport.send_piece(b"", kind, True)
            self._midway = False
            self._broadcasts.flush()
        except BaseException:
            if self._midway and not self.closed:
                self._break_off(CloseCode.INTERNAL_ERROR, UNFINISHED)
            raise
        finally:
            turn.exit()
            await close_source(pieces)

    async def _wait_for_room(self, turn: Waiter) -> None:
        """Wait until all earlier callers have sent and there is room. Cancelling is safe.

        Raises:
            ConnectionLost: no message can be sent any more.
        """
        self.check_open()
        while self.full or not turn.is_first:
            await turn.wait()
            self.check_open()

    def check_open(self) -> None:
        """Check that messages can be sent, as far as this side knows.

        Raises:
            ConnectionLost: no message can be sent.
        """
        ended = self.pieces.ended
        if ended is not None:
            raise ConnectionLost(ended.code, ended.reason, "not_sent")
        if self.closed:
            raise ConnectionLost(*self.closed_with, "not_sent")

    def _break_off(self, code: CloseCode, reason: str) -> None:
        """Close the connection. From now on, no message is sent or received."""
        self.pieces.stop()
        self.closed_with = (code, reason)
        self._broken_off = spawn_later(close_transport(self.transport, code, reason))

    # ------------------------------------------------------------ broadcasts

    def broadcast(self, payload: bytes, text: bool, slow: Slow, key: Hashable) -> bool:
        """Send a message now, or let it wait for room. Return False if the policy for slow readers drops it.

        Raises:
            ConnectionLost: the connection has ended, or is closing.
            QueueFull: the connection is at its hard cap, and is closed with 4408.
        """
        self.check_open()
        waiting = self._broadcasts
        if slow != "close" and self._cannot_send():
            return waiting.add(payload, text, slow, key)
        unsent = self.transport.unsent + waiting.size
        if self._cannot_send() and unsent and unsent + len(payload) > self.limits.hard_cap_bytes:
            self.log(logging.WARNING, "closing the connection with 4408: slow consumer")
            self._break_off(CloseCode.SLOW_CONSUMER, "slow consumer")
            raise QueueFull(f"{unsent} bytes were unsent: the connection was closed with 4408")
        waiting.append((payload, text))
        if not self._midway:
            waiting.flush(everything=True)  # the waiting messages can neither be dropped now nor overtaken
        return True

    def _cannot_send(self) -> bool:
        return self._midway or self.full

    def _count_dropped(self, count: int) -> None:
        self.skipped_broadcasts += count

    async def wait_room(self) -> None:
        """Wait until there is room, or the connection has ended. Cancelling is safe."""
        await self.transport.drain()

    def mark_overdue(self) -> None:
        """Note that a broadcast has waited for the transport to drain; see ``overdue``."""
        self.overdue = self.full

    # ------------------------------------------------------------ closing

    async def close(self, code: int | None, reason: str, *, user_closed: bool = True) -> None:
        """Close the connection for the user; see `RawConnection.close`."""
        if self.pieces.ended is not None:
            return
        check_thread(self.thread, "connection.close()")
        if not self.closed:
            self.closed_with = (CloseCode.NO_STATUS if code is None else code, reason or "closed on this side")
            if not self._midway:
                self._broadcasts.flush(everything=True)  # they were reported as sent
        self.closing = True
        self._user_closed = self._user_closed or user_closed
        self.pieces.stop()
        await close_transport(self.transport, code, reason)

    def expire(self) -> None:
        """Close the connection because the credentials of its client have expired, unless it is closed."""
        if not self.closed:
            self._break_off(CloseCode.CREDENTIALS_EXPIRED, EXPIRED)

    async def finish(self, code: int, reason: str, *, failed: bool) -> None:
        """Close the connection after the user's function has returned or ``failed``, unless it is closed."""
        if self._broken_off is not None:
            await self._broken_off
        elif self.pieces.ended is None:
            await self.close(code, reason, user_closed=not failed)

    async def fail(self, code: int, reason: str) -> ConnectionLost:
        """Close the connection because of what the other side sent; return the error to raise."""
        self.log(logging.WARNING, "closing the connection with %d: %s", code, reason)
        self.pieces.stop()
        await close_transport(self.transport, code, reason)
        return ConnectionLost(code, reason)
