"""Handlers in threads: whatever they do, the request is answered and nobody complains."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from programs import printed_by, start

from wsrpc import (
    Client,
    Context,
    Limits,
    Peer,
    RpcError,
    Server,
    current_context,
    current_peer,
)
from wsrpc.testing import connect, pair

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

    def numbers() -> Iterator[int]:
        try:
            yield 1
            begun.set()
            go_on.wait()
            yield 2
        finally:
            closed.set()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        async with pair() as (left, right):
            right.on("numbers", numbers, thread=True)
            async with left.stream("numbers") as stream:
                assert await anext(stream) == 1
                await turns_until(begun.is_set)

    await asyncio.to_thread(asyncio.run, main())
    go_on.set()
    await turns_until(closed.is_set)
    assert said == []


async def test_what_a_generator_raises_after_its_reader_has_left_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def numbers() -> Iterator[int]:
        try:
            yield 1
            begun.set()
            go_on.wait(8)
            yield 2
        finally:
            raise ValueError("not closed")

    async with asyncio.timeout(8), pair() as (left, right):
        right.on("numbers", numbers, thread=True)
        right.on("count", lambda: right.active)
        async with left.stream("numbers") as stream:
            assert await anext(stream) == 1
            await turns_until(begun.is_set)
        assert await left.request("count") == 1  # by then, the generator's call is cancelled
        go_on.set()
        await turns_until(lambda: not right.active)
    (record,) = caplog.records
    assert record.levelname == "ERROR" and "numbers" in record.message and "after its reader had left" in record.message
    assert record.exc_info is not None and str(record.exc_info[1]) == "not closed"


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


# ---------------------------------------------------------------- one thread for each stream


STEP: ContextVar[int] = ContextVar("step", default=-1)


@pytest.mark.parametrize("returned", [False, True], ids=["yields", "returns a generator"])
@pytest.mark.parametrize("end", ["read", "left", "fails"])
async def test_all_steps_of_a_stream_run_in_one_thread_and_one_context(returned: bool, end: str) -> None:
    """A generator that reads from sqlite failed at its second item, because sqlite checks the thread."""
    together = threading.Barrier(2)  # the steps of the two streams run at the same time, so in two threads
    threads: dict[str, list[int]] = {"a": [], "b": []}
    closed: list[tuple[str, int]] = []

    def rows(name: str) -> Iterator[int]:
        database = sqlite3.connect(":memory:")
        database.execute("create table numbers as select value from json_each(?)", [str([*range(30)])])
        try:
            for (number,) in database.execute("select value from numbers"):
                assert STEP.get() == number - 1
                STEP.set(number)
                threads[name].append(threading.get_ident())
                together.wait(8)
                yield number
            if end == "fails":
                raise RpcError("no more")
        finally:
            database.close()
            threads[name].append(threading.get_ident())
            closed.append((name, STEP.get()))

    def returns_rows(name: str) -> Iterator[int]:
        threads[name].append(threading.get_ident())
        return rows(name)

    async def read(client: Client, name: str) -> None:
        async with client.stream("rows", name, returns=int) as numbers:
            try:
                async for number in numbers:
                    if end == "left" and number == 9:
                        break
            except RpcError:
                assert end == "fails"

    server = Server(limits=Limits(stream_window=1))
    server.on("rows", returns_rows if returned else rows, thread=True)
    async with connect(server) as client:
        reading = asyncio.gather(read(client, "a"), read(client, "b"))
        await asyncio.wait_for(reading, 8)
        if end == "left":
            together.abort()
        await turns_until(lambda: len(closed) == 2)
    assert [len({*each}) for each in threads.values()] == [1, 1] and threads["a"][0] != threads["b"][0]
    assert STEP.get() == -1 and all(step >= (9 if end == "left" else 29) for _, step in closed)


# ---------------------------------------------------------------- whose threads they are


async def test_handlers_that_block_leave_the_executor_of_the_event_loop_to_the_program() -> None:
    """With six of them, no name could be resolved, and no client could connect."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    go = threading.Event()
    async with asyncio.timeout(8), pair() as (left, right):
        right.on("block", go.wait, thread=True)
        asking = [asyncio.create_task(left.request("block")) for _ in range(20)]
        await turns_until(lambda: right.active == 20)
        assert await loop.getaddrinfo("localhost", 80)
        go.set()
        assert await asyncio.gather(*asking) == [True] * 20


