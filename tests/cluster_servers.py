"""Servers of one cluster, in one process, with clients in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from leftovers import turns_until

from wsrpc import Client, Handshake, Limits, Peer, Server
from wsrpc.cluster import Cluster, MemoryEngine
from wsrpc.cluster._cluster import membership_of
from wsrpc.cluster.engine import Engine
from wsrpc.testing import connect

__all__ = ["NarrowEngine", "Servers", "servers"]


class NarrowEngine(MemoryEngine):
    """An engine that drops a connection instead of passing a large message on to it, as Redis does."""

    def deliver(self, subject: str, payload: bytes) -> None:
        for connection in tuple(self.connections):
            if len(payload) > 100_000 and connection.has_subscribed(subject):
                connection.end("too much at once")
        super().deliver(subject, payload)


class Servers:
    """Some servers, each in a process of its own as far as the cluster knows."""

    def __init__(self, engine: Engine, stack: AsyncExitStack) -> None:
        self.engine = engine
        self._stack = stack
        self.all: list[Server] = []

    @property
    def memory(self) -> MemoryEngine:
        """The engine, of tests that use the one in memory."""
        assert isinstance(self.engine, MemoryEngine)
        return self.engine

    def __getitem__(self, number: int) -> Server:
        return self.all[number]

    def __len__(self) -> int:
        return len(self.all)

    async def add(self, **options: Any) -> Server:
        """Add a server, which knows the address and the user of a client by its path: ``/?who=ada&user=ada``."""
        server = Server(cluster=Cluster(self.engine, name="shop"), **options)

        @server.on_handshake
        def gate(handshake: Handshake) -> None:
            handshake.address = handshake.query.get("who")
            handshake.principal = handshake.query.get("user")

        await server.open()
        self._stack.push_async_callback(server.close)
        self.all.append(server)
        return server

    async def meet(self) -> None:
        """Wait until each server has a session with each other one."""
        for one in self.all:
            for other in self.all:
                if one is not other:
                    await turns_until(lambda one=one, other=other: linked(one, other))  # type: ignore[misc]

    async def enter(self, connection: AbstractAsyncContextManager[Client]) -> Client:
        """Keep a connection until the servers close."""
        return await self._stack.enter_async_context(connection)

    async def join(self, number: int, who: str | None = None, client: Client | None = None) -> Client:
        """Connect a client to a server. With a name, wait until each server knows where it is."""
        path = "/" if who is None else f"/?who={who}"
        connected = await self.enter(connect(self[number], path=path, client=client))
        if who is not None:
            node = self[number].cluster.nodes[0]
            await turns_until(lambda: all(server.cluster.locate(who) == node for server in self.all))
        return connected

    def peer(self, number: int, who: str) -> Peer:
        """Return the peer of a client at the server that it is connected to."""
        return next(peer for peer in self[number].peers if peer.address == who)

    async def engine_goes(self) -> None:
        """Lose the engine until its ``down`` is set to false."""
        self.memory.down = True
        self.memory.cut()
        await turns_until(lambda: not any(server.cluster.connected for server in self.all))

    async def engine_comes(self) -> None:
        """Wait until the engine is back, and the servers have sessions."""
        self.memory.down = False
        await turns_until(lambda: all(server.cluster.connected for server in self.all))
        await self.meet()

    def is_quiet(self) -> bool:
        """Return whether no call is under way between the servers."""
        members = [membership_of(server.cluster) for server in self.all if server.cluster.nodes]
        peers = [peer for member in members for peer in sessions_of(member)]
        calls = any(peer.pending or peer.active or peer.anonymous_channels for peer in peers)
        return not calls and all(member.forwarder.joined == 0 for member in members)


def sessions_of(member: Any) -> list[Peer]:
    """Return the sessions of a node with other nodes."""
    return [peer for peer in map(member.links.peer, member.directory.nodes[1:]) if peer is not None]


def linked(one: Server, other: Server) -> bool:
    """Return whether ``one`` has a session with ``other``."""
    member = membership_of(one.cluster)
    peer = member.links.peer(other.cluster.nodes[0]) if other.cluster.nodes else None
    return peer is not None and peer.connected


@asynccontextmanager
async def servers(
    count: int = 2, engine: Engine | None = None, patience: float = 30, **options: Any
) -> AsyncGenerator[Servers]:
    """Make servers that know each other. At the end nothing is under way between them."""
    async with asyncio.timeout(patience), AsyncExitStack() as stack:
        made = Servers(MemoryEngine() if engine is None else engine, stack)
        for _ in range(count):
            await made.add(**{"limits": Limits(close_timeout=2.0, ping_interval=None), **options})
        await made.meet()
        yield made
        await turns_until(made.is_quiet)
