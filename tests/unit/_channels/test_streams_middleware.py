"""Middleware and contexts enclose a whole stream, from before its first item to after its last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from core_driver import start
from leftovers import nothing_left as nothing_left
from stream_driver import Feed, collect, emptied
from stream_sides import surroundings

from wsrpc import BadResult, Context, HandlerFailed, RemoteError, RpcError, Server, current_context
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
        got = await collect(client.stream("feed"))
        assert len(got) == 70 and all(value == ["user of feed", "feed"] for value in got)
        await emptied(*server.peers)


async def test_middleware_may_answer_instead_or_stream_something_else() -> None:
    server = Server()
    feed = Feed()
    server.on("feed", feed.__call__)
    answers: list[Any] = [5, Feed(limit=3)()]

    @server.use
    async def instead(ctx: Context, call_next: Any) -> Any:
        return answers.pop(0)

    async with connect(server) as client:
        with pytest.raises(BadResult, match="not a channel but int"):
            await collect(client.stream("feed"))
        assert await collect(client.stream("feed")) == [0, 1, 2]
        await emptied(*server.peers)
    assert feed.made == 0


async def test_middleware_may_refuse_a_stream() -> None:
    server = Server()
    server.on("feed", Feed().__call__)

    @server.use
    async def gate(ctx: Context, call_next: Any) -> Any:
        raise RpcError("not you")

    async with connect(server) as client:
        with pytest.raises(RemoteError, match="not you"):
            await collect(client.stream("feed"))
        with pytest.raises(RemoteError, match="not you"):
            await client.request("feed", send=[1])
        assert server.peers[0].channels == 0
        await emptied(*server.peers)


async def test_exposed_errors_are_exposed_in_streams_too() -> None:
    server = Server(expose_errors=True)
    server.on("feed", Feed(limit=1, error=ValueError("the text")).__call__)
    async with connect(server) as client:
        with pytest.raises(RemoteError, match="the text"):
            await collect(client.stream("feed"))
        await emptied(*server.peers)


async def test_middleware_and_context_enclose_the_whole_stream() -> None:
    server = Server()
    steps = surroundings(server)

    async def feed() -> AsyncIterator[int]:
        for number in range(200):
            steps.append(number)
            yield number

    server.on("feed", feed)
    async with connect(server) as client:
        for leave_at in (150, 1000):
            steps.clear()
            async with client.stream("feed") as numbers:
                async for number in numbers:
                    if number == leave_at:
                        break
            await emptied(*server.peers)
            assert steps[:3] == ["middleware in feed", "context in", 0]
            assert steps[-2:] == ["context out", "middleware out feed"]


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


async def test_an_error_that_middleware_makes_of_it_is_what_the_consumer_gets() -> None:
    server = Server()
    server.on("feed", Feed(limit=2, error=ValueError("x")).__call__)

    @server.use
    async def translate(ctx: Context, call_next: Any) -> Any:
        try:
            return await call_next(ctx)
        except ValueError as exc:
            raise RpcError(f"translated {exc}") from exc

    async with connect(server) as client:
        got: list[Any] = []
        with pytest.raises(RemoteError, match="translated x"):
            await collect(client.stream("feed"), got)
        assert got == [0, 1]
