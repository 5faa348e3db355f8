"""Conversations: handlers with a channel parameter, whose body runs while the channel is open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import Blocked, Driven, messages, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import Both, emptied
from stream_driver import both as both
from stream_sides import chat

from wsrpc import (
    AnonymousChannel,
    BadArguments,
    CallNext,
    ChannelClosed,
    ConnectionLost,
    Context,
    HandlerFailed,
    Limits,
    RemoteError,
    RpcError,
    current_context,
)

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_the_body_is_the_conversation_and_its_return_ends_it_well(both: Both) -> None:
    left, right = both
    right.on("chat", chat)
    channel = await left.open_channel("chat", "lobby")
    lines = channel.events("line", returns=str)
    await channel.emit("line", "hi")
    assert await anext(lines) == "HI"
    assert await channel.request("room") == "lobby"
    assert right.active == 1 and right.channels == 1
    await channel.emit("line", "bye")
    assert [line async for line in lines] == []
    assert channel.closed and channel.close_reason is None


@pytest.mark.parametrize("layered", [False, True])
async def test_what_the_body_returns_is_ignored_even_if_it_has_items(both: Both, layered: bool) -> None:
    left, right = both

    @right.on("chat")
    async def answered(channel: AnonymousChannel) -> Any:
        await channel.emit("line", "hi")
        return iter([1, 2])

    if layered:

        @right.use
        async def around(ctx: Context, call_next: CallNext) -> Any:
            return await call_next(ctx)

    channel = await left.open_channel("chat")
    assert [line async for line in channel.events("line")] == ["hi"]
    assert channel.closed and channel.close_reason is None


async def test_lines_sent_before_the_body_runs_are_kept(both: Both) -> None:
    left, right = both
    right.on("chat", chat)
    channel = await left.open_channel("chat", "lobby")
    for line in ("a", "b", "c", "bye"):
        channel.emit_nowait("line", line)
    assert [line async for line in channel.events("line")] == ["A", "B", "C"]


@pytest.mark.parametrize("how", ["abort", "close", "drop", "leave"])
async def test_the_body_is_cancelled_when_the_other_side_goes(both: Both, how: str) -> None:
    left, right = both
    blocked = Blocked()
    contexts: list[Context] = []

    async def talk(channel: AnonymousChannel) -> None:
        contexts.append(current_context())
        await blocked()

    right.on("talk", talk)
    channel = await left.open_channel("talk")
    await turns()
    if how == "abort":
        await channel.abort("bored")
    elif how == "close":
        channel.close()
        # Nobody learns of that until something is sent.
        await turns()
        assert blocked.cancelled == [] and left.channels == 0
        await contexts[0].channel().emit("anyone?")
    elif how == "drop":
        assert left.transport is not None
        left.transport.abort()
    else:
        async with channel:
            pass
        assert channel.close_reason is None
    await emptied(left, right)
    assert len(blocked.cancelled) == 1
    if how == "abort":
        assert blocked.cancelled == ["bored"] and contexts[0].cancel_reason == "bored"
    elif how == "drop":
        assert isinstance(contexts[0].cancel_reason, ConnectionLost)


async def test_what_the_body_raises_is_the_close_reason_and_what_readers_get(both: Both) -> None:
    left, right = both

    async def talk(channel: AnonymousChannel) -> None:
        await channel.emit("line", 1)
        raise RpcError("over capacity", code="E_FULL")

    right.on("talk", talk)
    channel = await left.open_channel("talk")
    lines = channel.events("line")
    assert await anext(lines) == 1
    with pytest.raises(RemoteError, match="over capacity") as caught:
        await anext(lines)
    assert caught.value.code == "E_FULL"
    assert isinstance(channel.close_reason, RemoteError) and channel.close_reason.code == "E_FULL"


async def test_an_unexpected_error_of_the_body_stays_there(both: Both, caplog: pytest.LogCaptureFixture) -> None:
    left, right = both

    async def talk(channel: AnonymousChannel) -> None:
        raise ValueError("secret")

    right.on("talk", talk)
    channel = await left.open_channel("talk")
    await channel.wait_closed()
    reason = channel.close_reason
    assert isinstance(reason, HandlerFailed) and "secret" not in str(reason)
    assert reason.error_id is not None and reason.error_id in messages(caplog)[0]


async def test_the_body_may_end_it_itself(both: Both) -> None:
    left, right = both
    after: list[Any] = []

    async def talk(channel: AnonymousChannel) -> None:
        await channel.abort("enough")
        after.append(channel.closed)
        await asyncio.sleep(0)
        with pytest.raises(ChannelClosed):
            await channel.emit("late")
        after.append("ran on")

    right.on("talk", talk)
    channel = await left.open_channel("talk")
    await channel.wait_closed()
    assert channel.close_reason == "enough"
    await emptied(left, right)
    assert after == [True, "ran on"]


async def test_bad_arguments_are_rejected_without_a_channel(both: Both) -> None:
    left, right = both
    right.on("chat", chat)
    for args in ((), (1,), ("lobby", "more")):
        with pytest.raises(BadArguments):
            await left.open_channel("chat", *args)
    assert left.channels == right.channels == 0


async def test_a_conversation_inside_a_conversation(both: Both) -> None:
    left, right = both

    async def inner(channel: AnonymousChannel) -> None:
        async for n in channel.events("n", returns=int):
            await channel.emit("n", n + 1)

    async def outer(channel: AnonymousChannel) -> None:
        channel.on("inner", inner)
        channel.on("items", items)
        await asyncio.Event().wait()

    async def items(n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    right.on("outer", outer)
    channel = await left.open_channel("outer")
    nested = await channel.open_channel("inner")
    assert nested.id != channel.id
    numbers = nested.events("n")
    await nested.emit("n", 1)
    assert await anext(numbers) == 2
    listing = await channel.open_channel("items", 3)
    assert [n async for n in listing] == [0, 1, 2]
    assert (left.channels, right.active) == (2, 2) or (left.channels, right.active) == (3, 2)
    await nested.abort()
    await listing.abort()
    await channel.abort()


async def test_the_outer_one_closes_while_the_inner_one_is_being_opened(both: Both) -> None:
    left, right = both
    blocked = Blocked()

    async def inner(ctx: Context) -> AnonymousChannel:
        await blocked()
        return ctx.channel()

    async def outer(channel: AnonymousChannel) -> None:
        channel.on("inner", inner)
        await asyncio.Event().wait()

    right.on("outer", outer)
    channel = await left.open_channel("outer")
    opening = start(channel.open_channel("inner", timeout=None))
    await turns()
    assert blocked.started
    await channel.abort("enough")
    with pytest.raises(ChannelClosed) as caught:
        await opening
    assert caught.value.reason == "enough"
    await emptied(left, right)
    assert blocked.cancelled == ["enough"]


async def test_a_body_that_never_reads_is_cancelled_although_something_came_before_the_end() -> None:
    d = Driven()

    async def talk(channel: AnonymousChannel) -> None:
        await asyncio.Event().wait()

    d.peer.on("talk", talk)
    for i in range(1, 20):
        await d.fed({"i": i, "a": ["talk"]}, {"h": i, "a": ["e", "x" * 1000]}, {"h": i, "x": "bye"})
        await d.fed({"h": i, "a": ["e", "x" * 1000]}, {"h": i, "x": "bye"})
    d.clock.advance(Limits().unread)  # it might have begun to read until then
    await emptied(d.peer)
    assert d.clock.next_deadline is None, "nothing waits for a reader that cannot come"
