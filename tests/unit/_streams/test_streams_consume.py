"""Reading a stream: conversion, bare loops, two readers, and cancelling a read."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import stream_sides
from core_driver import Driven, messages, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import Both, Feed, collect, done, emptied, item
from stream_driver import both as both

from wsrpc import BadResult

pytestmark = pytest.mark.usefixtures("nothing_left")


@dataclass
class Point:
    x: int
    y: int


async def test_items_are_converted(both: Both) -> None:
    left, right = both

    async def points(n: int) -> AsyncIterator[Point]:
        for number in range(n):
            yield Point(number, -number)

    right.on("points", points)
    async with left.stream("points", 3, returns=Point) as stream:
        assert await collect(stream) == [Point(0, 0), Point(1, -1), Point(2, -2)]


async def test_one_item_that_does_not_fit_is_a_bad_result_and_the_rest_goes_on(both: Both) -> None:
    left, right = both

    async def mixed() -> AsyncIterator[Any]:
        for value in (1, "two", 3, None, 5):
            yield value

    right.on("mixed", mixed)
    got: list[Any] = []
    texts: list[str] = []
    async with left.stream("mixed", returns=int) as stream:
        while True:
            try:
                got.append(await anext(stream))
            except BadResult as exc:
                got.append("bad")
                texts.append(str(exc))
            except StopAsyncIteration:
                break
    assert got == [1, "bad", 3, "bad", 5]
    assert all("'mixed'" in text and "int" in text for text in texts)


async def test_an_impossible_type_is_refused_before_anything_is_sent() -> None:
    d = Driven(dialer=True)
    with pytest.raises(TypeError):
        d.peer.stream("s", returns="no type at all")  # type: ignore[arg-type]
    d.expect()


async def test_a_bare_loop_reads_to_the_end_without_a_warning(both: Both, caplog: pytest.LogCaptureFixture) -> None:
    left, right = both
    right.on("feed", Feed(limit=150).__call__)
    got = [number async for number in left.stream("feed")]
    gc.collect(1)
    await turns()
    assert got == list(range(150)) and messages(caplog) == []


async def test_a_bare_loop_that_is_left_stops_the_producer_and_warns_once(
    both: Both, caplog: pytest.LogCaptureFixture
) -> None:
    left, right = both
    feed = Feed()
    right.on("feed", feed.__call__)
    async for number in left.stream("feed"):
        if number == 3:
            break
    await emptied(left, right)
    assert feed.finished.is_set()
    [warning] = messages(caplog)
    assert "'feed'" in warning and "async with" in warning


async def test_one_that_was_closed_or_never_begun_is_not_warned_of(
    both: Both, caplog: pytest.LogCaptureFixture
) -> None:
    left, right = both
    right.on("feed", Feed().__call__)
    stream = left.stream("feed")
    async for _ in stream:
        break
    await stream.aclose()
    never = left.stream("feed")
    del stream, never
    gc.collect(1)
    await emptied(left, right)
    assert messages(caplog) == []


async def test_nothing_is_sent_before_the_first_read() -> None:
    d = Driven(dialer=True)
    stream = d.peer.stream("s")
    assert "not open" in repr(stream)
    await turns()
    d.expect()
    await stream.aclose()
    d.expect()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    d.expect()


async def test_towards_a_plain_producer_start_waits_for_the_first_read() -> None:
    d, stream, h = await stream_sides.reading()
    await turns()
    d.expect()
    reading = start(anext(stream))
    await turns()
    d.expect({"h": h, "a": ["start"]})
    d.feed(item(h, 1))
    assert await reading == 1
    await stream.aclose()
    [abort] = d.take()
    assert abort["h"] == h and abort["_"] == 1
    d.assert_empty()


async def test_two_tasks_that_read_are_one_too_many() -> None:
    d, stream, h = await stream_sides.reading()
    first = start(anext(stream))
    await turns()
    with pytest.raises(RuntimeError, match="two tasks"):
        await anext(stream)
    d.feed(item(h, 1))
    assert await first == 1
    await stream.aclose()


async def test_a_second_reader_does_not_end_the_stream_of_the_first() -> None:
    d, stream, h = await stream_sides.reading()
    first = start(anext(stream))
    await turns()
    second = start(anext(stream))
    d.feed(item(h, 1))  # the second reader's turn comes before the first one's
    await turns()
    d.feed(item(h, 2), done(h))
    await asyncio.wait([first, second])
    got = [task.result() for task in (first, second) if task.exception() is None]
    failed = [task.exception() for task in (first, second) if task.exception() is not None]
    assert all(isinstance(error, RuntimeError) for error in failed)
    assert sorted(got + await collect(stream)) == [1, 2], "no item is lost, and no reader told of an end"


async def test_cancelling_a_read_loses_nothing() -> None:
    d, stream, h = await stream_sides.reading()
    reading = start(anext(stream))
    await turns()
    reading.cancel()
    await turns()
    assert reading.cancelled()
    reading = start(anext(stream))
    await turns()
    d.feed(item(h, 1), item(h, 2))
    reading.cancel()  # in the very turn in which the items arrive
    await turns()
    assert reading.cancelled()
    assert [await anext(stream), await anext(stream)] == [1, 2]
    await stream.aclose()


async def test_cancelling_each_read_at_any_turn_loses_nothing(both: Both) -> None:
    left, right = both
    right.on("feed", Feed(limit=200).__call__)
    got: list[Any] = []
    async with left.stream("feed") as stream:
        patience = 0
        while len(got) < 200:
            reading = start(anext(stream))
            await turns(patience % 5)
            patience += 1
            reading.cancel()
            await asyncio.wait([reading])
            if not reading.cancelled():
                got.append(reading.result())
    assert got == list(range(200))


async def test_cancelling_while_it_is_being_opened_cancels_remotely() -> None:
    d = Driven(dialer=True)
    reading = start(collect(d.peer.stream("s")))
    await turns()
    [request] = d.take()
    reading.cancel("bored")
    await turns()
    assert d.take() == [{"i": request["i"], "x": "bored"}]
    [abort] = await d.fed({"i": request["i"], "h": 1})
    assert abort["h"] == request["i"]
    d.assert_empty()
    assert d.peer.channels == 0
