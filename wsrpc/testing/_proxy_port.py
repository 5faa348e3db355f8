"""The port of a proxy."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Literal

from ._proxied import ProxiedConnection
from ._sockets import bound

__all__ = ["ProxyPort"]

BACKLOG = 1024
"""Connections that may come at once."""


class ProxyPort:
    """A free loopback port, and the connections that it has accepted.

    It does without `asyncio.Server`, which leaves a socket open if it is closed a turn after it has accepted one.

    Args:
        make: makes a connection of an accepted socket, given the function to call at its end.
    """

    def __init__(self, make: Callable[[socket.socket, Callable[[ProxiedConnection], None]], ProxiedConnection]) -> None:
        self._make = make
        self.state: Literal["new", "open", "closed"] = "new"
        self.number = 0
        """Of the TCP port, once it is open."""
        self.connections: set[ProxiedConnection] = set()
        self._keeper: socket.socket | None = None
        """Keeps the port while nothing listens at it."""
        self._listening: socket.socket | None = None
        """None while connections are refused."""
        self._refusing = 0
        """Number of `refuse` blocks."""
        self._one_ended: asyncio.Future[None] | None = None

    def open(self) -> None:
        """Listen.

        Raises:
            RuntimeError: it was opened before.
        """
        if self.state != "new":
            raise RuntimeError("a FaultProxy can be entered once; make a new one")
        keeper = self._keeper = bound(0)
        self.number = keeper.getsockname()[1]
        try:
            self._listen()
        except OSError:
            keeper.close()
            raise
        self.state = "open"

    async def close(self) -> None:
        """Reset all connections and wait until they are over. Cancelling is safe; the closing goes on."""
        self.state = "closed"
        if self._keeper is not None:
            self._keeper.close()
        self._stop_listening()
        for connection in list(self.connections):
            connection.abandon()
        while self.connections:
            self._one_ended = asyncio.get_running_loop().create_future()
            await self._one_ended

    def reset_all(self) -> None:
        """Reset the present connections."""
        for connection in list(self.connections):
            connection.reset()

    @asynccontextmanager
    async def cut(self) -> AsyncGenerator[None]:
        """Reset the present connections, and do not listen, for the length of the block."""
        async with self.refuse():
            self.reset_all()
            yield

    @asynccontextmanager
    async def refuse(self) -> AsyncGenerator[None]:
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
        self._listening = bound(self.number)
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
            self.connections.add(self._make(sock, self._ended))

    def _ended(self, connection: ProxiedConnection) -> None:
        self.connections.discard(connection)
        waiter = self._one_ended
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
