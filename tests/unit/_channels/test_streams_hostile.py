"""Streams with a producer or a consumer that plays by no rules: no crash, no leak, no silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from core_driver import Driven, rejection, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import Feed, agreed, collect, credit, done, emptied, hello, item, values
from stream_sides import over, reading, serving

from wsrpc import Context, Limits, RpcError, StreamOverflow

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_items_before_start_are_kept_and_read() -> None:
    d, stream, h = await reading()
    await d.fed(item(h, 1), item(h, 2))
    assert [await anext(stream), await anext(stream)] == [1, 2]
    d.expect({"h": h, "a": ["start"]})
    await stream.aclose()


async def test_items_after_the_end_are_answered_with_an_abort_once() -> None:
    d, stream, h = await reading()
    task = start(collect(stream))
    await turns()
    d.take()
    sent = await d.fed(item(h, 1), done(h), item(h, 2), item(h, 3), done(h))
    assert await task == [1]
    assert [message["h"] for message in sent] == [h] and "x" in sent[0]
    await emptied(d.peer)


async def test_requests_after_the_end_are_rejected() -> None:
    d, stream, h = await reading()
    task = start(collect(stream))
    await turns()
    d.take()
    sent = await d.fed(done(h, 7), item(h, 2, 9))
    assert await task == []
    assert {"i": 7, "d": None} in sent
    assert "does not exist" in rejection(sent, 9)["message"]


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ([], None),
        ([None], None),
        ([5], None),
        (["text"], None),
        ([[]], None),
        ([{}], None),
        ([{"value": 1}], 1),
        ([{"value": 1, "done": None}], 1),
        ([{"value": 1, "done": 0}], 1),
        ([{"value": 1, "done": False, "more": 2}, "extra"], 1),
        ([{"done": False}], None),
    ],
    ids=repr,
)
async def test_items_of_odd_shapes(arguments: list[Any], value: Any) -> None:
    d, stream, h = await reading()
    d.feed({"h": h, "a": ["next", *arguments]})
    assert await anext(stream) == value
    await stream.aclose()


@pytest.mark.parametrize("flag", [True, 1, "yes", [0], {"a": 1}], ids=repr)
async def test_any_truthy_done_is_the_end(flag: Any) -> None:
    d, stream, h = await reading()
    d.feed({"h": h, "a": ["next", {"value": 1, "done": flag}]})
    assert await collect(stream) == []


async def test_other_events_on_a_streams_channel_are_unknown() -> None:
    d, stream, h = await reading()
    sent = await d.fed({"h": h, "a": ["what"]}, {"h": h, "i": 7, "a": ["what"]}, item(h, 1))
    assert rejection(sent, 7)["code"] == "wsrpc.unknown_event"
    assert await anext(stream) == 1
    await stream.aclose()


async def test_a_producer_without_flow_control_overflows_after_what_was_queued() -> None:
    d, stream, h = await reading()
    block = "x" * 100_000
    for n in range(30):
        d.feed(item(h, [n, block]))
    [abort] = d.take()
    assert abort["h"] == h and abort["_"] == 1
    got: list[Any] = []
    with pytest.raises(StreamOverflow):
        await collect(stream, got)
    assert [n for n, _ in got] == list(range(len(got))) and 9 <= len(got) <= 11
    await emptied(d.peer)


async def test_one_item_larger_than_the_queue_is_an_item() -> None:
    d, stream, h = await reading()
    d.feed(item(h, "x" * 2_000_000))
    assert len(await anext(stream)) == 2_000_000
    await stream.aclose()


async def test_a_producer_that_requests_goes_no_faster_than_the_reader() -> None:
    d, stream, h = await reading()
    sent = await d.fed(*(item(h, n, 1000 + n) for n in range(1000)))
    answered = len(sent)
    assert answered == Limits().stream_window
    for n in range(100):
        assert await anext(stream) == n
    later = len([message for message in d.take() if "i" in message])
    assert 100 - answered <= later <= 100
    await stream.aclose()
    assert len({message["i"] for message in d.take() if "i" in message}) == 1000 - answered - later
    await emptied(d.peer)


async def test_start_twice_and_as_a_request() -> None:
    d = await serving(Feed().__call__)
    sent = await d.fed({"h": 5, "a": ["start"]}, {"h": 5, "a": ["start"]}, {"h": 5, "i": 7, "a": ["start"]})
    assert values(sent) == [0]
    assert {"i": 7, "d": None} in sent
    await over(d)


async def test_a_rejected_item_ends_the_stream() -> None:
    feed = Feed()
    d = await serving(feed.__call__)
    [first] = await d.fed({"h": 5, "a": ["start"]})
    sent = await d.fed({"i": first["i"], "e": "no more"})
    assert [message["h"] for message in sent] == [5] and "x" in sent[0]
    assert feed.finished.is_set()
    d.assert_empty()


async def test_an_item_that_is_answered_with_a_channel() -> None:
    d = await serving(Feed().__call__)
    [first] = await d.fed({"h": 5, "a": ["start"]})
    sent = await d.fed({"i": first["i"], "h": 1})
    assert {message.get("h") for message in sent} >= {first["i"]}
    await over(d)


@pytest.mark.parametrize("mode", ["waiting for start", "paced", "pull", "credit", "line full"])
@pytest.mark.parametrize("end", ["abort", "drop"])
async def test_an_end_in_every_mode_stops_the_producer_and_sends_no_item_more(mode: str, end: str) -> None:
    d = Driven(extensions=True)
    await agreed(d, "credit")
    feed = Feed()
    d.peer.on("s", feed.__call__)
    await d.fed({"i": 5, "a": ["s"]})
    if mode == "line full":
        d.transport.pause()
    acts: dict[str, list[Any]] = {
        "paced": [{"h": 5, "a": ["start"]}],
        "pull": [{"h": 5, "i": 7, "a": ["pull", 3]}],
        "credit": [credit(5, 3), {"h": 5, "a": ["start"]}],
        "line full": [credit(5, 3), {"h": 5, "a": ["start"]}],
    }
    await d.fed(*acts.get(mode, []))
    d.feed({"h": 5, "x": "bye"}) if end == "abort" else d.transport.lose()
    if mode == "line full" and end == "abort":
        d.transport.resume()
    await turns()
    assert values([message for message in d.take() if isinstance(message, dict)]) == []
    assert feed.finished.is_set() or mode == "waiting for start"
    await emptied(d.peer)
    d.assert_empty()


async def test_an_abort_while_a_next_is_written() -> None:
    d = await serving(Feed().__call__)
    [first] = await d.fed({"h": 5, "a": ["start"]})
    # In one read: the answer, which lets the next item go, and the abort.
    sent = await d.fed({"i": first["i"]}, {"h": 5, "x": "bye"})
    assert sent == []
    await emptied(d.peer)
    assert d.peer.pending == 0


async def test_a_consumer_that_never_starts_is_given_up_after_30_seconds() -> None:
    feed = Feed()
    d = await serving(feed.__call__)
    d.clock.advance(Limits().unread - 1)
    d.expect()
    d.clock.advance(1)
    await turns()
    assert feed.made == 0
    d.assert_empty()
    assert d.peer.channels == 0


async def given_up(handler: Any) -> Driven:
    """A plain consumer that has said nothing until the stream of ``handler`` is over, as it was not told."""
    d = Driven()
    d.peer.on("s", handler)
    await d.fed({"i": 5, "a": ["s"]})
    d.clock.advance(Limits().unread)
    await turns()
    d.expect()
    assert d.peer.channels == 0
    return d


@pytest.mark.parametrize(
    "first", [{"a": ["start"]}, {"a": ["anything"]}, {"i": 6, "a": ["pull", 3]}, {"i": 6, "a": ["start"]}]
)
async def test_a_plain_consumer_that_starts_too_late_is_told_then(first: dict[str, Any]) -> None:
    """JavaScript's iterator takes a channel that has ended before it starts for a stream without items."""
    d = await given_up(Feed().__call__)
    abort, *rest = await d.fed({**first, "h": 5})
    assert abort["h"] == 5 and "within 30 s" in abort["x"]["message"]
    if "i" in first:
        assert "within 30 s" in rejection(rest, 6)["message"]
    assert await d.fed({"h": 5, "a": ["start"]}) == [], "an abort is said once"
    assert "does not exist" in rejection(await d.fed({"i": 7, "h": 5, "a": ["pull", 1]}), 7)["message"]


