"""Reading a stream: how it begins, who reads, what cancelling a read does, how reading ends, and reading on."""

from __future__ import annotations

import asyncio
import gc
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from core_driver import Driven, messages, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import CLOSED, Both, Feed, collect, done, emptied, item
from stream_driver import both as both
from stream_sides import opened, reading, requested

from wsrpc import BadResult, ChannelClosed, RemoteError
from wsrpc.testing import pair

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_items_are_converted_and_one_that_does_not_fit_is_a_bad_result(both: Both) -> None:
    left, right = both
    right.on("numbers", lambda: iter([1, "two", 3, None]))
    async with await left.open_channel("numbers") as channel:
        for stream in (left.stream("numbers", returns=int), channel.items(returns=int)):
            assert await anext(stream) == 1
            for expected in (3, "the end"):
                with pytest.raises(BadResult, match=r"an item of .*`int`"):
                    await anext(stream)
                assert await anext(stream, "the end") == expected


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
    with pytest.raises(ChannelClosed, match=r"'s'.*this stream was closed"):
        await stream.__aenter__()
    d.expect()


async def test_a_stream_that_was_read_and_closed_is_not_entered_again() -> None:
    _, stream, _ = await reading()
    await stream.aclose()
    assert "closed" in repr(stream)
    with pytest.raises(ChannelClosed, match=r"'s'.*this stream was closed"):
        await stream.__aenter__()


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


# ---------------------------------------------------------------- reads


async def test_one_task_reads_and_another_does_not_end_it() -> None:
    d, stream, h = await reading()
    first = start(anext(stream))
    await turns()
    with pytest.raises(RuntimeError, match="two tasks"):
        await anext(stream)
    d.feed(item(h, 1), done(h))
    assert await first == 1 and await collect(stream) == []


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


@pytest.mark.parametrize(("how", "warnings"), [("left", 1), ("left, then closed", 0), ("never begun", 0)])
async def test_a_bare_loop_that_is_left_stops_the_producer_and_warns_once(
    both: Both, how: str, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    left, right = both
    feed = Feed()
    right.on("feed", feed.__call__)
    stream = left.stream("feed")
    if how != "never begun":
        await anext(stream)
    if how == "left, then closed":
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


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ({"x": "full"}, RemoteError),
        ({"x": {"message": "full"}, "_": 1}, RemoteError),
        ({"x": CLOSED, "_": 1}, None),
        ({"a": ["next", {"done": True}]}, None),
    ],
    ids=str,
)
async def test_what_arrived_in_the_read_that_opens_it_is_read_first_and_then_the_end_once(end: Any, error: Any) -> None:
    d = Driven(dialer=True)
    stream = d.peer.stream("s")
    first = start(anext(stream))
    await turns()
    h = d.take()[-1]["i"]
    d.feed({"i": h, "h": 1}, item(h, 0), {"h": str(h), **end})
    assert await first == 0
    with nullcontext() if error is None else pytest.raises(error, match="full"):
        assert await collect(stream) == []
    assert await collect(stream) == [], "the error is raised once"
    d.assert_empty()


# ---------------------------------------------------------------- reading on


async def test_what_one_loop_has_left_is_for_the_next_although_the_producer_has_finished() -> None:
    async with pair() as (left, right):
        right.on("feed", Feed(limit=5).__call__)
        channel = await left.open_channel("feed")
        async for number in channel.items():
            if number == 1:
                break
        await turns()  # all items have arrived, and their end
        assert await collect(channel.items()) == [2, 3, 4]


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
    d = Driven(dialer=True)
    channel = await requested(d)
    first = channel.items()
    waiting = start(anext(first))
    await turns()
    await first.aclose()
    with pytest.raises(StopAsyncIteration):
        await waiting
    second = channel.items()
    await first.aclose()
    del first
    gc.collect(1)
    with pytest.raises(RuntimeError, match="being read"):
        channel.items()
    d.feed(item(channel.id, 1), done(channel.id))
    assert await collect(second) == [1]
    channel.close()


@pytest.mark.parametrize(("left", "expected"), [("break", "bcd"), ("aclose", "d"), ("the next keeps the newest", "d")])
async def test_the_next_loop_goes_on_with_the_events_that_the_last_one_left(left: str, expected: str) -> None:
    d = Driven(dialer=True)
    channel = await requested(d)
    channel.on("other", print)  # somebody listens, so that what comes is delivered at once
    stream = channel.events("line")
    d.feed(*({"h": channel.id, "a": ["line", line]} for line in "abc"))
    async for line in stream:
        assert line == "a"
        break
    if left == "aclose":
        await stream.aclose()
        assert await collect(stream) == []
    del stream
    lines = channel.events("line", keep="newest" if "newest" in left else "all")
    d.feed({"h": channel.id, "a": ["line", "d"]})
    assert [await anext(lines) for _ in expected] == [*expected]
    d.feed({"h": channel.id, "a": ["line", "e"]})
    del lines
    await turns()
    assert d.ignored == {"unread event": 1}, "nobody came to read it"
    channel.close()


async def test_several_readers_and_a_handler_each_get_every_event(both: Both) -> None:
    ours, theirs = await opened(both)
    readers = [theirs.events("line", returns=list[int]) for _ in range(2)]
    assert await ours.request("line", [0]) is None, "a request with that name is answered as it is read"
    theirs.on("line", lambda line: line.append(0) or len(line))  # is seen here only
    for line in ([1], "not a list", [3]):
        await ours.emit("line", line)
    assert await ours.request("line", [2]) == 2  # a request is not read where it is handled
    for reader in readers:
        assert [await anext(reader) for _ in range(3)] == [[0], [1], [3]]
    assert both[1].ignored["wrong arguments"] >= 1
    await ours.abort()
