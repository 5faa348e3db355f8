"""Credit at the consumer: a window is granted, topped up at half, and never exceeded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import Driven, turns
from leftovers import nothing_left as nothing_left
from stream_driver import WINDOW, Feed, agreed, collect, credit, done, item
from stream_driver import both as both
from stream_sides import WINDOW_BYTES, consuming, entered, granted

from wsrpc import Limits, Peer, Stream
from wsrpc._streams.inbox import SMALLEST_SHARE
from wsrpc.codecs import JsonCodec, MsgpackCodec
from wsrpc.testing import pair

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_the_consumer_grants_a_window_before_it_starts() -> None:
    d, _, h = await consuming()
    d.expect(credit(h, WINDOW, SMALLEST_SHARE), {"h": h, "a": ["start"]})
    d.transport.lose()


async def test_it_tops_up_when_half_is_read() -> None:
    d, stream, h = await consuming()
    d.take()
    d.feed(*(item(h, n) for n in range(WINDOW)))
    await turns()
    d.expect()  # nothing was read
    for n in range(WINDOW // 2 - 1):
        assert await anext(stream) == n
    d.expect()
    assert await anext(stream) == WINDOW // 2 - 1
    [(n, size)] = granted(d.take(), h)
    assert n == WINDOW // 2 + WINDOW
    assert size > WINDOW_BYTES
    for n in range(WINDOW // 2, WINDOW):
        assert await anext(stream) == n
    [(n, _)] = granted(d.take(), h)
    assert n == 2 * WINDOW
    await stream.aclose()


async def test_it_tops_up_when_half_of_the_bytes_are_read() -> None:
    d, stream, h = await consuming(Limits(stream_window=8))
    assert d.take()[0] == credit(h, 8, 4096)
    d.feed(*(item(h, "x" * 1100) for _ in range(3)))
    await anext(stream)
    d.expect()
    await anext(stream)
    [(n, size)] = granted(d.take(), h)
    assert n == 2 + 8 and 4096 + 2200 < size < 4096 + 2400
    await stream.aclose()


@pytest.mark.parametrize("end", ["last item", "abort", "left"])
async def test_streams_that_are_over_leave_the_whole_window_to_the_next_one(end: str) -> None:
    d, stream, h = await consuming()
    for _ in range(WINDOW_BYTES // SMALLEST_SHARE):
        if end == "last item":
            d.feed(done(h))
        elif end == "abort":
            d.feed({"h": h, "x": "bye"})
        else:
            await stream.aclose()
        await turns()
        stream, h = await entered(d)
    d.take()
    assert await all_granted(d, stream, h) == WINDOW_BYTES


async def test_streams_that_are_read_share_the_window() -> None:
    d, stream, h = await consuming()
    others = [await entered(d) for _ in range(3)]
    d.take()
    assert await all_granted(d, stream, h) == WINDOW_BYTES // 4
    for other, _ in others:
        await other.aclose()


async def all_granted(d: Driven, stream: Stream[Any], h: int) -> int:
    """Send and read one item that takes half of the first window, and return how many bytes the consumer then grants
    beyond it."""
    payload = JsonCodec().encode(item(h, "x" * (SMALLEST_SHARE // 2)))
    d.raw(payload)
    await anext(stream)
    [(_, size)] = granted(d.take(), h)
    await stream.aclose()
    return size - len(payload)


async def test_the_smallest_window_works() -> None:
    async with pair(limits=Limits(stream_window=1)) as (left, right):
        right.on("feed", Feed(limit=20).__call__)
        async with left.stream("feed") as stream:
            assert await collect(stream) == list(range(20))


async def test_nothing_is_granted_after_the_end_or_after_leaving() -> None:
    d, stream, h = await consuming()
    d.take()
    d.feed(*(item(h, n) for n in range(WINDOW)), done(h))
    assert len(await collect(stream)) == WINDOW
    d.expect()
    d, stream, h = await consuming()
    d.take()
    d.feed(*(item(h, n) for n in range(WINDOW)))
    await stream.aclose()
    assert [message.keys() for message in d.take()] == [{"h", "x", "_"}]


async def test_a_handler_that_reads_what_is_sent_grants_as_well() -> None:
    d = Driven(extensions=True)
    await agreed(d, "credit")
    go = asyncio.Event()

    async def up(chunks: AsyncIterator[int]) -> int:
        await go.wait()
        return sum([chunk async for chunk in chunks])

    d.peer.on("up", up)
    assert await d.fed({"i": 5, "a": ["up"]}) == [{"i": 5, "h": 1}]
    go.set()
    await turns()
    d.expect(credit(5, WINDOW, SMALLEST_SHARE), {"h": 5, "a": ["start"]})
    assert await d.fed(item(5, 1), item(5, 2), done(5, 7)) == [{"i": 7, "d": 3}]
    d.assert_empty()


class Outstanding:
    """A handler that streams, and the most items that were made but not read."""

    def __init__(self, size: int = 0) -> None:
        self.size = size
        self.made = self.read = self.most = 0

    async def items(self) -> AsyncIterator[str]:
        while True:
            self.made += 1
            self.most = max(self.most, self.made - self.read)
            yield "x" * self.size


@pytest.mark.parametrize("size", [0, 1000, 10_000, 300_000])
async def test_never_more_than_a_window_is_on_its_way(both: tuple[Peer, Peer], size: int) -> None:
    left, right = both
    outstanding = Outstanding(size)
    right.on("s", outstanding.items)
    async with left.stream("s") as stream:
        async for _ in stream:
            outstanding.read += 1
            if outstanding.read % 16 == 0:
                await turns(20)
            if outstanding.read == 300:
                break
    in_bytes = WINDOW_BYTES // (size + 1) + 1  # one may overdraw
    assert outstanding.most <= min(WINDOW, in_bytes) + 1, "and one is in the reader's hand"


async def test_credit_works_with_a_codec_of_the_users_own() -> None:
    outstanding = Outstanding()
    async with pair(codec=MsgpackCodec()) as (left, right):
        right.on("s", outstanding.items)
        async with left.stream("s") as stream:
            async for _ in stream:
                outstanding.read += 1
                if outstanding.read == 500:
                    break
        assert outstanding.most <= WINDOW + 1
        assert left.ignored == right.ignored == {}
