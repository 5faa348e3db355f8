"""Idle clients move to other servers, and nothing in flight is lost; `max_connection_age=`; `Cluster(rebalance=)`."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from core_driver import Blocked, start
from waiting import settled, until

from wsrpc import Client, Limits, Peer, Reconnect, Server
from wsrpc._server.operating.rebalancing import AGE_INTERVAL
from wsrpc.cluster import Cluster, ClusterClient, MemoryEngine
from wsrpc.testing import Line, connect

AT_ONCE = Reconnect(initial=0.001, max=0.001)
LIMITS = Limits(ping_interval=None)
CLIENTS, STREAMS, ROUNDS = 100, 20, 100


def everybody(peer: Peer, action: str) -> bool:
    return True


async def move(operator: Client, most: int, down_to: int) -> list[tuple[int, int]]:
    """What `wsrpc rebalance` requests once a second: of each server, its peers and those that it moves."""
    async with operator.of("wsrpc").stream("rebalance", most, down_to) as rows:
        return [(row["peers"], row["moved"]) async for row in rows]


async def test_sessions_spread_over_new_servers_under_calls_and_streams() -> None:
    """The load balancer picks a server at random. Each call runs once, and the streams have no gap."""
    engine, pick, go_on, over = MemoryEngine(), random.Random(8), asyncio.Event(), list[bool]()
    ran = Counter[tuple[int, int]]()
    servers = [Server(limits=LIMITS, cluster=Cluster(engine), admin=everybody) for _ in range(4)]

    def echo(client: int, call: int) -> int:
        ran[client, call] += 1
        return call

    async def count() -> AsyncIterator[int]:
        for number in range(20):
            yield number
            if number == 10:
                await go_on.wait()

    async def calls(number: int, client: Client) -> int:
        done = 0
        while not over:
            assert await client.request("echo", number, done) == done
            done += 1
            await asyncio.sleep(pick.random())
        return done

    def id_of(peer: Peer) -> str:
        return peer.id

    async with AsyncExitStack() as stack:
        for server in servers:
            server.on("echo", echo)
            server.on("count", count)
            server.on("id", id_of)
            stack.push_async_callback(server.close)
        lines = list(map(Line, servers[:2]))

        async def dial(url: str, **options: Any) -> Any:
            return await pick.choice(lines).dial(url, **options)

        clients = [Client("ws://server/", dial=dial, limits=LIMITS, reconnect=AT_ONCE) for _ in range(CLIENTS)]
        for client in clients:
            await stack.enter_async_context(client)
        streaming = [(client, await client.request("id"), client.stream("count")) for client in clients[:STREAMS]]
        heads = [await anext(stream) for *_, stream in streaming]
        for server in servers[2:]:
            await server.open()
            lines.append(Line(server))
        await until(lambda: all(len(server.cluster.nodes) == 4 for server in servers))
        calling = [start(calls(number, client)) for number, client in enumerate(clients[STREAMS:])]
        operator = await stack.enter_async_context(connect(servers[0]))
        mean, total = CLIENTS // 4, 0
        for _ in range(ROUNDS):
            rows = await move(operator, 10, mean)
            total += sum(moved for _, moved in rows)
            await asyncio.sleep(1.0)
            assert sum(len(server.peers) for server in servers) == CLIENTS + 1
            if all(abs(len(server.peers) - mean) <= mean // 10 for server in servers):
                break
        else:
            raise AssertionError(f"not even after {ROUNDS} rounds: {rows}")
        assert 50 - 2 * (mean // 10) <= total < 3 * CLIENTS
        go_on.set()
        for head, (client, id, stream) in zip(heads, streaming, strict=True):
            assert await client.request("id") == id, "it has not moved"
            assert [head] + [number async for number in stream] == [*range(20)]
        over.append(True)
        made = await asyncio.gather(*calling)
        assert ran == {(number, call): 1 for number, done in enumerate(made) for call in range(done)}


# ---------------------------------------------------------------- what is in flight


class Scene:
    """A server with an operator, and a client that may move."""

    def __init__(self, extensions: bool = True, **options: Any) -> None:
        self.server = server = Server(limits=LIMITS, admin=everybody, **options)
        self.line = Line(server)
        self.operator, self.client = self.make_client(), self.make_client(extensions=extensions)
        self.work = Blocked()
        server.on("work", self.work)
        self.client.on("work", self.work)
        server.on("count", self._count)

    def make_client(self, **options: Any) -> Client:
        return Client("ws://server/", dial=self.line.dial, limits=LIMITS, reconnect=AT_ONCE, **options)

    async def _count(self) -> AsyncIterator[int]:
        yield 1
        await self.work()

    @property
    def peer(self) -> Peer:
        return self.server.peers[-1]

    async def moved(self) -> int:
        [(_, moved)] = await move(self.operator, 10, 0)
        return moved


@asynccontextmanager
async def scene(**options: Any) -> AsyncGenerator[Scene]:
    it = Scene(**options)
    async with it.operator, it.client:
        await until(lambda: len(it.server.peers) == 2)
        yield it
    await it.server.close()


async def _request(it: Scene) -> Any:
    return await it.client.request("work")


async def _request_of_the_server(it: Scene) -> Any:
    return await it.peer.request("work")


async def _event(it: Scene) -> Any:
    await it.client.emit("work")
    await it.work.go.wait()
    return []


async def _stream(it: Scene) -> Any:
    assert [number async for number in it.client.stream("count")] == [1]
    return []


IN_FLIGHT: dict[str, Callable[[Scene], Coroutine[Any, Any, Any]]] = {
    "a request": _request,
    "a request of the server": _request_of_the_server,
    "an event": _event,
    "a stream": _stream,
}


@pytest.mark.parametrize("what", IN_FLIGHT)
async def test_a_client_moves_when_what_is_in_flight_has_ended(what: str) -> None:
    async with scene() as it:
        id, doing = it.peer.id, start(IN_FLIGHT[what](it))
        await until(lambda: it.work.started)
        assert await it.moved() == 0 and it.server.stats().closed == {}
        it.work.go.set()
        assert await doing == []
        while not await it.moved():
            await settled()
        await until(lambda: it.server.stats().closed == {1012: 1} and len(it.server.peers) == 2)
        assert it.peer.id != id and await it.client.request("work") == []


async def test_no_more_clients_move_than_are_too_many() -> None:
    async with scene() as it, it.make_client(), it.make_client():
        for most, down_to, moved in ((10, 3, 1), (1, 0, 1)):
            await until(lambda: len(it.server.peers) == 4)
            asked = [
                move(it.operator, *each) for each in ((most, down_to), (most, 3))
            ]  # the second one in the same turn
            assert [found for [(_, found)] in await asyncio.gather(*asked)] == [moved, 0]
            await settled()


async def test_clients_that_cannot_be_asked_stay() -> None:
    async with scene(extensions=False) as it:
        assert await move(it.operator, 10, 0) == [(2, 0)]
        assert await move(it.operator, 0, 0) == [(2, 0)]


@pytest.mark.parametrize("then", ["drop", "drain"])
async def test_a_client_that_starts_something_while_it_is_asked(then: str) -> None:
    """It is finished before the client moves, also if the connection drops, or the server closes, meanwhile."""
    async with scene() as it:
        go_on, client = asyncio.Event(), it.make_client()

        @client.on("open")
        async def opened(peer: Peer) -> None:
            await go_on.wait()
            await peer.emit("work")

        await it.client.close()
        opening = start(client.connect())
        while not await it.moved():
            await settled()
        id = it.peer.id
        go_on.set()
        await opening
        await until(lambda: it.work.started)
        it.line.down = True
        if then == "drain":
            closing = start(it.server.close(drain_timeout=60.0))
            await until(lambda: it.server.draining)
            assert it.server.peer(id) is not None
            it.work.go.set()
            await closing
        else:
            it.line.connections[-1][0].abort()
            await until(lambda: it.peer.detached)
            it.work.go.set()
            await asyncio.sleep(1)
            assert it.work.finished and it.server.peer(id) is not None, "the session is kept"
            it.line.down = False
            await until(lambda: it.server.peer(id) is None, limit=AGE_INTERVAL + 0.01)
            assert await client.request("work") == []
        assert it.work.finished and not it.work.cancelled
        await client.close()


# ---------------------------------------------------------------- max_connection_age


async def test_old_connections_move_when_they_are_idle(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    async with scene(max_connection_age=60) as it, AsyncExitStack() as stack:
        doing, id = start(it.client.request("work", timeout=None)), it.peer.id
        others = [await stack.enter_async_context(it.make_client()) for _ in range(20)]
        working = [start(each.request("work", timeout=None)) for each in others]
        await asyncio.sleep(180)
        assert (before := it.server.stats().closed[1012]) > 1
        assert it.server.peer(id) is not None, "the operator has moved twice"
        it.work.go.set()
        await asyncio.gather(*working)
        await settled(3 * AGE_INTERVAL)
        assert 2 <= it.server.stats().closed[1012] - before <= 4, "not all of them at once"
        assert await doing == []
        await until(lambda: it.server.peer(id) is None, limit=AGE_INTERVAL + 0.01)
        assert await it.client.request("work") == []
    assert "1012 connect again: max_connection_age= is reached" in caplog.text
    assert "spread" not in caplog.text


async def test_without_a_maximum_age_nobody_moves() -> None:
    async with scene() as it:
        ids = [peer.id for peer in it.server.peers]
        await asyncio.sleep(24 * 3600)
        assert [peer.id for peer in it.server.peers] == ids


# ---------------------------------------------------------------- Cluster(rebalance=)


Balancer = Callable[[list[Server], int], Server]


class Fleet:
    """Servers of a cluster with a load balancer, and clients, each with the number of its sessions."""

    def __init__(self, stack: AsyncExitStack, balancer: Balancer, rebalance: int | None = 5) -> None:
        self.engine, self.stack, self.balancer, self.rebalance = MemoryEngine(), stack, balancer, rebalance
        self.servers: list[Server] = []
        self.sessions = Counter[int]()
        self.work = Blocked()

    async def start(self) -> Server:
        server = Server(limits=LIMITS, cluster=Cluster(self.engine, rebalance=self.rebalance))
        server.on("work", self.work)
        self.stack.push_async_callback(server.close)
        await server.open()
        self.servers.append(server)
        return server

    async def restart(self, server: Server) -> None:
        """Drain a server, whose clients dial again, and start another one in its place after 10 seconds."""
        self.servers.remove(server)
        await server.close(drain_timeout=20)
        await asyncio.sleep(10)
        await self.start()

    async def connect(self, number: int) -> Client:
        async def dial(url: str, **options: Any) -> Any:
            return await Line(self.balancer(self.servers, number)).dial(url, **options)

        client = Client("ws://server/", dial=dial, limits=LIMITS, reconnect=AT_ONCE)
        client.on("open", lambda: self.sessions.update([number]))
        return await self.stack.enter_async_context(client)

    @property
    def counts(self) -> list[int]:
        return [len(server.peers) for server in self.servers]


def least(servers: list[Server], client: int) -> Server:
    return min(servers, key=lambda server: len(server.peers))


def sticky(servers: list[Server], client: int) -> Server:
    return servers[client % 2]


@asynccontextmanager
async def fleet(balancer: Balancer, clients: int = 60, rebalance: int | None = 5) -> AsyncGenerator[Fleet]:
    async with AsyncExitStack() as stack:
        it = Fleet(stack, balancer, rebalance)
        for _ in range(2):
            await it.start()
        for number in range(clients):
            await it.connect(number)
        await asyncio.sleep(100)
        assert it.counts == [clients // 2] * 2
        yield it


def at_random(seed: int = 8) -> Balancer:
    pick = random.Random(seed)
    return lambda servers, client: sticky(servers, client) if len(servers) == 2 else pick.choice(servers)


@pytest.mark.parametrize(("balancer", "off"), [(least, 7), (at_random(), 15)], ids=["least", "random"])
async def test_idle_clients_move_by_themselves_to_a_server_that_has_joined(balancer: Balancer, off: int) -> None:
    """At random, each client moves once, and they are as even as chance makes them."""
    async with fleet(balancer, 180) as it:
        busy = await it.connect(180)
        working = start(busy.request("work", timeout=None))
        await it.start()
        await asyncio.sleep(29)
        assert it.counts[2] == 0
        before = 0
        for _ in range(60):
            await asyncio.sleep(1)
            moved = sum(server.stats().closed.get(1012, 0) for server in it.servers)
            assert moved - before <= 2 * 5
            before = moved
        assert all(abs(count - 60) <= off for count in it.counts), it.counts
        assert max(it.sessions.values()) == 2 and it.sessions[180] == 1 and sum(it.sessions.values()) == 181 + moved
        await asyncio.sleep(600)
        assert sum(it.sessions.values()) == 181 + moved, "nothing flaps"
        it.work.go.set()
        await working


async def test_servers_that_restart_one_after_another_are_one_change() -> None:
    """So is a program without a server that joins and leaves meanwhile, again and again."""
    async with fleet(least) as it:
        await it.start()
        await asyncio.sleep(100)
        it.sessions.clear()
        for server in it.servers.copy():
            async with ClusterClient(it.engine):
                await it.restart(server)
            assert sum(it.counts) == 60
            await asyncio.sleep(18)
        drained = it.sessions.copy()
        assert it.counts[2] == 0
        for _ in range(10):
            async with ClusterClient(it.engine):
                await asyncio.sleep(9)
        assert all(17 <= count <= 23 for count in it.counts), it.counts
        assert max((it.sessions - drained).values()) == 1


async def test_clients_that_return_to_the_same_servers_are_given_up(caplog: pytest.LogCaptureFixture) -> None:
    async with fleet(sticky, 100) as it:
        await it.start()
        await asyncio.sleep(600)
        moved = sum(it.sessions.values()) - 100
        assert it.counts == [50, 50, 0] and 30 <= moved <= 50 and max(it.sessions.values()) == 2
        assert [text for text in caplog.messages if "but none reaches" in text]


NO_NEED = ["no option", "even", "one has left", "the engine is away"]


@pytest.mark.parametrize("why", NO_NEED)
async def test_nobody_moves_without_need(why: str) -> None:
    async with fleet(least, rebalance=None if why == "no option" else 5) as it:
        await it.start()
        if why == "even":
            it.balancer = lambda servers, client: servers[2]
            for number in range(100, 127):
                await it.connect(number)
        elif why == "one has left":
            await asyncio.sleep(100)
            it.balancer = lambda servers, client: servers[0]
            await it.servers.pop().close(drain_timeout=20)
        elif why == "the engine is away":
            await asyncio.sleep(10)
            it.engine.down = True
            it.engine.cut()
        await settled()
        before = it.counts, it.sessions.copy()
        await asyncio.sleep(200)
        assert (it.counts, it.sessions) == before
        it.engine.down = False
