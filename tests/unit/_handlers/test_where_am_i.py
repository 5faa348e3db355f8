"""Handlers, routers and services find their server, its state and their channel without importing them."""

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
    ConnectionLost,
    Context,
    Handshake,
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
from wsrpc.types import Message, PeerState, RawConnection

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

    @router.on("count")
    def count(ctx: Context) -> int:
        return len(ctx.server.state[DATABASE].rows)

    servers = [Server(limits=LIMITS), Server(limits=LIMITS)]
    for server in servers:
        server.include(router)
        server.state[DATABASE] = Database()
    async with connect(servers[0]) as one, connect(servers[0]) as two, connect(servers[1]) as other:
        heard: asyncio.Queue[str] = asyncio.Queue()
        two.on("said", heard.put_nowait)
        other.on("said", heard.put_nowait)
        assert await one.request("say", "hi") == 2
        assert await heard.get() == "hi" and heard.empty()
        assert (await one.request("count"), await other.request("count")) == (1, 0)


async def test_every_kind_of_code_of_a_connection_finds_its_server() -> None:
    server = Server(limits=LIMITS)
    found: dict[str, Server] = {}

    @server.use
    async def layer(ctx: Context, call_next: Any) -> Any:
        found["middleware"] = ctx.server
        return await call_next(ctx)

    @server.on("open")
    def opened(peer: Peer) -> None:
        found["open"] = peer.server

    @server.on("close")
    def closed(peer: Peer) -> None:
        found["close"] = peer.server

    @server.on("message")
    def observe(peer: Peer, message: Message) -> None:
        found["message"] = peer.server

    @server.on("items")
    async def items(peer: Peer) -> AsyncIterator[int]:
        found["stream"] = peer.server
        yield 1

    @server.on("thread", thread=True)
    def in_a_thread(ctx: Context) -> None:
        found["thread"] = ctx.server

    @server.on("inside")
    async def inside() -> None:
        found["current"] = current_context().server
        assert current_peer().server is server

    @server.on_raw
    def raw(peer: Peer, message: str | bytes) -> None:
        found["raw"] = peer.server

    async def join(peer: Peer, room: str) -> bool:
        found["join"] = peer.server
        return True

    server.on_join(join)
    async with connect(server) as client:
        assert [item async for item in client.stream("items")] == [1]
        for event in ("thread", "inside"):
            await client.request(event)
        await client.of("rooms").request("join", "x")
        await client.send_raw("?")
        await client.request("inside")
    kinds = {"middleware", "open", "close", "message", "stream", "thread", "current", "raw", "join"}
    assert found.keys() == kinds
    assert all(each is server for each in found.values())


async def test_a_client_s_peer_has_none() -> None:
    client = Client()
    with pytest.raises(RuntimeError, match="only a server's peers have one"):
        _ = client.peer.server
    errors: list[str] = []

    @client.on("ask")
    def ask(ctx: Context) -> None:
        try:
            _ = ctx.server
        except RuntimeError as exc:
            errors.append(str(exc))

    server = Server(limits=LIMITS)
    async with connect(server, client=client):
        await server.peers[0].request("ask")
    assert len(errors) == 1
    async with pair() as both:
        for peer in both:
            with pytest.raises(RuntimeError, match="has no server"):
                _ = peer.server


async def test_it_is_still_known_when_the_connection_is_over() -> None:
    server = Server(limits=LIMITS)
    async with connect(server):
        [peer] = server.peers
    assert not peer.connected and peer.server is server


async def test_state_is_a_mapping_like_that_of_a_peer() -> None:
    server = Server()
    assert type(server.state) is PeerState
    assert not server.state
    server.state[DATABASE] = database = Database()
    assert server.state["database"] is database is server.state.get(DATABASE)
    assert Server().state.get(DATABASE) is None, "each has its own"


# ---------------------------------------------------------------- services


class Chat(Service):
    @wsrpc.method
    async def say(self, text: str) -> int:
        return (await self.channel.emit("said", text)).sent

    @wsrpc.method
    async def shout(self, text: str) -> int:
        assert self.server is self.peer.server
        return (await self.server.emit("said", text.upper())).sent


