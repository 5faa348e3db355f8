"""Anonymous channels in use, from both ends: channels that a handler returns, and conversations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import Blocked, Driven, messages, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import Both, collect, emptied
from stream_driver import both as both
from stream_sides import chat, opened, requested

from wsrpc import (
    AnonymousChannel,
    BadArguments,
    BadResult,
    CallNext,
    ChannelClosed,
    ConnectionLost,
    Context,
    HandlerFailed,
    RemoteError,
    RpcError,
    UnknownEvent,
    current_context,
)
from wsrpc.errors import ChannelNotReady, UnexpectedChannel

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---------------------------------------------------------------- channels


async def test_both_sides_emit_request_and_answer_until_one_closes_it(both: Both) -> None:
    ours, theirs = await opened(both)
    back, forth = await opened((both[1], both[0]))
    assert ours.id == theirs.id > 0 and back.id == forth.id != ours.id
    assert [(peer.channels, peer.active) for peer in both] == [(2, 0)] * 2, "handlers that returned a channel are done"
    seen: list[Any] = []
    for name, channel in (("ours", ours), ("theirs", theirs), ("back", back), ("forth", forth)):
        channel.on("who", lambda name=name: name)
        channel.on("note", lambda *args: seen.append(args))
    asked = [await channel.request("who", returns=str) for channel in (ours, theirs, back, forth)]
    assert asked == ["theirs", "ours", "forth", "back"]
    await ours.emit("note", 1)
    ours.emit_nowait("note", 2, 3)
    await ours.request("who")
    assert seen == [(1,), (2, 3)]
    assert not ours.closed and ours.close_reason is None and "open" in repr(ours)
    await theirs.abort("bye")
    assert theirs.closed and theirs.close_reason == "bye"
    await ours.wait_closed()
    assert ours.closed and ours.close_reason == "bye" and "closed" in repr(ours)
    await back.abort()


async def test_handlers_on_a_channel(both: Both) -> None:
    ours, theirs = await opened(both)
    theirs.once("once", lambda: 1)
    theirs.on("twice", lambda: 1)
    theirs.on("twice", lambda: 2)
    theirs.on("gone", lambda: 1)
    theirs.on("gone", None)
    for name in ("open", "close", "message"):
        theirs.on(name, lambda name=name: f"{name} is an ordinary name")
        assert await ours.request(name) == f"{name} is an ordinary name"
    assert [await ours.request(name) for name in ("once", "twice", "twice")] == [1, 2, 2]
    for event in ("once", "gone", "nobody_handles_this"):
        with pytest.raises(UnknownEvent):
            await ours.request(event)
    await ours.abort()


async def test_sending_before_delivery_is_refused_and_says_what_to_do(both: Both) -> None:
    left, right = both
    refused: list[BaseException] = []

    async def handler(ctx: Context) -> AnonymousChannel:
        channel = ctx.channel()
        with pytest.raises(ChannelNotReady, match="return it first"):
            channel.emit_nowait("early")
        for use in (channel.emit, channel.request, channel.open_channel):
            with pytest.raises(ChannelNotReady, match="return it first") as caught:
                await use("early")
            refused.append(caught.value)
        assert not channel.closed and ctx.channel() is channel
        return channel

    right.on("c", handler)
    channel = await left.open_channel("c")
    assert len(refused) == 3
    await channel.abort()


async def test_calls_that_do_not_fit_leave_no_channel(both: Both) -> None:
    left, right = both
    made: list[AnonymousChannel] = []

    def makes(ctx: Context) -> AnonymousChannel:
        made.append(ctx.channel())
        return made[-1]

    right.on("makes", makes)
    right.on("plain", lambda: 5)
    right.on("chat", chat)
    with pytest.raises(BadResult, match="not a channel but int"):
        await left.open_channel("plain")
    with pytest.raises(UnexpectedChannel, match="open_channel"):
        await left.request("makes", returns=int)
    await made[0].wait_closed()
    for args in ((), (1,), ("lobby", "more")):
        with pytest.raises(BadArguments):
            await left.open_channel("chat", *args)
    assert left.channels == right.channels == 0


async def test_a_message_on_an_anonymous_channel_never_has_the_name_of_another_channel() -> None:
    d = Driven(dialer=True)
    channel = await requested(d)
    names: list[str | None] = []

    def note(ctx: Context, text: str) -> None:
        names.append(ctx.channel_name)

    channel.on("line", note)
    lines = channel.events("line")
    await turns()
    await d.fed({"h": channel.id, "c": "rooms", "a": ["line", "hi"]})
    assert names == [None] and await anext(lines) == "hi"
    channel.close()


# ---------------------------------------------------------------- readers


async def test_an_event_that_does_not_fit_is_dropped_with_a_warning_and_reading_goes_on(
    both: Both, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = await opened(both)
    numbers = theirs.events("line", returns=int)
    for arguments in ((1,), ("two",), (3, 4), (), (5,)):
        await ours.emit("line", *arguments)
    assert [await anext(numbers), await anext(numbers)] == [1, 5]
    assert both[1].ignored["wrong arguments"] == 3
    assert "event 'line' on channel" in caplog.text and "Expected `int`, got `str`" in caplog.text
    assert await ours.request("line", 6) is None, "a request with that name is answered as it is read"
    await ours.abort()


async def test_several_readers_and_a_handler_each_get_every_event(both: Both) -> None:
    ours, theirs = await opened(both)
    handled: list[Any] = []

    def handle(line: list[int]) -> str:
        handled.append(line)
        line.append(0)  # is seen here only
        return "from the handler"

    readers = [theirs.events("line") for _ in range(2)]
    theirs.on("line", handle)
    await ours.emit("line", [1])
    assert await ours.request("line", [2]) == "from the handler"  # a request is not read where it is handled
    await ours.emit("line", [3])
    for reader in readers:
        assert [await anext(reader), await anext(reader)] == [[1], [3]]
    assert handled == [[1, 0], [2, 0], [3, 0]]
    await ours.abort()


async def test_one_reader_of_items(both: Both) -> None:
    ours, _ = await opened(both)
    items = ours.items()
    with pytest.raises(RuntimeError, match="one reader"):
        aiter(ours)
    with pytest.raises(RuntimeError, match="belongs to a stream"):
        ours.events("next")
    await items.aclose()
    await ours.abort()


# ---------------------------------------------------------------- conversations


async def test_the_body_is_the_conversation_and_its_return_ends_it_well(both: Both) -> None:
    left, right = both
    right.on("chat", chat)
    channel = await left.open_channel("chat", "lobby")
    for line in ("a", "b"):
        channel.emit_nowait("line", line)  # they are kept for the body
    lines = channel.events("line", returns=str)
    assert [await anext(lines), await anext(lines)] == ["A", "B"]
    assert await channel.request("room") == "lobby"
    assert right.active == 1 and right.channels == 1
    await channel.emit("line", "bye")
    assert await collect(lines) == []
    assert channel.closed and channel.close_reason is None


@pytest.mark.parametrize("layered", [False, True])
async def test_what_the_body_returns_is_ignored_even_if_it_has_items(both: Both, layered: bool) -> None:
    left, right = both

    @right.on("chat")
    async def answered(channel: AnonymousChannel) -> Any:
        async with channel:
            await channel.emit("line", "hi")
        return iter([1, 2])

    if layered:

        @right.use
        async def around(ctx: Context, call_next: CallNext) -> Any:
            return await call_next(ctx)

    channel = await left.open_channel("chat")
    assert await collect(channel.events("line")) == ["hi"]
    assert channel.closed and channel.close_reason is None


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (RpcError("over capacity", code="E_FULL"), RemoteError, "over capacity"),
        (ValueError("secret"), HandlerFailed, ""),
    ],
)
async def test_what_the_body_raises_is_the_close_reason_and_what_readers_get(
    both: Both, error: Exception, kind: type[RemoteError], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    left, right = both

    async def talk(channel: AnonymousChannel) -> None:
        await channel.emit("line", 1)
        raise error

    right.on("talk", talk)
    channel = await left.open_channel("talk")
    got: list[Any] = []
    with pytest.raises(kind) as caught:
        await collect(channel.events("line"), got)
    reason = channel.close_reason
    assert got == [1] and type(reason) is type(caught.value) is kind
    assert text in str(reason) and "secret" not in str(reason)
    if isinstance(reason, HandlerFailed):
        assert reason.error_id is not None and reason.error_id in messages(caplog)[0]
    else:
        assert reason.code == "E_FULL"


@pytest.mark.parametrize("how", ["abort", "close", "drop", "block", "block that fails", "block that is cancelled"])
async def test_the_body_is_cancelled_when_the_other_side_goes(both: Both, how: str) -> None:
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
        task = start(use_in_a_block())
        await turns()
        task.cancel("bored")
        await asyncio.wait([task])
    await emptied(left, right)
    assert len(blocked.cancelled) == 1
    reason, context = contexts[0].channel().close_reason, contexts[0]
    if how in ("abort", "block that is cancelled"):
        assert blocked.cancelled == ["bored"] and context.cancel_reason == reason == "bored"
    elif how == "drop":
        assert isinstance(context.cancel_reason, ConnectionLost)
    elif how == "block":
        assert reason is channel.close_reason is None
    else:
        assert isinstance(reason, RemoteError) and "secret" not in repr(reason)


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


async def test_a_conversation_inside_a_conversation(both: Both) -> None:
    left, right = both
    blocked = Blocked()

    async def inner(channel: AnonymousChannel) -> None:
        async for n in channel.events("n", returns=int):
            await channel.emit("n", n + 1)

    async def late(ctx: Context) -> AnonymousChannel:
        await blocked()
        return ctx.channel()

    async def items(n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    async def outer(channel: AnonymousChannel) -> None:
        for handler in (inner, items, late):
            channel.on(handler.__name__, handler)
        await asyncio.Event().wait()

    right.on("outer", outer)
    channel = await left.open_channel("outer")
    nested = await channel.open_channel("inner")
    assert nested.id != channel.id
    numbers = nested.events("n")
    await nested.emit("n", 1)
    assert await anext(numbers) == 2
    async with await channel.open_channel("items", 3) as listing:
        assert await collect(listing) == [0, 1, 2]
    opening = start(channel.open_channel("late", timeout=None))
    await turns()
    assert blocked.started
    await channel.abort("enough")
    with pytest.raises(ChannelClosed) as caught:
        await opening
    assert caught.value.reason == "enough" and not nested.closed
    await nested.abort()
    await emptied(left, right)
    assert blocked.cancelled == ["enough"]
