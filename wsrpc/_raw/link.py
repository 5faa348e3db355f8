"""`RawLink`: the inside of a raw connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Iterable
from threading import get_ident
from typing import TypeAlias

import msgspec

from .._base.closing import CloseCode, CloseInfo
from .._base.logs import PeerLog
from .._base.scheduler import Scheduler, spawn_later
from .._channels.source import close_source, iterate
from .._sending.checks import check_thread, raw_payload
from .._sending.turns import Turn
from ..errors import ConnectionLost
from ..limits import Limits
from ..stats import PeerStats
from ..transport import Traffic, Transport
from .feed import Feed

__all__ = ["Pieces", "RawLink", "RawMessage"]

RawMessage: TypeAlias = str | bytes
"""A text message or a binary one."""

Pieces: TypeAlias = Iterable[RawMessage] | AsyncIterable[RawMessage]
"""A message, piece by piece."""

UNFINISHED = "a message was left unfinished"
"""Close reason after some pieces of a message have left and the rest cannot follow."""


class RawLink:
    """Sends on a raw connection, and closes it. Its ``feed`` receives."""

    def __init__(self, transport: Transport, log: PeerLog, limits: Limits, loop: Scheduler) -> None:
        self.transport = transport
        self.log = log
        self.largest = limits.message
        """Bytes of the largest message that is accepted."""
        self.closing = False
        """Whether the user has called `close`."""
        self.feed = Feed(transport, limits.high_water, loop)
        self._turns = self.feed.turns
        self._thread = get_ident()
        self._broken_off: asyncio.Task[None] | None = None
        """Closes the connection because a message cannot be finished."""

    def check_thread(self, call: str) -> None:
        """Refuse ``call`` in another thread than the connection's.

        Raises:
            RuntimeError: names what works.
        """
        check_thread(self._thread, call)

    # ------------------------------------------------------------ state

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, or the user has closed it."""
        return self.closing or self.feed.ended is not None

    @property
    def ended(self) -> CloseInfo | None:
        """How the connection ended; None if it has not."""
        ended = self.feed.ended
        return msgspec.structs.replace(ended, user_closed=True) if ended is not None and self.closing else ended

    async def wait_ended(self) -> CloseInfo:
        """Wait until the connection has ended, and return how. Cancelling is safe."""
        await self.feed.wait_ended()
        assert self.ended is not None
        return self.ended

    def stats(self) -> PeerStats:
        """A snapshot for the server's sums, in which the user's function counts as a handler."""
        passed: Traffic | None = getattr(self.transport, "traffic", None)
        return PeerStats(
            id=self.log.id,
            uptime=0.0,
            messages_in=None if passed is None else passed.messages_in,
            messages_out=None if passed is None else passed.messages_out,
            bytes_in=None if passed is None else passed.bytes_in,
            bytes_out=None if passed is None else passed.bytes_out,
            unsent=self.transport.unsent,
            kept=0,
            detached=False,
            slow=self.feed.full,
            dropped=0,
            pending=0,
            active=1,
            waiting=0,
            channels=0,
            errors=self.log.errors,
            ignored={},
        )

    # ------------------------------------------------------------ sending

    async def send(self, payload: bytes, text: bool) -> None:
        """Send a message; see `RawConnection.send`."""
        self._check_open()
        if not self._turns.busy:
            self.transport.send(payload, text)
            return
        turn = await self._take_turn()
        try:
            self._check_open()
            self.transport.send(payload, text)
        finally:
            turn.end()

    async def send_pieces(self, pieces: Pieces) -> None:
        """Send a message piece by piece; see `RawConnection.send`."""
        self._check_open()
        turn = await self._take_turn()
        kind: bool | None = None
        begun = False
        try:
            self._check_open()
            async for piece in iterate(pieces):
                payload, text = raw_payload(piece)
                if kind is None:
                    kind = text
                elif kind is not text:
                    raise TypeError("the pieces of a message are all str or all bytes, got both")
                if self.feed.full:
                    await turn.wait()
                self.transport.send_piece(payload, text, False)
                begun = True
            if kind is None:
                raise ValueError("there are no pieces, so there is no message: send an empty str or bytes instead")
            self.transport.send_piece(b"", kind, True)
        except BaseException:
            if begun and not self.closed:
                self._break_off()
            raise
        finally:
            turn.end()
            await close_source(pieces)

    async def _take_turn(self) -> Turn:
        turn = Turn(self._turns)
        if self._turns.busy:
            await turn.wait()
        else:
            turn.begin()
        return turn

    def _check_open(self) -> None:
        ended = self.feed.ended
        if ended is not None:
            raise ConnectionLost(ended.code, ended.reason, "not_sent")
        if self._broken_off is not None:
            raise ConnectionLost(CloseCode.INTERNAL_ERROR, UNFINISHED, "not_sent")

    def _break_off(self) -> None:
        """Close the connection, because a message cannot be finished, and no other can be sent before it is."""
        self._broken_off = spawn_later(self.transport.close(CloseCode.INTERNAL_ERROR, UNFINISHED))

    # ------------------------------------------------------------ closing

    async def close(self, code: int | None, reason: str) -> None:
        """Close the connection for the user; see `RawConnection.close`."""
        if self.feed.ended is not None:
            return
        check_thread(self._thread, "connection.close()")
        self.closing = True
        self.feed.stop()
        await self.transport.close(code, reason)

    async def finish(self, code: int, reason: str) -> None:
        """Close the connection after the user's function, unless it is closed."""
        if self._broken_off is not None:
            await self._broken_off
        elif self.feed.ended is None:
            await self.close(code, reason)

    async def fail(self, code: int, reason: str) -> ConnectionLost:
        """Close the connection because of what the other side sent; return the error to raise."""
        self.log(logging.WARNING, "closing the connection with %d: %s", code, reason)
        self.feed.stop()
        await self.transport.close(code, reason)
        return ConnectionLost(code, reason)
