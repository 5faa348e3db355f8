"""Anonymous channels that a handler makes and returns: delivery, and use from both ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from stream_driver import Both, emptied
from stream_driver import both as both
from stream_sides import opened

from wsrpc import AnonymousChannel, BadResult, Context, RemoteError, UnknownEvent
from wsrpc.errors import ChannelNotReady, UnexpectedChannel
from wsrpc.testing import Clock, pair

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_both_sides_emit_request_and_answer(both: Both) -> None:
    ours, theirs = await opened(both)
    seen: list[Any] = []
    ours.on("add", lambda a, b: a + b)
    theirs.on("double", lambda n: 2 * n)
    theirs.on("note", lambda *args: seen.append(args))
    assert await ours.request("double", 4) == 8
    assert await theirs.request("add", 1, 2, returns=int) == 3
    await ours.emit("note", 1)
    ours.emit_nowait("note", 2, 3)
    await ours.request("double", 0)
    assert seen == [(1,), (2, 3)]
    assert ours.id == theirs.id and ours.id > 0
    await ours.abort()


async def test_open_on_both_sides_until_one_closes_it(both: Both) -> None:
    ours, theirs = await opened(both)
    assert (both[0].channels, both[1].channels) == (1, 1)
    assert (both[0].active, both[1].active) == (0, 0), "the handler that returned a channel is done"
    assert not ours.closed and not theirs.closed and ours.close_reason is theirs.close_reason is None
    assert "open" in repr(ours)
    await theirs.abort("bye")
    assert theirs.closed and theirs.close_reason == "bye"
    await ours.wait_closed()
    assert ours.closed and ours.close_reason == "bye"
    assert "closed" in repr(ours)


async def test_channels_of_the_two_directions_are_apart(both: Both) -> None:
    ours, theirs = await opened(both)
    back, forth = await opened((both[1], both[0]))
    assert back.id != ours.id
    ours.on("who", lambda: "ours")
    theirs.on("who", lambda: "theirs")
    back.on("who", lambda: "back")
    forth.on("who", lambda: "forth")
    asked = [await channel.request("who") for channel in (ours, theirs, back, forth)]
    assert asked == ["theirs", "ours", "forth", "back"]
    await ours.abort()
    await back.abort()


async def test_sending_before_delivery_is_refused_and_says_what_to_do(both: Both) -> None:
    left, right = both
    errors: list[BaseException] = []

    async def handler(ctx: Context) -> AnonymousChannel:
        channel = ctx.channel()
        with pytest.raises(ChannelNotReady, match="return it first") as caught:
            await channel.emit("early")
        errors.append(caught.value)
        with pytest.raises(ChannelNotReady):
            await channel.request("early")
        with pytest.raises(ChannelNotReady):
            channel.emit_nowait("early")
        with pytest.raises(ChannelNotReady):
            await channel.open_channel("early")
        assert not channel.closed and ctx.channel() is channel
        return channel

    right.on("c", handler)
    channel = await left.open_channel("c")
    assert len(errors) == 1
    await channel.abort()


async def test_an_unknown_event_on_a_channel_is_rejected(both: Both) -> None:
    ours, theirs = await opened(both)
    theirs.on("other", lambda: None)
    with pytest.raises(UnknownEvent):
        await ours.request("nobody_handles_this")
    await ours.abort()


async def test_a_returned_channel_lives_on_without_traffic() -> None:
    clock = Clock()
    async with pair(clock=clock) as both:
        ours, theirs = await opened(both)
        clock.advance(3600)
        await turns()
        assert not ours.closed and not theirs.closed
        theirs.on("start", lambda: "an ordinary name")
        assert await ours.request("start") == "an ordinary name"
        await ours.abort()
        await emptied(*both)


async def test_an_answer_that_is_no_channel_is_a_bad_result(both: Both) -> None:
    left, right = both
    right.on("plain", lambda: 5)
    with pytest.raises(BadResult, match="not a channel but int"):
        await left.open_channel("plain")


async def test_a_channel_that_nobody_asked_for_is_aborted(both: Both) -> None:
    left, right = both
    made: list[AnonymousChannel] = []

    def handler(ctx: Context) -> AnonymousChannel:
        made.append(ctx.channel())
        return made[-1]

    right.on("c", handler)
    with pytest.raises(UnexpectedChannel, match="open_channel"):
        await left.request("c", returns=int)
    await made[0].wait_closed()


async def test_once_and_replaced_and_removed_handlers_on_a_channel(both: Both) -> None:
    left, right = both

    async def talk(channel: AnonymousChannel) -> None:
        channel.once("once", lambda: 1)
        channel.on("twice", lambda: 1)
        channel.on("twice", lambda: 2)
        channel.on("gone", lambda: 1)
        channel.on("gone", None)
        await asyncio.Event().wait()

    right.on("talk", talk)
    async with await left.open_channel("talk") as channel:
        assert await channel.request("once") == 1
        assert await channel.request("twice") == 2
        for event in ("once", "gone"):
            with pytest.raises(RemoteError):
                await channel.request(event)


async def test_reserved_names_are_ordinary_on_a_channel(both: Both) -> None:
    left, right = both

    async def talk(channel: AnonymousChannel) -> None:
        channel.on("close", lambda: "an ordinary name")
        channel.on("message", lambda: "too")
        async for value in channel.events("open"):
            await channel.emit("connect", value)

    right.on("talk", talk)
    async with await left.open_channel("talk") as channel:
        answers = channel.events("connect")
        assert await channel.request("close") == "an ordinary name"
        assert await channel.request("message") == "too"
        await channel.emit("open", 5)
        assert await anext(answers) == 5
