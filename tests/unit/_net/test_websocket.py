"""The default transport: dialing, and what is its own. The contract of all transports is in ``tests/adapters``."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import PING, PONG, TEXT, raw_client

from wsrpc import Client, CloseInfo, ConnectionLost, Limits, Server

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0, ping_interval=None)


async def test_an_open_connection_has_no_task() -> None:
    server = Server(limits=LIMITS)
    async with server.listen() as listener:
        before = len(asyncio.all_tasks())
        async with raw_client(listener.port), raw_client(listener.port):
            await turns_until(lambda: len(server.peers) == 2 and len(asyncio.all_tasks()) == before)


async def test_the_library_s_own_log_is_below_ours(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with Server(limits=LIMITS).listen() as listener:
        async with Client(listener.url, limits=LIMITS) as client:
            await client.emit("x")
    assert all(record.name.split(".")[0] in ("wsrpc", "asyncio") for record in caplog.records)


async def test_who_sends_on_and_on_learns_that_nobody_is_there() -> None:
    """The broken socket is told of in a later turn of the loop, which a loop of sends that never wait does not give."""
    server = Server()
    async with server.listen() as listener, Client(listener.url, reconnect=None) as client:
        [peer] = server.peers
        assert client.peer.transport is not None
        client.peer.transport.abort()
        with suppress(ConnectionLost):
            while server.peers:
                await peer.emit("tick", "x" * 1000)


@pytest.mark.parametrize("cut", range(1, 16))
async def test_a_control_frame_that_comes_in_two_pieces_is_taken_whole(cut: int) -> None:
    server = Server(limits=Limits(close_timeout=1.0))
    server.on("echo", lambda value: value)
    async with server.listen() as listener, raw_client(listener.port) as raw:
        # A mask, and under it a payload, that look like the head of a text message.
        ping = b"\x89\x8a" + b"\x81\x85" * 7
        [peer] = server.peers
        before = peer.stats().bytes_in or 0
        await raw.send(ping + ping[:cut])
        await turns_until(lambda: peer.stats().bytes_in == before + len(ping) + cut)
        await raw.send(ping[cut:] + raw.frame(TEXT, '{"i":1,"a":["echo",7]}'))
        answer = await raw.next_of(TEXT)
        assert answer.payload == b'{"i":1,"d":7}'


async def test_who_pings_on_and_on_and_reads_nothing_is_dropped_at_the_hard_cap() -> None:
    server = Server(
        limits=Limits(high_water_bytes=10_000, hard_cap_bytes=1_000_000, ping_interval=None, stall_timeout=60)
    )
    ended: asyncio.Future[CloseInfo] = asyncio.get_running_loop().create_future()
    server.on("close", lambda peer, info: ended.set_result(info))
    async with server.listen() as listener, raw_client(listener.port, receive_buffer=10_000) as raw:
        pings = raw.frame(PING, b"x" * 125) * 1000
        for _ in range(400):  # 50 MB: more than the system takes
            if ended.done():
                break
            with suppress(ConnectionError):
                await raw.send(pings)
        info = await asyncio.wait_for(ended, 5)
        assert (info.code, info.reason) == (4408, "slow consumer")


async def test_a_slow_reader_of_a_large_message_may_ping() -> None:
    server = Server(limits=Limits(high_water_bytes=10_000, hard_cap_bytes=100_000, ping_interval=None))
    async with server.listen() as listener, raw_client(listener.port, receive_buffer=10_000) as raw:
        [peer] = server.peers
        await peer.emit("large", "x" * 20_000_000)
        await turns_until(lambda: peer.transport is not None and peer.transport.unsent > 1_000_000)
        await raw.send(*[raw.frame(PING, b"%d" % number) for number in range(20)])
        assert len((await raw.next_of(TEXT)).payload) > 20_000_000
        assert [(await raw.next_of(PONG)).payload for _ in range(20)] == [b"%d" % number for number in range(20)]
        assert server.peers == (peer,)
