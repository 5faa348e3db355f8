"""Several items of a stream in one message: what travels, and that nothing else can tell it from single items."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from core_driver import Driven, start, turns
from leftovers import nothing_left as nothing_left
from peers_inside import out_of
from stream_driver import agreed, collect, credit, done, emptied, item, welcome

from wsrpc import BadResult, Context, Limits, RemoteError, StreamOverflow
from wsrpc.testing import pair

pytestmark = pytest.mark.usefixtures("nothing_left")

BOTH = ("batches", "credit")
Make = Callable[..., Any]


def batch(h: int, *values: Any) -> dict[str, Any]:
    return {"h": h, "a": ["next", list(values)]}


async def producing(handler: Any, *features: str, h: int = 5) -> Driven:
    """A peer that streams on channel ``h``. The other side has these features, and has sent nothing on the channel."""
    d = Driven(extensions=True)
    await agreed(d, *(features or BOTH))
    d.peer.on("s", handler)
    assert await d.fed({"i": h, "a": ["s"]}) == [{"i": h, "h": 1}]
    return d


async def started(d: Driven, n: int = 1000, size: int = 2**40, h: int = 5) -> list[Any]:
    """Grant credit and start the stream; return what is sent."""
    return await d.fed(credit(h, n, size), {"h": h, "a": ["start"]})


def as_single(sent: list[Any]) -> list[Any]:
    """``sent`` with each message of several items replaced by one message for each item."""
    single: list[Any] = []
    for message in sent:
        a = message.get("a", [])
        if a[:1] == ["next"] and isinstance(a[1], list):
            single += [item(message["h"], value) for value in a[1]]
        else:
            single.append(message)
    return single


# ------------------------------------------------------------ the producer


def numbers(n: int) -> Iterator[int]:
    yield from range(n)


async def numbers_async(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number


class Numbers:
    """An asynchronous iterator that is not a generator, as a `Stream` is that a handler passes on."""

    def __init__(self, n: int) -> None:
        self.rest = iter(range(n))

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        for number in self.rest:
            return number
        raise StopAsyncIteration


@pytest.mark.parametrize(
    "source", [numbers, numbers_async, Numbers, lambda n: iter(list(range(n)))], ids=["def", "async", "class", "iter"]
)
async def test_small_items_travel_together(source: Make) -> None:
    d = await producing(lambda: source(200))
    sent = await started(d)
    await turns(20)
    sent += d.take()
    assert as_single(sent) == [*(item(5, n) for n in range(200)), done(5)]
    assert len(sent) < 10
    assert sent[0] == item(5, 0), "nothing is known about the size of items before the first one"
    d.assert_empty()


@pytest.mark.parametrize("source", [numbers, numbers_async])
async def test_without_the_feature_each_item_is_a_message(source: Make) -> None:
    d = await producing(lambda: source(20), "credit")
    assert await started(d) == [*(item(5, n) for n in range(20)), done(5)]
    d.assert_empty()


@pytest.mark.parametrize("source", [numbers, numbers_async])
async def test_no_more_items_are_made_than_were_granted(source: Make) -> None:
    made: list[int] = []

    def counted() -> Iterator[int]:
        for n in range(100):
            made.append(n)
            yield n

    async def counted_async() -> AsyncIterator[int]:
        for n in counted():
            yield n

    d = await producing(counted if source is numbers else counted_async)
    sent = await started(d, 10)
    assert as_single(sent) == [item(5, n) for n in range(10)]
    assert made == list(range(10))
    assert as_single(await d.fed(credit(5, 25))) == [item(5, n) for n in range(10, 25)]
    assert made == list(range(25))
    d.transport.lose()
    await turns()


async def test_an_item_does_not_wait_for_one_that_is_not_there() -> None:
    gate = asyncio.Event()

    async def slow() -> AsyncIterator[int]:
        for n in range(5):
            yield n
        await gate.wait()
        yield 5
        yield 6

    d = await producing(slow)
    assert as_single(await started(d)) == [item(5, n) for n in range(5)]
    gate.set()
    await turns()
    assert as_single(d.take()) == [item(5, 5), item(5, 6), done(5)]
    d.assert_empty()


async def test_a_waiting_source_is_cancelled_where_it_waits() -> None:
    cancelled: list[BaseException] = []

    async def waiting() -> AsyncIterator[int]:
        yield 0
        yield 1
        yield 2
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            cancelled.append(exc)
            raise

    d = await producing(waiting)
    assert as_single(await started(d)) == [item(5, n) for n in range(3)]
    assert await d.fed({"h": 5, "x": None}) == []
    assert len(cancelled) == 1
    d.assert_empty()


async def test_what_a_source_sends_comes_after_the_items_before_it() -> None:
    async def talks(ctx: Context) -> AsyncIterator[int]:
        for n in range(6):
            if n == 4:
                ctx.peer.emit_nowait("nowait")
            if n == 5:
                await ctx.peer.emit("awaited")
            yield n

    def talks_plainly(ctx: Context) -> Iterator[int]:
        for n in range(6):
            if n >= 4:
                ctx.peer.emit_nowait("nowait" if n == 4 else "awaited")
            yield n

    for source in (talks, talks_plainly):
        d = await producing(source)
        assert as_single(await started(d)) == [
            *(item(5, n) for n in range(4)),
            {"a": ["nowait"]},
            item(5, 4),
            {"a": ["awaited"]},
            item(5, 5),
            done(5),
        ]
        d.assert_empty()


@pytest.mark.parametrize("source", [numbers, numbers_async])
async def test_a_source_that_sends_loses_no_items(source: Make) -> None:
    def talks(ctx: Context) -> Iterator[int]:
        for n in range(200):
            yield n
            if n % 5 == 4:
                ctx.peer.emit_nowait("progress", n)

    async def talks_async(ctx: Context) -> AsyncIterator[int]:
        for n in talks(ctx):
            yield n

    d = await producing(talks if source is numbers else talks_async)
    sent = await started(d)
    await turns(20)
    expected: list[Any] = []
    for n in range(200):
        expected.append(item(5, n))
        if n % 5 == 4:
            expected.append({"a": ["progress", n]})
    assert as_single(sent + d.take()) == [*expected, done(5)]
    d.assert_empty()


@pytest.mark.parametrize("source", [numbers, numbers_async])
async def test_what_a_source_sends_does_not_overtake_items_that_wait_for_credit(source: Make) -> None:
    def growing(ctx: Context) -> Iterator[str]:
        for n in range(20):
            yield "x" * (1 if n < 5 else 1000)
            ctx.peer.emit_nowait("after", n)

    async def growing_async(ctx: Context) -> AsyncIterator[str]:
        for value in growing(ctx):
            yield value

    d = await producing(growing if source is numbers else growing_async)
    size = 3000
    single: list[Any] = []
    sent = await started(d, 1000, size)
    while sent:
        single += as_single(sent)
        size += 3000
        sent = await d.fed(credit(5, 1000, size))
    expected: list[Any] = []
    for n in range(20):
        expected += [item(5, "x" * (1 if n < 5 else 1000)), {"a": ["after", n]}]
    assert single == [*expected, done(5)]
    d.assert_empty()


@pytest.mark.parametrize("source", [numbers, numbers_async])
@pytest.mark.parametrize("features", [BOTH, ("credit",)], ids=["batches", "single"])
async def test_what_a_source_yields_when_it_has_filled_the_connection_is_not_overtaken(
    source: Make, features: tuple[str, ...]
) -> None:
    d: Driven

    def talks(ctx: Context) -> Iterator[int]:
        for n in range(8):
            if n == 4:
                ctx.peer.emit_nowait("ends the batch with the next item")
            if n == 5:
                ctx.peer.emit_nowait("fills it")
                d.transport.pause()
            if n == 7:
                ctx.peer.emit_nowait("after")
            yield n

    async def talks_async(ctx: Context) -> AsyncIterator[int]:
        for n in talks(ctx):
            yield n

    d = await producing(talks if source is numbers else talks_async, *features)
    sent = await started(d)
    d.transport.resume()
    await turns(20)
    assert as_single(sent + d.take()) == [
        *(item(5, n) for n in range(4)),
        {"a": ["ends the batch with the next item"]},
        item(5, 4),
        {"a": ["fills it"]},
        *(item(5, n) for n in range(5, 7)),
        {"a": ["after"]},
        item(5, 7),
        done(5),
    ]
    d.assert_empty()


@pytest.mark.parametrize("features", [BOTH, ("credit",)], ids=["batches", "single"])
@pytest.mark.parametrize("end", ["abort", "close", "close the connection"])
async def test_items_before_an_end_that_the_source_itself_makes_are_sent(end: str, features: tuple[str, ...]) -> None:
    async def ends(ctx: Context) -> AsyncIterator[int]:
        for n in range(20):
            yield n
            if n == 7 and end == "abort":
                await ctx.channel().abort("enough")
            elif n == 7 and end == "close":
                ctx.channel().close("enough")
            elif n == 7:
                await ctx.peer.close()

    d = await producing(ends, *features)
    sent = as_single(await started(d))
    assert sent[:8] == [item(5, n) for n in range(8)]
    assert sent[8:] == ([{"h": 5, "x": "enough"}] if end == "abort" else [])
    assert d.close_code == (1000 if end == "close the connection" else None)
    d.transport.lose()
    await turns()
    d.assert_empty()


async def test_items_before_the_source_closes_its_channel_are_sent_by_a_plain_generator_too() -> None:
    def ends(ctx: Context) -> Iterator[int]:
        for n in range(20):
            yield n
            if n == 7:
                ctx.channel().close("enough")

    d = await producing(ends)
    assert as_single(await started(d)) == [item(5, n) for n in range(8)]
    d.assert_empty()


async def test_items_before_the_source_binds_another_connection_are_sent_on_this_one() -> None:
    before: Any = None

    async def binds(ctx: Context) -> AsyncIterator[int]:
        nonlocal before
        for n in range(20):
            yield n
            if n == 7:
                before = d.transport
                d.rebind()

    d = await producing(binds)
    await started(d)
    assert as_single(before.take()) == [item(5, n) for n in range(8)]
    assert [message for message in d.take() if "h" in message] == []
    d.assert_empty()


async def test_a_slow_readers_broadcasts_that_a_stream_causes_leave_later_as_any_others() -> None:
    d: Driven

    async def causes(ctx: Context) -> AsyncIterator[int]:
        yield 0
        yield 1
        yield 2
        ctx.peer.emit_nowait("fills it")
        d.transport.pause()
        out_of(d.peer).hold_broadcast(b'{"a":["broadcast"]}', True, "drop_newest", None)

    d = await producing(causes)
    assert as_single(await started(d)) == [*(item(5, n) for n in range(3)), {"a": ["fills it"]}]
    d.transport.resume()
    await turns()
    assert d.take() == [{"a": ["broadcast"]}, done(5)]
    assert out_of(d.peer).session.send == d.transport.send
    d.assert_empty()


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_an_error_comes_after_the_items_before_it(kind: str) -> None:
    def fails() -> Iterator[int]:
        yield from range(5)
        raise ValueError("a bug")

    async def fails_async() -> AsyncIterator[int]:
        for n in fails():
            yield n

    d = await producing(fails if kind == "def" else fails_async)
    *items, abort = await started(d)
    assert as_single(items) == [item(5, n) for n in range(5)]
    assert abort.keys() >= {"h", "x"}
    d.assert_empty()


@pytest.mark.parametrize("features", [BOTH, ("credit",)], ids=["batches", "single"])
async def test_an_item_that_cannot_be_encoded_comes_after_those_before_it(features: tuple[str, ...]) -> None:
    def mixed() -> Iterator[Any]:
        yield from range(4)
        yield object()
        yield from range(100)

    d = await producing(mixed, *features)
    *items, abort = await started(d)
    assert as_single(items) == [item(5, n) for n in range(4)]
    assert abort.keys() >= {"h", "x"}
    d.assert_empty()


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_an_item_that_cannot_be_encoded_logs_one_error(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    def mixed() -> Iterator[Any]:
        yield from range(4)
        yield {None: "the size of this is known, although it cannot be sent"}

    async def mixed_async() -> AsyncIterator[Any]:
        for value in mixed():
            yield value

    async with pair() as (left, right):
        right.on("s", mixed if kind == "def" else mixed_async)
        got: list[Any] = []
        with pytest.raises(RemoteError):
            await collect(left.stream("s"), got)
    assert got == [0, 1, 2, 3]
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None and isinstance(record.exc_info[1], TypeError)
    assert record.exc_info[1].__context__ is None


async def test_an_item_that_travels_as_json_changes_no_other_one() -> None:
    values = [b"1", b"2", 2**70, b"3", {"key": b"4"}, b"5", {b"key": 6}, b"7"]
    async with pair() as (left, right):
        right.on("s", lambda: iter(values))
        got: list[Any] = []
        await collect(left.stream("s"), got)
    assert got == [b"1", b"2", 2**70, b"3", {"key": b"4"}, b"5", {"a2V5": 6}, b"7"]


async def test_large_items_travel_alone() -> None:
    d = await producing(lambda: iter(["x" * 5000] * 4))
    assert await started(d) == [*[item(5, "x" * 5000)] * 4, done(5)]
    d.assert_empty()


async def test_items_that_grow_keep_to_the_bytes() -> None:
    made: list[int] = []

    def growing() -> Iterator[str]:
        for n in range(50):
            made.append(n)
            yield "x" * (1 if n < 5 else 1000)

    d = await producing(growing)
    size = 3000
    sent = await started(d, 1000, size)
    single = as_single(sent)
    assert single == [item(5, "x" * (1 if n < 5 else 1000)) for n in range(len(single))]
    assert len(single) < 9, "some items wait for credit, although they are made"
    assert len(made) <= 64
    while len(made) < 50 or sent:
        size += 3000
        sent = await d.fed(credit(5, 1000, size))
        single += as_single(sent)
    assert single == [*(item(5, "x" * (1 if n < 5 else 1000)) for n in range(50)), done(5)]
    d.assert_empty()


async def test_no_item_that_has_grown_is_made_before_there_is_room_for_it() -> None:
    made, timeouts = 0, 0

    async def growing() -> AsyncIterator[str]:
        nonlocal made, timeouts
        for n in range(20):
            made += 1
            yield "x" * (1 if n < 5 else 1000)
        try:
            async with asyncio.timeout(0):  # cancels the task, which must be waiting here
                await asyncio.Event().wait()
        except TimeoutError:
            timeouts += 1
        yield "end"

    d = await producing(growing)
    sent = await started(d, size=3000)
    for size in range(6000, 30_000, 3000):
        assert made == min(len(as_single(sent)), 20)
        sent += await d.fed(credit(5, 1000, size))
    await turns(20)
    sent += d.take()
    assert timeouts == 1
    assert [message["a"][1].get("value", "")[-3:] for message in as_single(sent)[-2:]] == ["end", ""]
    d.assert_empty()


async def test_a_source_that_waits_behind_items_that_wait_is_closed_with_its_channel() -> None:
    closed: list[str] = []

    async def growing() -> AsyncIterator[str]:
        try:
            for n in range(20):
                yield "x" * (1 if n < 5 else 1000)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            closed.append("closed")

    d = await producing(growing)
    await started(d, 1000, 3000)
    assert d.peer.channels == 1 and not closed
    await d.fed({"h": 5, "x": None})
    await turns()
    assert closed == ["closed"]
    d.assert_empty()


async def test_what_precedes_is_sent_first_also_within_what_precedes() -> None:
    d = Driven()
    session = out_of(d.peer).session
    kept = [b"10", b"11", b"12"]

    def send_kept() -> None:
        while kept:
            session.send(kept.pop(0), True)

    inner = [b"20"]

    def send_inner() -> None:
        while inner:
            session.send(inner.pop(0), True)

    session.send(b"0", True)
    end_outer = session.precede(send_kept)
    end_inner = session.precede(send_inner)
    session.send(b"1", True)
    session.send(b"2", True)
    kept.append(b"13")
    end_inner()
    session.send(b"3", True)
    kept.append(b"14")
    end_outer()
    session.send(b"4", True)
    assert d.take() == [0, 10, 11, 12, 20, 1, 2, 13, 3, 4]


# ------------------------------------------------------------ the consumer


async def consuming(limits: Limits | None = None) -> tuple[Driven, Any, int]:
    d = Driven(dialer=True, limits=limits, extensions=True)
    await d.fed(welcome(*BOTH))
    stream = d.peer.stream("s")
    entering = start(stream.__aenter__())
    await turns()
    h: int = d.take()[-1]["i"]
    d.feed({"i": h, "h": 1})
    assert await entering is stream
    return d, stream, h


MESSAGES: list[list[list[Any]]] = [
    [[1, 2, 3]],
    [[]],
    [[None, {"value": 1}, [1], "x"]],
    [[1], [2, 3]],
    [list(range(100)), list(range(100))],
]


@pytest.mark.parametrize("batches", MESSAGES, ids=lambda batches: str([len(each) for each in batches]))
@pytest.mark.parametrize("unread_bytes", [None, 1], ids=["decoded", "encoded"])
async def test_a_batch_is_read_like_its_items(batches: list[list[Any]], unread_bytes: int | None) -> None:
    async def read(*messages: dict[str, Any]) -> list[Any]:
        limits = Limits() if unread_bytes is None else Limits(unread_bytes=unread_bytes)
        d, stream, h = await consuming(limits)
        d.feed(*({**message, "h": h} for message in messages), done(h))
        await turns()
        got: list[Any] = []
        await collect(stream, got)
        assert d.peer._life.readers.unread().used == 0
        await emptied(d.peer)
        return got

    together = await read(*(batch(0, *values) for values in batches))
    assert together == await read(*(item(0, value) for values in batches for value in values))


@pytest.mark.parametrize("unread_bytes", [None, 1], ids=["decoded", "encoded"])
async def test_an_array_in_a_request_is_one_item(unread_bytes: int | None) -> None:
    d, stream, h = await consuming(Limits() if unread_bytes is None else Limits(unread_bytes=unread_bytes))
    d.feed({**batch(h, 1, 2, 3), "i": 7}, item(h, 4), done(h))
    await turns()
    got: list[Any] = []
    await collect(stream, got)
    assert got == [None, 4], "it has no value, as any item that is no object"
    assert d.peer._life.readers.unread().used == 0
    await emptied(d.peer)


async def test_more_items_than_were_granted_end_the_stream() -> None:
    d, stream, h = await consuming(Limits(stream_window=4))
    d.feed(batch(h, 1, 2), batch(h, 3, 4, 5))
    got: list[Any] = []
    with pytest.raises(StreamOverflow, match="3 items came at once"):
        await collect(stream, got)
    assert got == [1, 2]
    await emptied(d.peer)


async def test_an_item_of_a_batch_that_does_not_fit_is_skipped_by_itself() -> None:
    async with pair() as (left, right):
        right.on("s", lambda: iter([1, 2, 3, "four", 5, 6]))
        got: list[int] = []
        async with left.stream("s", returns=int) as stream:
            while len(got) < 5:
                try:
                    got.append(await anext(stream))
                except BadResult:
                    got.append(-1)
        assert got == [1, 2, 3, -1, 5]
        await emptied(left, right)


async def test_leaving_in_the_middle_of_a_batch_leaves_nothing() -> None:
    async with pair() as (left, right):
        right.on("s", lambda: numbers(10_000))
        for n in (1, 2, 70, 300):
            async with left.stream("s") as stream:
                assert [await anext(stream) for _ in range(n)] == list(range(n))
            await emptied(left, right)
        assert not left.ignored and not right.ignored


async def test_an_upload_travels_together_too() -> None:
    async def total(values: AsyncIterator[int]) -> int:
        return sum([value async for value in values])

    async with pair() as (left, right):
        right.on("total", total)
        assert await left.request("total", send=numbers(1000)) == sum(range(1000))
        assert await left.request("total", send=numbers_async(1000)) == sum(range(1000))
        await emptied(left, right)
