"""What stands ahead of a small answer on a connection that streams fill. In bytes: seconds follow from the network."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from audience import line_of
from core_driver import start, turns
from leftovers import nothing_left as nothing_left

from wsrpc import Limits, Peer
from wsrpc._channels.producer import TOGETHER
from wsrpc.testing import pair

pytestmark = pytest.mark.usefixtures("nothing_left")

KiB = 1024
WINDOW = Limits().stream_window_bytes
SMALLEST = 32 * KiB
"""Bytes of one stream's window, however many streams share the window of the connection."""
ENVELOPE = 100
"""More bytes than the message of an item has beside the item."""


class Streams:
    """Streams from ``right`` to ``left`` that never end, each with a reader that never pauses."""

    def __init__(self, left: Peer, right: Peer, count: int, size: int) -> None:
        self.read = 0
        """Items that were read, of all streams."""
        right.on("fill", self._fill)
        right.on("small", self._small)
        self._size = size
        self._tasks = [start(self._consume(left)) for _ in range(count)]

    async def _fill(self) -> AsyncIterator[bytes]:
        while True:
            yield bytes(self._size)

    @staticmethod
    def _small(n: int) -> int:
        return n

    async def _consume(self, left: Peer) -> None:
        async with left.stream("fill", returns=bytes) as items:
            async for _ in items:
                self.read += 1

    async def until_read(self, items: int) -> None:
        while self.read < items:
            await turns(1)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await turns(20)


@pytest.mark.parametrize("count", [1, 3, 8, 12])
@pytest.mark.parametrize("size", [100, 16 * KiB, 100 * KiB])
async def test_at_most_one_window_for_all_streams_is_ahead_of_an_answer(count: int, size: int) -> None:
    """Where the system's buffers take whatever they are given, and the reader's process stands still."""
    limits = Limits(high_water=64 * 1024 * KiB, hard_cap=64 * 1024 * KiB)
    async with pair(limits=limits) as (left, right):
        streams, line = Streams(left, right, count, size), line_of(right)
        for stop in range(1, 12):
            await streams.until_read(stop * count * 7)
            line.hold()
            await turns(50)
            ahead = line.unsent
            answer = start(left.request("small", stop))
            await turns(20)
            assert line.unsent - ahead < ENVELOPE  # the answer alone: no producer goes on while nothing is read
            line.release()
            assert await answer == stop
            share = max(WINDOW // count, SMALLEST)
            assert 0 < ahead <= count * min(share + size + ENVELOPE, limits.stream_window * (size + ENVELOPE))
        await streams.stop()


@pytest.mark.parametrize("size", [100, 16 * KiB, 100 * KiB])
async def test_an_answer_is_ahead_of_all_items_that_have_not_left_when_there_is_room_again(size: int) -> None:
    """Where the system takes nothing more, a request is begun when there is room, and before any item is made."""
    limits = Limits(stream_window=8192)  # so that the line is full before
    async with pair(limits=limits) as (left, right):
        streams, line = Streams(left, right, 3, size), line_of(right)
        await streams.until_read(10)
        line.hold()
        await turns(100)
        message = max(size, TOGETHER) + ENVELOPE  # small items share one
        assert limits.high_water < line.unsent <= limits.high_water + message
        answers = [start(left.request("small", n)) for n in range(3)]
        await turns(20)
        held, before = line.unsent, streams.read
        line.release()
        assert [await answer for answer in answers] == [0, 1, 2]
        assert (streams.read - before) * size <= held
        await streams.stop()
