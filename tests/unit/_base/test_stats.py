"""What operators see: `Server.stats` and `Peer.stats`."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from leftovers import nothing_left as nothing_left
from waiting import settled

from wsrpc import Client, RemoteError, Server
from wsrpc.testing import connect, memory_transports

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_failed_handlers_and_what_is_ignored_stay_in_the_totals() -> None:
    server = Server()
    server.on("fail", lambda: 1 / 0)
    server.on("close", lambda: 1 / 0)
    for program in ("station/1", None):
        async with connect(server, client=Client(program=program)) as client:
            await client.emit("fail")
            await client.emit("nobody handles this")
            with pytest.raises(RemoteError):
                await client.request("nobody handles this")  # those are before it
            [peer] = server.peers
            assert (peer.stats().errors, peer.stats().ignored) == (1, {"unknown event": 1})
            assert (peer.stats().program, peer.stats().misfits) == (
                program,
                {"nobody handles this: unknown event": 2},
            )
            assert peer.stats().messages_in is None  # this transport does not count
    await settled()
    stats = server.stats()
    assert (stats.errors, stats.ignored) == (4, {"unknown event": 2})
    assert stats.misfits == {"station/1": 2, "unknown": 2}
    assert (stats.accepted, stats.messages_in) == (2, 0)
    await server.close()


async def test_a_sum_over_many_peers_has_pauses_and_counts_each_peer_once() -> None:
    server, others = Server(), 1500
    assert server.collect_stats().result(0).peers == 0, "there is no event loop to wait for"
    for _ in range(others):
        await server.accept(memory_transports()[0])
    async with connect(server) as client:
        await client.emit("nobody handles this")
        last = server.peers[-1]
        await settled()
        server.room("lobby").add(last)
        future = server.collect_stats()
        closing = asyncio.create_task(last.close())
        for _ in range(5):
            await asyncio.sleep(0)
        assert last not in server.peers and not future.done(), "others run meanwhile"
        stats = await asyncio.wrap_future(future)
        assert (stats.peers, stats.rooms, stats.ignored, stats.closed) == (others + 1, 1, {"unknown event": 1}, {})
        await closing
        stats = await asyncio.wrap_future(server.collect_stats())
        assert (stats.peers, stats.ignored, stats.closed) == (others, {"unknown event": 1}, {1000: 1})
        assert stats == msgspec.structs.replace(server.stats(), uptime=stats.uptime)
    await server.close()
