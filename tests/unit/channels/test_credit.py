"""A producer with credit: how far it goes, which items travel together, and what else it sends in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import Any

import pytest
from core_driver import Driven
from leftovers import nothing_left as nothing_left
from stream_driver import Feed, agreed, collect, control, credit, done, item, values
from stream_sides import consuming
from waiting import settled

from wsrpc import Context
from wsrpc.testing import pair

pytestmark = pytest.mark.usefixtures("nothing_left")

PLENTY = 2**40
BATCHES = pytest.mark.parametrize("features", [("batches", "credit"), ("credit",)], ids=["batches", "single"])
KINDS = pytest.mark.parametrize("kind", ["def", "async"])
Make = Callable[[Context], Iterator[Any]]


def of_kind(kind: str, make: Make) -> Callable[..., Any]:
    """A handler that streams what ``make`` yields, as a generator or as an asynchronous one."""

    async def made(ctx: Context) -> AsyncIterator[Any]:
        for value in make(ctx):
            yield value

    return make if kind == "def" else made


async def producing(handler: Any, *features: str) -> Driven:
    """A peer that streams on channel 5. The other side has these features, and has sent nothing on the channel."""
    d = Driven(extensions=True)
    await agreed(d, *(features or ("batches", "credit")))
    d.peer.on("s", handler)
    assert await d.fed({"i": 5, "a": ["s"]}) == [{"i": 5, "h": 1}]
    return d


async def started(d: Driven, n: int = 1000, size: int = PLENTY) -> list[Any]:
    """Grant credit and start the stream; return what is sent."""
    return await d.fed(credit(5, n, size), {"h": 5, "a": ["start"]})


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


async def lost(d: Driven) -> None:
    d.transport.lose()
    await settled()
    d.assert_empty()


# ---------------------------------------------------------------- how far it goes


@pytest.mark.parametrize(
    ("size", "grants"),
    [
        # the size of each item; totals that are granted, in items and bytes; how many items are sent then
        pytest.param(0, [(3, PLENTY, 3), (10, PLENTY, 7), (11, PLENTY, 1)], id="exactly what was granted"),
        pytest.param(
            0,
            [(3, PLENTY, 3), (3, PLENTY, 0), (2, PLENTY, 0), (0, 0, 0), (3, 1, 0), (0, PLENTY, 0), (4, PLENTY, 1)],
            id="totals that are repeated or late change nothing",
        ),
        pytest.param(0, [(0, 100, 0), (2, PLENTY, 2)], id="a grant of no items is credit all the same"),
        pytest.param(0, [(5, 0, 0), (2, PLENTY, 5)], id="a grant of no bytes"),
        pytest.param(1000, [(1000, 2500, 3), (1000, 3000, 0), (1000, 3500, 1)], id="bytes, and one item may overdraw"),
        pytest.param(100_000, [(64, 1000, 1), (65, 2000, 0), (66, 101_000, 1)], id="one huge item overdraws alone"),
    ],
)
@KINDS
@BATCHES
async def test_it_makes_and_sends_what_was_granted(kind: str, size: int, grants: list[Any], features: Any) -> None:
    made: list[int] = []

    def blocks(ctx: Context) -> Iterator[list[Any]]:
        for number in count(1):
            made.append(number)
            yield [number, "x" * size]

    d = await producing(of_kind(kind, blocks), *features)
    assert await d.fed(credit(5, *grants[0][:2])) == [], "credit alone does not start it"
    sent = await d.fed({"h": 5, "a": ["start"]})
    total = 0
    for n, bound, expected in grants:
        sent = sent or await d.fed(credit(5, n, bound))
        total += expected
        assert [value[0] for value in values(as_single(sent))] == made[total - expected :]
        assert len(made) == total, "an item is made when there is room for it"
        sent = []
    await lost(d)


async def test_items_are_events_and_so_is_the_end() -> None:
    d = await producing(Feed(limit=2).__call__)
    assert await started(d) == [item(5, 0), item(5, 1), done(5)]
    assert d.peer.anonymous_channels == d.peer.active == 0
    assert await d.fed(credit(5, 2000)) == [] and d.ignored == {}, "credit that crosses the end is not counted"
    d, _, h = await consuming()
    d.feed(done(h), credit(h, 20))
    assert d.ignored == {"credit for no channel": 1}, "nothing was produced on that one"


async def test_a_producer_that_starts_without_credit_stays_paced() -> None:
    d = Driven(extensions=True)
    await agreed(d, "credit")
    d.peer.on("s", Feed().__call__)
    await d.fed(credit(5, 100), {"i": 5, "a": ["s"]})
    assert d.ignored == {"credit for no channel": 1}, "it came before its channel"
    [first] = await d.fed({"h": 5, "a": ["start"]})
    assert first == item(5, 0, first["i"])
    assert await d.fed(credit(5, 100)) == [], "the kind is fixed by the first act"
    [second] = await d.fed({"i": first["i"]})
    assert second == item(5, 1, second["i"])
    await lost(d)


async def test_credit_of_no_sense_or_for_no_channel_is_ignored_and_counted() -> None:
    d = await producing(Feed().__call__)
    await started(d, 2)
    nonsense: list[dict[str, Any]] = [
        *({"h": 5, "n": n, "bytes": 10} for n in (-1, 2**53, True, "10")),
        {"h": 5, "n": 10, "bytes": -1},
        {"h": 5, "n": 10},
        {"h": 5, "bytes": 10},
        *({"h": h, "n": 100, "bytes": PLENTY} for h in (6, 0, 2**60, True, "5", [5])),
    ]
    for number, fields in enumerate(nonsense, 1):
        assert await d.fed(control("credit", **fields)) == [], fields
        assert sum(d.ignored.values()) == number
    assert values(await d.fed(credit(5, 3))) == [2]
    await lost(d)


# ---------------------------------------------------------------- what travels together


@KINDS
@BATCHES
async def test_small_items_travel_together_and_large_ones_alone(kind: str, features: tuple[str, ...]) -> None:
    def numbers(ctx: Context) -> Iterator[int]:
        yield from range(200)

    d = await producing(of_kind(kind, numbers), *features)
    sent = await started(d)
    await settled()
    sent += d.take()
    assert as_single(sent) == [*(item(5, n) for n in range(200)), done(5)]
    assert len(sent) < 10 if "batches" in features else len(sent) == 201
    assert sent[0] == item(5, 0), "nothing is known about the size of items before the first one"
    d = await producing(lambda: iter(["x" * 5000] * 4))
    assert await started(d) == [*[item(5, "x" * 5000)] * 4, done(5)]
    d.assert_empty()


async def test_an_item_that_travels_as_json_changes_no_other_one() -> None:
    sent = [b"1", b"2", 2**70, b"3", {"key": b"4"}, b"5", {b"key": 6}, b"7"]
    async with pair() as (left, right):
        right.on("s", lambda: iter(sent))
        got = await collect(left.stream("s"))
    assert got == [b"1", b"2", 2**70, b"3", {"key": b"4"}, b"5", {"a2V5": 6}, b"7"]


@KINDS
async def test_items_that_grow_keep_to_the_bytes(kind: str) -> None:
    made, texts = 0, ["x" * (1 if n < 5 else 1000) for n in range(50)]

    def growing(ctx: Context) -> Iterator[str]:
        nonlocal made
        for text in texts:
            made += 1
            yield text

    d = await producing(of_kind(kind, growing))
    size = 3000
    sent = as_single(await started(d, size=size))
    assert len(sent) < 9
    while len(sent) < 51:
        assert made == len(sent) if kind == "async" else made <= 64, "only a plain generator may make more at once"
        size += 3000
        sent += as_single(await d.fed(credit(5, 1000, size)))
        assert size < 100_000
    assert sent == [*(item(5, text) for text in texts), done(5)]
    d.assert_empty()


@pytest.mark.parametrize("end", ["it is left", "an item is refused", "the connection ends"])
async def test_a_source_that_waits_behind_items_that_wait_is_closed_with_its_channel(end: str) -> None:
    """A generator inside the handler's generator was never closed, because the step got `GeneratorExit`."""
    ended, refused = list[str](), end == "an item is refused"

    async def rows() -> AsyncIterator[str]:
        try:
            for n in range(20):
                yield "x" * (1000 if n == 19 and refused else 1)
                if n == 10 and not refused:
                    d.transport.pause()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0)
            ended.append("rows")

    async def handler() -> AsyncIterator[str]:
        try:
            async for row in rows():
                yield row
        finally:
            await asyncio.sleep(0)
            ended.append("handler")

    d = Driven(extensions=True)
    await agreed(d, "batches", "credit", message=512)
    d.peer.on("s", handler)
    await d.fed({"i": 5, "a": ["s"]})
    await started(d)
    if end == "it is left":
        d.feed({"h": 5, "x": None})
    elif end == "the connection ends":
        d.transport.lose()
    await settled()
    assert ended == ["cancelled", "rows", "handler"]
    d.transport.resume()
    await settled()
    d.assert_empty()


