"""Handlers in threads: whatever they do, the request is answered and nobody complains."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
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
    Overloaded,
    Peer,
    RemoteError,
    RpcError,
    Server,
    current_context,
    current_peer,
)
from wsrpc.testing import Clock, connect, pair

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
            except RpcError as error:
                assert (str(error), end) == ("no more", "fails")

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


# ---------------------------------------------------------------- how many there are


class Busy:
    """A server with ``Limits(threads=1)``, where the first client, or each other client, can occupy a thread."""

    def __init__(self, clients: list[Client], server: Server) -> None:
        self.server = server
        self.client, *self.others = clients
        self.ran: list[str] = []
        self._go = threading.Event()
        self._blocked: list[asyncio.Task[None]] = []
        server.on("block", lambda: self._go.wait(8), thread=True)
        server.on("work", self.work, thread=True)
        server.on("items", self.items, thread=True)
        server.on("returns items", lambda: self.items(), thread=True)

    def work(self, name: str) -> str:
        self.ran.append(name)
        return name

    def items(self) -> Iterator[int]:
        self.ran.append("items")
        yield from range(9)

    async def occupy(self, which: str) -> None:
        """Use all threads that the first client may use for calls or for streams, or that all clients may use."""
        self._go.clear()
        begun = asyncio.Semaphore(0)

        async def block(client: Client) -> None:
            if which in ("items", "returns items"):
                async with client.stream(which) as items:
                    assert await anext(items) == 0
                    begun.release()
                    await turns_until(self._go.is_set)
            else:
                asking = asyncio.create_task(client.request("block", timeout=None))
                await turns_until(lambda: asking.done() or client.peer.pending)
                begun.release()
                await asking

        clients = self.others if which == "all" else [self.client]
        self._blocked = [asyncio.create_task(block(each)) for each in clients]
        for _ in clients:
            await begun.acquire()

    async def release(self) -> None:
        self._go.set()
        await asyncio.gather(*self._blocked)

    async def ask(self, which: str) -> Any:
        """Make a call that needs what is occupied."""
        if which in ("items", "returns items"):
            return [number async for number in self.client.stream("items")]
        return await self.client.request("work", "request")


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ("one", "1 handlers of this connection run in threads"),
        ("all", "4 handlers of all connections run in threads"),
        ("items", "1 streams of this connection are open, each in a thread"),
        ("returns items", "1 streams of this connection are open, each in a thread"),
    ],
)
async def test_a_request_that_gets_no_thread_is_rejected_and_does_not_run(
    which: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing said that handlers that block used up all threads."""
    clock, server = Clock(), Server(limits=Limits(threads=1))
    async with asyncio.timeout(8), AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(server, clock=clock)) for _ in range(5)]
        busy = Busy(clients, server)
        for period in (1, 2):
            await busy.occupy(which)
            busy.ran.clear()
            asking = [asyncio.create_task(busy.ask(which)) for _ in range(3)]
            active = sum(peer.active for peer in server.peers)
            await busy.client.emit("work", "event")
            await turns_until(lambda active=active: sum(peer.active for peer in server.peers) >= active)
            await turns_until(lambda: busy.client.peer.pending >= 3)
            asking.pop().cancel("waits in vain")
            clock.advance(4.9)
            await asyncio.sleep(0)
            assert not any(task.done() for task in asking)
            clock.advance(0.2)
            for task in asking:
                with pytest.raises(Overloaded) as caught:
                    await task
                text = f"no thread was free for 5 s: {says} (Limits.threads), ask again later"
                assert str(caught.value) == text
            streams = "items" in which
            assert busy.ran == (["event"] if streams else []), "streams take no thread from calls"
            assert len([record for record in caplog.records if says in record.message]) == period
            assert server.stats().ignored["no free thread"] == 2 * period
            await busy.release()
            await turns_until(lambda: "event" in busy.ran)
            assert await busy.ask(which) == ([*range(9)] if streams else "request")


async def test_a_handler_that_returns_a_generator_has_run_when_there_are_too_many_streams() -> None:
    server = Server(limits=Limits(threads=1))
    async with asyncio.timeout(8), connect(server) as client:
        busy = Busy([client], server)
        await busy.occupy("items")
        with pytest.raises(RemoteError, match="1 streams of this connection are open") as caught:
            await anext(client.stream("returns items"))
        assert caught.value.code == "wsrpc.too_many_channels"
        assert await client.request("work", "x") == "x"
        await busy.release()
        assert [number async for number in client.stream("returns items")] == [*range(9)]


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


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "wsrpc worker"]


@pytest.mark.parametrize("closes", ["client", "server"])
async def test_the_threads_end_with_the_client_or_the_server(closes: str) -> None:
    server, go, asking = Server(), threading.Event(), list[asyncio.Task[Any]]()
    async with asyncio.timeout(8), server.listen() as listener, Client(listener.url) as client:
        (client if closes == "client" else server).on("get", threading.get_ident, thread=True)
        (client if closes == "client" else server).on("block", go.wait, thread=True)
        caller: Any = server.peers[0] if closes == "client" else client
        assert await caller.request("get") in [thread.ident for thread in workers()]
        asking.append(asyncio.create_task(caller.request("block", timeout=None)))
        await turns_until(lambda: len(workers()) >= 1 and (client.peer.active or server.peers[0].active))
        await (client if closes == "client" else server).close()
    await asyncio.gather(*asking, return_exceptions=True)
    go.set()
    await turns_until(lambda: not workers())


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
