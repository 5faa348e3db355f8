"""Reading the events of a channel, leaving it with `async with`, and what runs around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import Driven, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import Both, emptied
from stream_driver import both as both
from stream_sides import chat, surroundings

from wsrpc import AnonymousChannel, BadResult, ChannelClosed, Context, RemoteError, RpcError, Server
from wsrpc.testing import connect, pair

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
    assert [line async for line in channel.events("line")] == ["only one"]
    assert channel.close_reason is None


async def test_requests_with_the_name_that_is_read_are_answered_as_they_are_read(both: Both) -> None:
    left, right = both
    right.on("chat", chat)
    channel = await left.open_channel("chat", "lobby")
    lines = channel.events("line")
    assert await channel.request("line", "paced") is None
    assert await anext(lines) == "PACED"
    await channel.abort()


async def test_an_event_that_does_not_fit_is_dropped_with_a_warning_and_reading_goes_on(
    both: Both, caplog: pytest.LogCaptureFixture
) -> None:
    left, right = both
    got: list[Any] = []

    async def talk(channel: AnonymousChannel) -> None:
        async for line in channel.events("line", returns=int):
            got.append(line)

    right.on("talk", talk)
    channel = await left.open_channel("talk")
    for arguments in ((1,), ("two",), (3, 4), (), (5,)):
        await channel.emit("line", *arguments)
    async with channel:
        pass
    await emptied(left, right)
    assert got == [1, 5]
    assert right.ignored["wrong arguments"] == 3
    assert "event 'line' on channel" in caplog.text and "Expected `int`, got `str`" in caplog.text


async def test_an_item_that_does_not_fit_is_a_bad_result_and_reading_goes_on(both: Both) -> None:
    left, right = both
    got: list[Any] = []

    async def talk(channel: AnonymousChannel) -> None:
        items = channel.items(returns=int)
        while len(got) < 3:
            try:
                got.append(await anext(items))
            except BadResult as exc:
                got.append(str(exc))

    right.on("talk", talk)
    channel = await left.open_channel("talk")
    for value in (1, "two", 3):
        await channel.emit("next", {"value": value, "done": False})
    await channel.wait_closed()
    assert got[0] == 1 and got[2] == 3 and "int" in got[1]


async def test_several_readers_and_a_handler_each_get_every_event(both: Both) -> None:
    left, right = both
    handled: list[Any] = []
    got: list[list[Any]] = []

    async def talk(channel: AnonymousChannel) -> None:
        def handle(line: list[int]) -> str:
            handled.append(line)
            line.append(0)  # is seen here only
            return "from the handler"

        lines = [channel.events("line") for _ in range(2)]
        channel.on("line", handle)
        for reader in lines:
            got.append([await anext(reader), await anext(reader)])

    right.on("talk", talk)
    async with await left.open_channel("talk") as channel:
        await channel.emit("line", [1])
        assert await channel.request("line", [2]) == "from the handler"  # a request is not read where it is handled
        await channel.emit("line", [3])
        await channel.wait_closed()
    assert got == [[[1], [3]], [[1], [3]]]
    assert handled == [[1, 0], [2, 0], [3, 0]]


async def test_a_message_on_an_anonymous_channel_never_has_the_name_of_another_channel() -> None:
    d = Driven(dialer=True)
    opening = start(d.peer.open_channel("talk"))
    await turns()
    [request] = d.take()
    h = request["i"]
    d.feed({"i": h, "h": 1})
    channel = await opening
    names: list[str | None] = []

    def note(ctx: Context, text: str) -> None:
        names.append(ctx.channel_name)

    channel.on("line", note)
    lines = channel.events("line")
    await turns()
    await d.fed({"h": h, "c": "rooms", "a": ["line", "hi"]})
    assert names == [None] and await anext(lines) == "hi"
    channel.close()


async def test_one_reader_of_items(both: Both) -> None:
    left, right = both
    right.on("chat", chat)
    channel = await left.open_channel("chat", "lobby")
    items = channel.items()
    with pytest.raises(RuntimeError, match="one reader"):
        aiter(channel)
    with pytest.raises(RuntimeError, match="belongs to a stream"):
        channel.events("next")
    await items.aclose()
    await channel.abort()


async def test_items_that_end_while_nobody_reads_end_for_the_next_reader() -> None:
    go_on = asyncio.Event()

    async def numbers() -> AsyncIterator[int]:
        yield 1
        await go_on.wait()

    async with pair() as (left, right):
        right.on("numbers", numbers)
        async with await left.open_channel("numbers") as channel:
            async with channel.items() as items:
                assert await anext(items) == 1
            go_on.set()
            await turns(20)
            assert [item async for item in channel.items()] == []


async def test_a_reader_that_was_left_gets_nothing_more_and_the_next_one_does(both: Both) -> None:
    left, right = both
    right.on("chat", chat)
    channel = await left.open_channel("chat", "lobby")
    first, other = channel.events("a"), channel.events("b")
    await first.aclose()
    again = channel.events("a")
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
        async for line in channel.events("line"):
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