# ---------------------------------------------------------------- what a source does between its items

PAUSE = object()
"""The connection is full from here on."""
STEPS: dict[str, tuple[int, list[Any]]] = {
    # the bytes that are granted at a time; numbers and "x…" are items, other texts are events that the source sends
    "many events": (PLENTY, [step for n in range(200) for step in ([n, f"after {n}"] if n % 5 == 4 else [n])]),
    "items that wait for credit": (3000, [step for n in range(20) for step in ("x" * (1 + n // 5 * 300), "after")]),
    "a full connection": (PLENTY, [0, 1, 2, 3, "ends the batch", 4, "fills it", PAUSE, 5, 6, "after", 7]),
}


@pytest.mark.parametrize("script", STEPS)
@KINDS
@BATCHES
async def test_what_a_source_sends_keeps_its_place_among_the_items(script: str, kind: str, features: Any) -> None:
    granted, steps = STEPS[script]
    expected: list[Any] = []

    def talks(ctx: Context) -> Iterator[Any]:
        for step in steps:
            if step is PAUSE:
                d.transport.pause()
            elif isinstance(step, str) and step[0] != "x":
                expected.append({"a": [step]})
                ctx.peer.emit_nowait(step)
            else:
                expected.append(item(5, step))
                yield step

    d = await producing(of_kind(kind, talks), *features)
    sent: list[Any] = []
    more, size = await started(d, size=granted), granted
    while more:
        sent += more
        d.transport.resume()
        await settled()
        size += granted
        more = d.take() + await d.fed(credit(5, 1000, min(size, PLENTY)))
    assert as_single(sent) == [*expected, done(5)]
    d.assert_empty()


@BATCHES
@pytest.mark.parametrize("end", ["abort", "close", "close it", "bind"])
async def test_items_before_an_end_that_the_source_itself_makes_are_sent(end: str, features: tuple[str, ...]) -> None:
    """They are sent on the connection on which they were made, and nothing after them."""

    def closes(ctx: Context) -> Iterator[int]:
        for n in range(20):
            yield n
            if n == 7:
                ctx.channel().close("enough")

    async def ends(ctx: Context) -> AsyncIterator[int]:
        for n in range(20):
            if n == 8 and end == "abort":
                await ctx.channel().abort("enough")
            elif n == 8 and end == "close it":
                await ctx.peer.close()
            elif n == 8:
                d.rebind()
            yield n

    d = await producing(closes if end == "close" else ends, *features)
    first = d.transport
    d.feed(credit(5, 1000), {"h": 5, "a": ["start"]})
    await settled()
    sent = as_single(first.pop_sent())
    assert sent == [*(item(5, n) for n in range(8)), *([{"h": 5, "x": "enough"}] if end == "abort" else [])]
    assert d.close_code == (1000 if end == "close it" else None)
    if end == "bind":
        assert [message for message in d.take() if "h" in message] == []
    await lost(d)
