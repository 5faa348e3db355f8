"""Streams that fill a line leave room for small requests and for each other. Counted in bytes, not in seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from leftovers import nothing_left as nothing_left

from wsrpc import Client, Limits, Server

STREAMS = 3
REQUESTS = 200


@pytest.mark.parametrize("size", [100, 16 * 1024, 100 * 1024])
@pytest.mark.parametrize("plain", [False, True])
async def test_a_request_waits_for_little_more_than_what_is_on_its_way(
    size: int, plain: bool, nothing_left: None
) -> None:
    """Also where items are produced without ever waiting for anything but room."""
    limits = Limits()
    read = [0] * STREAMS
    server = Server()

    @server.on("fill")
    async def fill() -> AsyncIterator[bytes]:
        while True:
            yield bytes(size)

    server.on("fill plain", lambda: iter(lambda: bytes(size), None))
    server.on("small", lambda n: n)

    async def consume(index: int, client: Client) -> None:
        async with client.stream("fill plain" if plain else "fill", returns=bytes) as items:
            async for item in items:
                read[index] += len(item)

    async with server.listen("127.0.0.1", 0) as listener, Client(listener.url) as client:
        consumers = [asyncio.ensure_future(consume(index, client)) for index in range(STREAMS)]
        while not all(read):
            await client.request("small", 0)
        before = list(read)
        meanwhile: list[int] = []
        for n in range(REQUESTS):
            total = sum(read)
            assert await client.request("small", n) == n
            meanwhile.append(sum(read) - total)
        moved = [now - then for now, then in zip(read, before, strict=True)]
        for consumer in consumers:
            consumer.cancel()
        await asyncio.wait(consumers)
    # What was on its way, and what took its place until the request had crossed the line.
    assert max(meanwhile) <= 2 * limits.stream_window_bytes + STREAMS * size
    assert min(moved) >= 0.7 * max(moved) > 0
