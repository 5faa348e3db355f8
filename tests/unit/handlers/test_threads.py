"""Handlers in threads: whatever they do, the request is answered and nobody complains."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Context, Peer, RpcError, current_context, current_peer
from wsrpc.testing import pair

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize("error", [ValueError("late"), RpcError("late"), StopIteration()])
@pytest.mark.parametrize("end", ["cancelled", "dropped"])
async def test_what_a_thread_raises_late_is_nobodys_business(error: Exception, end: str) -> None:
    loop = asyncio.get_running_loop()
    started, go_on = asyncio.Event(), threading.Event()

    def late() -> None:
        loop.call_soon_threadsafe(started.set)
        go_on.wait(8)
        raise error

    async with asyncio.timeout(8), pair() as (left, right):
        right.on("late", late, thread=True)
        asking = asyncio.create_task(left.request("late", timeout=None))
        await started.wait()
        if end == "cancelled":
            asking.cancel()
        else:
            assert left.transport is not None
            left.transport.abort()
        await asyncio.gather(asking, return_exceptions=True)
        assert right.active == 1  # counted until it exits
        go_on.set()
        await turns_until(lambda: not right.active)
    gc.collect()  # and `nothing_left` sees what the loop says then


async def test_a_generator_that_makes_an_item_in_a_thread_when_its_loop_ends_is_closed_there() -> None:
    begun, go_on, closed, said = threading.Event(), threading.Event(), threading.Event(), list[Any]()

    class Workers(ThreadPoolExecutor):
        def shutdown(self, *args: Any, **options: Any) -> None:
            go_on.set()  # the loop takes no new work by now
            super().shutdown(*args, **options)

    def numbers() -> Iterator[int]:
        try:
            yield 1
            begun.set()
            go_on.wait()
            yield 2
        finally:
            closed.set()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(Workers())
        loop.set_exception_handler(lambda _, context: said.append(context))
        async with pair() as (left, right):
            right.on("numbers", numbers, thread=True)
            async with left.stream("numbers") as stream:
                assert await anext(stream) == 1
                await turns_until(begun.is_set)

    await asyncio.to_thread(asyncio.run, main())
    assert closed.is_set() and said == []


async def test_a_thread_has_a_copy_of_the_context_and_an_awaitable_that_it_returns_is_awaited_in_the_loop() -> None:
    user: ContextVar[str] = ContextVar("user", default="nobody")
    main = threading.main_thread()

    async def set_by_middleware(ctx: Context, call_next: Any) -> Any:
        user.set("middleware")
        return await call_next(ctx)

    async def rest(seen: list[Any]) -> list[Any]:
        return [*seen, threading.current_thread() is main, current_context().event]

    def login(peer: Peer, name: str) -> Any:
        seen = [threading.current_thread() is main, user.get(), current_peer() is peer, current_context().event]
        user.set(name)
        return rest(seen)

    async with asyncio.timeout(8), pair() as (left, right):
        right.on("login", login, thread=True)
        for _ in range(2):
            assert await left.request("login", "ada") == [False, "nobody", True, "login", True, "login"]
        right.use(set_by_middleware)
        assert await left.request("login", "ada") == [False, "middleware", True, "login", True, "login"]
        assert user.get() == "nobody"
