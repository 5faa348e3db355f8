"""`Server.close(drain_timeout=...)` over real connections: what was begun ends well, what is new goes elsewhere.

`tests/unit/wire/test_draining_extension.py` has the messages, message by message.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
from core_driver import Blocked, messages, start
from leftovers import nothing_left as nothing_left
from leftovers import timers_due, turns_until
from raw_websocket import CLOSE, TEXT, raw_client

from wsrpc import AnonymousChannel, Client, CloseInfo, ConnectionLost, Handshake, Limits, Peer, Reconnect, Server
from wsrpc.cluster import Cluster, MemoryEngine
from wsrpc.errors import Draining
from wsrpc.store import MemoryStore

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)
AT_ONCE = Reconnect(initial=0.001, max=0.001)
LONG = 60.0
"""Longer than a test may take: where the end does not come before, the test fails."""


class Scene:
    """A server, and a client of it that does not dial again."""

    def __init__(self, server: Server, url: str, port: int, extensions: bool) -> None:
        self.server, self.port = server, port
        self.work = Blocked()
        self.logged: list[Any] = []
        server.on("work", self.work)
        server.on("echo", lambda value: value)
        server.on("log", self.logged.append)
        self.client = Client(url, limits=LIMITS, reconnect=None, extensions=extensions)
        self.ended: asyncio.Future[CloseInfo] = asyncio.get_running_loop().create_future()
        self.client.on("close", lambda peer, info: self.ended.set_result(info))
        self.extensions = extensions

    async def works(self) -> asyncio.Task[Any]:
        """A request of the client that ends when ``work.go`` is set."""
        before = len(self.work.started)
        request = start(self.client.request("work"))
        await turns_until(lambda: len(self.work.started) > before)
        return request

    async def drains(self, seconds: float = LONG) -> asyncio.Task[None]:
        """Begin to drain, and wait until the client has heard of it, if it can."""
        closing = start(self.server.close(drain_timeout=seconds))
        await turns_until(lambda: "draining" in repr(self.server))
        if self.extensions:
            await turns_until(lambda: self.client.closes_in is not None)
            assert self.client.closes_in is not None and 0 < self.client.closes_in <= seconds
        return closing

    async def ends_well(self, closing: asyncio.Task[None]) -> None:
        info = await self.ended
        assert (info.code, info.reason, info.was_clean) == (1012, "the server is closing", True)
        assert self.client.closes_in is None
        await closing


@asynccontextmanager
async def scene(extensions: bool = True, **limits: Any) -> AsyncGenerator[Scene]:
    server = Server(limits=LIMITS.replace(**limits))
    async with asyncio.timeout(8), server.listen() as listener:
        it = Scene(server, listener.url, listener.port, extensions)
        async with it.client:
            yield it


# ---------------------------------------------------------------- what was begun: each yields while the server drains


async def a_request(it: Scene) -> AsyncGenerator[None]:
    request, cancelled = await it.works(), await it.works()
    yield
    await it.client.emit("log", "heard")
    if not it.extensions:
        for call in (it.client.request, it.client.open_channel):
            with pytest.raises(Draining):
                await call("work")
    cancelled.cancel()
    await turns_until(lambda: it.work.cancelled)
    it.work.go.set()
    assert await request == []
    assert it.logged == ["heard"]


async def requests_within_requests(it: Scene) -> AsyncGenerator[None]:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def dig(peer: Peer, depth: int) -> int:
        if depth == 4:
            begun.set()
            await go_on.wait()
        return 1 + await peer.request("dig", depth - 1) if depth else 0

    it.server.on("dig", dig)
    it.client.on("dig", dig)
    request = start(it.client.request("dig", 4))
    await begun.wait()
    yield
    go_on.set()
    assert await request == 4


async def count(go_on: asyncio.Event) -> AsyncIterator[int]:
    for number in range(200):
        yield number
        await go_on.wait()


async def a_stream(it: Scene) -> AsyncGenerator[None]:
    go_on, streams = asyncio.Event(), list[Any]()
    sides: list[tuple[Any, Any]] = [(it.client, it.server), (it.server.peers[0], it.client)]
    for reader, producer in sides:
        producer.on("count", partial(count, go_on))
        streams.append(reader.stream("count"))
        assert await anext(streams[-1]) == 0
    yield
    go_on.set()
    for stream in streams:
        assert [number async for number in stream] == list(range(1, 200))


async def a_conversation(it: Scene) -> AsyncGenerator[None]:
    @it.server.on("chat")
    async def chat(channel: AnonymousChannel) -> None:
        async for line in channel.events("line", returns=str):
            await channel.request("heard", line)

    heard: asyncio.Queue[str] = asyncio.Queue()
    channel = await it.client.open_channel("chat")
    channel.on("heard", heard.put_nowait)
    yield
    await channel.emit("line", "hi")
    assert await heard.get() == "hi"
    await channel.abort()


BEGUN = [a_request, requests_within_requests, a_stream, a_conversation]


@pytest.mark.parametrize("extensions", [True, False], ids=["wsrpc", "plain"])
@pytest.mark.parametrize("begun", BEGUN, ids=lambda begun: begun.__name__)
async def test_what_was_begun_ends_well_and_then_1012(
    begun: Callable[[Scene], AsyncGenerator[None]], extensions: bool
) -> None:
    doing: Callable[[Scene], AbstractAsyncContextManager[None]] = asynccontextmanager(begun)
    async with scene(extensions) as it:
        async with doing(it):
            closing = await it.drains()
            assert not closing.done() and repr(it.server) == "<Server draining, 1 peers>"
        await it.ends_well(closing)


# ---------------------------------------------------------------- on_drain


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_an_endless_stream_ends_because_its_handler_is_told(kind: str) -> None:
    """Nothing told it, so a drain waited until its time was over."""
    async with scene() as it:
        queues = set[asyncio.Queue[str | None]]()

        @it.server.on("feed")
        async def feed() -> AsyncIterator[str]:
            queue = asyncio.Queue[str | None]()
            queues.add(queue)
            while (item := await queue.get()) is not None:
                yield item

        def end_feeds() -> None:
            for queue in queues:
                queue.put_nowait(None)

        async def end_them_later() -> None:
            await asyncio.sleep(0)
            end_feeds()

        it.server.on_drain(end_feeds if kind == "sync" else end_them_later)
        streams = [it.client.stream("feed", returns=str) for _ in range(3)]
        first = [start(anext(stream)) for stream in streams]
        await turns_until(lambda: len(queues) == 3)
        for queue in queues:
            queue.put_nowait("first")
            queue.put_nowait("last")
        assert await asyncio.gather(*first) == ["first"] * 3
        assert not it.server.draining
        closing = start(it.server.close(drain_timeout=LONG))
        assert [[item async for item in stream] for stream in streams] == [["last"]] * 3
        await it.ends_well(closing)


async def test_functions_are_called_once_for_each_drain_while_peers_are_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with scene() as it:
        called, told, over = list[tuple[bool, bool]](), asyncio.Queue[str](), asyncio.Event()
        it.client.on("bye", lambda: told.put_nowait("bye"))

        @it.server.on_drain
        async def say_bye() -> None:
            called.append((it.server.draining, it.server.healthy))
            await it.server.emit("bye")

        @it.server.on_drain
        def fail() -> None:
            raise LookupError("a mistake")

        @it.server.on_drain
        async def hang() -> None:
            while not over.is_set():  # it also suppresses its cancellation
                with suppress(asyncio.CancelledError):
                    await over.wait()

        closing = start(it.server.close(drain_timeout=LONG))
        assert await told.get() == "bye", "the client is idle, and is there yet"
        await it.ended
        await turns_until(lambda: not it.server.peers)
        assert it.server.draining and not closing.done(), "it waits for async functions, too"
        await it.server.close(drain_timeout=0.01)
        await closing
        over.set()
        assert called == [(True, False)] and not it.server.draining
        assert messages(caplog)[-1].startswith("on_drain: ") and "fail failed" in messages(caplog)[-1]
        await it.server.open()
        await it.server.close()
        assert len(called) == 1, "without a drain, handlers are cancelled at once"
        await it.server.open()
        await it.server.close(drain_timeout=0.01)
        assert len(called) == 2


@pytest.mark.parametrize("drains", [True, False])
async def test_credentials_that_expire_meanwhile_end_nothing_that_has_begun(drains: bool) -> None:
    """Without a drain, the client connects again, and the session resumes."""
    server, expires = Server(limits=LIMITS), time.time() + 0.2
    work = Blocked()
    server.on("work", work)

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        handshake.principal = "ada"
        handshake.expires = expires if time.time() < expires else None

    async with asyncio.timeout(8), server.listen() as listener:
        async with Client(listener.url, limits=LIMITS, reconnect=AT_ONCE) as client:
            codes = list[int]()
            client.on_detach(lambda info: codes.append(info.code))
            request = start(client.request("work"))
            await turns_until(lambda: work.started)
            closing = start(server.close(drain_timeout=LONG)) if drains else None
            await turns_until(lambda: time.time() > expires)
            await timers_due(0.0)
            if not drains:
                await turns_until(lambda: codes and client.connected)
            work.go.set()
            assert await request == []
            assert codes == ([] if drains else [4411])
            if closing is not None:
                await closing


# ---------------------------------------------------------------- the next connection


@pytest.mark.parametrize("alone", [True, False])
async def test_a_stream_with_a_key_goes_on_at_another_server_at_once(alone: bool) -> None:
    """Otherwise its client could begin nothing new until the stream, or the drain, is over."""
    engine, store, go_on = MemoryEngine(), MemoryStore(), asyncio.Event()
    servers = [Server(limits=LIMITS, cluster=Cluster(engine), store=store) for _ in range(1 if alone else 2)]
    for server in servers:
        server.on_handshake(lambda handshake: setattr(handshake, "principal", "ada"))
        server.on("count", partial(count, go_on), keep=60)
        server.on("echo", lambda value: value)
    async with asyncio.timeout(8), AsyncExitStack() as stack:
        urls = [(await stack.enter_async_context(server.listen())).url for server in servers]
        await turns_until(lambda: all(len(server.cluster.nodes) == len(servers) for server in servers))
        url = urls[0]
        client = await stack.enter_async_context(Client(lambda: url, limits=LIMITS, reconnect=AT_ONCE))
        stream = client.stream("count", key="k", returns=int)
        assert await anext(stream) == 0
        url = urls[-1]
        closing = start(servers[0].close(drain_timeout=LONG))
        if alone:
            await turns_until(lambda: client.closes_in is not None)
        else:
            with pytest.raises(ConnectionLost) as caught:
                await anext(stream)
            assert caught.value.code == 1012
            assert await client.request("echo", 1) == 1 and not closing.done(), "the handler runs on"
            stream = client.stream("count", key="k", after=stream.position, returns=int)
        go_on.set()
        assert [number async for number in stream] == [*range(1, 200)]
        await closing


async def test_no_call_fails_in_a_rolling_restart() -> None:
    """Callers without a pause, streams and uploads, while one server after another drains."""
    servers = [Server(limits=LIMITS) for _ in range(4)]

    async def count(n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number
            await asyncio.sleep(0)

    async def total(numbers: AsyncIterator[int]) -> int:
        return sum([number async for number in numbers])

    for server in servers:
        server.on("echo", lambda value: value)
        server.on("count", count)
        server.on("total", total)
    over, done = asyncio.Event(), [0, 0, 0, 0]
    url = ""

    async def ask(client: Client) -> None:
        assert await client.request("echo", done[0]) is not None

    async def read(client: Client) -> None:
        assert [item async for item in client.stream("count", 20)] == [*range(20)]

    async def send(client: Client) -> None:
        assert await client.request("total", send=range(20)) == 190

    async def tell(client: Client) -> None:
        await client.emit("echo", 1)
        await asyncio.sleep(0)

    async def repeat(number: int, call: Callable[[Client], Awaitable[None]], client: Client) -> None:
        while not over.is_set():
            await call(client)
            done[number] += 1

    async with asyncio.timeout(30), AsyncExitStack() as stack:
        urls = [(await stack.enter_async_context(server.listen())).url for server in servers]
        url = urls[0]
        clients = [Client(lambda: url, limits=LIMITS, reconnect=AT_ONCE) for _ in range(2)]
        for client in clients:
            await stack.enter_async_context(client)
        calls = [
            start(repeat(number, call, client))
            for client in clients
            for number, call in enumerate((ask, read, send, tell))
            for _ in range(2)
        ]
        for number, server in enumerate(servers[:-1]):
            done[:] = [0] * len(done)
            await turns_until(lambda: min(done) > 3)
            url = urls[number + 1]
            await server.close(drain_timeout=LONG)
        over.set()
        await asyncio.gather(*calls)


# ---------------------------------------------------------------- the end


async def test_what_does_not_end_in_time_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    async with scene() as it:
        request = await it.works()
        await it.server.close(drain_timeout=0.05)
        assert (await it.ended).code == 1012
        with pytest.raises(ConnectionLost) as lost:
            await request
        assert (lost.value.code, lost.value.outcome, len(it.work.cancelled)) == (1012, "unknown", 1)
    assert [text for text in messages(caplog) if "drain" in text] == [
        "draining timed out: closing 1 connections that still have active work"
    ]


@pytest.mark.parametrize("begun", [True, False])
async def test_another_close_cuts_it_short(begun: bool) -> None:
    """Also before it begins. A longer drain does not make it longer or shorter."""
    async with scene() as it:
        request = await it.works()
        closings = [start(it.server.close(drain_timeout=LONG)), start(it.server.serve_forever())]
        if begun:
            await turns_until(lambda: it.client.closes_in is not None)
            closings.append(start(it.server.close(drain_timeout=10 * LONG)))
            await asyncio.sleep(0)
            assert not any(each.done() for each in closings) and it.client.connected
        await it.server.close()
        await asyncio.gather(*closings)
        assert (await it.ended).code == 1012 and len(it.work.cancelled) == 1
        with pytest.raises(ConnectionLost):
            await request


@pytest.mark.parametrize("during", [False, True], ids=["it begins it", "during another"])
@pytest.mark.parametrize("where", ["leave", "open"])
async def test_a_handler_that_drains_does_not_wait_for_itself(where: str, during: bool) -> None:
    async with scene() as it:
        begun, go_on = asyncio.Event(), asyncio.Event()

        @it.server.on(where)
        async def leave() -> None:
            begun.set()
            await go_on.wait()
            await it.server.close(drain_timeout=LONG)

        async with Client(f"ws://127.0.0.1:{it.port}", limits=LIMITS, reconnect=None) as client:
            calls: list[asyncio.Task[Any]] = [start(client.request("leave"))]
            await begun.wait()
            if during:
                calls.append(start(it.server.close(drain_timeout=LONG)))
                await turns_until(lambda: "draining" in repr(it.server))
            go_on.set()
            await it.server.serve_forever()
            await asyncio.gather(client.peer.wait_closed(), *calls, return_exceptions=True)


async def test_a_slow_reader_gets_all_that_was_accepted() -> None:
    """More than the closing handshake would wait for."""
    server = Server(limits=LIMITS.replace(close_timeout=0.2))
    async with server.listen() as listener, raw_client(listener.port, receive_buffer=4096) as raw:
        await turns_until(lambda: server.peers)
        [peer] = server.peers
        for number in range(64):
            peer.emit_nowait("part", f"{number:02}" + "x" * 65536)
        late = start(peer.emit("last"))
        await asyncio.sleep(0)
        closing = start(server.close(drain_timeout=LONG))
        await timers_due(0.2)  # as long as a closing handshake may take
        beginnings = [(await raw.next_of(TEXT)).payload[:16] for _ in range(65)]
        assert beginnings == [b'{"a":["part","%02d' % number for number in range(64)] + [b'{"a":["last"]}']
        assert (await raw.next_of(CLOSE)).code == 1012
        raw.drop()
        await asyncio.gather(late, closing)
