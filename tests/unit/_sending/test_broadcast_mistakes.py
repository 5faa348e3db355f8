"""Emitting to many: what would reach the wrong ones, and what nobody could mean."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from websockets.asyncio.client import connect as open_websocket

from wsrpc import Client, Limits, Server
from wsrpc.errors import PeerError
from wsrpc.testing import connect, memory_transports

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_binary_messages_are_not_sent_where_they_would_be_taken_for_the_protocol() -> None:
    server = Server()
    server.on("ping", lambda: "pong")
    forged: list[object] = []
    async with server.listen() as listener, Client(listener.url) as client, open_websocket(listener.url) as plain:
        client.on("forged", forged.append)
        assert await client.request("ping") == "pong"  # MessagePack is agreed on by now
        data = msgspec.msgpack.encode({"a": ["forged", 1]})
        mutable: Any = bytearray(data)
        for report in await server.send_raw(data), await server.send_raw(mutable):
            assert report.sent == 1
            [error] = report.errors
            assert "binary messages are MessagePack with this peer" in str(error)
            assert type(error) is PeerError
            assert error.peer.connected
            assert await plain.recv() == data
        assert (await server.send_raw("text")).sent == 2
        assert await client.request("ping") == "pong"
        assert forged == []
        assert len(server.peers) == 2


async def test_skip_is_a_peer_or_everybody_would_get_it() -> None:
    server = Server()
    async with connect(server):
        [peer] = server.peers
        room = server.room("lobby")
        room.add(peer)
        for skip in (peer.id, [peer, peer.id], [None], True, {peer.id: peer}, 5):
            wrong: Any = skip
            for where in (server, server.of("chat"), room, room.of("chat")):
                with pytest.raises(
                    TypeError,
                    match=r"^skip= takes a peer, a room, or a list of peers that do not get the message; got ",
                ):
                    where.emit_nowait("x", skip=wrong)
            for sending in (
                server.emit("x", skip=wrong),
                server.of("chat").emit("x", skip=wrong),
                room.emit("x", skip=wrong),
                room.send_raw("x", skip=wrong),
            ):
                with pytest.raises(
                    TypeError,
                    match=r"^skip= takes a peer, a room, or a list of peers that do not get the message; got ",
                ):
                    await sending
        assert (await server.emit("x", skip=peer)).sent == 0


@pytest.mark.parametrize("wrong", ["ada", None, 5])
async def test_a_member_is_a_peer(wrong: Any) -> None:
    room = Server().room("lobby")
    for change in (room.add, room.discard):
        with pytest.raises(ValueError, match=f"^{wrong!r} is not a peer of this room's server$"):
            change(wrong)


async def test_a_cancelled_emit_to_all_has_sent_nothing_and_leaves_nothing() -> None:
    limits = Limits(high_water=1000)
    server = Server(limits=limits)
    heard: list[Any] = []
    client = Client(limits=limits)
    client.on("e", heard.append)
    async with asyncio.timeout(8):
        ours, theirs = memory_transports(limits=limits)
        await asyncio.gather(server.accept(theirs), client.bind(ours))
        theirs.hold()
        await server.emit("e", "x" * 2000)  # now the line is full
        before = asyncio.all_tasks()
        emitting = asyncio.create_task(server.emit("e", "cancelled"))
        await turns(3)
        assert not emitting.done()
        emitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await emitting
        await turns()
        assert asyncio.all_tasks() == before
        theirs.release()
        await turns()
        await server.emit("e", "after")
        await turns()
        assert heard == ["x" * 2000, "after"]
        await client.close()
        await server.close()
