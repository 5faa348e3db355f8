"""Anonymous channels in use, from both ends: channels that a handler returns, and conversations."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from core_driver import Blocked, Driven, messages, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import Both, collect, emptied
from stream_driver import both as both
from stream_sides import chat, opened, requested

from wsrpc import (
    AnonymousChannel,
    ChannelClosed,
    Context,
    RemoteError,
    UnknownEvent,
    current_context,
)
from wsrpc.errors import ChannelNotReady

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---------------------------------------------------------------- channels


async def test_handlers_on_a_channel(both: Both) -> None:
    ours, theirs = await opened(both)
    theirs.once("once", lambda: 1)
    theirs.on("gone", lambda: 1)
    theirs.on("gone", None)
    for name in ("open", "close", "message"):
        theirs.on(name, lambda name=name: f"{name} is an ordinary name")
        assert await ours.request(name) == f"{name} is an ordinary name"
    assert await ours.request("once") == 1
    for event in ("once", "gone"):
        with pytest.raises(UnknownEvent):
            await ours.request(event)
    await ours.abort()


async def test_sending_before_delivery_is_refused_and_says_what_to_do(both: Both) -> None:
    async def handler(ctx: Context) -> AnonymousChannel:
        channel = ctx.channel()
        with pytest.raises(ChannelNotReady, match="return it first"):
            channel.emit_nowait("early")
        for use in (channel.emit, channel.request, channel.open_channel):
            with pytest.raises(ChannelNotReady, match="return it first"):
                await use("early")
        assert not channel.closed and ctx.channel() is channel
        return channel

    both[1].on("c", handler)
    channel = await both[0].open_channel("c")
    await channel.abort()


async def test_a_message_on_an_anonymous_channel_never_has_the_name_of_another_channel() -> None:
    d = Driven(dialer=True)
    channel = await requested(d)
    channel.on("line", lambda: current_context().channel_name)
    assert await d.fed({"h": channel.id, "c": "rooms", "i": 2, "a": ["line"]}) == [{"i": 2, "d": None}]
    channel.close()


# ---------------------------------------------------------------- readers


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


# ---------------------------------------------------------------- conversations


async def test_what_the_body_returns_is_ignored_even_if_it_has_items(both: Both) -> None:
    left, right = both

    @right.on("chat")
    async def answered(channel: AnonymousChannel) -> Any:
        await channel.emit("line", "hi")
        return iter([1, 2])

    channel = await left.open_channel("chat")
    assert await collect(channel.events("line")) == ["hi"]
    assert channel.closed and channel.close_reason is None


@pytest.mark.parametrize("how", ["close", "block", "block that fails", "block that is cancelled"])
async def test_the_body_is_cancelled_when_the_other_side_goes(both: Both, how: str) -> None:
    """How a call ends by an abort or a drop: tests/unit/test_calls.py."""
    left, right = both
    blocked = Blocked()
    contexts: list[Context] = []

    async def talk(channel: AnonymousChannel) -> None:
        contexts.append(current_context())
        await blocked()

    async def use_in_a_block() -> None:
        async with channel:
            if how == "block that is cancelled":
                await asyncio.Event().wait()
            if how == "block that fails":
                raise ValueError("secret")

    right.on("talk", talk)
    channel = await left.open_channel("talk")
    await turns()
    context = contexts[0]
    if how == "close":
        channel.close()
        # Nobody learns of that until something is sent.
        await turns()
        assert blocked.cancelled == [] and left.anonymous_channels == 0
        await context.channel().emit("anyone?")
    else:
        task = start(use_in_a_block())
        await turns()
        task.cancel("bored")
        await asyncio.wait([task])
    await emptied(left, right)
    reason = context.channel().close_reason
    assert len(blocked.cancelled) == 1
    if how == "block that is cancelled":
        assert blocked.cancelled == ["bored"] and context.cancel_reason == reason == "bored"
    elif how == "block":
        assert reason is channel.close_reason is None
    else:
        assert isinstance(reason, RemoteError) and "secret" not in repr(reason)


async def test_tasks_of_a_body_that_notice_the_end_of_its_channel_have_not_failed(
    both: Both, caplog: pytest.LogCaptureFixture
) -> None:
    """Their errors came in a group, and were logged with a traceback."""
    left, right = both
    caplog.set_level(logging.INFO, "wsrpc")

    async def talk(channel: AnonymousChannel) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            async with asyncio.TaskGroup() as group:
                for _ in range(2):
                    group.create_task(channel.emit("line", "anybody?"))

    right.on("talk", talk)
    channel = await left.open_channel("talk")
    await turns()
    await channel.abort("enough")
    await emptied(left, right)
    assert [record.levelno for record in caplog.records if "was left: " in record.getMessage()] == [logging.INFO]
    assert messages(caplog) == []


async def test_a_channel_that_ends_ends_what_is_opened_on_it(both: Both) -> None:
    left, right = both
    blocked = Blocked()

    async def late(ctx: Context) -> AnonymousChannel:
        await blocked()
        return ctx.channel()

    async def outer(channel: AnonymousChannel) -> None:
        channel.on("inner", chat)
        channel.on("late", late)
        await asyncio.Event().wait()

    right.on("outer", outer)
    channel = await left.open_channel("outer")
    nested = await channel.open_channel("inner", "lobby")
    opening = start(channel.open_channel("late", timeout=None))
    await turns()
    await channel.abort("enough")
    with pytest.raises(ChannelClosed) as caught:
        await opening
    assert caught.value.reason == "enough" and nested.id != channel.id and not nested.closed
    await nested.abort()
    await emptied(left, right)
    assert blocked.cancelled == ["enough"]
