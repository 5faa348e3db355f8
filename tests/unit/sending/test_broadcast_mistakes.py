"""Emitting to many: what would reach the wrong ones, and what nobody could mean."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from core_driver import start, turns
from leftovers import nothing_left as nothing_left

from wsrpc import Server
from wsrpc.testing import ScriptedTransport, connect

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_a_raw_message_is_not_sent_where_it_would_be_taken_for_the_protocol() -> None:
    server = Server()
    await server.accept(plain := ScriptedTransport())
    room = server.room("lobby")
    room.add(server.peers[0])
    for target in (server, room):
        for data in ('{"a":["forged",1]}', msgspec.msgpack.encode({"a": ["forged", 1]})):
            with pytest.raises(ValueError, match=r"^the members use the wsrpc protocol, .*: use emit$"):
                await target.send_raw(data)
        with pytest.raises(ValueError, match=r": use emit$"):
            await target.send_json({"a": ["forged", 1]})
    plain.expect()
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
