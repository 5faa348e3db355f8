"""Clusters on real engines. What goes wrong is played in memory, and by the simulator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
from cluster_servers import Servers, servers
from engine_servers import redis_server
from engines_in_use import START, OnServer, Recorder
from leftovers import nothing_left as nothing_left
from waiting import until

from wsrpc import Client, Limits, MessageTooBig, RemoteError
from wsrpc._core.session import replay
from wsrpc.cluster import ClusterClient
from wsrpc.cluster._cluster import membership_of
from wsrpc.cluster._nodes import directory
from wsrpc.cluster._nodes.wire import Probe
from wsrpc.cluster.engine import EngineConnection
from wsrpc.errors import EngineLost, PeerNotFound
from wsrpc.store import MemoryStore
from wsrpc_adapters.redis import RedisEngine

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(params=START)
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
    async with servers(3, broker.engine) as made:
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
        await until(lambda: len(member.directory.nodes_of("lobby")) == 2)
        for number in range(100):
            await made[0].room("lobby").emit("said", number)
        async with ClusterClient(broker.engine, name="shop") as shop:
            assert await shop.peer("user/1").request("add", 1, 2) == 3
            await until(lambda: all(len(heard) == 100 for _, heard in callees))
            assert len((await shop.room("lobby").emit("said", 100)).nodes) == 3
        await until(lambda: all(heard == list(range(101)) for _, heard in callees))
        broker.kill()
        await until(lambda: not made[0].cluster.connected)
        with pytest.raises(EngineLost):
            await made[0].cluster.peer("user/1").request("add", 1, 2)
        assert await made[1].cluster.peer("user/1").request("add", 1, 2) == 3


# ---------------------------------------------------------------- what else is on the engine


class Looking(MemoryStore):
    """A store that may learn which processes have ended."""

    looked = 0

    async def look(self) -> None:
        self.looked += 1


async def test_a_killed_process_that_is_not_reached_goes(broker: OnServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine says that nobody hears it, so its lease need not be over. And the store looks what it ran."""
    monkeypatch.setattr(directory, "NODE_TIMEOUT", 3600.0)
    store = Looking()
    async with servers(2, broker.engine, store=store) as made:
        here, gone = (membership_of(server.cluster).node for server in made)
        assert await here.engine.is_received(gone.id, Probe())
        engine: Any = gone.engine
        monkeypatch.setattr(engine, "_engine", None)  # it does not come back
        engine._connection.end("killed")
        await until(lambda: not gone.connected)
        with pytest.raises(PeerNotFound):
            await here.connections.dial(gone.id, {}, attempts=1)
        assert gone.id not in here.directory.nodes and made[0].cluster.connected
        assert store.looked


DEEP = b"\x91" * 100_000 + b"\xc0"
GARBAGE = [
    b"hello",
    b"",
    b"\x82\xa1t\xa3\xff\xfe\xfd\xa4node\xa1a",
    b"\x82\xa1t\xa3ask\xa4node\xa3\xed\xa0\x80",
    b"\x83\xa1t\xa3ask\xa4node\xa1a\xa1z" + DEEP,
    b"\x84\xa1t\xa5delta\xa4node\xa1a\xa3seq\x01\xa5rooms\xdd\xff\xff\xff\xff",
]


def without_sense(name: Any, number: Any) -> dict[str, Any]:
    """Return a message of each kind, with a value that cannot be."""
    connection = f"{name}/{name}/1" if isinstance(name, str) else name
    return {
        "beat": {"node": name, "seq": number},
        "delta": {"node": name, "seq": number, "claims": {"ada": number}},
        "snapshot": {"node": name, "seq": number, "part": number, "parts": number, "claims": {"ada": number}},
        "ask": {"node": name},
        "left": {"node": name},
        "open": {"conn": connection, "headers": {}},
        "opened": {"conn": connection},
        "refused": {"conn": connection, "reason": ""},
        "data": {"conn": connection, "seq": number, "messages": []},
        "mark": {"conn": connection, "seq": number},
        "close": {"conn": connection, "seq": number, "code": number, "reason": ""},
        "reset": {"conn": connection, "reason": ""},
    }


NUMBERS = (-(2**63), -1, 2**63, 2**64 - 1, 1.5, None)
NAMES = ("", "a b", "*", ">", "a.b", "a\r\nPUB x 0\r\n", "a\n", "x" * 65, "\u00e9", None)


