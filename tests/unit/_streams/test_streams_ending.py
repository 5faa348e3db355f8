"""How reading a stream ends: aclose, the end, errors, timeouts and drops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import stream_sides
from core_driver import Driven, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import Both, Feed, Source, collect, emptied, item
from stream_driver import both as both

from wsrpc import (
    BadArguments,
    BadResult,
    CallNext,
    ChannelClosed,
    ConnectionLost,
    Context,
    Limits,
    RemoteError,
    RequestTimeout,
    Server,
    UnknownEvent,
)
from wsrpc.testing import connect, pair

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_aclose_is_idempotent_and_reading_goes_no_further(both: Both) -> None:
    left, right = both
    feed = Feed()
    right.on("feed", feed.__call__)
    async with left.stream("feed") as stream:
        assert await anext(stream) == 0
        await stream.aclose()
        await stream.aclose()
        for _ in range(2):
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
    await stream.aclose()
    assert "over" in repr(stream) or "closed" in repr(stream)


async def test_aclose_ends_a_read_that_waits(both: Both) -> None:
    left, right = both
    right.on("feed", Feed(gate=0).__call__)
    stream = left.stream("feed")
    reading = start(anext(stream))
    await turns(30)
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await reading


async def test_aclose_while_it_is_being_opened_leaves_nothing(both: Both) -> None:
    left, right = both
    feed = Feed()
    right.on("feed", feed.__call__)
    stream = left.stream("feed")
    reading = start(collect(stream))
    await turns(1)
    await stream.aclose()
    await asyncio.wait_for(asyncio.wait([reading]), 5)
    assert reading.exception() is None and reading.result() == []


async def test_a_closed_stream_cannot_be_entered(both: Both) -> None:
    left, right = both
    right.on("feed", Feed().__call__)
    stream = left.stream("feed")
    await stream.aclose()
    with pytest.raises(ChannelClosed, match=r"'feed'.*before it was opened"):
        async with stream:
            raise AssertionError("the block is not run")


async def test_reading_after_the_end_and_after_an_error_is_the_end(both: Both) -> None:
    left, right = both
    right.on("ends", Feed(limit=1).__call__)
    right.on("fails", Feed(limit=1, error=ValueError("x")).__call__)
    async with left.stream("ends") as stream:
        assert await collect(stream) == [0]
        assert await collect(stream) == []
    async with left.stream("fails") as stream:
        with pytest.raises(RemoteError):
            await collect(stream)
        assert await collect(stream) == []


async def test_streaming_from_who_does_not_stream(both: Both) -> None:
    left, right = both
    right.on("plain", lambda: 5)
    right.on("fails", Feed.__call__)
    with pytest.raises(BadResult, match="streams"):
        async with left.stream("plain"):
            pass
    with pytest.raises(UnknownEvent):
        async with left.stream("unknown"):
            pass
    with pytest.raises(UnknownEvent):
        await collect(left.stream("unknown"))
    right.on("strict", Feed(limit=1).__call__)
    with pytest.raises(BadArguments):
        await collect(left.stream("strict", "too", "many"))


async def test_the_timeout_is_until_it_is_open() -> None:
    d = Driven(dialer=True)
    opening = start(d.peer.stream("s", timeout=2.0).__aenter__())
    await turns()
    [request] = d.take()
    d.clock.advance(2.0)
    with pytest.raises(RequestTimeout, match="'s'"):
        await opening
    [cancellation] = d.take()
    assert cancellation["i"] == request["i"] and "x" in cancellation
    d.assert_empty()


async def test_items_have_no_timeout() -> None:
    d, stream, h = await stream_sides.reading(timeout=2.0)
    reading = start(anext(stream))
    await turns()
    d.clock.advance(3600)
    await turns()
    d.feed(item(h, 1))
    assert await reading == 1
    await stream.aclose()


async def test_what_arrived_before_a_drop_is_read_before_the_error() -> None:
    d, stream, h = await stream_sides.reading()
    reading = start(anext(stream))
    await turns()
    d.feed(*(item(h, n) for n in range(3)))
    d.transport.lose()
    assert await reading == 0
    got: list[Any] = []
    with pytest.raises(ConnectionLost):
        await collect(stream, got)
    assert got == [1, 2]
    d.assert_empty()


async def test_what_arrived_before_an_abort_is_read_before_the_error() -> None:
    for reason, expected in (({"x": "full"}, "full"), ({"x": {"message": "full"}, "_": 1}, "full")):
        d, stream, h = await stream_sides.reading()
        reading = start(anext(stream))
        await turns()
        d.feed(item(h, 0), item(h, 1), {"h": h, **reason})
        assert await reading == 0
        got: list[Any] = []
        with pytest.raises(RemoteError, match=expected):
            await collect(stream, got)
        assert got == [1]
        d.assert_empty()


@pytest.mark.parametrize("end", ["abort", "drop"])
async def test_one_that_ends_in_the_read_that_opens_it(end: str) -> None:
    d = Driven(dialer=True)
    reading = start(collect(d.peer.stream("s")))
    await turns()
    i = d.take()[-1]["i"]
    d.feed({"i": i, "h": 1}, *([{"h": i, "x": "full"}] if end == "abort" else []))
    if end == "drop":
        d.transport.lose()
    with pytest.raises(RemoteError if end == "abort" else ConnectionLost):
        await asyncio.wait_for(reading, 5)
    d.assert_empty()


async def test_without_a_connection_it_is_a_lost_connection() -> None:
    d = Driven(dialer=True)
    d.transport.lose()
    with pytest.raises(ConnectionLost) as caught:
        await collect(d.peer.stream("s"))
    assert caught.value.outcome == "not_sent"


async def test_closing_the_channel_of_a_stream_that_is_read_by_credit_stops_its_producer() -> None:
    """It would wait for credit for ever, and `close` is all that this side does."""
    async with pair() as (left, right):
        source = Source(10_000)
        right.on("source", source.items)
        channel = await left.open_channel("source")
        async for _ in channel:
            break
        channel.close()
        await turns(20)
        assert source.closed
        await emptied(left, right)


async def test_what_was_cancelled_while_it_opened_is_not_opened_again_by_itself() -> None:
    async with pair() as (left, right):
        asked: list[int] = []

        async def never(n: int) -> AsyncIterator[int]:
            asked.append(n)
            await asyncio.Event().wait()
            return aiter(Source().items())

        right.on("never", never)
        stream = left.stream("never", 7)
        reading = start(anext(stream))
        await turns()
        reading.cancel()
        await turns()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert asked == [7]
        await emptied(left, right)


async def test_a_stream_read_to_its_end_makes_room_while_its_call_still_ends() -> None:
    ending, over = asyncio.Event(), asyncio.Event()
    server = Server(limits=Limits(channels=1))

    @server.use
    async def slow(ctx: Context, call_next: CallNext) -> Any:
        result = await call_next(ctx)
        if list(ctx.args) == [1]:
            await ending.wait()  # a log or a metric
            over.set()
        return result

    @server.on("count")
    async def count(to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    async with connect(server) as client:
        for to in (1, 2, 3):
            async with client.stream("count", to) as numbers:
                assert [number async for number in numbers] == list(range(to))
        ending.set()
        await over.wait()


@pytest.mark.parametrize("left", ["anext", "break"])
async def test_the_next_loop_goes_on_with_the_events_that_the_last_one_left(left: str) -> None:
    d = Driven(dialer=True)
    channel = await stream_sides.requested(d)
    channel.on("other", print)  # somebody listens, so that what comes is delivered at once
    stream = channel.events("line")
    d.feed(*({"h": channel.id, "a": ["line", line]} for line in "abc"))
    if left == "anext":
        assert await anext(stream) == "a"
    else:
        async for line in stream:
            assert line == "a"
            break
    del stream
    lines = channel.events("line")
    assert [await anext(lines), await anext(lines)] == ["b", "c"]
    d.feed({"h": channel.id, "a": ["line", "d"]})
    del lines
    await turns()
    assert d.ignored == {"unread event": 1}, "nobody came to read it"
    channel.close()
