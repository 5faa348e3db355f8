"""A line goes silent between wsrpc's client and server, idle or in the midst of a lot of traffic.

Each side finds out by itself, within what `Limits` promise, and the client comes back once the line is whole.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Literal

import pytest
from leftovers import turns_until

from wsrpc import Client, CloseInfo, ConnectionLost, Limits, Peer, Reconnect, Server
from wsrpc.testing import FaultProxy

INTERVAL = 0.1
IDLE, BUSY = 0.5, 1.0
"""`Limits.ping_timeout`, in seconds: answers wait in line, too, where both sides and the proxy share one event loop."""

TEXT = "x" * 16_000
"""Large, so that a lot of traffic is little work for whoever else runs on this machine."""


class Side:
    """The client's or the server's: when its connection ended, and how."""

    def __init__(self) -> None:
        self.ended: list[tuple[float, CloseInfo]] = []

    def closed(self, peer: Peer, info: CloseInfo) -> None:
        self.ended.append((time.monotonic(), info))

    async def found(self, since: float, timeout: float) -> CloseInfo:
        """How it ended, which must be within what is promised: interval, timeout and a second."""
        await turns_until(lambda: self.ended)
        when, info = self.ended[0]
        assert 0 < when - since <= INTERVAL + timeout + 1.0
        return info


class Scene:
    """A server, a client that reaches it through a proxy, and a call in the air each way."""

    def __init__(self, server: Server, proxy: FaultProxy, client: Client) -> None:
        self.server, self.proxy, self.client = server, proxy, client
        self.here, self.there = Side(), Side()
        """The client's side and the server's."""
        self.received = 0
        client.on("close", self.here.closed)
        server.on("close", self.there.closed)
        server.on("add", lambda a, b: a + b)
        server.on("numbers", self.numbers)
        for side in (client, server):
            side.on("wait", asyncio.Event().wait)
            side.on("event", self.event)

    def event(self, text: str) -> None:
        self.received += 1

    async def numbers(self) -> AsyncIterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    async def emit_on(self, caller: Client | Peer) -> None:
        """As fast as `emit` lets it, until the connection is gone."""
        with suppress(ConnectionLost):
            while True:
                await caller.emit("event", TEXT, offline="fail")

    async def read_on(self) -> None:
        with suppress(ConnectionLost):
            async with self.client.stream("numbers") as numbers:
                async for _ in numbers:
                    pass

    @asynccontextmanager
    async def load(self) -> AsyncGenerator[None]:
        """Both sides emit and a stream runs, meanwhile; for one connection."""
        [peer] = self.server.peers
        doing = [self.emit_on(self.client), self.emit_on(peer), self.read_on()]
        tasks = [asyncio.create_task(work) for work in doing]
        try:
            before = self.received
            await turns_until(lambda: self.received > before + 500)
            yield
            async with asyncio.timeout(8):
                await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@asynccontextmanager
async def scene(timeout: float) -> AsyncGenerator[Scene]:
    # The other times, such as `Limits.stall` and `Limits.close_timeout`, are long: nothing may wait for those.
    limits = Limits(ping_interval=INTERVAL, ping_timeout=timeout, replay=0)
    server = Server(limits=limits)
    async with server.listen() as listener, FaultProxy(listener.url) as proxy:
        client = Client(proxy.url, limits=limits, reconnect=Reconnect(initial=0.01, max=0.05))
        made = Scene(server, proxy, client)
        async with client:
            await client.request("add", 1, 1)  # what the two have to say to each other at first is said
            yield made


async def lost(request: asyncio.Task[Any]) -> None:
    with pytest.raises(ConnectionLost) as caught:
        await request
    assert caught.value.outcome == "unknown"


Direction = Literal["up", "down"]
DIRECTIONS: list[Direction | None] = ["up", "down", None]


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("trouble", [FaultProxy.silence, FaultProxy.stall])
async def test_both_sides_find_out_in_time(
    trouble: Callable[..., Any], direction: Direction | None, busy: bool
) -> None:
    timeout = BUSY if busy else IDLE
    async with scene(timeout) as s:
        [peer] = s.server.peers
        requests = [asyncio.create_task(caller.request("wait")) for caller in (s.client, peer)]
        await turns_until(lambda: s.client.peer.active and peer.active)
        async with AsyncExitStack() as stack:
            if busy:
                await stack.enter_async_context(s.load())
            await stack.enter_async_context(trouble(s.proxy, direction))
            start = time.monotonic()
            here, there = await asyncio.gather(s.here.found(start, timeout), s.there.found(start, timeout))
            for request in requests:
                await lost(request)
        # Where one direction is whole, the side that was first may have told the other. Where nothing can be written,
        # both may notice that first: `Limits.stall` is then as long as a ping and its answer may take.
        assert {here.code, there.code} <= {1006, 1011}
        assert 1011 in {here.code, there.code} or (busy and trouble is FaultProxy.stall)
        async with asyncio.timeout(8):
            assert await s.client.request("add", 2, 3) == 5
        await turns_until(lambda: len(s.server.peers) == 1)
        for one in (s.client.peer, *s.server.peers, peer):
            assert (one.pending, one.active, one.channels) == (0, 0, 0)
