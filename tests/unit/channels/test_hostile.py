"""Producers and consumers that follow no rules: no crash, no leak, no silence, all within bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import Driven, rejection, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import Feed, collect, done, emptied, hello, item, values
from stream_sides import over, reading, requested, serving

from wsrpc import Limits

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---------------------------------------------------------------- producers


async def test_items_before_start_are_read_and_after_the_end_answered_with_one_abort() -> None:
    d, stream, h = await reading()
    await d.fed(item(h, 1), item(h, 2))
    assert [await anext(stream), await anext(stream)] == [1, 2]
    d.expect({"h": h, "a": ["start"]})
    sent = await d.fed({"h": h, "a": ["what"]}, {"h": h, "i": 7, "a": ["what"]}, item(h, 1))
    assert rejection(sent, 7)["code"] == "wsrpc.unknown_event"
    task = start(collect(stream))
    sent = await d.fed(done(h, 9), item(h, 2), item(h, 3, 11), done(h))
    assert await task == [1]
    assert {"i": 9, "d": None} in sent
    assert "does not exist" in rejection(sent, 11)["message"]
    assert [message["h"] for message in sent if "x" in message] == [h]
    await emptied(d.peer)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ([], None),
        *(([odd], None) for odd in (None, "text", {}, {"done": False})),
        *(([{"value": 1, "done": flag}], 1) for flag in (None, 0)),
        ([{"value": 1, "done": False, "more": 2}, "extra"], 1),
        *(([{"value": 1, "done": flag}], "the end") for flag in (1, "yes", [0])),
    ],
    ids=repr,
)
async def test_items_of_odd_shapes(arguments: list[Any], value: Any) -> None:
    d, stream, h = await reading()
    d.feed({"h": h, "a": ["next", *arguments]})
    assert await anext(stream, "the end") == value
    await stream.aclose()


async def test_the_bounds_of_names_and_arguments_hold_on_channels() -> None:
    d = Driven(dialer=True)
    channel = await requested(d)
    long, many, h = "n" * 257, list(range(65)), channel.id
    channel.on("e", pytest.fail)
    sent = await d.fed({"h": h, "i": 7, "a": ["e", *many]}, {"h": h, "i": 9, "a": [long]})
    assert "64" in rejection(sent, 7)["message"] and "256" in rejection(sent, 9)["message"]
    await d.fed({"h": h, "a": ["e", *many]}, {"h": h, "a": [long]})
    assert d.ignored == {"too many arguments": 1, "name too long": 1}
    channel.close()


async def test_items_that_were_requested_are_answered_though_the_end_has_come() -> None:
    """A plain producer that does not wait for each answer: what is still to be read is not refused at a good end."""
    d, stream, h = await reading(limits=Limits(stream_window=2))
    read = start(collect(stream))
    await turns()
    d.take()
    sent = await d.fed(*(item(h, n, n) for n in range(1, 6)), done(h))
    assert await read == [1, 2, 3, 4, 5]
    assert sent + d.take() == [{"i": n, "d": None} for n in range(1, 6)]


# ---------------------------------------------------------------- callers that upload by hand


async def listing(chunks: AsyncIterator[Any]) -> list[Any]:
    return [chunk async for chunk in chunks]


async def first(chunks: AsyncIterator[int]) -> int:
    return await anext(chunks)


@pytest.mark.parametrize(
    ("handler", "steps"),
    [
        (listing, [([item(5, 1), item(5, 2, 7)], [{"i": 7, "d": None}]), ([done(5, 9)], [{"i": 9, "d": [1, 2]}])]),
        (listing, [([done(5, 7), done(5, 9)], [{"i": 9, "d": None}, {"i": 7, "d": []}])]),
        (listing, [([item(5, 1), done(5)], [{"h": 5, "x": "closed"}])]),  # nobody waits for the result: it just ends
        # JavaScript may not have heard the first `stop` (see `UploadInbox`), so a request has it said again.
        (
            first,
            [
                ([item(5, 1)], [{"h": 5, "a": ["stop"]}]),
                ([item(5, n) for n in range(50)], []),
                ([item(5, 2, 7)], [{"i": 7, "d": None}, {"h": 5, "a": ["stop"]}]),
                ([done(5, 9)], [{"i": 9, "d": 1}]),
            ],
        ),
        (first, [([item(5, 1)], [{"h": 5, "a": ["stop"]}]), ([], [{"h": 5, "x": "within 30 s"}])]),
    ],
    ids=["well", "the end twice", "the end as an event", "does not stop when told", "says nothing more"],
)
async def test_an_upload_by_hand(handler: Any, steps: list[tuple[list[Any], list[Any]]]) -> None:
    d = Driven()
    d.peer.on("up", handler)
    assert await d.fed({"i": 5, "a": ["up"]}) == [{"i": 5, "h": 1}, {"h": 5, "a": ["start"]}]
    for fed, expected in steps:
        if not fed:
            d.clock.advance(Limits().unread_timeout)
        sent = await d.fed(*fed)
        for message, wanted in zip(sent, expected, strict=True):
            if "x" in message:
                assert wanted.pop("x") in message.pop("x")["message"] and message.pop("_") == 1
        assert sent == expected
    d.assert_empty()


# ---------------------------------------------------------------- consumers


async def test_a_rejected_item_ends_the_stream_and_an_odd_start_or_answer_does_not() -> None:
    feed = Feed()
    d = await serving(feed.__call__)
    sent = await d.fed({"h": 5, "a": ["start"]}, {"h": 5, "a": ["start"]}, {"h": 5, "i": 7, "a": ["start"]})
    assert values(sent) == [0] and {"i": 7, "d": None} in sent
    i = next(message["i"] for message in sent if "a" in message)
    abort, following = await d.fed({"i": i, "h": 1})
    assert abort["h"] == i and "x" in abort
    [abort] = await d.fed({"i": following["i"], "e": "no more"})
    assert abort["h"] == 5 and "x" in abort
    assert feed.finished.is_set()
    d.assert_empty()


@pytest.mark.parametrize("says", [{"a": ["start"]}, {"i": 6, "a": ["start"]}, None])
async def test_a_consumer_that_starts_too_late_is_told_then_if_it_is_plain(says: Any) -> None:
    """JavaScript's iterator takes a channel that has ended before it starts for a stream without items."""
    d = Driven(extensions=True)
    if says is None:
        await d.fed(hello("credit"))
    d.peer.on("s", Feed().__call__)
    await d.fed({"i": 5, "a": ["s"]})
    d.clock.advance(Limits().unread_timeout - 1)
    assert d.peer.anonymous_channels == 1
    d.clock.advance(1)
    await turns()
    assert d.peer.anonymous_channels == 0
    abort, *rest = d.take() if says is None else d.take() + await d.fed({**says, "h": 5})
    assert abort["h"] == 5 and "within 30 s" in abort["x"]["message"]
    if says is not None and "i" in says:
        assert "within 30 s" in rejection(rest, 6)["message"]
    assert await d.fed({"h": 5, "a": ["start"]}) == [], "an abort is said once"
    d.assert_empty()


