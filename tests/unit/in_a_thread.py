"""A server in an event loop of its own thread, for tests of clients that block, and what such a client can call."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

import pytest
from waiting import until

from wsrpc import AnonymousChannel, Peer, RpcError, Server, current_peer
from wsrpc.blocking import Client
from wsrpc.cluster import MemoryEngine
from wsrpc.testing import FaultProxy

T = TypeVar("T")


class Served(NamedTuple):
    """A server that listens on loopback, in another thread."""

    server: Server
    url: str
    loop: asyncio.AbstractEventLoop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the server's loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds, which is looked at in the server's loop."""
        self.run(until(condition))

    def peer(self) -> Peer:
        """Return the only peer, which may be a moment behind its client."""
        self.until(lambda: self.server.peers)
        return self.server.peers[0]

    def idle(self, client: Client) -> None:
        """Wait until neither side does anything for the other: no handler, no channel, no request."""
        self.until(lambda: not any(p.active or p.anonymous_channels or p.pending for p in self.server.peers))
        peer = client.peer
        client._bridge.run(lambda: until(lambda: not (peer.active or peer.anonymous_channels or peer.pending)))


class ThreadedEngine(MemoryEngine):
    """A `MemoryEngine` whose connections may be in several event loops."""

    def __init__(self) -> None:
        super().__init__()
        self.loops: dict[Any, asyncio.AbstractEventLoop] = {}

    async def connect(self, listener: Any, /) -> Any:
        self.loops[listener] = asyncio.get_running_loop()
        return await super().connect(listener)

    def deliver(self, subject: str, payload: bytes) -> None:
        for connection in tuple(self.connections):

            def in_its_loop(connection: Any = connection) -> None:
                if connection.has_subscribed(subject):
                    connection.listener.received(subject, payload)

            self.loops[connection.listener].call_soon_threadsafe(in_its_loop)


def make_server() -> tuple[Server, list[str]]:
    """Return a server with a handler of each kind, and a list of those that were cancelled or left."""
    server = Server()
    left: list[str] = []
    server.on("add", lambda a, b=0: a + b)
    server.on("echo", lambda value: value)

    @server.on("fail")
    def fail(text: str) -> None:
        raise RpcError(text, code="no")

    @server.on("hang")
    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            left.append("hang")

    @server.on("count")
    async def count(n: int, wrong: int = -1, hangs: bool = False) -> AsyncIterator[Any]:
        try:
            for number in range(n):
                yield "wrong" if number == wrong else number
            if hangs:
                await asyncio.Event().wait()
        finally:
            left.append("count")

    @server.on("broken")
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise RpcError("broken", code="no")

    @server.on("total")
    async def total(numbers: AsyncIterator[int], most: int = 1000) -> int:
        found = 0
        try:
            async for number in numbers:
                found += number
                if (most := most - 1) == 0:
                    break
        except asyncio.CancelledError:
            left.append("total")
            raise
        return found

    @server.on("doubled")
    async def doubled(numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in numbers:
            yield 2 * number

    @server.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        channel.on("ask", lambda text: text.upper())
        channel.on("total", total)
        async for text in channel.events("say", returns=str):
            await channel.emit("said", text)

    @server.on("say")
    async def say(*args: Any) -> None:
        await current_peer().emit("said", *args)

    return server, left


@contextmanager
def serving(server: Server) -> Generator[Served]:
    """Serve in another thread. At the end no client may be there, and nothing may run."""
    made: list[Served] = []
    ready, over = threading.Event(), asyncio.Event()

    async def serve() -> None:
        complaints: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        async with server.listen("127.0.0.1", 0) as listening:
            made.append(Served(server, listening.url, loop))
            ready.set()
            await over.wait()
            await until(lambda: not server.peers)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"
        assert not complaints, f"the event loop complained: {complaints}"

    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as exc:
            failed.append(exc)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="server")
    thread.start()
    ready.wait()
    try:
        yield made[0]
    finally:
        if made:
            made[0].loop.call_soon_threadsafe(over.set)
        thread.join()
    if failed:
        raise failed[0]


@contextmanager
def no_thread_left() -> Generator[None]:
    """Every thread that begins in the block ends in it, or is about to."""
    before = {*threading.enumerate()}
    yield
    deadline = time.monotonic() + 60
    while (left := {*threading.enumerate()} - before) and time.monotonic() < deadline:
        for thread in left:
            with suppress(RuntimeError):  # it is about to start
                thread.join(1)
    assert not left, f"threads are left: {left}"


def proxy_of(served: Served) -> FaultProxy:
    """Return a proxy that runs in the server's loop."""

    async def make() -> FaultProxy:
        return await FaultProxy(served.url).__aenter__()

    return served.run(make())


@pytest.fixture
def threads_end(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """No thread is left of a test, whatever it does to its clients. Idle ones end soon, so that tests need not wait."""
    monkeypatch.setattr("wsrpc._base.threads.IDLE", 0.02)
    with no_thread_left():
        yield


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(make_server()[0]) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.url) as client:
        yield client
        served.idle(client)
