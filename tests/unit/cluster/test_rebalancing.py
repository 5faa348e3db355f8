"""Idle clients move to other servers, and nothing that is in flight is lost; `Server(max_connection_age=)`."""

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
from leftovers import nothing_left as nothing_left
from leftovers import timers_due, turns_until

from wsrpc import Client, Limits, Peer, Reconnect, Server
from wsrpc.cluster import Cluster, MemoryEngine

pytestmark = pytest.mark.usefixtures("nothing_left")

AT_ONCE = Reconnect(initial=0.001, max=0.001)
LIMITS = Limits(close_timeout=2.0)
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
            await asyncio.sleep(0.001 * pick.random())
        return done

    def id_of(peer: Peer) -> str:
        return peer.id

    for server in servers:
        server.on("echo", echo)
        server.on("count", count)
        server.on("id", id_of)
    async with asyncio.timeout(60), AsyncExitStack() as stack:
        urls = [(await stack.enter_async_context(server.listen())).url for server in servers[:2]]
        clients = [Client(lambda: pick.choice(urls), limits=LIMITS, reconnect=AT_ONCE) for _ in range(CLIENTS)]
        for client in clients:
            await stack.enter_async_context(client)
        streaming = [(client, await client.request("id"), client.stream("count")) for client in clients[:STREAMS]]
        heads = [await anext(stream) for *_, stream in streaming]
        urls += [(await stack.enter_async_context(server.listen())).url for server in servers[2:]]
        await turns_until(lambda: all(len(server.cluster.nodes) == 4 for server in servers))
        calling = [start(calls(number, client)) for number, client in enumerate(clients[STREAMS:])]
        operator = await stack.enter_async_context(Client(urls[0], limits=LIMITS))
        mean, total = CLIENTS // 4, 0
        for _ in range(ROUNDS):
            rows = await move(operator, 10, mean)
            total += sum(moved for _, moved in rows)
            await turns_until(lambda: sum(len(server.peers) for server in servers) == CLIENTS + 1)
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

    def __init__(self, server: Server, url: str, operator: Client, client: Client) -> None:
        self.server, self.url, self.operator, self.client = server, url, operator, client
        self.work = Blocked()
        server.on("work", self.work)
        client.on("work", self.work)
        server.on("count", self._count)

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
async def scene(extensions: bool = True, **options: Any) -> AsyncGenerator[Scene]:
    server = Server(limits=LIMITS, admin=everybody, **options)
    async with (
        asyncio.timeout(8),
        server.listen() as listener,
        Client(listener.url, limits=LIMITS, reconnect=AT_ONCE) as operator,
    ):
        client = Client(listener.url, limits=LIMITS, reconnect=AT_ONCE, extensions=extensions)
        it = Scene(server, listener.url, operator, client)
        async with client:
            await turns_until(lambda: len(server.peers) == 2)
            yield it


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
        await turns_until(lambda: it.work.started)
        assert await it.moved() == 0 and it.server.stats().closed == {}
        it.work.go.set()
        assert await doing == []
        while not await it.moved():
            pass
        await turns_until(lambda: it.server.stats().closed == {1012: 1} and len(it.server.peers) == 2)
        assert it.peer.id != id and await it.client.request("work") == []


async def test_clients_that_cannot_be_asked_stay() -> None:
    async with scene(extensions=False) as it:
        assert await move(it.operator, 10, 0) == [(2, 0)]
        assert await move(it.operator, 0, 0) == [(2, 0)]


@pytest.mark.parametrize("then", ["drop", "drain"])
async def test_a_client_that_starts_something_while_it_is_asked(then: str) -> None:
    """It is finished before the client moves, also if the connection drops, or the server closes, meanwhile."""
    async with scene() as it:
        go_on, reachable = asyncio.Event(), asyncio.Event()
        reachable.set()

        async def find() -> str:
            await reachable.wait()
            return it.url

        client = Client(find, limits=LIMITS, reconnect=AT_ONCE)

        @client.on("open")
        async def opened(peer: Peer) -> None:
            await go_on.wait()
            await peer.emit("work")

        await it.client.close()
        opening = start(client.connect())
        while not await it.moved():
            pass
        id = it.peer.id
        go_on.set()
        await opening
        await turns_until(lambda: it.work.started)
        if then == "drain":
            reachable.clear()
            closing = start(it.server.close(drain_timeout=60.0))
            await turns_until(lambda: it.server.draining)
            assert it.server.peer(id) is not None
            it.work.go.set()
            await closing
        else:
            reachable.clear()
            transport = it.peer.transport
            assert transport is not None
            transport.abort()
            await turns_until(lambda: it.peer.detached)
            it.work.go.set()
            await turns_until(lambda: it.work.finished)
            await timers_due(0.25)
            assert it.server.peer(id) is not None, "the session is kept"
            reachable.set()
            await turns_until(lambda: it.server.peer(id) is None)
            assert await client.request("work") == []
        assert len(it.work.finished) >= 1 and not it.work.cancelled
        await client.close()


# ---------------------------------------------------------------- max_connection_age


async def test_old_connections_move_when_they_are_idle(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    async with scene(max_connection_age=0.05) as it:
        doing, id = start(it.client.request("work")), it.peer.id
        await turns_until(lambda: it.work.started and it.server.stats().closed.get(1012, 0) > 1)
        assert it.server.peer(id) is not None, "the operator has moved twice"
        it.work.go.set()
        assert await doing == []
        await turns_until(lambda: it.server.peer(id) is None)
        assert await it.client.request("work") == []
    assert "1012 connect again: max_connection_age= is reached" in caplog.text
    assert "spread" not in caplog.text


async def test_without_a_maximum_age_nobody_moves() -> None:
    async with scene() as it:
        ids = [peer.id for peer in it.server.peers]
        await timers_due(0.25)
        assert [peer.id for peer in it.server.peers] == ids
