"""Servers of one cluster, in one process, with clients in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from waiting import until

from wsrpc import Client, Handshake, Limits, Peer, Server
from wsrpc.cluster import Cluster, MemoryEngine
from wsrpc.cluster._cluster import membership_of
from wsrpc.testing import connect

__all__ = ["NarrowEngine", "Servers", "servers", "sessions_of"]


class NarrowEngine(MemoryEngine):
    """An engine that drops a connection instead of passing a large message on to it, as Redis does."""

    def deliver(self, subject: str, payload: bytes) -> None:
        for connection in tuple(self.connections):
            if len(payload) > 100_000 and connection.has_subscribed(subject):
                connection.end("too much at once")
        super().deliver(subject, payload)


class Servers(list[Server]):
    """Some servers, each in a process of its own as far as the cluster knows."""

    def __init__(self, engine: Any, stack: AsyncExitStack) -> None:
        super().__init__()
        self.engine = engine
        self._stack = stack

    async def add(self, **options: Any) -> Server:
        """Add a server, which knows the address and the user of a client by its path: ``/?who=ada&user=ada``."""
        server = Server(cluster=Cluster(self.engine, name="shop"), **options)

        @server.on_handshake
        def gate(handshake: Handshake) -> None:
            handshake.address = handshake.query.get("who")
            handshake.principal = handshake.query.get("user")

        await server.open()
        self._stack.push_async_callback(server.close)
        self.append(server)
        return server

    @property
    def open(self) -> list[Server]:
        """The servers that are in the cluster."""
        return [server for server in self if server.cluster.nodes]

    async def meet(self) -> None:
        """Wait until each server has a session with each other one.

        They look for the engine every 0.5 s, and for each other again after 0.3 s.
        """
        others = len(self.open) - 1
        await until(lambda: all(sum(peer.connected for peer in sessions_of(one)) >= others for one in self.open), 0.9)

    async def enter(self, connection: AbstractAsyncContextManager[Client]) -> Client:
        """Keep a connection until the servers close."""
        return await self._stack.enter_async_context(connection)

    async def join(self, number: int, who: str | None = None, client: Client | None = None) -> Client:
        """Connect a client to a server. With a name, wait until each server knows where it is."""
        path = "/" if who is None else f"/?who={who}"
        connected = await self.enter(connect(self[number], path=path, client=client))
        if who is not None:
            node = self[number].cluster.nodes[0]
            await until(lambda: all(server.cluster.locate(who) == node for server in self.open))
        return connected

    def peer(self, number: int, who: str) -> Peer:
        """Return the peer of a client at the server that it is connected to."""
        return next(peer for peer in self[number].peers if peer.address == who)

    def connection(self, server: Server) -> Any:
        """Return the connection of a server to the engine."""
        subject = f"shop.{server.cluster.nodes[0]}"
        return next(each for each in self.engine.connections if each.has_subscribed(subject))

    async def engine_goes(self) -> None:
        """Lose the engine until its ``down`` is set to false."""
        self.engine.down = True
        self.engine.cut()
        await until(lambda: not any(server.cluster.connected for server in self))

    async def engine_comes(self) -> None:
        """Wait until the engine is back, and the servers have sessions."""
        self.engine.down = False
        await until(lambda: all(server.cluster.connected for server in self), 0.6)
        await self.meet()

    def is_quiet(self) -> bool:
        """Return whether no call is under way between the servers."""
        peers = [peer for server in self.open for peer in sessions_of(server)]
        calls = any(peer.pending or peer.active or peer.anonymous_channels for peer in peers)
        return not calls and not any(membership_of(server.cluster).forwarder.joined for server in self.open)


def sessions_of(server: Server) -> list[Peer]:
    """Return the sessions of a server with other nodes."""
    member = membership_of(server.cluster)
    return [peer for peer in map(member.links.peer, member.directory.nodes[1:]) if peer is not None]


@asynccontextmanager
async def servers(count: int = 2, engine: Any = None, **options: Any) -> AsyncGenerator[Servers]:
    """Make servers that know each other. At the end nothing is under way between them."""
    async with AsyncExitStack() as stack:
        made = Servers(MemoryEngine() if engine is None else engine, stack)
        for _ in range(count):
            await made.add(**{"limits": Limits(close_timeout=2.0, ping_interval=None), **options})
        await made.meet()
        yield made
        await until(made.is_quiet, limit=12)
