"""Two-way streams: ``stream(..., send=...)``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from stream_driver import Both, Source, collect, emptied
from stream_driver import both as both

from wsrpc import RemoteError, RpcError

pytestmark = pytest.mark.usefixtures("nothing_left")


async def double(chunks: AsyncIterator[int]) -> AsyncIterator[int]:
    async for chunk in chunks:
        yield 2 * chunk


@pytest.mark.parametrize("n", [0, 1, 300])
async def test_both_ways_at_once(both: Both, n: int) -> None:
    left, right = both
    right.on("double", double)
    source = Source(n)
    async with left.stream("double", send=source.items(), returns=int) as doubled:
        assert await collect(doubled) == [2 * number for number in range(n)]
    assert source.closed or n == 0
    assert [number async for number in left.stream("double", send=range(5))] == [0, 2, 4, 6, 8]


async def test_leaving_a_two_way_stream_closes_the_source_and_the_handler(both: Both) -> None:
    left, right = both
    right.on("double", double)
    source = Source()
    async with left.stream("double", send=source.items()) as doubled:
        async for number in doubled:
            if number == 10:
                break
    await emptied(left, right)
    assert source.closed


async def test_the_handler_of_a_two_way_stream_may_end_first(both: Both) -> None:
    left, right = both

    async def three(chunks: AsyncIterator[int]) -> AsyncIterator[int]:
        for _ in range(3):
            yield await anext(chunks)

    right.on("three", three)
    for gate in (None, 3):
        source = Source(gate=gate)
        async with left.stream("three", send=source.items()) as items:
            assert await collect(items) == [0, 1, 2]
            await emptied(left, right)
            assert source.closed


async def test_what_the_source_of_a_two_way_stream_raises_is_raised_by_the_stream(both: Both) -> None:
    left, right = both
    right.on("double", double)
    with pytest.raises(ValueError, match="own"):
        async with left.stream("double", send=Source(3, error=ValueError("own")).items()) as doubled:
            await collect(doubled)


async def test_what_the_handler_of_a_two_way_stream_raises_closes_the_source(both: Both) -> None:
    left, right = both

    async def fussy(chunks: AsyncIterator[int]) -> AsyncIterator[int]:
        yield await anext(chunks)
        raise RpcError("enough")

    right.on("fussy", fussy)
    source = Source()
    got: list[Any] = []
    with pytest.raises(RemoteError, match="enough"):
        async with left.stream("fussy", send=source.items()) as items:
            await collect(items, got)
    await emptied(left, right)
    assert got == [0] and source.closed
