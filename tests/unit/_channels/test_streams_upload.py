"""``send=``: what may be sent, that it arrives, and that the handler may stop it."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from stream_driver import WINDOW, Both, Source, collect, emptied, total
from stream_driver import both as both

from wsrpc import BadResult, HandlerFailed, Limits, RemoteError
from wsrpc.testing import pair

pytestmark = pytest.mark.usefixtures("nothing_left")


class Items:
    """An async iterable that is no generator."""

    def __aiter__(self) -> AsyncIterator[int]:
        return Source(10).items()


def generator(n: int) -> Iterator[int]:
    yield from range(n)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Source(10).items(),
        lambda: generator(10),
        lambda: list(range(10)),
        lambda: range(10),
        lambda: tuple(range(10)),
        lambda: map(int, range(10)),
        lambda: iter(range(10)),
        lambda: Items(),
    ],
    ids=["async generator", "generator", "list", "range", "tuple", "map", "iterator", "async iterable"],
)
async def test_whatever_can_be_iterated_is_sent(both: Both, make: Any) -> None:
    left, right = both
    right.on("total", total)
    assert await left.request("total", send=make(), returns=int) == 45


@pytest.mark.parametrize("n", [0, 1, 64, 65, 500])
async def test_all_arrive_in_order_and_once(both: Both, n: int) -> None:
    left, right = both

    async def listing(name: str, chunks: AsyncIterable[int]) -> list[Any]:
        return [name, [chunk async for chunk in chunks]]

    right.on("listing", listing)
    source = Source(n)
    assert await left.request("listing", "a.bin", send=source.items()) == ["a.bin", list(range(n))]
    assert source.closed


async def test_nothing_and_odd_values_are_items(both: Both) -> None:
    left, right = both
    items: list[Any] = [None, 0, "", False, {"done": True}, [], None]

    async def listing(chunks: AsyncIterator[Any]) -> list[Any]:
        return await collect(chunks)

    right.on("listing", listing)
    assert await left.request("listing", send=items) == items


async def test_a_handler_that_reads_a_part_answers_and_closes_the_source(both: Both) -> None:
    left, right = both

    async def first(n: int, chunks: AsyncIterator[int]) -> list[int]:
        got: list[int] = []
        async for chunk in chunks:
            got.append(chunk)
            if len(got) == n:
                return got
        return got

    right.on("first", first)
    for n in (1, 70):
        source = Source()
        assert await left.request("first", n, send=source.items()) == list(range(n))
        assert source.closed and source.made <= n + WINDOW + 1


async def test_it_answers_though_the_source_waits_for_ever(both: Both) -> None:
    left, right = both

    async def first(chunks: AsyncIterator[int]) -> int:
        return await anext(chunks)

    right.on("first", first)
    source = Source(gate=1)
    assert await left.request("first", send=source.items()) == 0
    assert source.closed


async def test_a_handler_that_reads_nothing_answers_and_nothing_was_made(both: Both) -> None:
    left, right = both

    async def none(chunks: AsyncIterator[int]) -> str:
        return "not interested"

    right.on("none", none)
    source = Source()
    assert await left.request("none", send=source.items()) == "not interested"
    assert source.made == 0
    closed: list[bool] = []

    def plain() -> Iterator[int]:
        try:
            yield 1
        finally:
            closed.append(True)

    assert await left.request("none", send=plain()) == "not interested"


async def test_a_result_that_does_not_fit_is_a_bad_result(both: Both) -> None:
    left, right = both
    right.on("total", total)
    with pytest.raises(BadResult, match="'total'"):
        await left.request("total", send=[1], returns=str)


async def test_a_result_that_cannot_be_sent_says_so(both: Both) -> None:
    left, right = both

    async def odd(chunks: AsyncIterator[int]) -> object:
        await collect(chunks)
        return object()

    right.on("odd", odd)
    with pytest.raises(HandlerFailed):
        await left.request("odd", send=[1])


async def test_a_result_that_is_too_big_says_so() -> None:
    async with pair(limits=Limits(message=2000)) as (left, right):

        async def big(chunks: AsyncIterator[int]) -> str:
            await collect(chunks)
            return "x" * 2000

        right.on("big", big)
        with pytest.raises(RemoteError, match="too big"):
            await left.request("big", send=[1])
        await emptied(left, right)


@pytest.mark.parametrize(
    "send",
    ["text", b"bytes", bytearray(b"x"), {"a": 1}, 5, Source.items],
    ids=["text", "bytes", "bytearray", "mapping", "number", "function"],
)
async def test_what_is_not_meant_as_items_is_refused_and_nothing_sent(both: Both, send: Any) -> None:
    left, right = both
    right.on("total", total)
    with pytest.raises(TypeError, match="send="):
        await left.request("total", send=send)
    with pytest.raises(TypeError, match="send="):
        async with left.stream("total", send=send):
            pass
