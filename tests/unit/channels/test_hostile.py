"""Remote peers that follow no rules, and messages that nobody reads: no crash, no leak, no silence, all in bounds."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import Driven, messages, rejection, start
from leftovers import nothing_left as nothing_left
from peers_inside import unread_at
from stream_driver import Feed, collect, done, emptied, hello, item, values
from stream_sides import consuming, over, reading, requested, serving
from waiting import settled

from wsrpc import ChannelClosed, Context, Limits

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
    await settled()
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
            await settled(Limits().unread_timeout)
        sent = await d.fed(*fed)
        for message, wanted in zip(sent, expected, strict=True):
            if "x" in message:
                assert wanted.pop("x") in message.pop("x")["message"] and message.pop("_") == 1
        assert sent == expected
    d.assert_empty()


# ---------------------------------------------------------------- consumers


@pytest.mark.parametrize("says", [{"a": ["start"]}, {"i": 6, "a": ["start"]}, None])
async def test_a_consumer_that_starts_too_late_is_told_then_if_it_is_plain(says: Any) -> None:
    """JavaScript's iterator takes a channel that has ended before it starts for a stream without items."""
    d = Driven(extensions=True)
    if says is None:
        await d.fed(hello("credit"))
    d.peer.on("s", Feed().__call__)
    await d.fed({"i": 5, "a": ["s"]})
    await settled(Limits().unread_timeout - 1)
    assert d.peer.anonymous_channels == 1
    await settled(1)
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
            await settled(Limits().unread_timeout)
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


UNREAD = Limits().unread_timeout


async def test_what_arrives_with_the_creation_is_kept_for_the_first_handler_in_order() -> None:
    d = Driven(dialer=True)
    channel = await requested(d, {"a": ["e", 1]}, {"i": 7, "a": ["q", 2]}, {"i": 9, "a": ["late"]}, {"a": ["e", 4]})
    seen: list[Any] = []

    @channel.use
    async def note(ctx: Context, call_next: Any) -> Any:
        seen.append((ctx.event, *ctx.args))
        return await call_next(ctx)

    await settled()
    assert seen == [], "middleware alone does not count as listening"

    def handle(n: int) -> None:
        if n == 6:
            channel.close()

    for name in ("e", "q"):
        channel.on(name, handle)
    d.feed({"h": channel.id, "a": ["e", 6]}, {"h": channel.id, "i": 11, "a": ["q", 7]})  # in the same turn
    await settled()
    assert seen[:5] == [("e", 1), ("q", 2), ("late",), ("e", 4), ("e", 6)]
    sent = d.take()
    assert {"i": 7, "d": None} in sent
    assert rejection(sent, 9) and rejection(sent, 11), "each request is answered, though the channel is closed"
    d.assert_empty()


async def test_what_nobody_reads_for_30_seconds_aborts_the_channel_and_no_other() -> None:
    d = Driven(dialer=True)
    silent, read = await requested(d), await requested(d, {"a": ["e"]})
    events = read.events("e")
    channel = await requested(d, {"i": 7, "a": ["q"]}, {"a": ["e"]})
    await settled(UNREAD)
    sent = await d.fed()
    assert [message["h"] for message in sent if "x" in message] == [channel.id] and rejection(sent, 7)
    with pytest.raises(ChannelClosed, match="30 s"):
        channel.events("e")
    await settled(100 * UNREAD)
    assert not silent.closed and not read.closed
    await events.aclose()
    silent.close()
    read.close()
    d.assert_empty()


# ---------------------------------------------------------------- channels in use


@pytest.mark.parametrize("how", ["emit", "request"])
async def test_a_channel_in_use_goes_on_when_nobody_listens(how: str, caplog: pytest.LogCaptureFixture) -> None:
    d = Driven(dialer=True)
    tick, requests = {"a": ["tick", 0]}, [{"i": i, "a": ["q"]} for i in (7, 9)]
    channel = await requested(d, tick, requests[0], tick, requests[1])
    using = start(channel.emit("start") if how == "emit" else channel.request("add", 1))
    await settled()
    d.feed(*({"i": message["i"], "d": 3} for message in d.take() if "i" in message))
    await using
    for number in range(2, 60):
        await settled(1)
        d.feed({"h": channel.id, "a": ["tick", number]})
    sent = await d.fed()
    assert [message["i"] for message in sent] == [7, 9]
    assert {rejection([message], message["i"])["code"] for message in sent} == {"wsrpc.unknown_event"}
    assert not channel.closed
    assert sum(d.ignored.values()) == 60 and d.ignored["unread event"] == 31, "those of the first 30 s were kept"
    assert len([text for text in messages(caplog) if "tick" in text or "events on channel" in text]) == 2
    assert unread_at(d.peer) == 0
    seen: list[int] = []
    channel.on("tick", seen.append)
    d.feed({"h": channel.id, "a": ["tick", 60]})
    assert seen == [60], "who begins to listen gets what comes from now on"
    channel.close()
    channel = await requested(d)
    await channel.emit("start")
    before = sum(d.ignored.values())
    d.feed(*[{"h": channel.id, "a": ["e", "x" * 100_000]}] * 15)
    assert not channel.closed and sum(d.ignored.values()) == before + 15, "more than may wait is dropped"
    channel.close()


# ---------------------------------------------------------------- memory


