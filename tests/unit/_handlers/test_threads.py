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

from wsrpc import Client, Context, Limits, Peer, RemoteError, RpcError, Server, current_context, current_peer
from wsrpc.testing import connect, pair

pytestmark = pytest.mark.usefixtures("nothing_left")

PATIENCE = 8


class Thread:
    """A function that waits in its thread until the test lets it go on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.started, self.ended = asyncio.Event(), asyncio.Event()
        self.go_on = threading.Event()

    def wait(self) -> None:
        self._loop.call_soon_threadsafe(self.started.set)
        self.go_on.wait()
        self._loop.call_soon_threadsafe(self.ended.set)


@pytest.fixture
async def thread() -> Any:
    made = Thread()
    yield made
    made.go_on.set()


@pytest.mark.parametrize("error", [ValueError("late"), RpcError("late"), StopIteration()])
@pytest.mark.parametrize("end", ["cancelled", "dropped"])
async def test_what_a_thread_raises_late_is_nobodys_business(thread: Thread, error: Exception, end: str) -> None:
    async with asyncio.timeout(PATIENCE), pair() as (left, right):

        def late() -> None:
            thread.wait()
            raise error

        right.on("late", late, thread=True)
        asking = asyncio.create_task(left.request("late", timeout=None))
        await thread.started.wait()
        if end == "cancelled":
            asking.cancel()
        else:
            assert left.transport is not None
            left.transport.abort()
        await asyncio.gather(asking, return_exceptions=True)
        assert right.active == 1  # counted until it exits
        thread.go_on.set()
        await turns_until(lambda: not right.active)
    gc.collect()  # and `nothing_left` sees what the loop says then


async def test_an_awaitable_that_a_thread_returns_is_awaited_in_the_loop() -> None:
    threads: list[threading.Thread] = []
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def rest(what: str) -> str:
        threads.append(threading.current_thread())
        await asyncio.sleep(0)
        assert current_context().event == "work"
        if what == "fail":
            raise RpcError("no", "my.code")
        if what == "wait":
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
        return what

    def work(what: str) -> Any:
        threads.append(threading.current_thread())
        return rest(what)

    async with asyncio.timeout(PATIENCE), pair() as (left, right):
        right.on("work", work, thread=True)
        assert await left.request("work", "x") == "x"
        assert threads[0] is not threads[1] and threads[1] is threading.main_thread()
        with pytest.raises(RemoteError) as caught:
            await left.request("work", "fail")
        assert caught.value.code == "my.code"
        asking = asyncio.create_task(left.request("work", "wait"))
        await started.wait()
        asking.cancel()
        await cancelled.wait()
        await turns_until(lambda: not right.active)


async def test_ordered_waits_for_the_thread_of_a_cancelled_call(thread: Thread) -> None:
    story: list[str] = []

    def work(n: int) -> None:
        story.append(f"start {n}")
        if n == 0:
            thread.wait()
        story.append(f"end {n}")
        if n == 0:
            raise ValueError("late")

    async with asyncio.timeout(PATIENCE), pair() as (left, right):
        right.on("work", work, thread=True, ordered=True)
        first = asyncio.create_task(left.request("work", 0))
        await thread.started.wait()
        second = asyncio.create_task(left.request("work", 1))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        for _ in range(20):
            await asyncio.sleep(0)
        assert story == ["start 0"]
        thread.go_on.set()
        await second
        assert story == ["start 0", "end 0", "start 1", "end 1"]


async def test_a_thread_has_a_copy_of_the_context() -> None:
    user: ContextVar[str] = ContextVar("user", default="nobody")

    async def set_by_middleware(ctx: Context, call_next: Any) -> Any:
        user.set("middleware")
        return await call_next(ctx)

    def login(peer: Peer, name: str) -> list[Any]:
        before = user.get()
        user.set(name)
        in_thread = threading.current_thread() is not threading.main_thread()
        return [in_thread, before, user.get(), current_peer() is peer, current_context().event]

    async with asyncio.timeout(PATIENCE), pair() as (left, right):
        right.on("login", login, thread=True)
        right.on("whoami", lambda: user.get(), thread=True)
        right.on("whoami inline", lambda: user.get())
        assert await left.request("login", "ada") == [True, "nobody", "ada", True, "login"]
        assert await left.request("whoami") == await left.request("whoami inline") == user.get() == "nobody"
        right.use(set_by_middleware)
        assert await left.request("login", "ada") == [True, "middleware", "ada", True, "login"]
        assert await left.request("whoami") == "middleware" and user.get() == "nobody"


async def test_a_thread_that_goes_on_holds_up_no_close(thread: Thread, caplog: pytest.LogCaptureFixture) -> None:
    server, client = Server(), Client(limits=Limits(close_timeout=0.01))
    async with asyncio.timeout(PATIENCE):
        async with connect(server, client=client):
            client.on("late", thread.wait, thread=True)
            await server.peers[0].emit("late")
            await thread.started.wait()
            await client.close()
            assert "1 handlers do not end although they were cancelled" in caplog.text
            assert client.state == "closed" and client.peer.active == 1
        thread.go_on.set()
        await thread.ended.wait()
        await turns_until(lambda: not client.peer.active)
