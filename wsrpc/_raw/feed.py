"""`Feed`: messages that have arrived on a raw connection and were not read yet."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

from .._base.closing import CloseInfo
from ..errors import ConnectionLost
from ..transport import Transport

EACH = 64
"""Bytes that a piece counts for besides its own, so that empty ones are bounded, too."""


class Piece(NamedTuple):
    """A message, or a part of one; ``last`` says whether it ends the message."""

    payload: bytes
    text: bool
    last: bool


class Feed:
    """Queue of a raw connection: the transport puts pieces in, `next` takes them out.

    While more than ``bound`` bytes wait to be read, the transport does not receive, which slows the other side down.
    What arrived before the connection ended can still be read.
    """

    def __init__(self, transport: Transport, bound: int) -> None:
        self._transport = transport
        self._bound = bound
        self._pieces: deque[Piece] = deque()
        self._size = 0
        self._paused = False
        self._reader: asyncio.Future[None] | None = None
        self._stopped = False
        self.ended: CloseInfo | None = None

    # ------------------------------------------------------------ what arrives

    def receive(self, payload: bytes | bytearray, text: bool) -> None:
        """Take a whole message."""
        self.receive_piece(bytes(payload), text, True)

    def receive_piece(self, payload: bytes, text: bool, last: bool) -> None:
        """Take a part of a message."""
        if self._stopped:
            return
        self._pieces.append(Piece(payload, text, last))
        self._size += len(payload) + EACH
        if self._size > self._bound and not self._paused:
            self._paused = True
            self._transport.pause_receiving()
        self._wake()

    def end(self, info: CloseInfo) -> None:
        """Let the reader see that the connection has ended."""
        self.ended = info
        self._wake()

    # ------------------------------------------------------------ reading

    async def next(self) -> Piece:
        """Return the next piece. Cancelling is safe: nothing is lost.

        Raises:
            ConnectionLost: the connection has ended, and everything was read.
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
        if self._paused and self._size <= self._bound // 2:
            self._paused = False
            self._transport.resume_receiving()
        return piece

    def check_alone(self) -> None:
        """Check that no other task reads.

        Raises:
            RuntimeError: another task does.
        """
        if self._reader is not None:
            raise RuntimeError("another task receives from this connection already: one at a time")

    def put_back(self, piece: Piece) -> None:
        """Make ``piece`` the next one again."""
        self._pieces.appendleft(piece)
        self._size += len(piece.payload) + EACH

    def stop(self) -> None:
        """Ignore what still arrives: this side is closing."""
        self._stopped = True

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
