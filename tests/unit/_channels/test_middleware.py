"""Middleware and contexts enclose a whole stream or conversation, from before its first message to after its last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from core_driver import start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import Both, Feed, collect, emptied
from stream_driver import both as both
from stream_sides import surroundings

from wsrpc import AnonymousChannel, BadResult, Context, HandlerFailed, RemoteError, RpcError, Server, current_context
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_a_context_variable_and_the_current_context_reach_the_generator() -> None:
    user: ContextVar[str] = ContextVar("user")
    server = Server()

    @server.use
    async def sign_in(ctx: Context, call_next: Any) -> Any:
        user.set(f"user of {ctx.event}")
        return await call_next(ctx)

    @server.on("feed")
    async def feed() -> AsyncIterator[Any]:
        for _ in range(70):
            yield [user.get(), current_context().event]

    async with connect(server) as client:
        assert await collect(client.stream("feed")) == [["user of feed", "feed"]] * 70


async def instead(ctx: Context, call_next: Any) -> Any:
    return Feed(limit=3)()


async def a_value(ctx: Context, call_next: Any) -> Any:
    return 5


async def refuses(ctx: Context, call_next: Any) -> Any:
    raise RpcError("not you")


async def translates(ctx: Context, call_next: Any) -> Any:
    try:
        return await call_next(ctx)
    except ValueError as exc:
        raise RpcError(f"translated {exc}") from exc


async def nothing(ctx: Context, call_next: Any) -> Any:
    return await call_next(ctx)


@pytest.mark.parametrize(
    ("middleware", "exposed", "items", "error", "text"),
    [
        (instead, False, [0, 1, 2], None, ""),
        (a_value, False, [], BadResult, "not a channel but int"),
        (refuses, False, [], RemoteError, "not you"),
        (translates, False, [0, 1], RemoteError, "translated the text"),
        (nothing, True, [0, 1], RemoteError, "the text"),
        (nothing, False, [0, 1], HandlerFailed, "internal error"),
    ],
)
async def test_what_middleware_makes_of_a_stream_is_what_the_consumer_gets(
    middleware: Any, exposed: bool, items: list[int], error: Any, text: str
) -> None:
    server = Server(expose_errors=exposed)
    server.use(middleware)
    feed = Feed(limit=2, error=ValueError("the text"))
    server.on("feed", feed.__call__)
    async with connect(server) as client:
        got: list[Any] = []
        reading = start(collect(client.stream("feed"), got))
        await asyncio.wait([reading])
        assert got == items and feed.made == (2 if items == [0, 1] else 0)
        if error is not None:
            with pytest.raises(error, match=text):
                await reading
        if middleware is refuses:
            with pytest.raises(RemoteError, match="not you"):
                await client.request("feed", send=[1])
        await emptied(*server.peers)


@pytest.mark.parametrize("leave_at", [150, 1000])
async def test_middleware_and_context_enclose_the_whole_stream(leave_at: int) -> None:
    server = Server()
    steps = surroundings(server)

    async def feed() -> AsyncIterator[int]:
        for number in range(200):
            steps.append(number)
            yield number

    server.on("feed", feed)
    async with connect(server) as client:
        async with client.stream("feed") as numbers:
            async for number in numbers:
                if number == leave_at:
                    break
        await emptied(*server.peers)
    assert steps[:3] == ["middleware in feed", "context in", 0]
    assert steps[-2:] == ["context out", "middleware out feed"]


async def test_middleware_and_context_enclose_the_whole_conversation() -> None:
    server = Server()
    steps = surroundings(server)

    async def talk(channel: AnonymousChannel) -> None:
        steps.append("begin")
        await channel.wait_for("bye")
        steps.append("end")

    server.on("talk", talk)
    async with connect(server) as client:
        channel = await client.open_channel("talk")
        await turns()
        assert steps == ["middleware in talk", "context in", "begin"]
        await channel.emit("bye")
        await channel.wait_closed()
        await emptied(*server.peers)
    assert steps[3:] == ["end", "context out", "middleware out talk"]


async def test_a_timeout_in_the_handlers_context_ends_the_stream() -> None:
    timeouts: list[asyncio.Timeout] = []

    @asynccontextmanager
    async def limited(ctx: Context) -> AsyncGenerator[None]:
        async with asyncio.timeout(None) as timeout:
            timeouts.append(timeout)
            yield

    server = Server(handler_context=limited)
    feed = Feed(gate=2)
    server.on("feed", feed.__call__)
    async with connect(server) as client:
        got: list[Any] = []
        reading = start(collect(client.stream("feed"), got))
        await feed.waiting.wait()
        timeouts[0].reschedule(0.0)  # now it is long overdue
        with pytest.raises(HandlerFailed):
            await reading
        assert got == [0, 1] and feed.finished.is_set()
        await emptied(*server.peers)


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
