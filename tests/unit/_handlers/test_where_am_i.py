"""Handlers, routers and services find their call, server, its state and their channel without importing them."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

import wsrpc
from wsrpc import (
    Client,
    Context,
    Key,
    Limits,
    Peer,
    Router,
    Server,
    Service,
    current_context,
    current_peer,
)
from wsrpc.testing import connect, memory_transports, pair
from wsrpc.types import PeerState, RawConnection

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)


class Database:
    def __init__(self) -> None:
        self.rows: list[str] = []


DATABASE = Key[Database]("database")


async def test_a_router_broadcasts_and_reaches_the_database_without_a_global() -> None:
    router = Router()

    @router.on("say")
    async def say(peer: Peer, text: str) -> int:
        peer.server.state[DATABASE].rows.append(text)
        return (await peer.server.emit("said", text)).sent

    router.on("count", lambda: len(current_context().server.state[DATABASE].rows))
    servers = [Server(limits=LIMITS), Server(limits=LIMITS)]
    for server in servers:
        server.include(router)
        assert type(server.state) is PeerState and not server.state, "each has its own"
        server.state[DATABASE] = database = Database()
        assert server.state["database"] is database is server.state.get(DATABASE)
    async with connect(servers[0]) as one, connect(servers[0]), connect(servers[1]) as other:
        assert await one.request("say", "hi") == 2
        assert (await one.request("count"), await other.request("count")) == (1, 0)


async def test_every_kind_of_code_of_a_connection_finds_its_server() -> None:
    server = Server(limits=LIMITS)
    found: dict[str, Server] = {}

    def note(kind: str) -> Any:
        def handler(peer: Peer, *_: object) -> None:
            assert current_peer() is peer
            found[kind] = peer.server

        return handler

    @server.use
    async def layer(ctx: Context, call_next: Any) -> Any:
        found["middleware"] = ctx.server
        return await call_next(ctx)

    @server.on("items")
    async def items(peer: Peer) -> AsyncIterator[int]:
        found["stream"] = peer.server
        yield 1

    @server.on("inside")
    async def inside() -> None:
        found["current"] = current_context().server
        assert current_peer().server is server

    async def join(peer: Peer, room: str) -> bool:
        found["join"] = peer.server
        return True

    for event in ("open", "close", "message"):
        server.on(event, note(event))
    server.on("thread", note("thread"), thread=True)
    server.on_raw(note("raw"))
    server.on_join(join)
    async with connect(server) as client:
        [peer] = server.peers
        assert [item async for item in client.stream("items")] == [1]
        await client.request("thread")
        await client.of("rooms").request("join", "x")
        await client.send_raw("?")
        await client.request("inside")
    kinds = ("current", "middleware", "open", "message", "thread", "stream", "join", "raw", "close")
    assert found == dict.fromkeys(kinds, server)
    assert not peer.connected and peer.server is server, "it is still known when the connection is over"


async def test_a_client_s_peer_has_none() -> None:
    with pytest.raises(RuntimeError, match="only a server's peers have one"):
        _ = Client().peer.server
    async with pair() as both:
        for peer in both:
            with pytest.raises(RuntimeError, match="has no server"):
                _ = peer.server


# ---------------------------------------------------------------- services


class Chat(Service):
    @wsrpc.method
    async def say(self, text: str) -> int:
        return (await self.channel.emit("said", text)).sent

    @wsrpc.method
    async def shout(self, text: str) -> int:
        assert self.server is self.peer.server
        return (await self.server.emit("said", text.upper())).sent


async def test_a_service_broadcasts_on_its_channel() -> None:
    server = Server(limits=LIMITS)
    heard: asyncio.Queue[tuple[str | None, str]] = asyncio.Queue()
    server.add_service(Chat)
    server.add_service(Chat, channel="a")
    async with connect(server) as client:
        client.on("said", lambda text: heard.put_nowait((None, text)))
        client.of("a").on("said", lambda text: heard.put_nowait(("a", text)))
        for caller, channel in ((client, None), (client.of("a"), "a")):
            assert await caller.request("say", "hi") == await caller.request("shout", "hi") == 1
            assert [await heard.get(), await heard.get()] == [(channel, "hi"), (None, "HI")]


async def test_raw_connections_have_it_too() -> None:
    server = Server(limits=LIMITS)
    found: list[Any] = []

    @server.add_service
    class Whole(Service):  # pyright: ignore[reportUnusedClass]
        async def serve(self, connection: RawConnection) -> None:
            found.extend([self.server, self.channel, connection.server])

    connection = await server.accept(memory_transports()[1])
    assert isinstance(connection, RawConnection) and connection.server is server
    await turns_until(lambda: not server.raw_connections)
    assert found == [server] * 3
    await server.close()


async def test_nobody_keeps_a_server_that_is_closed() -> None:
    servers: weakref.WeakSet[Server] = weakref.WeakSet()
    peers: weakref.WeakSet[Peer] = weakref.WeakSet()
    kept: list[Peer] = []

    async def serve() -> None:
        server = Server(limits=LIMITS)
        server.add_service(Chat)
        servers.add(server)
        async with connect(server):
            peers.update(server.peers)
            kept.extend(server.peers)
        await server.close()

    await serve()
    gc.collect()
    assert len(servers) == len(peers) == 1, "a peer that somebody keeps knows its server"
    kept.clear()
    for _ in range(3):
        await asyncio.sleep(0)
        gc.collect()
    assert not servers and not peers
