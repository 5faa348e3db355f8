"""`Server.stats` and `Peer.stats` of real connections."""

from __future__ import annotations

import pytest
from leftovers import nothing_left as nothing_left
from waiting import until
from websockets.asyncio.client import connect as open_websocket

from wsrpc import Client, Context, Limits, Server
from wsrpc.types import RawConnection

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=60.0)


async def test_messages_and_bytes_are_counted_alike_at_both_ends() -> None:
    server = Server(limits=LIMITS.replace(replay_bytes=0))  # no acknowledgement is on its way
    server.on("echo", lambda value: value)
    async with server.listen() as listener:
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
        await until(lambda: not server.peers)
        over = server.stats()
        assert (over.peers, over.accepted, over.closed) == (0, 1, {1000: 1})
        assert over.messages_in == total.messages_in
        assert over.bytes_in > total.bytes_in  # the Close frame


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
    async with server.listen() as listener:
        for code in (1000, 3000, 4408, 3777, 4999, 4321):
            async with open_websocket(listener.url) as websocket:
                await websocket.close(code)
        for code in (4001, 4001, 4002):
            async with open_websocket(listener.url) as websocket:
                await websocket.send(str(code) if raw else f'{{"a": ["leave", {code}]}}')
                await websocket.wait_closed()
                assert websocket.close_code == code
        await until(lambda: server.stats().peers == 0)
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
        await until(lambda: not server.raw_connections)
        stats = server.stats()
        assert (stats.peers, stats.accepted, stats.active, stats.errors) == (0, 2, 0, 1)
        assert stats.closed == {1000: 1, 1011: 1} and stats.bytes_in > 0 and stats.bytes_out > 0
        assert (stats.messages_in, stats.messages_out) == (2, 1)