@pytest.mark.parametrize("channel", [None, "chat"])
async def test_a_service_broadcasts_on_its_channel(channel: str | None) -> None:
    server = Server(limits=LIMITS)
    server.add_service(Chat, channel=channel)
    async with connect(server) as one, connect(server) as two:
        heard: asyncio.Queue[tuple[str | None, str]] = asyncio.Queue()
        two.on("said", lambda text: heard.put_nowait((None, text)))
        two.of("chat").on("said", lambda text: heard.put_nowait(("chat", text)))
        say = one if channel is None else one.of(channel)
        assert await say.request("say", "hi") == 2
        assert await heard.get() == (channel, "hi")
        assert await say.request("shout", "hi") == 2
        assert await heard.get() == (None, "HI")


async def test_one_class_on_several_channels() -> None:
    server = Server(limits=LIMITS)
    for channel in ("a", None, "b"):
        server.add_service(Chat, channel=channel)
    async with connect(server) as client:
        heard: asyncio.Queue[tuple[str | None, str]] = asyncio.Queue()
        client.on("said", lambda text: heard.put_nowait((None, text)))
        for name in ("a", "b"):
            client.of(name).on("said", lambda text, name=name: heard.put_nowait((name, text)))
        for name in ("b", "a"):
            await client.of(name).request("say", "hi")
            assert await heard.get() == (name, "hi")
        await client.request("say", "hi")
        assert await heard.get() == (None, "hi")


async def test_server_and_channel_in_the_hooks_of_a_service() -> None:
    server = Server(limits=LIMITS)
    found: list[tuple[str, bool, Any]] = []

    class Hooked(Service):
        def on_open(self) -> None:
            found.append(("open", self.server is server, self.channel))

        def on_close(self, info: Any) -> None:
            found.append(("close", self.server is server, self.channel))

    server.add_service(Hooked, channel="here")
    async with connect(server):
        pass
    await turns_until(lambda: len(found) == 2)
    assert found == [("open", True, server.of("here")), ("close", True, server.of("here"))]


async def test_a_factory_finds_the_database_but_no_room_yet() -> None:
    server = Server(limits=LIMITS)
    server.state[DATABASE] = database = Database()
    made: list[Database] = []

    class Rows(Service):
        def __init__(self, database: Database) -> None:
            made.append(database)

        @wsrpc.method
        def count(self) -> int:
            return 0

    def make(peer: Peer) -> Rows:
        with pytest.raises(ConnectionLost):
            peer.server.room("early").add(peer)
        return Rows(peer.server.state[DATABASE])

    server.add_service(Rows, make)
    async with connect(server) as client:
        assert await client.request("count") == 0
        assert made == [database] and server.rooms == ()


async def test_raw_connections_have_it_too() -> None:
    server = Server(limits=LIMITS)
    server.state["greeting"] = "hello"

    @server.serve_raw
    async def greet(connection: RawConnection) -> None:
        await connection.send(connection.server.state["greeting"])

    _, accepted = memory_transports()
    connection = await server.accept(accepted)
    assert isinstance(connection, RawConnection) and connection.server is server
    await server.close()


async def test_a_service_that_has_the_whole_connection() -> None:
    server = Server(limits=LIMITS)
    found: list[Any] = []

    class Whole(Service):
        async def serve(self, connection: RawConnection) -> None:
            found.extend([self.server, self.channel])

    server.add_service(Whole)
    _, accepted = memory_transports()
    await server.accept(accepted)
    await turns_until(lambda: not server.raw_connections)
    assert found == [server, server]
    await server.close()


async def test_on_handshake_is_no_peer_and_has_what_the_server_is_closed_over() -> None:
    server = Server(limits=LIMITS)
    server.state["users"] = {"x": "Ada"}

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        handshake.state["user"] = server.state["users"][handshake.query["token"]]

    async with connect(server, path="/?token=x"):
        assert server.peers[0].state["user"] == "Ada"


# ---------------------------------------------------------------- what is kept


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
