"""A server, and a client of it that goes on whatever becomes of the others: for the tests of each bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from waiting import until

from wsrpc import Client, CloseInfo, Limits, Peer, Server

AMPLE = Limits(close_timeout=2.0)


class Beside:
    """The server, how its connections ended, and the connection that is not to notice anything."""

    def __init__(self, server: Server, limits: Limits) -> None:
        self.server = server
        self.url = ""
        self.port = 0
        self.ended: asyncio.Queue[CloseInfo] = asyncio.Queue()
        self._limits = limits
        self._calls = 0
        self._other: Client

    async def goes_on(self) -> None:
        """The other connection, the same one as before, is served."""
        self._calls += 1
        assert await self._other.request("beside", self._calls) == self._calls
        assert self._other.connected

    async def newest(self) -> Peer:
        """The peer of the connection that is put to the test, once it is there."""
        await until(lambda: len(self.server.peers) == 2)
        return self.server.peers[-1]

    async def ends(self, code: int) -> CloseInfo:
        """Wait until that connection is over for the server, which gives ``code``; the other one goes on."""
        info = await self.ended.get()
        assert info.code == code, info
        assert len(self.server.peers) == 1
        await self.goes_on()
        return info


@asynccontextmanager
async def beside(limits: Limits, server: Server | None = None) -> AsyncGenerator[Beside]:
    """Serve within ``limits``, to one client that is used before and after what the block does."""
    server = server or Server(limits=limits)
    world = Beside(server, limits)
    server.on("beside", lambda number: number)
    server.on("echo", lambda *args: list(args))
    async with asyncio.timeout(120), server.listen() as listener:
        world.url, world.port = listener.url, listener.port
        async with Client(listener.url, limits=AMPLE, reconnect=None) as world._other:
            await world.goes_on()
            server.on("close", lambda peer, info: world.ended.put_nowait(info))
            yield world
            await world.goes_on()
            await until(lambda: len(server.peers) == 1)
            (peer,) = server.peers
            assert (peer.active, peer.pending, peer.anonymous_channels) == (0, 0, 0), "nothing is left of the others"
