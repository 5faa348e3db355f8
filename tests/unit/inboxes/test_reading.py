"""Reading streams and channels: the first read, what each loop gets, the end, and the credit that is granted."""

from __future__ import annotations

import asyncio
import gc
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from core_driver import Driven, messages, start
from leftovers import nothing_left as nothing_left
from peers_inside import unread_at
from stream_driver import CLOSED, WINDOW, Both, Feed, Log, collect, credit, done, emptied, item
from stream_driver import both as both
from stream_sides import WINDOW_BYTES, consuming, entered, granted, opened, reading, requested
from waiting import settled

from wsrpc import BadResult, ChannelClosed, Limits, RemoteError, Stream, StreamOverflow
from wsrpc._core.inboxes.credit import SMALLEST_SHARE
from wsrpc.codecs import JsonCodec
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


async def test_nothing_is_sent_before_the_first_read_and_a_stream_that_was_closed_is_not_entered() -> None:
    d = Driven(dialer=True)
    with pytest.raises(TypeError):
        d.peer.stream("s", returns="no type at all")  # type: ignore[arg-type]
    stream = d.peer.stream("s")
    assert "not open" in repr(stream)
    await settled()
    d.expect()
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    _, read, _ = await reading()
    await read.aclose()
    await read.aclose()
    assert "closed" in repr(read)
    for closed in (stream, read):
        with pytest.raises(ChannelClosed, match=r"'s'.*this stream was closed"):
            await closed.__aenter__()
    d.expect()


async def test_towards_a_plain_producer_start_waits_for_the_first_read() -> None:
    d, stream, h = await reading(timeout=2.0)
    await settled()
    d.expect()
    first = start(anext(stream))
    await settled()
    d.expect({"h": h, "a": ["start"]})
    await asyncio.sleep(3600)  # the timeout is until it is open
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
    await settled()
    with pytest.raises(RuntimeError, match="two tasks"):
        await anext(stream)
    d.feed(item(h, 1))
    assert await first == 1
    last = start(anext(stream))
    await settled()
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await last
    assert await collect(stream) == []


@pytest.mark.parametrize(("how", "warnings"), [("left", 1), ("left, then closed", 0), ("never begun", 0)])
async def test_a_bare_loop_that_is_left_warns_once(both: Both, how: str, warnings: int, caplog: Log) -> None:
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


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ({"x": "full"}, RemoteError),
        ({"x": {"message": "full"}, "_": 1}, RemoteError),
        ({"x": CLOSED, "_": 1}, ChannelClosed),
        ({"a": ["next", {"done": True}]}, None),
    ],
    ids=str,
)
async def test_what_arrived_in_the_read_that_opens_it_is_read_first_and_then_the_end_once(end: Any, error: Any) -> None:
    d = Driven(dialer=True)
    stream = d.peer.stream("s")
    first = start(anext(stream))
    await settled()
    h = d.take()[-1]["i"]
    d.feed({"i": h, "h": 1}, item(h, 0), {"h": str(h), **end})
    assert await first == 0
    with nullcontext() if error is None else pytest.raises(error, match=r"full|before the end of the items"):
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
        await settled()  # all items have arrived, and their end
        assert await collect(channel.items()) == [2, 3, 4]


async def test_a_channel_that_is_read_again_after_its_loop_was_left_does_not_hang(both: Both) -> None:
    left, right = both
    right.on("feed", Feed(limit=1000).__call__)
    async with await left.open_channel("feed") as channel:
        async for number in channel:
            if number == 300:
                break
        gc.collect(1)
        await settled()
        later: list[int] = []
        async with asyncio.timeout(0.1):
            # What had arrived meanwhile went with the first loop. A plain producer is told that nobody takes its items.
            with suppress(ChannelClosed):
                await collect(aiter(channel), later)
        assert later == sorted(later) and (channel.closed or later[-1] == 999)


async def test_a_stream_that_was_left_neither_takes_items_nor_disturbs_the_one_that_reads_on() -> None:
    d = Driven(dialer=True)
    channel = await requested(d)
    first = channel.items()
    waiting = start(anext(first))
    await settled()
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
    await settled()
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


# ---------------------------------------------------------------- the window