def workers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "wsrpc worker"}


@pytest.mark.parametrize("gives_up", [False, True])
async def test_threads_end_when_they_have_been_idle(gives_up: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However their server or client ends: only `close` ended them."""
    monkeypatch.setattr("wsrpc._base.threads.IDLE", 0.01)
    server, go, before = Server(), threading.Event(), workers()
    async with asyncio.timeout(8), server.listen() as listener:
        client = Client(listener.url, reconnect=None)
        await client.connect()
        peer = server.peers[0]
        for handlers in (server, client):
            handlers.on("get", lambda: threading.get_ident(), thread=True)
            handlers.on("block", go.wait, thread=True)
        asking = [asyncio.create_task(caller.request("block", timeout=None)) for caller in (client, peer)]
        for caller in (client, peer):
            assert await caller.request("get") in [thread.ident for thread in workers() - before]
        if gives_up:
            assert peer.transport is not None
            peer.transport.abort()
        else:
            await client.close()
    await asyncio.gather(*asking, return_exceptions=True)
    await turns_until(lambda: len(workers() - before) == 2)  # a handler that blocks holds up nothing
    go.set()
    await turns_until(lambda: not workers() - before)


async def test_calls_of_an_ended_event_loop_leave_the_threads_to_the_next_one() -> None:
    """They counted without an end if they were running when it ended."""
    limits = Limits(threads=1, thread_timeout=0.1, close_timeout=0.1)
    client = Client(limits=limits)
    begun, go = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        go.wait()

    client.on("block", block, thread=True)
    client.on("quick", lambda: "quick", thread=True)

    async def main(event: str) -> Any:
        server = Server()
        async with asyncio.timeout(8), connect(server, client=client):
            asking = asyncio.create_task(server.peers[0].request(event, timeout=None))
            if event == "quick":
                return await asking
            await turns_until(begun.is_set)
            begun.clear()
            asking.cancel()

    for _ in range(limits.server_threads):
        await asyncio.to_thread(asyncio.run, main("block"))
    go.set()
    assert await asyncio.to_thread(asyncio.run, main("quick")) == "quick"


FORKS = """
import asyncio, os
from wsrpc import Client, Server

server = Server()
server.on("pid", os.getpid, thread=True)

async def main():
    async with server.listen() as listener, Client(listener.url) as client:
        return await client.request("pid", timeout=8) == os.getpid()

print(asyncio.run(main()), flush=True)
if child := os.fork():
    os.waitpid(child, 0)
else:
    print(asyncio.run(main()), flush=True)
"""


async def test_a_forked_process_starts_threads_of_its_own() -> None:
    assert await printed_by(await start(sys.executable, "-W", "ignore", "-c", FORKS)) == "True\nTrue\n"


BLOCKS = """
import asyncio, threading
from wsrpc import Server
from wsrpc.testing import connect

async def main():
    server, begun = Server(), asyncio.Event()
    loop = asyncio.get_running_loop()

    @server.on("block", thread=True)
    def block():
        loop.call_soon_threadsafe(begun.set)
        threading.Event().wait()

    async with connect(server) as client:
        asking = asyncio.create_task(client.request("block"))
        await begun.wait()
        asking.cancel()

asyncio.run(main())
print("the program ends")
"""


async def test_a_handler_that_blocks_without_end_does_not_keep_the_program_from_ending() -> None:
    assert await printed_by(await start(sys.executable, "-c", BLOCKS)) == "the program ends\n"
