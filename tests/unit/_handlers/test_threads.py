"""Handlers in threads: whatever they do, the request is answered and nobody complains."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextvars import ContextVar
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, Limits, RemoteError, RpcError, Server, current_context
from wsrpc.testing import connect, pair

pytestmark = pytest.mark.usefixtures("nothing_left")

PATIENCE = 8


async def test_stop_iteration_is_answered() -> None:
    async with asyncio.timeout(PATIENCE), pair() as (left, right):
        right.on("next", lambda: next(iter(())), thread=True)
        with pytest.raises(RemoteError) as caught:
            await left.request("next", timeout=None)
        assert caught.value.code == "wsrpc.internal"
        assert right.active == 0


@pytest.mark.parametrize(
    "error",
    [StopIteration(5), StopAsyncIteration(), asyncio.CancelledError(), GeneratorExit()],
    ids=lambda error: type(error).__name__,
)
async def test_exceptions_that_mean_something_to_the_loop_are_answered(error: BaseException) -> None:
    async with asyncio.timeout(PATIENCE), pair() as (left, right):

        def work() -> None:
            raise error

        right.on("work", work, thread=True)
        right.on("echo", lambda value: value, thread=True)
        with pytest.raises(RemoteError) as caught:
            await left.request("work", timeout=None)
        assert caught.value.code == "wsrpc.internal"
        assert await left.request("echo", 1) == 1
        await turns_until(lambda: not right.active)


@pytest.mark.parametrize("error", [ValueError("late"), RpcError("late"), StopIteration()])
@pytest.mark.parametrize("end", ["cancelled", "dropped"])
async def test_what_a_thread_raises_late_is_nobodys_business(error: Exception, end: str) -> None:
    go_on = threading.Event()
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(PATIENCE), pair() as (left, right):

            def late() -> None:
                loop.call_soon_threadsafe(started.set)
                go_on.wait()
                raise error

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
    finally:
        go_on.set()
    gc.collect()  # and `nothing_left` sees what the loop says then


async def test_an_awaitable_that_a_thread_returns_is_awaited_in_the_loop() -> None:
    async with asyncio.timeout(PATIENCE), pair() as (left, right):
        threads: list[threading.Thread] = []

        async def rest(value: int) -> int:
            threads.append(threading.current_thread())
            await asyncio.sleep(0)
            assert current_context().event == "work"
            return value + 1

        def work(value: int) -> Any:
            threads.append(threading.current_thread())
            return rest(value)

        right.on("work", work, thread=True)
        assert await left.request("work", 1) == 2
        assert threads[0] is not threads[1]
        assert threads[1] is threading.main_thread()


async def test_an_awaitable_that_a_thread_returns_may_fail_and_be_cancelled() -> None:
    async with asyncio.timeout(PATIENCE), pair() as (left, right):
        started, cancelled = asyncio.Event(), asyncio.Event()

        async def fail() -> None:
            raise RpcError("no", "my.code")

        async def for_ever() -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        right.on("fail", lambda: fail(), thread=True)
        right.on("for ever", lambda: for_ever(), thread=True)
        with pytest.raises(RemoteError) as caught:
            await left.request("fail")
        assert caught.value.code == "my.code"
        asking = asyncio.create_task(left.request("for ever"))
        await started.wait()
        asking.cancel()
        await cancelled.wait()
        await turns_until(lambda: not right.active)


async def test_ordered_goes_on_after_a_thread_that_raises_what_a_future_refuses() -> None:
    async with asyncio.timeout(PATIENCE), pair() as (left, right):
        running = 0
        most = 0

        def work(n: int) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                return next(iter([n] if n % 2 else []))
            finally:
                running -= 1

        right.on("work", work, thread=True, ordered=True)
        answers = await asyncio.gather(
            *(left.request("work", n, timeout=None) for n in range(6)), return_exceptions=True
        )
        assert [n for n in range(6) if isinstance(answers[n], RemoteError)] == [0, 2, 4]
        assert [answers[n] for n in (1, 3, 5)] == [1, 3, 5]
        assert most == 1


async def test_ordered_waits_for_the_thread_of_a_cancelled_call() -> None:
    go_on = threading.Event()
    loop = asyncio.get_running_loop()
    started = asyncio.Event()
    story: list[str] = []
    try:
        async with asyncio.timeout(PATIENCE), pair() as (left, right):

            def work(n: int) -> None:
                story.append(f"start {n}")
                if n == 0:
                    loop.call_soon_threadsafe(started.set)
                    go_on.wait()
                story.append(f"end {n}")
                if n == 0:
                    raise ValueError("late")

            right.on("work", work, thread=True, ordered=True)
            first = asyncio.create_task(left.request("work", 0))
            await started.wait()
            second = asyncio.create_task(left.request("work", 1))
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            for _ in range(20):
                await asyncio.sleep(0)
            assert story == ["start 0"]
            go_on.set()
            await second
            assert story == ["start 0", "end 0", "start 1", "end 1"]
    finally:
        go_on.set()


async def test_what_a_thread_sets_in_the_context_stays_there() -> None:
    user: ContextVar[str] = ContextVar("user", default="nobody")
    async with asyncio.timeout(PATIENCE), pair() as (left, right):
        right.on("login", lambda name: (user.set(name), user.get())[1], thread=True)
        right.on("whoami", lambda: user.get(), thread=True)
        right.on("whoami inline", lambda: user.get())
        assert await left.request("login", "ada") == "ada"
        assert await left.request("whoami") == "nobody"
        assert await left.request("whoami inline") == "nobody"


async def test_a_thread_that_goes_on_holds_up_no_close(caplog: pytest.LogCaptureFixture) -> None:
    go_on, ended = threading.Event(), asyncio.Event()
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def late() -> None:
        loop.call_soon_threadsafe(started.set)
        go_on.wait()
        loop.call_soon_threadsafe(ended.set)

    server = Server()
    try:
        async with (
            asyncio.timeout(PATIENCE),
            connect(server, client=Client(limits=Limits(close_timeout=0.01))) as client,
        ):
            client.on("late", late, thread=True)
            await server.peers[0].emit("late")
            await started.wait()
            await client.close()
            assert "1 handlers do not end although they were cancelled" in caplog.text
            assert client.state == "closed" and client.peer.active == 1
    finally:
        go_on.set()
    async with asyncio.timeout(PATIENCE):
        await ended.wait()
        await turns_until(lambda: not client.peer.active)
