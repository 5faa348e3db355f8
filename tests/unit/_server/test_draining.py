"""`Server.close(drain_timeout=...)`: what was begun ends well, what is new goes elsewhere.

`tests/unit/wire/test_draining_extension.py` has the messages, message by message.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
from core_driver import Blocked, messages, start
from waiting import settled, until

from wsrpc import Client, CloseInfo, ConnectionLost, Reconnect, Server
from wsrpc.cluster import Cluster, MemoryEngine
from wsrpc.errors import Draining
from wsrpc.store import MemoryStore
from wsrpc.testing import Line
from wsrpc.types import Dial

LONG = 3600.0
"""Longer than anything here takes."""
AT_ONCE = Reconnect(initial=0.001, max=0.001)


def calls(server: Server, **options: Any) -> Client:
    """A client of a server. It does not dial again."""
    return Client("ws://server/", dial=Line(server).dial, reconnect=None, **options)


class Scene:
    """A server with a client."""

    def __init__(self, extensions: bool) -> None:
        self.server, self.work = Server(), Blocked()
        self.server.on("work", self.work)
        self.client = calls(self.server, extensions=extensions)
        self.ended: asyncio.Future[CloseInfo] = asyncio.get_running_loop().create_future()
        self.client.on("close", lambda peer, info: self.ended.set_result(info))

    async def ends_well(self, closing: asyncio.Task[None]) -> None:
        info = await self.ended
        assert (info.code, info.reason, info.was_clean) == (1012, "the server is closing", True)
        assert self.client.closes_in is None
        await closing


@asynccontextmanager
async def scene(extensions: bool = True) -> AsyncGenerator[Scene]:
    it = Scene(extensions)
    async with it.client:
        yield it


async def count(go_on: asyncio.Event) -> AsyncIterator[int]:
    for number in range(200):
        yield number
        await go_on.wait()


@pytest.mark.parametrize("extensions", [True, False], ids=["wsrpc", "plain"])
@pytest.mark.parametrize("streaming", [True, False])
async def test_what_was_begun_ends_well_and_then_1012(streaming: bool, extensions: bool) -> None:
    """Requests, and streams in both directions."""
    async with scene(extensions) as it:
        go_on, streams, logged = asyncio.Event(), list[Any](), list[str]()
        it.server.on("log", logged.append)
        sides: list[tuple[Any, Any]] = [(it.client, it.server), (it.server.peers[0], it.client)]
        for reader, producer in sides * streaming:
            producer.on("count", partial(count, go_on))
            streams.append(reader.stream("count"))
            assert await anext(streams[-1]) == 0
        last = Blocked()
        it.client.on("last", last)
        asked = [start(it.server.peers[0].request("last")) for _ in range(streaming)]
        request, cancelled = [start(it.client.request("work")) for _ in range(2)]
        await settled()
        closing = start(it.server.close(drain_timeout=LONG))
        await settled()
        assert not extensions or LONG - 1 < (it.client.closes_in or 0) <= LONG
        assert not closing.done() and repr(it.server) == "<Server draining, 1 peers>"
        await it.client.emit("log", "heard")
        for call in () if extensions or streaming else (it.client.request, it.client.open_channel):
            with pytest.raises(Draining):
                await call("work")
        go_on.set()
        for stream in streams:
            assert [number async for number in stream] == list(range(1, 200))
        cancelled.cancel()
        await settled()
        assert it.work.cancelled
        it.work.go.set()
        assert (await request, logged) == ([], ["heard"])
        await settled()
        last.go.set()
        assert [await each for each in asked] == [[]] * streaming
        await it.ends_well(closing)


# ---------------------------------------------------------------- on_drain


@pytest.mark.parametrize("extensions", [True, False], ids=["wsrpc", "plain"])
async def test_functions_are_called_once_for_each_drain_while_peers_are_there(
    extensions: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene(extensions) as it:
        called, told, over = list[tuple[bool, bool]](), asyncio.Queue[str](), asyncio.Event()
        it.client.on("bye", lambda: told.put_nowait("bye"))
        it.client.on("ask", lambda: told.put_nowait("asked"))

        @it.server.on_drain
        async def say_bye() -> None:
            called.append((it.server.draining, it.server.healthy))
            await it.server.emit("bye")

        @it.server.on_drain
        async def ask() -> None:
            await asyncio.gather(*(peer.request("ask") for peer in it.server.peers))

        @it.server.on_drain
        async def hang() -> None:
            while not over.is_set():  # it also suppresses its cancellation
                with suppress(asyncio.CancelledError):
                    await over.wait()

        it.server.on_drain(lambda: [].pop())
        closing = start(it.server.close(drain_timeout=LONG))
        assert [await told.get() for _ in range(2)] == ["bye", "asked"], "the client is idle, and is there yet"
        await it.ended
        await settled()
        assert not it.server.peers and it.server.draining and not closing.done(), "it waits for async functions, too"
        await it.server.close(drain_timeout=0.01)
        await closing
        over.set()
        assert called == [(True, False)] and not it.server.draining
        assert messages(caplog)[-1].startswith("on_drain: ") and "failed" in messages(caplog)[-1]
        for drain, count in ((0, 1), (0.01, 2)):  # without a drain, handlers are cancelled at once
            await it.server.open()
            await it.server.close(drain_timeout=drain)
            assert len(called) == count


async def test_a_drain_says_what_it_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    """In the log, now and then, and in the statistics."""
    caplog.set_level(logging.INFO, "wsrpc")
    async with scene() as it, AsyncExitStack() as stack:
        go_on, asked, kept = asyncio.Event(), Blocked(), Blocked()
        it.server.on("count", partial(count, go_on))
        it.server.on("kept", kept, keep=60)
        it.server.on_drain(go_on.wait)
        it.client.on("ask", asked)
        [peer] = it.server.peers
        it.server.on_handshake(lambda given: setattr(given, "principal", "eve"))
        others = [await stack.enter_async_context(calls(it.server)) for _ in range(4)]
        stream = it.client.stream("count")
        assert await anext(stream) == 0
        requests = [start(each) for each in (*(it.client.request("work") for _ in range(3)), peer.request("ask"))]
        requests.append(start(it.client.request("kept", key="k")))
        requests += [start(other.request("work")) for other in others]
        await settled()
        assert it.server.stats().draining == {}
        closing = start(it.server.close(drain_timeout=LONG))
        expected = {"count: handler": 1, "work: handler": 7, "kept: handler": 1, "ask: request": 1}
        expected |= {"client": 5, "kept: run": 1, "on_drain": 1}
        await asyncio.sleep(6)
        assert it.server.stats().draining == expected
        [line] = [text for text in messages(caplog, logging.INFO) if "still draining" in text]
        assert line.startswith("still draining: 5 connections, which wait for: ") and "work: handler (7)" in line
        named = [f"{each.id} at an unknown address ('eve')" for each in it.server.peers[1:3]]
        assert line.endswith(f"; peer {peer.id} at an unknown address, peer {', peer '.join(named)}, 2 others")
        for each in (go_on, it.work.go, asked.go, kept.go):
            each.set()
        assert len([number async for number in stream]) == 199
        await asyncio.gather(*requests)
        await it.ends_well(closing)
        assert it.server.stats().draining == {}
        await asyncio.sleep(60)
        assert caplog.text.count("still draining") == 1


async def test_credentials_that_expire_meanwhile_end_nothing_that_has_begun() -> None:
    async with scene() as it:
        it.server.on_handshake(lambda given: setattr(given, "expires", time.time() + 30))
        async with calls(it.server) as client:
            request = start(client.request("work"))
            await settled()
            closing = start(it.server.close(drain_timeout=LONG))
            await asyncio.sleep(40)
            it.work.go.set()
            assert await request == []
            await closing


# ---------------------------------------------------------------- the next connection


def first_of(lines: list[Line]) -> Dial:
    return lambda *args, **options: lines[0].dial(*args, **options)


async def test_a_stream_with_a_key_goes_on_at_another_server_at_once() -> None:
    """Otherwise its client could begin nothing new until the stream, or the drain, is over."""
    engine, store, go_on = MemoryEngine(), MemoryStore(), asyncio.Event()
    servers = [Server(cluster=Cluster(engine), store=store) for _ in range(2)]
    lines = [Line(each) for each in servers]
    for server in servers:
        server.on_handshake(lambda handshake: setattr(handshake, "principal", "ada"))
        server.on("count", partial(count, go_on), keep=60)
        server.on("echo", lambda value: value)
        await server.open()
    async with Client("ws://servers/", dial=first_of(lines), reconnect=AT_ONCE) as client:
        stream = client.stream("count", key="k", returns=int)
        assert await anext(stream) == 0
        del lines[0]
        closing = start(servers[0].close(drain_timeout=LONG))
        with pytest.raises(ConnectionLost) as caught:
            await anext(stream)
        assert caught.value.code == 1012
        assert await client.request("echo", 1) == 1 and not closing.done(), "the handler runs on"
        stream = client.stream("count", key="k", after=stream.position, returns=int)
        go_on.set()
        assert [number async for number in stream] == [*range(1, 200)]
        await closing
    await servers[1].close()


async def test_no_call_fails_in_a_rolling_restart() -> None:
    """Callers without a pause, streams and uploads, while one server after another drains."""
    servers, over, done = [Server() for _ in range(3)], asyncio.Event(), list[int]()
    lines = [Line(each) for each in servers]

    async def numbers(sent: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in sent:
            yield number

    for server in servers:
        server.on("echo", lambda value: value)
        server.on("numbers", numbers)

    async def use(number: int) -> None:
        while not over.is_set():
            assert await client.request("echo", number) == number
            assert [item async for item in client.stream("numbers", send=range(20))] == [*range(20)]
            await client.emit("echo", number)
            done.append(number)
            await settled()  # so that time passes

    async with Client("ws://servers/", dial=first_of(lines), reconnect=AT_ONCE) as client:
        uses = [start(use(number)) for number in range(4)]
        for server in servers[:-1]:
            done.clear()
            await until(lambda: len(done) > 12)
            del lines[0]
            await server.close(drain_timeout=LONG)
        over.set()
        await asyncio.gather(*uses)
    await servers[-1].close()


# ---------------------------------------------------------------- the end


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

        async with calls(it.server) as client:
            tasks: list[asyncio.Task[Any]] = [start(client.request("leave"))]
            await begun.wait()
            if during:
                tasks.append(start(it.server.close(drain_timeout=LONG)))
                await settled()
            go_on.set()
            await it.server.serve_forever()
            await asyncio.gather(client.peer.wait_closed(), *tasks, return_exceptions=True)
