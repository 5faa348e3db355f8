"""What arrives before anybody listens is kept, within bounds, for the first handler or the first read."""

from __future__ import annotations

from typing import Any

import pytest
from core_driver import Driven, rejection, turns
from leftovers import nothing_left as nothing_left
from stream_sides import requested

from wsrpc import ChannelClosed, Context, Limits

pytestmark = pytest.mark.usefixtures("nothing_left")


UNREAD = Limits().unread


async def test_what_arrives_with_the_creation_is_kept_for_the_first_handler_in_order() -> None:
    d = Driven(dialer=True)
    channel = await requested(d, {"a": ["e", 1]}, {"i": 7, "a": ["q", 2]}, {"a": ["f", 3]}, {"a": ["e", 4]})
    d.feed({"h": channel.id, "a": ["e", 5]})
    await turns()
    seen: list[Any] = []
    channel.on("e", lambda n: seen.append(("e", n)))
    channel.on("q", lambda n: seen.append(("q", n)))
    channel.on("f", lambda n: seen.append(("f", n)))
    d.feed({"h": channel.id, "a": ["e", 6]})  # in the same turn as the registering
    await turns()
    assert seen == [("e", 1), ("q", 2), ("f", 3), ("e", 4), ("e", 5), ("e", 6)]
    d.expect({"i": 7, "d": None})
    channel.close()
    d.assert_empty()


async def test_it_is_kept_for_the_first_read_in_order() -> None:
    d = Driven(dialer=True)
    channel = await requested(d, {"a": ["e", 1]}, {"a": ["e", 2, 3]}, {"a": ["e"]})
    events = channel.stream("e")
    d.feed({"h": channel.id, "a": ["e", 4]})
    assert [await anext(events) for _ in range(4)] == [1, [2, 3], None, 4]
    channel.close()
    with pytest.raises(ChannelClosed):
        await anext(events)


async def test_an_iterator_reads_the_items_that_came_with_the_creation() -> None:
    d = Driven(dialer=True)
    items = [{"a": ["next", {"value": n, "done": False}]} for n in range(3)]
    channel = await requested(d, *items, {"a": ["next", {"done": True}]})
    assert [value async for value in channel] == [0, 1, 2]
    assert not channel.closed, "as in JavaScript, the end of the items is not the end of the channel"
    channel.close()


async def test_middleware_alone_does_not_count_as_listening() -> None:
    d = Driven(dialer=True)
    channel = await requested(d, {"a": ["e", 1]})
    seen: list[Any] = []

    async def note(ctx: Context, call_next: Any) -> Any:
        seen.append(ctx.args)
        return await call_next(ctx)

    channel.use(note)
    await turns()
    assert seen == []
    channel.on("e", seen.append)
    await turns()
    assert seen == [(1,), 1]
    channel.close()


async def test_what_nobody_reads_for_30_seconds_aborts_the_channel() -> None:
    d = Driven(dialer=True)
    channel = await requested(d, {"i": 7, "a": ["q"]}, {"a": ["e"]})
    d.clock.advance(UNREAD - 1)
    assert not channel.closed
    d.clock.advance(1)
    await turns()
    assert channel.closed
    sent = d.take()
    [abort] = [message for message in sent if "x" in message]
    assert abort["h"] == channel.id and abort["_"] == 1 and "30 s" in abort["x"]["message"]
    rejection(sent, 7)
    with pytest.raises(ChannelClosed, match="30 s"):
        channel.stream("e")
    d.assert_empty()


async def test_a_silent_channel_and_one_that_is_read_are_not_aborted() -> None:
    d = Driven(dialer=True)
    silent = await requested(d)
    read = await requested(d, {"a": ["e"]})
    events = read.stream("e")
    d.clock.advance(100 * UNREAD)
    assert not silent.closed and not read.closed
    await events.aclose()
    silent.close()
    read.close()


async def test_more_than_a_mebibyte_that_nobody_reads_aborts_the_channel() -> None:
    d = Driven(dialer=True)
    block = "x" * 100_000
    channel = await requested(d, *({"a": ["e", block]} for _ in range(10)))
    assert not channel.closed
    d.feed({"h": channel.id, "a": ["e", block]})
    await turns()
    assert channel.closed and "nobody reads" in str(channel.close_reason)
    [abort] = d.take()
    assert abort["h"] == channel.id and abort["_"] == 1


async def test_requests_that_were_kept_are_answered_though_a_handler_closes_the_channel_before() -> None:
    d = Driven(dialer=True)
    channel = await requested(d, {"a": ["stop"]}, {"i": 7, "a": ["q"]}, {"i": 9, "a": ["q"]})
    channel.on("stop", lambda: channel.close("enough"))
    channel.on("q", lambda: "answer")
    await turns()
    sent = d.take()
    rejection(sent, 7)
    rejection(sent, 9)
    d.assert_empty()
