"""A server with several clients in memory, for the tests of what is sent to many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from wsrpc import Client, Limits, Peer, Server
from wsrpc.testing import MemoryTransport, memory_transports

LIMITS = Limits(close_timeout=1.0)
TIGHT = Limits(high_water_bytes=1024, hard_cap_bytes=4 * 1024 * 1024, close_timeout=0.2, ping_interval=None)


class Ear:
    """A client that writes down the events that it gets."""

    def __init__(self, transport: MemoryTransport) -> None:
        self.heard: asyncio.Queue[str] = asyncio.Queue()
        self.transport = transport
        self.client = Client(limits=LIMITS)
        self.client.on("say", self.heard.put_nowait)
        self.client.of("side").on("say", lambda text: self.heard.put_nowait(f"side {text}"))


@asynccontextmanager
async def audience(server: Server, size: int, limits: Limits = LIMITS) -> AsyncGenerator[list[tuple[Ear, Peer]]]:
    """So many connected clients, each with its peer and in memory."""
    async with AsyncExitStack() as stack:
        pairs = []
        for _ in range(size):
            ours, theirs = memory_transports(limits=limits)
            ear = Ear(ours)
            await stack.enter_async_context(ear.client)
            _, peer = await asyncio.gather(ear.client.bind(ours), server.accept(theirs))
            assert isinstance(peer, Peer)
            pairs.append((ear, peer))
        yield pairs
    await server.close()


def line_of(peer: Peer) -> MemoryTransport:
    """The server's end of a connection in memory."""
    transport = peer.transport
    assert isinstance(transport, MemoryTransport)
    return transport
