"""Code of a connection, of every kind, finds its call, its server and its channel without importing them."""

from __future__ import annotations

import gc
import weakref

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left

import wsrpc
from wsrpc import Peer, Server, Service, current_context
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")


class Chat(Service):
    @wsrpc.method
    async def say(self, text: str) -> int:
        return (await self.channel.emit("said", text)).sent

    @wsrpc.method
    async def shout(self, text: str) -> int:
        assert self.server is self.peer.server is current_context().server
        return (await self.server.emit("said", text.upper())).sent


async def test_a_service_broadcasts_on_its_channel() -> None:
    server = Server()
    server.add_service(Chat, channel="a")
    async with connect(server) as client:
        heard, main = client.of("a").events("said"), client.events("said")
        assert await client.of("a").request("say", "hi") == await client.of("a").request("shout", "hi") == 1
        assert [await anext(heard), await anext(main)] == ["hi", "HI"]
        with pytest.raises(RuntimeError, match="only a server's peers have one"):
            _ = client.peer.server
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
    await turns()
    gc.collect()
    assert [each() for each in kept] == [None, None]
