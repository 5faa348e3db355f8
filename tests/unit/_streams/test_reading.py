"""Reading a stream: how it begins, who reads, what cancelling a read does, how reading ends, and reading on."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import pytest
from core_driver import Driven, messages, start, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from stream_driver import CLOSED, Both, Feed, collect, done, emptied, item
from stream_driver import both as both
from stream_sides import reading, requested

from wsrpc import BadResult, ChannelClosed, ConnectionLost, RemoteError, RequestTimeout
from wsrpc.testing import pair

pytestmark = pytest.mark.usefixtures("nothing_left")


@dataclass
class Point:
    x: int
    y: int


@pytest.mark.parametrize("opened_by", ["stream", "open_channel"])
async def test_items_are_converted_and_one_that_does_not_fit_is_a_bad_result(both: Both, opened_by: str) -> None:
    left, right = both

    async def points() -> AsyncIterator[Any]:
        for value in (Point(1, -1), "two", Point(3, -3), None):
            yield value

    right.on("points", points)
    channel = await left.open_channel("points") if opened_by == "open_channel" else None
    stream = left.stream("points", returns=Point) if channel is None else channel.items(returns=Point)
    got: list[Any] = []
    while len(got) < 4:
        try:
            got.append(await anext(stream))
        except BadResult as exc:
            got.append(str(exc))
    assert got[::2] == [Point(1, -1), Point(3, -3)] and await collect(stream) == []
    assert all("an item of" in text and "object" in text for text in got[1::2])
    if channel is not None:
        await channel.abort()


# ---------------------------------------------------------------- the beginning


async def test_nothing_is_sent_before_the_first_read() -> None:
    d = Driven(dialer=True)
    with pytest.raises(TypeError):
        d.peer.stream("s", returns="no type at all")  # type: ignore[arg-type]
    stream = d.peer.stream("s")
    assert "not open" in repr(stream)
    await turns()
    d.expect()
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    with pytest.raises(ChannelClosed, match=r"'s'.*before it was opened"):
        await stream.__aenter__()
    d.expect()


async def test_towards_a_plain_producer_start_waits_for_the_first_read() -> None:
    d, stream, h = await reading(timeout=2.0)
    await turns()
    d.expect()
    first = start(anext(stream))
    await turns()
    d.expect({"h": h, "a": ["start"]})
    d.clock.advance(3600)  # the timeout is until it is open
    d.feed(item(h, 1))
    assert await first == 1
    await stream.aclose()
    [abort] = d.take()
    assert abort["h"] == h and abort["_"] == 1
    d.assert_empty()


@pytest.mark.parametrize(
    ("how", "cancellation", "error"),
    [
        ("cancel", "bored", asyncio.CancelledError),
        ("timeout", {"message": "Request aborted"}, RequestTimeout),
        ("aclose", None, None),
    ],
)
async def test_one_that_is_given_up_while_it_is_opened_is_cancelled_and_not_opened_again(
    how: str, cancellation: Any, error: type[BaseException] | None
) -> None:
    d = Driven(dialer=True)
    stream = d.peer.stream("s", timeout=2.0)
    first = start(collect(stream))
    await turns()
    [request] = d.take()
    if how == "cancel":
        first.cancel("bored")
    elif how == "timeout":
        d.clock.advance(2.0)
    else:
        await stream.aclose()
    await turns()
    assert [message["x"] for message in d.take()] == ([] if cancellation is None else [cancellation])
    [abort] = await d.fed({"i": request["i"], "h": 1})
    assert abort["h"] == request["i"]
    with pytest.raises(error) if error is not None else nullcontext():
        assert await first == []
    assert await collect(stream) == [] and d.peer.channels == 0
    d.assert_empty()


# ---------------------------------------------------------------- reads


async def test_one_task_reads_and_another_does_not_end_it() -> None:
    d, stream, h = await reading()
    first = start(anext(stream))
    await turns()
    with pytest.raises(RuntimeError, match="two tasks"):
        await anext(stream)
    second = start(anext(stream))
    d.feed(item(h, 1))  # the second reader's turn comes before the first one's
    await turns()
    d.feed(item(h, 2), done(h))
    await asyncio.wait([first, second])
    got = [task.result() for task in (first, second) if task.exception() is None]
    failed = [task.exception() for task in (first, second) if task.exception() is not None]
    assert all(isinstance(error, RuntimeError) for error in failed)
    assert sorted(got + await collect(stream)) == [1, 2], "no item is lost, and no reader told of an end"


async def test_cancelling_a_read_in_the_turn_in_which_items_arrive_loses_nothing() -> None:
    d, stream, h = await reading()
    read = start(anext(stream))
    await turns()
    d.feed(item(h, 1), item(h, 2))
    read.cancel()
    await turns()
    assert read.cancelled()
    assert [await anext(stream), await anext(stream)] == [1, 2]
    await stream.aclose()


@pytest.mark.parametrize(
    ("how", "warnings"), [("read to the end", 0), ("left", 1), ("left, then closed", 0), ("never begun", 0)]
)
async def test_a_bare_loop_that_is_left_stops_the_producer_and_warns_once(
    both: Both, how: str, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    left, right = both
    feed = Feed(limit=150 if how == "read to the end" else 1_000_000)
    right.on("feed", feed.__call__)
    if how == "read to the end":
        assert await collect(left.stream("feed")) == list(range(150))
    elif how == "left":
        async for number in left.stream("feed"):
            if number == 3:
                break
    else:
        stream = left.stream("feed")
        if how == "left, then closed":
            await anext(stream)
            await stream.aclose()
        del stream
    gc.collect(1)
    await emptied(left, right)
    assert feed.finished.is_set() or how == "never begun"
    texts = messages(caplog)
    assert len(texts) == warnings and all("'feed'" in text and "async with" in text for text in texts)


# ---------------------------------------------------------------- the end


async def test_aclose_is_idempotent_and_ends_a_read_that_waits(both: Both) -> None:
    left, right = both
    right.on("feed", Feed(gate=1).__call__)
    async with left.stream("feed") as stream:
        assert await anext(stream) == 0
        read = start(anext(stream))
        await turns(30)
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await read
        assert await collect(stream) == []
    assert "over" in repr(stream) or "closed" in repr(stream)


@pytest.mark.parametrize("moment", ["in the read that opens it", "later"])
@pytest.mark.parametrize(
    ("end", "error", "text"),
    [
        ("drop", ConnectionLost, "aborted|1006|ended"),
        ({"x": "full"}, RemoteError, "full"),
        ({"x": {"message": "full"}, "_": 1}, RemoteError, "full"),
        ({"x": CLOSED, "_": 1}, None, None),
        ({"a": ["next", {"done": True}]}, None, None),
    ],
    ids=str,
)
async def test_what_arrived_before_the_end_is_read_first_and_then_the_end_once(
    end: Any, error: type[Exception] | None, text: str | None, moment: str
) -> None:
    d = Driven(dialer=True)
    stream = d.peer.stream("s")
    first = start(anext(stream))
    await turns()
    h = d.take()[-1]["i"]
    d.feed({"i": h, "h": 1}, item(h, 0))
    if moment == "later":
        assert await first == 0
        d.feed(item(h, 1))
    if end == "drop":
        d.transport.lose()
    else:
        d.feed({"h": str(h), **end})
    got = [] if moment == "later" else [await first]
    if error is None:
        await collect(stream, got)
    else:
        with pytest.raises(error, match=text):
            await collect(stream, got)
    assert got == ([1] if moment == "later" else [0])
    assert await collect(stream) == [], "the error is raised once"
    d.assert_empty()


# ---------------------------------------------------------------- reading on


async def sends_when_told(send: asyncio.Event, last: int) -> AsyncIterator[int]:
    yield 0
    await send.wait()
    for number in range(last):
        yield number + 1


async def test_what_one_loop_has_left_is_for_the_next_although_the_producer_has_finished() -> None:
    async with pair() as (left, right):
        right.on("feed", Feed(limit=5).__call__)
        channel = await left.open_channel("feed")
        async for number in channel.items():
            if number == 1:
                break
        await turns()  # all items have arrived, and their end
        assert await collect(channel.items()) == [2, 3, 4]
        go = asyncio.Event()
        right.on("waits", lambda: sends_when_told(go, 0))
        async with await left.open_channel("waits") as channel:
            async with channel.items() as items:
                assert await anext(items) == 0
            go.set()
            await turns(20)
            assert await collect(channel.items()) == [], "they end for the next reader, too"


async def test_a_channel_that_is_read_again_after_its_loop_was_left_does_not_hang(both: Both) -> None:
    left, right = both
    right.on("feed", Feed(limit=1000).__call__)
    async with await left.open_channel("feed") as channel:
        async for number in channel:
            if number == 300:
                break
        gc.collect(1)
        await turns()
        later: list[int] = []
        async with asyncio.timeout(5):
            # What had arrived meanwhile went with the first loop. A plain producer is told that nobody takes its items.
            with suppress(ChannelClosed):
                await collect(aiter(channel), later)
        assert later == sorted(later) and (channel.closed or later[-1] == 999)


async def test_a_stream_that_was_left_neither_takes_items_nor_disturbs_the_one_that_reads_on() -> None:
    send = asyncio.Event()
    async with pair() as (left, right):
        right.on("feed", lambda: sends_when_told(send, 3))
        channel = await left.open_channel("feed")
        first = channel.items()
        assert await anext(first) == 0
        waiting = start(anext(first))
        await turns()
        await first.aclose()
        with pytest.raises(StopAsyncIteration):
            await waiting
        second = channel.items()
        await first.aclose()
        del first
        gc.collect(1)
        await turns()
        with pytest.raises(RuntimeError, match="being read"):
            channel.items()
        send.set()
        await turns()
        await right.close()
        await turns_until(lambda: channel.closed)
        assert await collect(second) == [1, 2, 3]


@pytest.mark.parametrize("left", ["anext", "break", "aclose", "anext, and the next keeps the newest"])
async def test_the_next_loop_goes_on_with_the_events_that_the_last_one_left(left: str) -> None:
    d = Driven(dialer=True)
    channel = await requested(d)
    channel.on("other", print)  # somebody listens, so that what comes is delivered at once
    stream = channel.events("line")
    d.feed(*({"h": channel.id, "a": ["line", line]} for line in "abc"))
    if left == "break":
        async for line in stream:
            assert line == "a"
            break
    else:
        assert await anext(stream) == "a"
    if left == "aclose":
        await stream.aclose()
        assert await collect(stream) == []
    del stream
    lines = channel.events("line", keep="newest" if "newest" in left else "all")
    d.feed({"h": channel.id, "a": ["line", "d"]})
    expected = ["b", "c", "d"] if left in ("anext", "break") else ["d"]
    assert [await anext(lines) for _ in expected] == expected
    d.feed({"h": channel.id, "a": ["line", "e"]})
    del lines
    await turns()
    assert d.ignored == {"unread event": 1}, "nobody came to read it"
    channel.close()
