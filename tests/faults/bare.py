"""Bare sockets on both sides of a `FaultProxy`."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from raw_websocket import PATIENCE, RawServer, raw_server

from wsrpc.testing import FaultProxy

Direction = Literal["up", "down"]
DIRECTIONS: tuple[Direction, ...] = ("up", "down")


class Side:
    """One end of a proxied connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._loop.sock_sendall(self.sock, data)

    async def receive(self, count: int) -> bytes:
        """Exactly so many bytes."""
        data = b""
        async with asyncio.timeout(PATIENCE):
            while len(data) < count:
                piece = await self._loop.sock_recv(self.sock, count - len(data))
                assert piece, f"the connection ended after {data!r}"
                data += piece
        return data

    async def to_end(self) -> tuple[bytes, str]:
        """All that comes, and how it ends: ``"fin"`` or ``"reset"``."""
        data = bytearray()
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    piece = await self._loop.sock_recv(self.sock, 1 << 16)
                except ConnectionResetError:
                    return bytes(data), "reset"
                if not piece:
                    return bytes(data), "fin"
                data += piece

    async def stuck(self) -> None:
        """Wait until nothing more can be sent: the buffers are full, and stay full for a while of turns."""
        turns = 0
        async with asyncio.timeout(PATIENCE):
            while turns < 50:
                turns = 0 if select.select([], [self.sock], [], 0)[1] else turns + 1
                await asyncio.sleep(0)

    def fin(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)


@dataclass
class Bench:
    """A server that only listens, and the proxy in front of it."""

    server: RawServer
    proxy: FaultProxy
    clients: list[socket.socket]

    async def dial(self) -> Side:
        """Connect to the proxy.

        Raises:
            ConnectionRefusedError: nothing listens.
        """
        sock = socket.socket()
        self.clients.append(sock)
        sock.setblocking(False)
        async with asyncio.timeout(PATIENCE):
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.proxy.port))
        return Side(sock)

    async def accept(self) -> Side:
        """The other end of the connection that was dialed before."""
        return Side(await self.server.accept_tcp())

    async def line(self) -> tuple[Side, Side]:
        """A new connection: the client's end and the server's, between which bytes pass."""
        client = await self.dial()
        return client, await self.accept()

    @staticmethod
    def directed(direction: Direction, client: Side, server: Side) -> tuple[Side, Side]:
        """Return who sends in a direction, and who receives."""
        return (client, server) if direction == "up" else (server, client)


@asynccontextmanager
async def bench(*, receive_buffer: int | None = None) -> AsyncGenerator[Bench]:
    clients: list[socket.socket] = []
    try:
        async with raw_server(receive_buffer=receive_buffer) as server, FaultProxy(server.url) as proxy:
            yield Bench(server, proxy, clients)
    finally:
        for sock in clients:
            sock.close()


async def check_passes(one: Side, other: Side, *, back: bool = True) -> None:
    """Bytes pass both ways, or one way only, and nothing was before them."""
    await one.send(b"there")
    assert await other.receive(5) == b"there"
    if back:
        await check_passes(other, one, back=False)


async def some_turns(count: int = 20) -> None:
    """Turns of the event loop: by default more than bytes take that nothing holds up."""
    for _ in range(count):
        await asyncio.sleep(0)
