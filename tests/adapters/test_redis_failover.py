"""A failover of Sentinel and of a Redis Cluster while everything is in use, and clients of a user's own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
from cluster_servers import servers
from engine_servers import RedisClusterServers, RedisSentinelServers
from engines_in_use import Recorder
from redis import Redis as BlockingRedis
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.sentinel import Sentinel
from stores_in_use import add, entries_of, eventually
from test_stores_lost import insist
from waiting import until

from wsrpc import Client, Context, HandshakeRejected, Quotas, Server
from wsrpc.cluster.engine import RESPONSE_TIMEOUT
from wsrpc.errors import EngineLost
from wsrpc.store import StoreLost
from wsrpc.testing import connect
from wsrpc_adapters import _broker_connection, _redis_store
from wsrpc_adapters.redis import RedisEngine, RedisStore


@pytest.fixture(autouse=True)
def impatient(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait no longer for Redis than usual."""
    for module in (_redis_store, _broker_connection):
        monkeypatch.setattr(module, "RESPONSE_TIMEOUT", RESPONSE_TIMEOUT)


Several = RedisSentinelServers | RedisClusterServers
KINDS: dict[str, Callable[[], Several]] = {
    "sentinel": RedisSentinelServers,
    "cluster": partial(RedisClusterServers, replicas=True),
}


@pytest.fixture(params=KINDS)
def several(request: pytest.FixtureRequest) -> Iterator[Several]:
    found = KINDS[request.param]()
    yield found
    found.kill()


async def replicated(several: Several) -> None:
    """Wait until the replica has what the primary has."""
    client: Any = Redis(port=several.primary)
    await client.set("{wsrpc}:test", "")
    await client.wait(1, 0)
    await client.connection_pool.disconnect()


def equip(server: Server, ran: Counter[str], goes_on: asyncio.Event) -> None:
    server.room("hall", keep=600, presence=60, allow=lambda peer: True)

    @server.on("pay", keep=600)
    async def pay(ctx: Context) -> int:
        ran[f"pay {ctx.key}"] += 1
        return ran.total()

    @server.on("count", keep=600)
    async def count() -> AsyncIterator[int]:
        ran["count"] += 1
        for number in range(10):
            if number == 5:
                await goes_on.wait()
            yield number


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_failover_while_everything_is_in_use(several: Several, how: str) -> None:
    """Nothing happens twice, and what is missing is told: the replica may not have what the primary has accepted."""
    ran, goes_on, heard = Counter[str](), asyncio.Event(), dict[str, list[Any]]()
    async with servers(0, RedisEngine(several.url)) as made:
        for _ in range(2):
            server = await made.add(store=RedisStore(several.url), quotas=Quotas(connections=1))
            equip(server, ran, goes_on)
        await made.meet()
        clients = list[Client]()
        for number, name in enumerate(("ada", "bob")):
            client, heard[name] = Client(reconnect=None), []
            client.on("said", heard[name].append)
            client.of("rooms").on("presence", lambda **_: None)
            client.of("rooms").on("missed", lambda room, position, name=name: heard[name].append("missed"))
            clients.append(await made.enter(connect(made[number], path=f"/?who={name}&user={name}", client=client)))
            await client.of("rooms").request("join", "hall", {})
        ada, bob = clients
        paid = await ada.request("pay", key="one")
        await made[0].cluster.peer("door").submit("unlock", 7, key="visit", deliver_within=600)
        followed = asyncio.create_task(following(bob))
        await until(lambda: ran["count"])
        await until(lambda: set(made[0].room("hall").present()) == {"ada", "bob"})
        await replicated(several)
        emits = asyncio.create_task(speak(made[0]))
        await until(lambda: len(heard["bob"]) > 5)
        primary = several.servers[several.primary]
        primary.kill() if how == "killed" else primary.freeze()
        lost = set[int]()  # one may be back before the other has noticed it

        def have_lost() -> bool:
            lost.update(number for number in range(2) if not made[number].cluster.connected)
            return len(lost) == 2

        await until(have_lost)
        calls = [ada.request("pay", key="one"), bob.request("pay", key="two"), ada.request("pay", key="three")]
        assert (await asyncio.gather(*calls))[0] == paid
        await emits
        await until(lambda: all(server.cluster.connected for server in made))
        await made.meet()
        goes_on.set()
        assert await followed == list(range(10))
        assert ran == {"pay one": 1, "pay two": 1, "pay three": 1, "count": 1}
        await until(lambda: all(each[-1] == 19 for each in heard.values()))
        for each in heard.values():
            said = [number for number in each if number != "missed"]
            assert said == sorted(set(said))
            assert "missed" in each or said == list(range(20))
        for server in made:
            assert set(server.room("hall").present()) == {"ada", "bob"}
            with pytest.raises(HandshakeRejected):
                async with connect(server, path="/?who=ada2&user=ada"):
                    pass
        door, unlocked = Client(reconnect=None), list[int]()

        @door.on("unlock", keep=600)
        async def unlock(number: int) -> None:
            unlocked.append(number)

        await made.join(1, "door", door)
        await until(lambda: unlocked)
        assert unlocked == [7]


