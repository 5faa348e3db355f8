"""Sessions between nodes, over an engine that loses messages, goes away and freezes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import ConnectionLost, Peer
from wsrpc._cluster.directory import Claim
from wsrpc._cluster.links import NodeLinks, link_limits
from wsrpc._cluster.node import Node
from wsrpc._cluster.transport import EngineTransport
from wsrpc._handlers.registration import Registrar
from wsrpc._peer.peer import core_of
from wsrpc.testing import MemoryEngine

pytestmark = pytest.mark.usefixtures("nothing_left")


class Process:
    """A process with a node, and what others may call there."""

    def __init__(self, engine: MemoryEngine) -> None:
        limits = link_limits(engine.largest)
        self.ran: list[int] = []
        self.heard: list[int] = []
        self.parked = asyncio.Event()
        self.cancelled = 0
        self.node = Node(engine, "shop", self, limits)
        self.links = NodeLinks(self.node, limits, self.serve)

    def serve(self, side: Registrar) -> None:
        side.on("note", self.heard.append)
        for handler in (self.count, self.park, self.numbers, self.total):
            side.on(handler.__name__, handler)

    def count(self, number: int) -> int:
        self.ran.append(number)
        return -number

    async def park(self) -> None:
        self.parked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled += 1

    async def numbers(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    async def total(self, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])

    def peer(self, other: Process) -> Peer:
        peer = self.links.peer(other.node.id)
        assert peer is not None
        return peer

    def node_came(self, node: str, /) -> None:
        self.links.node_came(node)

    def node_left(self, node: str, /) -> None:
        self.links.node_left(node)

    def claim_lost(self, address: str, by: Claim, /) -> None: ...

    def accepted(self, transport: EngineTransport, headers: Mapping[str, str], /) -> None:
        self.links.accepted(transport, headers)

    def engine_lost(self, reason: str, /) -> None: ...

    def engine_back(self) -> None: ...

    async def close(self) -> None:
        await self.links.close()
        await self.node.close()


@asynccontextmanager
async def processes(engine: MemoryEngine, count: int = 2) -> AsyncGenerator[list[Process]]:
    async with asyncio.timeout(30):
        made = [Process(engine) for _ in range(count)]
        for one in made:
            for other in made:
                if one is not other:
                    await turns_until(partial(is_there, one, other))
        try:
            yield made
        finally:
            for each in made:
                await each.close()


def is_there(one: Process, other: Process) -> bool:
    """Return whether there is a session that survives a drop."""
    peer = one.links.peer(other.node.id)
    return peer is not None and peer.connected and core_of(peer).resumable


async def test_nodes_call_each_other() -> None:
    async with processes(MemoryEngine(), 3) as made:
        for one in made:
            for other in made:
                if one is not other:
                    assert await one.peer(other).request("count", 3) == -3
                    async with one.peer(other).stream("numbers", 1000, returns=int) as numbers:
                        assert [number async for number in numbers] == list(range(1000))
                    assert await one.peer(other).request("total", send=iter(range(100))) == 4950


async def test_nothing_is_lost_where_the_engine_loses_messages() -> None:
    engine = MemoryEngine()
    async with processes(engine) as (a, b):

        async def call(one: Process, other: Process, first: int) -> None:
            for number in range(first, first + 300):
                assert await one.peer(other).request("count", number) == -number

        async def note() -> None:
            for number in range(1000):
                await a.peer(b).emit("note", number)
                await asyncio.sleep(0)

        async def read() -> None:
            async with b.peer(a).stream("numbers", 3000, returns=int) as numbers:
                assert [number async for number in numbers] == list(range(3000))

        engine.loss = 0.02
        connections = a.node.dialed + b.node.dialed
        await asyncio.gather(call(a, b, 0), call(a, b, 1000), call(b, a, 0), note(), read())
        assert a.node.dialed + b.node.dialed > connections + 5, "messages were lost"
        engine.loss = 0.0
        assert sorted(b.ran) == [*range(300), *range(1000, 1300)] and sorted(a.ran) == list(range(300))
        await turns_until(lambda: len(b.heard) == 1000)
        assert b.heard == list(range(1000))


@pytest.mark.parametrize("how", ["cut", "freeze"])
async def test_calls_in_flight_go_on_when_the_engine_comes_back(how: str) -> None:
    engine = MemoryEngine()
    async with processes(engine) as (a, b):
        parked = asyncio.create_task(a.peer(b).request("park"))
        await b.parked.wait()
        if how == "cut":
            engine.down = True
            engine.cut()
        else:
            engine.freeze()
        await turns_until(lambda: not (a.node.connected or b.node.connected))
        assert not parked.done() and a.peer(b).detached
        engine.down = False
        engine.thaw()
        await turns_until(lambda: is_there(a, b) and is_there(b, a))
        assert await a.peer(b).request("count", 1) == -1
        parked.cancel()
        await turns_until(lambda: b.cancelled == 1)


async def test_calls_to_a_node_that_leaves_end() -> None:
    async with processes(MemoryEngine()) as (a, b):
        there = asyncio.create_task(a.peer(b).request("park"))
        here = asyncio.create_task(b.peer(a).request("park"))
        await a.parked.wait()
        await b.parked.wait()
        await b.close()
        for call in (there, here):
            with pytest.raises(ConnectionLost) as caught:
                await call
            assert caught.value.outcome == "unknown"
        assert b.cancelled == a.cancelled == 1
        assert a.node.directory.nodes == (a.node.id,) and a.links.peer(b.node.id) is None
