"""What operators see: `Server.stats` and `Peer.stats`."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from websockets.asyncio.client import connect as open_websocket

from wsrpc import Client, Context, Limits, RemoteError, Server
from wsrpc.testing import connect, memory_transports
from wsrpc.types import RawConnection

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)
PATIENCE = 8


async def test_messages_and_bytes_are_counted_alike_at_both_ends() -> None:
    server = Server(limits=LIMITS.replace(replay_bytes=0))  # no acknowledgement is on its way
    server.on("echo", lambda value: value)
    async with asyncio.timeout(PATIENCE), server.listen() as listener:
        async with Client(listener.url, limits=LIMITS) as client:
            for n in range(5):
                assert await client.request("echo", "x" * n) == "x" * n
            assert await client.request("echo", "y" * 200_000) == "y" * 200_000
            ours, [theirs] = client.peer.stats(), [peer.stats() for peer in server.peers]
            assert (ours.messages_out, ours.messages_in) == (theirs.messages_in, theirs.messages_out)
            assert ours.messages_out is not None and ours.messages_out >= 6
            assert ours.bytes_out is not None and ours.bytes_out >= 200_000
            # The opening handshake is written by other means.
            assert theirs.bytes_in is not None and theirs.bytes_in >= ours.bytes_out > 0
            assert ours.uptime > 0 and theirs.uptime > 0
            total = server.stats()
            assert (total.messages_in, total.bytes_in) == (theirs.messages_in, theirs.bytes_in)
            assert (total.peers, total.accepted, total.closed) == (1, 1, {})
        await turns_until(lambda: not server.peers)
        over = server.stats()
        assert (over.peers, over.accepted, over.closed) == (0, 1, {1000: 1})
        assert over.messages_in == total.messages_in
        assert over.bytes_in > total.bytes_in  # the Close frame


async def test_failed_handlers_and_what_is_ignored_stay_in_the_totals() -> None:
    server = Server(limits=LIMITS)
    server.on("fail", lambda: 1 / 0)
    server.on("close", lambda: 1 / 0)
    async with asyncio.timeout(PATIENCE):
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
        await turns_until(lambda: not server.peers)
        stats = server.stats()
        assert (stats.errors, stats.ignored) == (4, {"unknown event": 2})
        assert stats.misfits == {"station/1": 2, "unknown": 2}
        assert (stats.accepted, stats.messages_in) == (2, 0)
        await server.close()


async def test_a_sum_over_many_peers_has_pauses_and_counts_each_peer_once() -> None:
    server, others = Server(limits=Limits(close_timeout=0.01)), 1500
    assert server.collect_stats().result(0).peers == 0, "there is no event loop to wait for"
    for _ in range(others):
        await server.accept(memory_transports()[0])
    async with asyncio.timeout(PATIENCE), connect(server) as client:
        await client.emit("nobody handles this")
        last = server.peers[-1]
        await turns_until(lambda: last.ignored)
        server.room("lobby").add(last)
        future = server.collect_stats()
        closing = asyncio.create_task(last.close())
        await turns(5)
        assert last not in server.peers and not future.done(), "others run meanwhile"
        stats = await asyncio.wrap_future(future)
        assert (stats.peers, stats.rooms, stats.ignored, stats.closed) == (others + 1, 1, {"unknown event": 1}, {})
        await closing
        stats = await asyncio.to_thread(lambda: server.collect_stats().result(PATIENCE))
        assert (stats.peers, stats.ignored, stats.closed) == (others, {"unknown event": 1}, {1000: 1})
        assert stats == msgspec.structs.replace(server.stats(), uptime=stats.uptime)
    await server.close()


@pytest.mark.parametrize("raw", [False, True])
async def test_codes_that_clients_choose_are_counted_together(raw: bool) -> None:
    """A client made 2,000 entries, which were as many metrics."""
    server = Server(limits=LIMITS)

    async def leave(ctx: Context, code: int) -> None:
        await ctx.peer.close(code)

    async def serve(connection: RawConnection) -> None:
        async for message in connection:
            await connection.close(int(message))

    if raw:
        server.serve_raw(serve)
    else:
        server.on("leave", leave)
    async with asyncio.timeout(PATIENCE), server.listen() as listener:
        for code in (1000, 3000, 4408, 3777, 4999, 4321):
            async with open_websocket(listener.url) as websocket:
                await websocket.close(code)
        for code in (4001, 4001, 4002):
            async with open_websocket(listener.url) as websocket:
                await websocket.send(str(code) if raw else f'{{"a": ["leave", {code}]}}')
                await websocket.wait_closed()
                assert websocket.close_code == code
        await turns_until(lambda: server.stats().peers == 0)
        assert server.stats().closed == {1000: 1, 3000: 1, 4408: 1, 0: 3, 4001: 2, 4002: 1}


async def test_raw_connections_count() -> None:
    server = Server()

    @server.serve_raw
    async def echo(connection: RawConnection) -> None:
        async for message in connection:
            if message == "fail":
                raise ValueError
            await connection.send(message)

    async with server.listen() as listener:
        async with open_websocket(listener.url) as one, open_websocket(listener.url) as other:
            await one.send("hello")
            assert await one.recv() == "hello"
            stats = server.stats()
            assert (stats.peers, stats.accepted, stats.active, stats.closed) == (2, 2, 2, {})
            await other.send("fail")
            await other.wait_closed()
        await turns_until(lambda: not server.raw_connections)
        stats = server.stats()
        assert (stats.peers, stats.accepted, stats.active, stats.errors) == (0, 2, 0, 1)
        assert stats.closed == {1000: 1, 1011: 1} and stats.bytes_in > 0 and stats.bytes_out > 0
        assert (stats.messages_in, stats.messages_out) == (2, 1)