def client_of(several: Several) -> Any:
    """A client of the library, as a program that uses Redis has it."""
    [*hosts, last] = [each.partition(":")[::2] for each in urlsplit(several.url).netloc.split(",")]
    if isinstance(several, RedisClusterServers):
        return RedisCluster(host=last[0], port=int(last[1]), client_name="shop", socket_timeout=5)
    sentinel: Any = Sentinel([(host, int(port)) for host, port in (*hosts, last)], client_name="shop")  # type: ignore[no-untyped-call]
    return sentinel.master_for("shop", socket_timeout=5)


async def test_a_client_leads_to_the_primary_whichever_it_is(several: Several) -> None:
    """A node of a cluster that has become a replica keeps its connections open."""
    client = client_of(several)
    store, reads, engine, heard = RedisStore(client), RedisStore(client), RedisEngine(client), Recorder()
    connection = await engine.connect(heard)
    await connection.subscribe("a")
    await add(store, "w", 1, b"x")
    reading = asyncio.create_task(insist(reads, 1))
    await reads.read("k", 1, wait=0.1)
    redis: Any = Redis(port=several.primary)
    assert {each["name"] for each in await redis.client_list() if "replica" not in each["flags"]} >= {"shop"}
    await replicated(several)
    if isinstance(several, RedisClusterServers):
        replica: Any = Redis(port=several.replica)
        await replica.execute_command("CLUSTER", "FAILOVER")
        assert "another server has the keys" in await heard.ended()
        await replica.connection_pool.disconnect()
    else:
        several.servers[several.primary].kill()
        await heard.ended()
    await eventually(partial(insisting, add, store, "w", 2, b"y"), bool)
    assert await reading == [b"y"]
    assert await entries_of(store) == [b"x", b"y"]
    again = await eventually(partial(insisting, engine.connect, Recorder()), bool)
    await again.subscribe("a")
    assert await again.is_received("a", b"")
    for each in (again, connection, store, reads):
        await each.close()
    await redis.connection_pool.disconnect()
    hosts = repr(store).removeprefix("RedisStore(").partition(", name=")[0]
    assert hosts in urlsplit(several.url).netloc.replace(",", ", ") and repr(engine) == f"RedisEngine({hosts})"


async def insisting(call: Any, *args: Any) -> Any:
    with suppress(StoreLost, EngineLost):
        return await call(*args)
    return None


@pytest.mark.parametrize("made", [RedisEngine, RedisStore])
def test_what_cannot_be_used_is_refused(made: Any) -> None:
    sentinel: Any = Sentinel([("one", 26379)])  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match="leads to replicas"):
        made(sentinel.slave_for("shop"))
    with pytest.raises(ValueError, match="names no service"):
        made("redis+sentinel://one")
    with pytest.raises(TypeError, match=f"{made.__name__} takes a URL, or a .* of redis.asyncio, not Redis"):
        made(BlockingRedis())
    with pytest.raises(TypeError, match="sets retry itself"):
        made(Redis(), retry=None)
    for url, hosts in {
        "rediss+sentinel://ann:s,ecret@one,two:5/shop/3": "one, two:5",
        "redis+cluster://:s,ecret@one": "one",
    }.items():
        assert repr(made(url)).startswith(f"{made.__name__}({hosts}")
    assert repr(made(Redis(host="one"))).startswith(f"{made.__name__}(one:6379")


async def following(client: Client) -> list[int]:
    return [number async for number in client.follow("count", key="numbers", returns=int)]


async def speak(server: Server) -> None:
    for number in range(20):
        await server.room("hall").emit("said", number)
        await asyncio.sleep(0.02)
