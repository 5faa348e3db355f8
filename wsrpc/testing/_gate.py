"""The port at which a proxy's connections come in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Literal

from ._line import Line
from ._sockets import bound

__all__ = ["Gate"]

BACKLOG = 1024
"""Connections that may come at once."""


class Gate:
    """A free loopback port, and the lines that came in by it.

    ``make_line`` makes one, given what to call at its end.
    """

    def __init__(self, make_line: Callable[[Callable[[Line], None]], Line]) -> None:
        self._make_line = make_line
        self.state: Literal["new", "open", "closed"] = "new"
        self.port = 0
        self.lines: set[Line] = set()
        self._server: asyncio.Server | None = None  # none while it refuses
        self._refusing = 0
        self._cuts = 0
        self._line_ended: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Listen. Cancelling is safe: then nothing is open.

        Raises:
            RuntimeError: it was opened before.
        """
        if self.state != "new":
            raise RuntimeError("a FaultProxy can be entered once; make a new one")
        # A second socket keeps the port while nothing listens there.
        self._keeper = bound(0)
        self.port = self._keeper.getsockname()[1]
        self.state = "open"
        try:
            await self._listen()
        except BaseException:
            self._stop()
            raise

    async def close(self) -> None:
        """Reset all lines and wait until nothing is left of them. Cancelling is safe, that goes on."""
        self._stop()
        await asyncio.sleep(0)  # what the event loop has just accepted becomes a line in the next turn
        while self.lines:
            self._line_ended = asyncio.get_running_loop().create_future()
            await self._line_ended

    def reset_all(self) -> None:
        """Reset the lines that there are."""
        for line in list(self.lines):
            line.reset()

    @asynccontextmanager
    async def refuse(self) -> AsyncGenerator[None]:
        """Do not listen, for the length of the block."""
        self._refusing += 1
        self._close_server()
        try:
            yield
        finally:
            self._refusing -= 1
            if not self._refusing and self.state == "open":
                await self._listen()

    @asynccontextmanager
    async def cut(self) -> AsyncGenerator[None]:
        """Reset all lines, and do not listen for the length of the block."""
        self._cuts += 1
        self.reset_all()
        try:
            async with self.refuse():
                yield
        finally:
            self._cuts -= 1

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        sock = bound(self.port)
        self._server = await loop.create_server(self._accept, sock=sock, backlog=BACKLOG, start_serving=False)
        await self._server.start_serving()

    def _accept(self) -> asyncio.Protocol:
        line = self._make_line(self._ended)
        self.lines.add(line)
        if self._cuts or self.state == "closed":  # it came a turn ago
            line.reset()
        return line.client

    def _ended(self, line: Line) -> None:
        self.lines.discard(line)
        waiter = self._line_ended
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _stop(self) -> None:
        self.state = "closed"
        self._keeper.close()
        self._close_server()
        self.reset_all()

    def _close_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