async def test_many_streams_that_nobody_starts_are_not_all_remembered() -> None:
    d = Driven()
    d.peer.on("s", Feed().__call__)
    for i in range(1, 1101):
        await d.fed({"i": i, "a": ["s"]})
        if i % 100 == 0:
            d.clock.advance(Limits().unread_timeout)
            await turns()
    [first] = await d.fed({"h": 1, "a": ["start"]})
    [last] = await d.fed({"h": 1100, "a": ["start"]})
    assert "does not exist" in first["x"]["message"] and "within 30 s" in last["x"]["message"]


async def test_a_request_with_the_id_of_an_open_channel_is_rejected_and_harms_nothing() -> None:
    d = await serving(Feed().__call__)
    assert "still open" in rejection(await d.fed({"i": 5, "a": ["s"]}), 5)["message"]
    assert (d.peer.anonymous_channels, d.peer.active) == (1, 1)
    assert values(await d.fed({"h": 5, "a": ["start"]})) == [0]
    await over(d)
    assert await d.fed({"i": 5, "a": ["s"]}) == [{"i": 5, "h": 1}], "now it is free again"
    assert values(await d.fed({"h": 5, "a": ["start"]})) == [0]
    await over(d)
    assert [message["h"] for message in await d.fed({"h": 5, "a": ["start"]})] == [5], "and told of once more"
