"""Handlers in threads, and context variables: whatever they do, the request is answered and nobody else is reached."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
from core_driver import Driven
from leftovers import nothing_left as nothing_left
from programs import printed_by, start
from waiting import settled, until

from wsrpc import Client, Limits, Peer, Server, current_context, current_peer
from wsrpc.testing import VirtualTimeLoop, connect, pair

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize(("end", "error"), [("cancelled", ValueError("late")), ("dropped", StopIteration())])
async def test_what_a_thread_raises_late_is_nobodys_business(end: str, error: Exception) -> None:
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
        await until(lambda: not right.active)
    gc.collect()  # and `nothing_left` sees what the loop says then


async def test_a_thread_has_a_copy_of_the_context_and_an_awaitable_that_it_returns_is_awaited_in_the_loop() -> None:
    user: ContextVar[str] = ContextVar("user", default="nobody")
    main = threading.main_thread()

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
        assert user.get() == "nobody"


# ---------------------------------------------------------------- one thread for each stream


STEP: ContextVar[int] = ContextVar("step", default=-1)


@pytest.mark.parametrize(("end", "returned"), [("read", False), ("left", True)])
async def test_all_steps_of_a_stream_run_in_one_thread_and_one_context(end: str, returned: bool) -> None:
    """A generator that reads from sqlite failed at its second item, because sqlite checks the thread."""
    together = threading.Barrier(2)  # the steps of the two streams run at the same time, so in two threads
    threads: dict[str, list[int]] = {"a": [], "b": []}
    closed: list[int] = []

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
        finally:
            database.close()
            threads[name].append(threading.get_ident())
            closed.append(STEP.get())

    async def read(client: Client, name: str) -> None:
        async with client.stream("rows", name, returns=int) as numbers:
            async for number in numbers:
                if end == "left" and number == 9:
                    break

    server = Server(limits=Limits(stream_window=1))
    server.on("rows", (lambda name: rows(name)) if returned else rows, thread=True)
    async with connect(server) as client:
        reading = asyncio.gather(read(client, "a"), read(client, "b"))
        await asyncio.wait_for(reading, 8)
        if end == "left":
            together.abort()
        await until(lambda: len(closed) == 2)
    assert [len({*each}) for each in threads.values()] == [1, 1] and threads["a"][0] != threads["b"][0]
    assert STEP.get() == -1 and all(step >= (9 if end == "left" else 29) for step in closed)


# ---------------------------------------------------------------- whose threads they are


async def test_handlers_that_block_leave_the_executor_of_the_event_loop_to_the_program() -> None:
    """With six of them, no name could be resolved, and no client could connect."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    go = threading.Event()
    async with asyncio.timeout(8), pair() as (left, right):
        right.on("block", go.wait, thread=True)
        asking = [asyncio.create_task(left.request("block")) for _ in range(20)]
        await until(lambda: right.active == 20)
        assert await loop.getaddrinfo("localhost", 80)
        go.set()
        assert await asyncio.gather(*asking) == [True] * 20


def workers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "wsrpc worker"}


@pytest.mark.parametrize("gives_up", [False, True])
async def test_threads_end_when_they_have_been_idle(gives_up: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However their server or client ends: only `close` ended them."""
    monkeypatch.setattr("wsrpc._base.threads.IDLE", 0.01)
    server, client, go, before = Server(), Client(), threading.Event(), workers()
    async with asyncio.timeout(8), connect(server, client=client):
        [peer] = server.peers
        for handlers in (server, client):
            handlers.on("get", lambda: threading.get_ident(), thread=True)
            handlers.on("block", go.wait, thread=True)
        asking = [asyncio.create_task(caller.request("block", timeout=None)) for caller in (client, peer)]
        for caller in (client, peer):
            assert await caller.request("get") in [thread.ident for thread in workers() - before]
        if gives_up:
            assert peer.transport is not None
            peer.transport.abort()
    await asyncio.gather(*asking, return_exceptions=True)
    await until(lambda: len(workers() - before) == 2)  # a handler that blocks holds up nothing
    go.set()
    await until(lambda: not workers() - before)


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
            await until(begun.is_set)
            begun.clear()
            asking.cancel()

    for _ in range(limits.server_threads):
        await asyncio.to_thread(asyncio.run, main("block"))
    go.set()
    assert await asyncio.to_thread(asyncio.run, main("quick")) == "quick"


PROGRAM = """
import asyncio, os, threading
from wsrpc import Server
from wsrpc.testing import connect

server = Server()
server.on("pid", os.getpid, thread=True)

@server.on("block", thread=True)
def block():
    begun.set()
    threading.Event().wait()

async def main():
    async with connect(server) as client:
        return await client.request("pid", timeout=8) == os.getpid()

async def blocks():
    async with connect(server) as client:
        asking = asyncio.create_task(client.request("block"))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        asking.cancel()

print(asyncio.run(main()), flush=True)
if child := os.fork():
    os.waitpid(child, 0)
begun = threading.Event()
print(asyncio.run(main()), flush=True)
asyncio.run(blocks())
"""


async def test_a_forked_process_starts_threads_of_its_own_and_no_blocked_one_keeps_a_program_from_ending() -> None:
    assert await printed_by(await start(sys.executable, "-W", "ignore", "-c", PROGRAM)) == "True\n" * 3


LIFECYCLE = ["open", "message", "error", "close"]

user: ContextVar[str] = ContextVar("user", default="nobody")


# ---------------------------------------------------------------- context variables


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("event", [*LIFECYCLE, "login", "fail"])
async def test_what_a_read_or_a_lifecycle_handler_sets_is_gone_with_it(event: str, is_async: bool) -> None:
    d, seen = Driven(bind=False), list[str]()

    def login() -> None:
        seen.append(user.get())
        user.set("ada")
        if event == "fail":
            raise ValueError

    async def login_async() -> None:
        login()

    d.peer.on(event, login_async if is_async else login)
    d.peer.on("whoami", lambda: seen.append(user.get()))
    for _ in range(2):
        d.rebind()
        d.feed({"a": ["whoami"]}, {"a": []}, {"a": [event]}, {"a": ["whoami"]})
        for current in (current_peer, current_context):
            with pytest.raises(RuntimeError, match="no handler is running here"):
                current()
        await settled()
        d.transport.lose()
    await settled()
    assert set(seen) == {"nobody"}
    assert user.get() == "nobody"


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
            await until(begun.is_set)
        assert await left.request("count") == 1  # by then, the generator's call is cancelled
        go_on.set()
        await until(lambda: not right.active)
    (record,) = caplog.records
    assert record.levelname == "ERROR" and "numbers" in record.message and "after its reader had left" in record.message
    assert record.exc_info is not None and str(record.exc_info[1]) == "not closed"


@pytest.mark.parametrize("known", [True, False])
def test_virtual_time_does_not_jump_while_a_thread_may_answer(known: bool) -> None:
    """At the end also not while idle threads exit: from Python 3.12 on, a timer of five minutes limits this."""

    async def main() -> None:
        if known:
            async with asyncio.timeout(250):
                await asyncio.to_thread(time.sleep, 0.01)
        else:
            done, loop = asyncio.Event(), asyncio.get_running_loop()
            threading.Timer(0.01, lambda: loop.call_soon_threadsafe(done.set)).start()
            await done.wait()

    loop = VirtualTimeLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
    assert loop.time() < 250
