"""Emitting to many: what would reach the wrong ones, and what nobody could mean."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from core_driver import start, turns
from leftovers import nothing_left as nothing_left

from wsrpc import Server
from wsrpc.errors import PeerError
from wsrpc.testing import ScriptedTransport, connect

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_binary_messages_are_not_sent_where_they_would_be_taken_for_the_protocol() -> None:
    server = Server()
    server.on("ping", lambda: "pong")
    plain = ScriptedTransport()
    await server.accept(plain)
    async with connect(server) as client:
        client.on("forged", pytest.fail)
        assert await client.request("ping") == "pong"  # MessagePack is agreed on by now
        data = msgspec.msgpack.encode({"a": ["forged", 1]})
        mutable: Any = bytearray(data)
        for report in await server.send_raw(data), await server.send_raw(mutable):
            [error] = report.errors
            assert report.sent == 1 and "binary messages are MessagePack with this peer" in str(error)
            assert type(error) is PeerError and error.peer.connected
        plain.expect(data, data)
        assert (await server.send_raw("text")).sent == 2
        assert await client.request("ping") == "pong"
    await server.close()


async def test_skip_is_a_peer_or_everybody_would_get_it() -> None:
    server = Server()
    async with connect(server):
        [peer] = server.peers
        room = server.room("lobby")
        room.add(peer)
        refused = pytest.raises(TypeError, match=r"^skip= takes a peer, a room, or a list of peers")
        for skip in (peer.id, [peer, peer.id], [None], True, {peer.id: peer}, 5):
            wrong: Any = skip
            for where in (server, server.of("chat"), room, room.of("chat")):
                with refused:
                    where.emit_nowait("x", skip=wrong)
                with refused:
                    await where.emit("x", skip=wrong)
            with refused:
                await room.send_raw("x", skip=wrong)
        assert (await server.emit("x", skip=peer)).sent == 0


def test_a_member_is_a_peer() -> None:
    room = Server().room("lobby")
    wrong: Any = "ada"
    for change in (room.add, room.remove):
        with pytest.raises(ValueError, match=r"^'ada' is not a peer of this room's server$"):
            change(wrong)


async def test_a_cancelled_emit_to_all_has_sent_nothing_and_leaves_nothing() -> None:
    server, line = Server(), ScriptedTransport()
    await server.accept(line)
    line.pause()
    emitting = start(server.emit("e", "cancelled"))
    await turns(3)
    assert not emitting.done()
    emitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emitting
    line.resume()
    await server.emit("e", "after")
    line.expect({"a": ["e", "after"]})
    await server.close()
