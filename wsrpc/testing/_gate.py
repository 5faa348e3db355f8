"""The port at which a proxy's connections come in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Literal

from ._line import Line
from ._sockets import bound

__all__ = ["Gate"]

BACKLOG = 1024
"""Connections that may come at once."""


class Gate:
    """A free loopback port, and the lines that came in by it.

    It accepts by itself: `asyncio.Server` would leave a socket open when it is closed a turn after it has accepted.

    ``make_line`` makes a line of an accepted socket, given what to call at its end.
    """

    def __init__(self, make_line: Callable[[socket.socket, Callable[[Line], None]], Line]) -> None:
        self._make_line = make_line
        self.state: Literal["new", "open", "closed"] = "new"
        self.port = 0
        self.lines: set[Line] = set()
        self._listening: socket.socket | None = None  # none while it refuses
        self._refusing = 0
        self._line_ended: asyncio.Future[None] | None = None

    def open(self) -> None:
        """Listen.

        Raises:
            RuntimeError: it was opened before.
        """
        if self.state != "new":
            raise RuntimeError("a FaultProxy can be entered once; make a new one")
        # A second socket keeps the port while nothing listens there.
        self._keeper = bound(0)
        self.port = self._keeper.getsockname()[1]
        try:
            self._listen()
        except OSError:
            self._keeper.close()
            raise
        self.state = "open"

    async def close(self) -> None:
        """Reset all lines and wait until nothing is left of them. Cancelling is safe, that goes on."""
        self.state = "closed"
        self._keeper.close()
        self._stop_listening()
        for line in list(self.lines):
            line.abandon()
        while self.lines:
            self._line_ended = asyncio.get_running_loop().create_future()
            await self._line_ended

    def reset_all(self) -> None:
        """Reset the lines that there are."""
        for line in list(self.lines):
            line.reset()

    @contextmanager
    def refuse(self) -> Generator[None]:
        """Do not listen, for the length of the block."""
        self._refusing += 1
        self._stop_listening()
        try:
            yield
        finally:
            self._refusing -= 1
            if not self._refusing and self.state == "open":
                self._listen()

    def _listen(self) -> None:
        self._listening = bound(self.port)
        self._listening.setblocking(False)
        self._listening.listen(BACKLOG)
        asyncio.get_running_loop().add_reader(self._listening, self._accept, self._listening)

    def _stop_listening(self) -> None:
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(BACKLOG):
            try:
                sock, _ = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            sock.setblocking(False)
            self.lines.add(self._make_line(sock, self._ended))

    def _ended(self, line: Line) -> None:
        self.lines.discard(line)
        waiter = self._line_ended
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