async def until_it_has_come(made: Servers, publisher: EngineConnection) -> None:
    """Wait until each server has got what was published before."""
    ignored = [membership_of(server.cluster).node.ignored for server in made]
    before = [each.total() for each in ignored]
    publisher.publish("shop.all", b"the last one")
    await until(lambda: all(each.total() > count for each, count in zip(ignored, before, strict=True)))


async def test_garbage_is_counted_and_nothing_is_lost() -> None:
    """Each process left the engine at the first invalid UTF-8, and with it all calls that were under way."""
    async with servers(2) as made:
        client, heard = callee()
        going_on = asyncio.Event()
        client.on("wait", going_on.wait)
        made[1].on("open", made[1].room("lobby").add)
        await made.join(1, "ada", client)
        peer = made[0].cluster.peer("ada")
        waits = asyncio.create_task(peer.request("wait"))
        publisher = await made.engine.connect(Recorder())
        ids = [server.cluster.nodes[0] for server in made]
        garbage = [*GARBAGE]
        for name, number in [(ids[0], number) for number in NUMBERS] + [(name, 1) for name in NAMES]:
            for tag, fields in without_sense(name, number).items():
                if name != ids[0] or any(value is number for value in fields.values()):
                    garbage.append(msgspec.msgpack.encode({"t": tag, **fields}))
        for number, message in enumerate(garbage):
            publisher.publish("shop.all", message)
            if number % 20 == 19:
                await until_it_has_come(made, publisher)
                assert await peer.request("add", number, 1) == number + 1
        await until_it_has_come(made, publisher)
        assert (await made[0].room("lobby").emit("said", 1)).nodes == (ids[1],)
        await until(lambda: heard == [1])
        going_on.set()
        assert await waits is True
        for server in made:
            stats = server.stats().cluster
            assert stats is not None and (stats.engines_lost, stats.gaps, stats.nodes) == (0, 0, 2)
            assert sum(stats.ignored.values()) >= len(garbage)
        await publisher.close()


async def test_a_message_that_the_engine_does_not_take(broker: OnServer) -> None:
    """NATS takes 1 MiB, and Redis as much as a server of ours."""
    async with servers(2, broker.engine) as made:
        client, _ = callee()
        await made.join(1, "ada", client)
        peer = made[0].cluster.peer("ada")
        engines = membership_of(made[0].cluster).node.connections.largest
        most = min(Limits().message_bytes, engines)
        whole = "x" * (most - 200)
        assert await peer.request("echo", whole) == whole
        with pytest.raises(MessageTooBig, match="what the engine" if most == engines else "its Limits.message_bytes"):
            await peer.request("echo", "x" * most)
        client.on("much", lambda: "x" * most)
        with pytest.raises(RemoteError, match="too big"):
            await peer.request("much")
        assert await peer.request("add", 1, 2) == 3


@pytest.mark.parametrize("limit", ["client-output-buffer-limit pubsub 200000 0 0", "proto-max-bulk-len 1mb"])
async def test_a_message_above_a_limit_of_redis_is_given_up(limit: str) -> None:
    """Redis drops the receiver, or the sender. It came back, and lost Redis again, many times a second."""
    option, *values = limit.split()
    redis = redis_server(f"--{option}", *values)
    try:
        async with servers(2, RedisEngine(redis.url)) as made:
            client, _ = callee()
            going_on = asyncio.Event()
            client.on("wait", going_on.wait)
            await made.join(1, "ada", client)
            peer = made[0].cluster.peer("ada")
            # Before the first answer, the session of the two nodes may be one that ends with its connection.
            assert await peer.request("echo", "x") == "x"
            waits = asyncio.create_task(peer.request("wait"))
            with pytest.raises(MessageTooBig, match="was given up") as caught:
                await peer.request("echo", "x" * 2_000_000)
            assert caught.value.outcome == "not_sent"
            assert await peer.request("echo", "y" * 50_000) == "y" * 50_000
            going_on.set()
            assert await waits is True
            lost = [server.stats().cluster.engines_lost for server in made]  # type: ignore[union-attr]
            assert min(lost) == 0 < max(lost) <= replay.LOSSES
    finally:
        redis.kill()
