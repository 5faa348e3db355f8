"""Middleware and contexts enclose a whole stream or conversation, from before its first message to after its last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from stream_driver import Both, Feed, collect, emptied
from stream_driver import both as both
from waiting import settled

from wsrpc import AnonymousChannel, Context, RemoteError, RpcError, current_context
from wsrpc.testing import pair

pytestmark = pytest.mark.usefixtures("nothing_left")


async def instead(ctx: Context, call_next: Any) -> Any:
    return Feed(limit=3)()


async def translates(ctx: Context, call_next: Any) -> Any:
    try:
        return await call_next(ctx)
    except ValueError as exc:
        raise RpcError(f"translated {exc}") from exc


async def test_what_middleware_makes_of_a_stream() -> None:
    for middleware, items, error in ((instead, [0, 1, 2], None), (translates, [0, 1], "translated the text")):
        async with pair() as (left, right):
            right.use(middleware)
            right.on("feed", Feed(limit=2, error=ValueError("the text")).__call__)
            got: list[Any] = []
            with nullcontext() if error is None else pytest.raises(RemoteError, match=error):
                await collect(left.stream("feed"), got)
            assert got == items
            await emptied(left, right)


@pytest.mark.parametrize("event", ["read to its end", "left", "conversation"])
async def test_middleware_encloses_the_whole_call(event: str, both: Both) -> None:
    left, right = both
    user: ContextVar[str] = ContextVar("user")
    steps: list[Any] = []

    @right.use
    async def middleware(ctx: Context, call_next: Any) -> Any:
        user.set(ctx.event)
        steps.append("middleware in")
        try:
            return await call_next(ctx)
        finally:
            steps.append("middleware out")

    async def feed() -> AsyncIterator[Any]:
        try:
            for number in range(200):
                yield [number, user.get(), current_context().event]
        finally:
            steps.append("over")

    async def talk(channel: AnonymousChannel) -> None:
        assert (await channel.wait_for("bye"), user.get()) == (None, event)
        steps.append("over")

    right.on(event, talk if event == "conversation" else feed)
    if event == "conversation":
        async with await left.open_channel(event) as channel:
            await settled()
            assert steps == ["middleware in"]
            await channel.emit("bye")
            await channel.wait_closed()
    else:
        async with left.stream(event) as numbers:
            async for number, *seen in numbers:
                assert seen == [event, event]
                if number == 150 and event == "left":
                    break
    await emptied(left, right)
    assert steps == ["middleware in", "over", "middleware out"]


async def test_middleware_of_a_channel_sees_its_messages_only(both: Both) -> None:
    left, right = both
    seen: list[Any] = []

    async def note(ctx: Context, call_next: Any) -> Any:
        seen.append(ctx.event)
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
    assert seen == ["allowed", "forbidden"]
    await channel.abort()