async def test_small_messages_on_many_channels_count_with_the_memory_that_they_take() -> None:
    d = Driven(dialer=True, limits=Limits(unread_bytes=100_000))
    channels = [await requested(d) for _ in range(3)]
    kept = 0
    while not channels[1].closed and kept < 10_000:
        for channel in channels[:2]:
            d.feed({"h": channel.id, "a": ["x"]})
            kept += not channel.closed
    assert 400 < kept < 600, "each of about 20 bytes takes about 200"
    [over] = [channel for channel in channels if channel.closed]
    assert "unread_bytes=100000" in str(over.close_reason)
    for channel in channels:
        if channel is not over:
            d.feed({"h": channel.id, "a": ["x", 1]})
            assert not channel.closed, "what the other one had taken is free"
            assert await anext(channel.events("x")) in (1, None)
            channel.close()
    assert unread_at(d.peer) == 0


async def test_a_message_for_which_somebody_waits_always_arrives() -> None:
    d = Driven(dialer=True, limits=Limits(unread_bytes=5_000))
    hoard, busy = await requested(d, {"a": ["e", "x" * 6000]}), await requested(d)
    events = busy.events("e")
    for number in range(20):
        reading = start(anext(events))
        await settled()
        d.feed({"h": busy.id, "a": ["e", "x" * 4000, number]})
        assert (await reading)[1] == number
    assert len(await anext(hoard.events("e"))) == 6000, "one that is larger than all may be is kept alone"
    hoard.close()
    busy.close()


@pytest.mark.parametrize("size", [1, 400])
async def test_credit_is_kept_whatever_else_waits(size: int) -> None:
    d, stream, h = await consuming(limits=Limits(unread_bytes=1_000))
    d.take()
    d.feed(*({"h": h, "a": ["next", {"value": [number, "x" * size], "done": False}]} for number in range(64)))
    d.feed({"h": h, "a": ["next", {"done": True}]})
    assert [number async for number, _ in stream] == list(range(64))
    assert unread_at(d.peer) == 0


LARGE = "x" * 60_000
"""More than the 32 KiB of an item that always fits within the credit, and than a window of these tests."""


async def uploading(*features: str) -> tuple[Driven, dict[int, asyncio.Event]]:
    """A peer with three uploads, on channels 1 to 3, whose handlers take an item, and the next when they may go on."""
    d, go = Driven(extensions=True, limits=Limits(unread_bytes=150_000)), defaultdict[int, asyncio.Event](asyncio.Event)

    async def keep(h: int, items: AsyncIterator[str]) -> None:
        async for _ in items:
            await go[h].wait()
            go[h].clear()

    d.peer.on("keep", keep)
    await d.fed(hello(*features), *({"i": h, "a": ["keep", h]} for h in (1, 2, 3)))
    return d, go


def aborted(sent: list[Any]) -> list[int]:
    aborts = [message for message in sent if "x" in message]
    assert all("Limits.unread_bytes=150000" in message["x"]["message"] for message in aborts)
    return [message["h"] for message in aborts]


@pytest.mark.parametrize("features", [("credit", "batches"), ()], ids=["wsrpc", "plain"])
@pytest.mark.parametrize("before", [("",), ()], ids=["unread", "taken"])
async def test_large_items_on_all_channels_take_no_more_than_may_be(features: Any, before: Any) -> None:
    """Within the credit, the last item could be as large as a message may be, on each channel."""
    d, go = await uploading(*features)
    for h in (1, 2, 3):
        await d.fed(*(item(h, value) for value in before))
    assert aborted(await d.fed(item(1, LARGE), item(2, LARGE))) == []
    assert aborted(await d.fed(item(3, LARGE))) == [3]
    for _ in range(1 + len(before)):
        go[1].set()  # its handler asks for the next one
        await settled()
    assert aborted(await d.fed(item(1, LARGE))) == []
    await d.fed(*({"h": h, "x": "bye"} for h in (1, 2)))
    await emptied(d.peer)


@pytest.mark.parametrize(
    ("nexts", "lost"),
    [
        pytest.param([[LARGE, "x"]], [3], id="several items in a large message need memory, too"),
        pytest.param([{"value": "x" * 30_000}] * 2, [], id="items that are not large always fit within the credit"),
    ],
)
async def test_items_need_memory_if_their_message_is_large(nexts: list[Any], lost: list[int]) -> None:
    d, _ = await uploading("credit", "batches")
    await d.fed(*(item(h, "") for h in (1, 2, 3)))
    assert aborted(await d.fed(*({"h": h, "a": ["next", each]} for h in (1, 2, 3) for each in nexts))) == lost
    await d.fed(*({"h": h, "x": "bye"} for h in (1, 2, 3)))
    assert unread_at(d.peer) == 0


async def test_after_an_item_larger_than_the_window_credit_waits_until_the_next_one_is_wanted() -> None:
    """So an honest producer has one such item there at a time, and its streams do not end for want of memory."""
    d, stream, h = await consuming(limits=Limits(stream_window=64))
    d.take()
    reading = start(anext(stream))
    await settled()
    d.feed(item(h, LARGE))
    assert await reading == LARGE
    d.expect()
    reading = start(anext(stream))
    await settled()
    [granted] = [message["wsrpc"] for message in d.take()]
    assert granted["t"] == "credit" and granted["bytes"] > len(LARGE)
    d.feed(item(h, 1), done(h))
    assert await reading == 1
    await stream.aclose()