async def test_a_plain_consumer_that_starts_after_middleware_has_ended_the_stream_is_told_then() -> None:
    d = Driven()
    limits: list[asyncio.Timeout] = []

    @d.peer.use
    async def limit(ctx: Context, call_next: Any) -> Any:
        try:
            async with asyncio.timeout(None) as timeout:
                limits.append(timeout)
                return await call_next(ctx)
        except TimeoutError:
            raise RpcError("took too long", code="slow") from None

    d.peer.on("s", Feed().__call__)
    await d.fed({"i": 5, "a": ["s"]})
    limits[0].reschedule(0)
    await turns()
    d.expect()
    assert d.peer.channels == 0
    [abort] = await d.fed({"h": 5, "a": ["start"]})
    assert abort == {"h": 5, "x": {"message": "took too long", "code": "slow"}, "_": 1}


async def test_a_wsrpc_consumer_that_never_starts_is_told_at_once() -> None:
    d = Driven(extensions=True)
    d.peer.on("s", Feed().__call__)
    await d.fed(hello("credit"), {"i": 5, "a": ["s"]})
    d.clock.advance(Limits().unread)
    await turns()
    [abort] = [message for message in d.take() if "x" in message]
    assert abort["h"] == 5 and "within 30 s" in abort["x"]["message"]


