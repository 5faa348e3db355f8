"""What stands ahead of a small answer on a connection that streams fill. In bytes: seconds follow from the network."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from audience import line_of
from core_driver import start, turns
from leftovers import nothing_left as nothing_left

from wsrpc import Limits, Peer
from wsrpc.testing import MemoryTransport, pair

pytestmark = pytest.mark.usefixtures("nothing_left")

KiB = 1024
WINDOW = Limits().stream_window_bytes
SMALLEST = 32 * KiB
"""Bytes of one stream's window, however many streams share the window of the connection."""
TOGETHER = 4 * KiB
"""Bytes of small items that one message carries at most."""
ENVELOPE = 100
"""More bytes than the message of an item has beside the item."""


@asynccontextmanager
async def streaming(limits: Limits, count: int, size: int) -> AsyncIterator[tuple[Peer, MemoryTransport, list[int]]]:
    """So many streams that never end, each with a reader that never pauses.

    Gives the peer that reads, the line of the other one, and a list with an entry for each item that was read.
    """
    async with pair(limits=limits) as (left, right):
        read: list[int] = []

        @right.on("fill")
        async def fill() -> AsyncIterator[bytes]:
            while True:
                yield bytes(size)

        async def consume() -> None:
            async with left.stream("fill", returns=bytes) as items:
                async for item in items:
                    read.append(len(item))

        right.on("small", lambda n: n)
        tasks = [start(consume()) for _ in range(count)]
        yield left, line_of(right), read
        for task in tasks:
            task.cancel()
        await turns(20)


@pytest.mark.parametrize("count", [1, 12])
@pytest.mark.parametrize("size", [100, 100 * KiB])
async def test_at_most_one_window_for_all_streams_is_ahead_of_an_answer(count: int, size: int) -> None:
    """Where the system's buffers take whatever they are given, and the reader's process stands still."""
    limits = Limits(high_water=64 * 1024 * KiB, hard_cap=64 * 1024 * KiB)
    share = max(WINDOW // count, SMALLEST)
    async with streaming(limits, count, size) as (left, line, read):
        for stop in range(1, 12):
            while len(read) < stop * count * 7:
                await turns(1)
            line.hold()
            await turns(50)
            ahead = line.unsent
            answer = start(left.request("small", stop))
            await turns(20)
            assert line.unsent - ahead < ENVELOPE  # the answer alone: no producer goes on while nothing is read
            line.release()
            assert await answer == stop
            assert 0 < ahead <= count * min(share + size + ENVELOPE, limits.stream_window * (size + ENVELOPE))
