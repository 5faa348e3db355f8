"""One connection that sends on and on does not keep the event loop to itself."""

from __future__ import annotations

import asyncio

import pytest
from core_driver import start
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import TEXT, raw_client

from wsrpc import Client, Limits, Server
from wsrpc._connection import READ

pytestmark = pytest.mark.usefixtures("nothing_left")

EVENTS = 40_000


async def test_others_have_their_turn_after_a_bounded_number_of_messages() -> None:
    server = Server(limits=Limits(close_timeout=2.0))
    seen = most = 0

    @server.on("n")
    def count() -> None:
        nonlocal seen
        seen += 1

    async def watch() -> None:
        nonlocal most
        while seen < EVENTS:
            before = seen
            await asyncio.sleep(0)
            most = max(most, seen - before)

    async with server.listen() as listener, raw_client(listener.port) as raw:
        frame = raw.frame(TEXT, '{"a":["n"]}')
        watching = start(watch())
        await raw.send(frame * EVENTS)
        await turns_until(lambda: watching.done())
        await watching
    assert 1 < most <= READ // len(frame) + 1


@pytest.mark.parametrize("size", [READ - 20, READ, 3 * READ, 1024 * 1024])
async def test_large_messages_among_small_ones_arrive_whole_and_in_order(size: int) -> None:
    server = Server(limits=Limits(close_timeout=2.0))
    lengths: list[int] = []
    server.on("take", lambda text: lengths.append(len(text)))
    server.on("done", lambda: len(lengths))
    async with server.listen() as listener, Client(listener.url) as client:
        for _ in range(4):
            await client.emit("take", "x" * size)
            for number in range(20):
                await client.emit("take", "x" * number)
        assert await client.request("done") == 84
    assert lengths == [size, *range(20)] * 4