async def test_many_streams_that_nobody_starts_are_not_all_remembered() -> None:
    d = Driven()
    d.peer.on("s", Feed().__call__)
    for i in range(1, 1101):
        await d.fed({"i": i, "a": ["s"]})
        if i % 100 == 0:
            d.clock.advance(Limits().unread)
            await turns()
    [first] = await d.fed({"h": 1, "a": ["start"]})
    [last] = await d.fed({"h": 1100, "a": ["start"]})
    assert "does not exist" in first["x"]["message"] and "within 30 s" in last["x"]["message"]


async def test_one_that_started_may_take_its_time() -> None:
    d = await serving(Feed().__call__)
    [first] = await d.fed({"h": 5, "a": ["start"]})
    d.clock.advance(3600)
    assert values(await d.fed({"i": first["i"]})) == [1]
    await over(d)


async def test_opened_and_abandoned_many_times_nothing_is_left() -> None:
    d = Driven()
    feed = Feed()
    d.peer.on("s", feed.__call__)
    for i in range(1, 1001):
        d.feed({"i": i, "a": ["s"]}, {"h": i, "a": ["start"]})
        await turns(i % 4)
        d.feed({"i": i, "x": "bye"}, {"h": i, "x": "bye"})  # whatever it is by now: one of them meets it
    await emptied(d.peer)
    d.assert_empty()
    assert d.clock.next_deadline is None, "no timer either"


async def test_neither_a_source_nor_a_consumer_that_never_waits_keeps_the_loop() -> None:
    """Credit without end and items without end: the others still have their turn, and the end is noticed."""
    d = Driven(extensions=True)
    made = 0

    def endless() -> Iterator[int]:
        nonlocal made
        while True:
            made += 1
            yield made

    d.peer.on("endless", endless)
    d.feed(hello("credit"), {"i": 5, "a": ["endless"]})
    await turns()
    d.feed(credit(5, 2**53 - 1, 2**53 - 1), {"h": 5, "a": ["start"]})
    await turns(3)
    assert 0 < made <= 5 * 64
    d.transport.lose()
    await turns()
    d.assert_empty()


async def test_a_stream_whose_handler_ends_its_channel_is_over() -> None:
    d = Driven(extensions=True)
    closed: list[bool] = []

    async def own(ctx: Context) -> AsyncIterator[int]:
        try:
            yield 1
            await ctx.channel().abort("mine")
            yield 2
        finally:
            closed.append(True)

    d.peer.on("own", own)
    d.feed(hello("credit"), {"i": 5, "a": ["own"]})
    await turns()
    d.take()
    sent = await d.fed(credit(5, 64, 10_000), {"h": 5, "a": ["start"]})
    assert [message.get("a") or message.get("x") for message in sent] == [["next", {"value": 1, "done": False}], "mine"]
    assert closed == [True]
    assert d.peer.active == 0
    d.assert_empty()


async def test_items_that_were_requested_are_answered_though_the_end_has_come() -> None:
    """A plain producer that does not wait for each answer: what is still to be read is not refused at a good end."""
    d, stream, h = await reading(limits=Limits(stream_window=2))
    read = start(collect(stream))
    d.feed(
        *({"i": n, "h": h, "a": ["next", {"value": n, "done": False}]} for n in range(1, 6)),
        {"h": h, "a": ["next", {"done": True}]},
    )
    await turns()
    assert await read == [1, 2, 3, 4, 5]
    answers = [message for message in d.take() if "i" in message]
    assert answers == [{"i": n, "d": None} for n in range(1, 6)]
