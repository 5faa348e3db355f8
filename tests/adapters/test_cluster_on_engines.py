"""Clusters on real engines: the table of failures, row by row. What engines lose is played in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from cluster_servers import servers
from engines_in_use import OnServer
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, ConnectionLost, Limits, MessageTooBig, RemoteError
from wsrpc._cluster.cluster import membership_of
from wsrpc.cluster import ClusterClient
from wsrpc.errors import EngineLost, PeerNotFound

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(params=["nats", "redis"])
def broker(request: pytest.FixtureRequest) -> Iterator[OnServer]:
    broker = OnServer(request.param)
    yield broker
    broker.kill()


class Callee:
    def __init__(self, **options: Any) -> None:
        self.client = Client(reconnect=None, **options)
        self.heard: list[Any] = []
        self.client.on("said", self.heard.append)
        for handler in (self.add, self.numbers, self.total, self.echo):
            self.client.on(handler.__name__, handler)

    def add(self, a: int, b: int) -> int:
        return a + b

    def echo(self, value: Any) -> Any:
        return value

    async def numbers(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    async def total(self, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])


async def test_calls_streams_and_rooms(broker: OnServer) -> None:
    async with servers(3, broker.engine) as made:
        callees = [Callee(), Callee(extensions=False), Callee()]
        for number, callee in enumerate(callees):
            made[number].on("open", made[number].room("lobby").add)
            await made.join(number, f"user/{number}", callee.client)
        for caller in range(3):
            for other in range(3):
                peer = made[caller].cluster.peer(f"user/{other}")
                assert await asyncio.gather(*(peer.request("add", n, 1) for n in range(50))) == list(range(1, 51))
                async with peer.stream("numbers", 200, returns=int) as numbers:
                    assert [number async for number in numbers] == list(range(200))
                assert await peer.request("total", send=range(200)) == sum(range(200))
        member = membership_of(made[0].cluster)
        await turns_until(lambda: len(member.directory.nodes_of("lobby")) == 2)
        for number in range(100):
            await made[0].room("lobby").emit("said", number)
        await turns_until(lambda: all(len(callee.heard) == 100 for callee in callees))
        assert all(callee.heard == list(range(100)) for callee in callees)
        async with ClusterClient(broker.engine, name="shop") as shop:
            assert await shop.peer("user/1").request("add", 1, 2) == 3
            assert len((await shop.room("lobby").emit("said", "news")).nodes) == 3
        await turns_until(lambda: all(callee.heard[-1] == "news" for callee in callees))
        with pytest.raises(PeerNotFound):
            await made[0].cluster.peer("nobody").request("add", 1, 2)


async def test_a_message_that_the_engine_does_not_take(broker: OnServer) -> None:
    """NATS takes 1 MiB, and Redis as much as a server of ours."""
    async with servers(2, broker.engine) as made:
        callee = Callee()
        await made.join(1, "ada", callee.client)
        peer = made[0].cluster.peer("ada")
        engines = membership_of(made[0].cluster).node.largest
        most = min(Limits().message, engines)
        whole = "x" * (most - 200)
        assert await peer.request("echo", whole) == whole
        with pytest.raises(MessageTooBig, match="what the engine" if most == engines else "its Limits.message"):
            await peer.request("echo", "x" * most)
        callee.client.on("much", lambda: "x" * most)
        with pytest.raises(RemoteError, match="too big"):
            await peer.request("much")
        assert await peer.request("add", 1, 2) == 3


async def test_the_engine_is_frozen_and_comes_back(broker: OnServer) -> None:
    async with servers(2, broker.engine, patience=60) as made:
        callees = [Callee(), Callee()]
        for number, callee in enumerate(callees):
            made[number].on("open", made[number].room("lobby").add)
            await made.join(number, f"user/{number}", callee.client)
        peer, room = made[0].cluster.peer("user/1"), made[0].room("lobby")
        assert await peer.request("add", 1, 2) == 3
        broker.freeze()
        on_its_way = asyncio.create_task(peer.request("add", 20, 22))  # nobody knows yet
        await turns_until(lambda: not made[0].cluster.connected)
        for _ in range(3):
            with pytest.raises(EngineLost) as caught:
                await peer.request("add", 1, 2)
            assert caught.value.outcome == "not_sent"
        report = await room.emit("said", "alone")
        assert (report.sent, report.nodes, report.missed) == (1, (made[1].cluster.nodes[0],), ())
        assert await made[1].cluster.peer("user/1").request("add", 1, 2) == 3, "local traffic goes on"
        broker.thaw()
        assert await on_its_way == 42, "the session goes on over the next connection"
        assert await peer.request("add", 1, 2) == 3
        await room.emit("said", "together")
        await turns_until(lambda: all(callee.heard and callee.heard[-1] == "together" for callee in callees))
        assert all(callee.heard == ["alone", "together"] for callee in callees)
        assert all(server.stats().cluster.gaps == 0 for server in made.all)  # type: ignore[union-attr]


async def test_the_engine_is_killed(broker: OnServer) -> None:
    """What was sent to the other process is not known to have run; nothing else is sent; local traffic goes on."""
    async with servers(2, broker.engine, patience=60) as made:
        callee = Callee()
        running = asyncio.Event()

        async def park() -> None:
            running.set()
            await asyncio.Event().wait()

        callee.client.on("park", park)
        await made.join(1, "ada", callee.client)
        parked = asyncio.create_task(made[0].cluster.peer("ada").request("park"))
        await running.wait()
        broker.kill()
        await turns_until(lambda: not made[0].cluster.connected)
        with pytest.raises(EngineLost):
            await made[0].cluster.peer("ada").request("add", 1, 2)
        with pytest.raises(ConnectionLost) as caught:
            await parked
        assert caught.value.outcome == "unknown"
        assert await made[1].cluster.peer("ada").request("add", 1, 2) == 3
        with pytest.raises(EngineLost):
            async with ClusterClient(broker.engine, name="shop", connect_timeout=0.1):
                pass
