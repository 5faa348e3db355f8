"""Clusters on real engines. What goes wrong is played in memory, and by the soak of clusters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from cluster_servers import servers
from engines_in_use import OnServer
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, Limits, MessageTooBig, RemoteError
from wsrpc._cluster.cluster import membership_of
from wsrpc.cluster import ClusterClient
from wsrpc.errors import EngineLost

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(params=["nats", "redis"])
def broker(request: pytest.FixtureRequest) -> Iterator[OnServer]:
    broker = OnServer(request.param)
    yield broker
    broker.kill()


def callee(**options: Any) -> tuple[Client, list[Any]]:
    """A client that others call, and what it has heard."""
    client, heard = Client(reconnect=None, **options), list[Any]()
    client.on("said", heard.append)
    client.on("add", lambda a, b: a + b)
    client.on("echo", lambda value: value)

    @client.on("numbers")
    async def numbers(count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    @client.on("total")
    async def total(items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])

    return client, heard


async def test_calls_streams_and_rooms(broker: OnServer) -> None:
    """Then the broker is killed: nothing more is sent to the other processes, and local traffic goes on."""
    async with servers(3, broker.engine, patience=60) as made:
        callees = [callee(), callee(extensions=False), callee()]
        for number, (client, _) in enumerate(callees):
            made[number].on("open", made[number].room("lobby").add)
            await made.join(number, f"user/{number}", client)
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
        async with ClusterClient(broker.engine, name="shop") as shop:
            assert await shop.peer("user/1").request("add", 1, 2) == 3
            await turns_until(lambda: all(len(heard) == 100 for _, heard in callees))
            assert len((await shop.room("lobby").emit("said", 100)).nodes) == 3
        await turns_until(lambda: all(heard == list(range(101)) for _, heard in callees))
        broker.kill()
        await turns_until(lambda: not made[0].cluster.connected)
        with pytest.raises(EngineLost):
            await made[0].cluster.peer("user/1").request("add", 1, 2)
        assert await made[1].cluster.peer("user/1").request("add", 1, 2) == 3


async def test_a_message_that_the_engine_does_not_take(broker: OnServer) -> None:
    """NATS takes 1 MiB, and Redis as much as a server of ours."""
    async with servers(2, broker.engine) as made:
        client, _ = callee()
        await made.join(1, "ada", client)
        peer = made[0].cluster.peer("ada")
        engines = membership_of(made[0].cluster).node.largest
        most = min(Limits().message, engines)
        whole = "x" * (most - 200)
        assert await peer.request("echo", whole) == whole
        with pytest.raises(MessageTooBig, match="what the engine" if most == engines else "its Limits.message"):
            await peer.request("echo", "x" * most)
        client.on("much", lambda: "x" * most)
        with pytest.raises(RemoteError, match="too big"):
            await peer.request("much")
        assert await peer.request("add", 1, 2) == 3