async def test_it_tops_up_when_half_is_read() -> None:
    d, stream, h = await consuming()
    d.expect(credit(h, WINDOW, SMALLEST_SHARE), {"h": h, "a": ["start"]})
    await d.fed(*(item(h, n) for n in range(WINDOW)))
    d.expect()  # nothing was read
    for n in range(WINDOW // 2 - 1):
        assert await anext(stream) == n
    d.expect()
    assert await anext(stream) == WINDOW // 2 - 1
    [(n, size)] = granted(d.take(), h)
    assert n == WINDOW // 2 + WINDOW and size > WINDOW_BYTES
    for n in range(WINDOW // 2, WINDOW):
        assert await anext(stream) == n
    [(n, _)] = granted(d.take(), h)
    assert n == 2 * WINDOW
    await stream.aclose()


@pytest.mark.parametrize("together", [False, True])
async def test_it_tops_up_when_half_of_the_bytes_are_read(together: bool) -> None:
    d, stream, h = await consuming(Limits(stream_window=8))
    assert d.take()[0] == credit(h, 8, 4096)
    d.feed(*([batch(h, *["x" * 1100] * 3)] if together else [item(h, "x" * 1100)] * 3))
    await anext(stream)
    d.expect()
    await anext(stream)
    [(n, size)] = granted(d.take(), h)
    assert n == 2 + 8 and 4096 + 2200 < size < 4096 + 2400
    await stream.aclose()


async def all_granted(d: Driven, stream: Stream[Any], h: int) -> int:
    """Send and read one item that takes half of the first window, and return how many bytes the consumer then grants
    beyond it."""
    payload = JsonCodec().encode(item(h, "x" * (SMALLEST_SHARE // 2)))
    d.raw(payload)
    await anext(stream)
    [(_, size)] = granted(d.take(), h)
    await stream.aclose()
    return size - len(payload)


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
        await settled()
        stream, h = await entered(d)
    d.take()
    assert await all_granted(d, stream, h) == WINDOW_BYTES


async def test_streams_that_are_read_share_the_window() -> None:
    d, stream, h = await consuming()
    others = [(await entered(d))[0] for _ in range(3)]
    d.take()
    assert await all_granted(d, stream, h) == WINDOW_BYTES // 4
    for other in others:
        await other.aclose()


async def test_streams_that_begin_take_back_nothing_that_was_granted() -> None:
    d, stream, h = await consuming()
    text = "x" * (SMALLEST_SHARE // 2)
    await d.fed(item(h, text))
    assert await anext(stream) == text
    [(_, size)] = granted(d.take(), h)
    others = [(await entered(d))[0] for _ in range(7)]
    d.take()
    await d.fed(*[item(h, text)] * (size // (len(text) + 100) - 1))
    for _ in range(size // (len(text) + 100) - 1):
        assert await anext(stream) == text
    assert min(total for _, total in granted(d.take(), h)) >= size
    for each in (stream, *others):
        await each.aclose()


@pytest.mark.parametrize("end", ["the end", "leaving"])
async def test_nothing_is_granted_after_the_end_or_after_leaving(end: str) -> None:
    d, stream, h = await consuming()
    d.take()
    d.feed(*(item(h, n) for n in range(WINDOW)), *([done(h)] if end == "the end" else []))
    if end == "the end":
        assert len(await collect(stream)) == WINDOW
    await stream.aclose()
    assert [message.keys() for message in d.take()] == ([] if end == "the end" else [{"h", "x", "_"}])


# ---------------------------------------------------------------- several items in a message


def batch(h: int, *values: Any) -> dict[str, Any]:
    return {"h": h, "a": ["next", list(values)]}


@pytest.mark.parametrize("unread_bytes", [Limits().unread_bytes, 1], ids=["decoded", "encoded"])
@pytest.mark.parametrize(
    "batches",
    [[[]], [[None, {"value": 1}, [1], "x"]], [[*range(100)], [*range(100)]]],
    ids=lambda batches: str([len(each) for each in batches]),
)
async def test_a_batch_is_read_like_its_items(batches: list[list[Any]], unread_bytes: int) -> None:
    d, stream, h = await consuming(Limits(unread_bytes=unread_bytes))
    await d.fed(*(batch(h, *each) for each in batches), done(h))
    assert await collect(stream) == [value for each in batches for value in each]
    assert unread_at(d.peer) == 0
    await emptied(d.peer)


@pytest.mark.parametrize("unread_bytes", [Limits().unread_bytes, 1], ids=["decoded", "encoded"])
async def test_an_array_in_a_request_is_one_item(unread_bytes: int) -> None:
    d, stream, h = await consuming(Limits(unread_bytes=unread_bytes))
    await d.fed({**batch(h, 1, 2, 3), "i": 7}, item(h, 4), done(h))
    assert await collect(stream) == [None, 4], "it has no value, as any item that is no object"
    assert unread_at(d.peer) == 0
    await emptied(d.peer)


@pytest.mark.parametrize(("first", "then"), [([1, 2], [3, 4, 5]), (["x" * 5000], [1, 2, 3])], ids=["items", "bytes"])
async def test_more_than_was_granted_ends_the_stream(first: list[Any], then: list[Any]) -> None:
    d, stream, h = await consuming(Limits(stream_window=4))
    d.feed(batch(h, *first), batch(h, *then))
    got: list[Any] = []
    with pytest.raises(StreamOverflow, match="3 items arrived in one message"):
        await collect(stream, got)
    assert got == first
    await emptied(d.peer)
