"""Code of a connection, of every kind, finds its call, its server and its channel without importing them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from waiting import settled

import wsrpc
from wsrpc import Context, Peer, Server, Service, current_peer
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_every_kind_of_code_of_a_connection_finds_its_server() -> None:
    server = Server()
    found: dict[str, Server] = {}

    def note(kind: str) -> Any:
        return lambda *_: found.update({kind: current_peer().server})

    @server.use
    async def layer(ctx: Context, call_next: Any) -> Any:
        found["middleware"] = ctx.server
        return await call_next(ctx)

    @server.on("items")
    async def items(peer: Peer) -> AsyncIterator[int]:
        found["stream"] = peer.server
        yield 1

    for event in ("open", "close", "message"):
        server.on(event, note(event))
    server.on("thread", note("thread"), thread=True)
    server.on_join(lambda *_: note("join")() is None)
    async with connect(server) as client:
        [peer] = server.peers
        assert [item async for item in client.stream("items")] == [1]
        await client.request("thread")
        await client.of("rooms").request("join", "x")
        await client.request("thread")
    assert found == dict.fromkeys(("middleware", "open", "message", "thread", "stream", "join", "close"), server)
    assert not peer.connected and peer.server is server, "it is still known when the connection is over"
    with pytest.raises(RuntimeError, match="only a server's peers have one"):
        _ = client.peer.server


class Chat(Service):
    @wsrpc.method
    async def say(self, text: str) -> int:
        return (await self.channel.emit("said", text)).sent

    @wsrpc.method
    async def shout(self, text: str) -> int:
        assert self.server is self.peer.server
        return (await self.server.emit("said", text.upper())).sent


async def test_a_service_broadcasts_on_its_channel() -> None:
    server = Server()
    server.add_service(Chat, channel="a")
    async with connect(server) as client:
        heard, main = client.of("a").events("said"), client.events("said")
        assert await client.of("a").request("say", "hi") == await client.of("a").request("shout", "hi") == 1
        assert [await anext(heard), await anext(main)] == ["hi", "HI"]
        for events in (heard, main):
            await events.aclose()


async def test_nobody_keeps_a_server_that_is_closed() -> None:
    async def serve() -> tuple[weakref.ref[Server], weakref.ref[Peer]]:
        server = Server()
        server.add_service(Chat)
        async with connect(server):
            [peer] = server.peers
        await server.close()
        return weakref.ref(server), weakref.ref(peer)

    kept = await serve()
    await settled()
    gc.collect()
    assert [each() for each in kept] == [None, None]
