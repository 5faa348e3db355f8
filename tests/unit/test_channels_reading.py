"""Reading the events of a channel, leaving it with `async with`, and what runs around it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_driver import start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import Both, emptied
from stream_driver import both as both
from stream_sides import chat, surroundings

from wsrpc import AnonymousChannel, BadResult, ChannelClosed, Context, RemoteError, RpcError, Server
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_async_with_ends_it_well_on_both_sides(both: Both) -> None:
    left, right = both
    theirs: list[AnonymousChannel] = []

    async def talk(channel: AnonymousChannel) -> None:
        theirs.append(channel)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()

    right.on("talk", talk)
    async with await left.open_channel("talk") as channel:
        await turns()
    assert channel.closed and channel.close_reason is None
    await emptied(left, right)
    assert theirs[0].closed and theirs[0].close_reason is None


async def test_async_with_that_fails_aborts_without_telling_the_error(both: Both) -> None:
    left, right = both
    theirs: list[AnonymousChannel] = []

    async def talk(channel: AnonymousChannel) -> None:
        theirs.append(channel)
        await asyncio.Event().wait()

    right.on("talk", talk)

    async def fails() -> None:
        async with await left.open_channel("talk"):
            await turns()
            raise ValueError("secret")

    with pytest.raises(ValueError, match="secret"):
        await fails()
    await emptied(left, right)
    assert isinstance(theirs[0].close_reason, RemoteError) and "secret" not in repr(theirs[0].close_reason)


async def test_async_with_that_is_cancelled_tells_the_reason(both: Both) -> None:
    left, right = both
    theirs: list[AnonymousChannel] = []

    async def talk(channel: AnonymousChannel) -> None:
        theirs.append(channel)
        await asyncio.Event().wait()

    async def use() -> None:
        async with await left.open_channel("talk"):
            await asyncio.Event().wait()

    right.on("talk", talk)
    task = start(use())
    await turns()
    task.cancel("bored")
    await asyncio.wait([task])
    await emptied(left, right)
    assert task.cancelled() and theirs[0].close_reason == "bored"


async def test_handlers_may_use_async_with_on_their_own_channel(both: Both) -> None:
    left, right = both

    async def talk(channel: AnonymousChannel) -> None:
        async with channel:
            await channel.emit("line", "only one")

    right.on("talk", talk)
    channel = await left.open_channel("talk")
    assert [line async for line in channel.stream("line")] == ["only one"]
    assert channel.close_reason is None


async def test_requests_with_the_name_that_is_read_are_answered_as_they_are_read(both: Both) -> None:
    left, right = both
    right.on("chat", chat)
    channel = await left.open_channel("chat", "lobby")
    lines = channel.stream("line")
    assert await channel.request("line", "paced") is None
    assert await anext(lines) == "PACED"
    await channel.abort()


async def test_an_item_that_does_not_fit_is_a_bad_result_and_reading_goes_on(both: Both) -> None:
    left, right = both
    got: list[Any] = []

    async def talk(channel: AnonymousChannel) -> None:
        lines = channel.stream("line", returns=int)
        while len(got) < 3:
            try:
                got.append(await anext(lines))
            except BadResult as exc:
                got.append(str(exc))

    right.on("talk", talk)
    channel = await left.open_channel("talk")
    for value in (1, "two", 3):
        await channel.emit("line", value)
    await channel.wait_closed()
    assert got[0] == 1 and got[2] == 3 and "'line'" in got[1] and "int" in got[1]


async def test_one_reader_for_each_name(both: Both) -> None:
    left, right = both
    right.on("chat", chat)
    channel = await left.open_channel("chat", "lobby")
    first, other = channel.stream("a"), channel.stream("b")
    with pytest.raises(RuntimeError, match="one reader"):
        channel.stream("a")
    await first.aclose()
    again = channel.stream("a")
    await channel.abort("x")
    for stream in (other, again):
        with pytest.raises(ChannelClosed):
            await anext(stream)
    with pytest.raises(StopAsyncIteration):
        await anext(first)


async def test_middleware_and_context_enclose_the_whole_conversation() -> None:
    server = Server()
    steps = surroundings(server)

    async def talk(channel: AnonymousChannel) -> None:
        steps.append("begin")
        async for line in channel.stream("line"):
            if line == "bye":
                break
        steps.append("end")

    server.on("talk", talk)
    async with connect(server) as client:
        channel = await client.open_channel("talk")
        await turns()
        assert steps == ["middleware in talk", "context in", "begin"]
        await channel.emit("line", "hi")
        await channel.emit("line", "bye")
        await channel.wait_closed()
        await emptied(*server.peers)
    assert steps[3:] == ["end", "context out", "middleware out talk"]


async def test_middleware_of_a_channel_sees_its_messages_only(both: Both) -> None:
    left, right = both
    seen: list[tuple[str, Any]] = []

    async def note(ctx: Context, call_next: Any) -> Any:
        seen.append((ctx.event, ctx.channel_name))
        if ctx.event == "forbidden":
            raise RpcError("no")
        return await call_next(ctx)

    async def talk(channel: AnonymousChannel) -> None:
        channel.use(note)
        channel.on("allowed", lambda: 1)
        channel.on("forbidden", lambda: 2)
        await asyncio.Event().wait()

    right.on("talk", talk)
    right.on("allowed", lambda: 3)
    channel = await left.open_channel("talk")
    assert await channel.request("allowed") == 1
    with pytest.raises(RemoteError, match="no"):
        await channel.request("forbidden")
    assert await left.request("allowed") == 3
    assert [event for event, _ in seen] == ["allowed", "forbidden"]
    await channel.abort()
