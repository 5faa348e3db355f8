"""What is over is forgotten: users, calls, rooms and processes that come and go leave nothing in memory."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from types import FunctionType, ModuleType
from typing import Any
from weakref import ReferenceType

import pytest
from cluster_servers import Servers, servers
from leftovers import nothing_left as nothing_left
from waiting import settled

from wsrpc import Client, Handshake, HandshakeRejected, Quotas, Reconnect, RpcError
from wsrpc.cluster._cluster import membership_of
from wsrpc.store import MemoryStore
from wsrpc.testing import Line, connect

ROUNDS = 4
LONG = 700.0
"""Seconds after which nothing need be known of what is over. Results are kept for a minute here, others shorter."""
BOUNDS = (
    "_base.logs.MOST_LOGGED",
    "_core.session.peer_host.MOST_MISFITS",
    "_core.session.sessions.MOST_CLOSED",
    "_log.memory_store.MOST_FREED",
    "_log.memory_store.MOST_WRITERS",
    "_server.quotas.quotas.MOST_IDLE",
    "cluster._nodes.links.MOST_BROKEN",
    "stats.MOST_NAMES",
    "stats.MOST_PRINCIPALS",
    "stats.MOST_PROGRAMS",
)
"""What bounds how many are remembered. Here it is small, so that it is reached."""
NO_STATE = (ModuleType, type, asyncio.AbstractEventLoop, ReferenceType, int, float)


def reachable(*roots: object) -> Counter[str]:
    """Return how many objects of each type some objects refer to, directly or not."""
    gc.collect()
    found, left = {id(root): root for root in roots}, [*roots]
    while left:
        each: Any = left.pop()
        inside: Iterable[Any] = (each.__closure__ or ()) if isinstance(each, FunctionType) else gc.get_referents(each)
        inside = [*inside, *each] if isinstance(each, dict) else inside  # it does not name keys that are text
        new = {id(other): other for other in inside if id(other) not in found and not isinstance(other, NO_STATE)}
        found |= new
        left += new.values()
    return Counter(type(each).__name__ for each in found.values())


async def echo(value: Any) -> Any:
    return value


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def calls(made: Servers, who: str) -> None:
    async with connect(made[0], path=f"/?who={who}&user={who}") as client:
        client.on("echo", echo, keep=60)
        client.on("numbers", numbers)
        sides: list[Any] = [client, made[1].cluster.peer(who)]
        for side in sides:
            assert await side.request("echo", 1) == 1
            assert [number async for number in side.stream("numbers", 3)] == [0, 1, 2]
            async with side.stream("numbers", 999) as some:
                await anext(some)
            with suppress(RpcError):
                await side.request(f"unknown {who}")
            await side.emit(f"unknown {who}")
        await asyncio.gather(*(client.request("echo", 1) for _ in range(40)), return_exceptions=True)


async def keys(made: Servers, who: str) -> None:
    await made[0].cluster.peer(f"nobody{who}").submit("echo", 1, key=who, deliver_within=30)
    for server, other in (made, made[::-1]):  # the second one reads what the first one has run
        async with connect(server, path=f"/?who={who}&user={who}") as client:
            client.on("echo", echo, keep=60)
            assert await client.request("echo", 1, key=who) == 1
            async with client.stream("numbers", 999, key=who) as some:
                await anext(some)
            away = other.cluster.peer(who)
            await away.submit("echo", 2, key=f"submitted to {id(server)}", deliver_within=30)
            assert await away.request("echo", 3, key=f"for {id(server)}", deliver_within=30) == 3
            await settled()


async def rooms(made: Servers, who: str) -> None:
    async with connect(made[0], path=f"/?who={who}&user={who}") as client:
        for name, about in ((f"room of {who}", None), ("kept", who)):
            room = client.room(name)
            client.on("said", lambda _: None)
            await room.join(about=about)
            for server in made:
                await server.room(name).emit("said", who)
            await asyncio.sleep(1)
        await room.leave()


async def processes(made: Servers, who: str) -> None:
    """One process leaves the cluster, and one is gone."""
    for silent in (False, True):
        last = await made.add()
        await made.meet()
        async with connect(last, path=f"/?who={who}&user={who}"):
            last.room("elsewhere").add(last.peers[0])
            await asyncio.sleep(1)
            if silent:
                await membership_of(last.cluster).node.engine.close()
                await asyncio.sleep(10)
        await last.close()
        made.remove(last)


async def drops(made: Servers, who: str) -> None:
    """A session resumes, and is closed while its client is away."""
    line = Line(made[0])
    url = f"ws://server/?who={who}&user={who}"
    async with Client(url, dial=line.dial, reconnect=Reconnect(initial=0.01, max=0.01)) as client:
        await client.request("echo", 1)
        line.cut()
        assert await client.request("echo", 1) == 1
        line.down = True
        line.cut()
        await settled()
        await made.peer(0, who).close(4000, "not any more")


async def refusals(made: Servers, who: str) -> None:
    for number in range(3):
        page = f"https://{who}-{number}.example"
        with pytest.raises(HandshakeRejected):
            await made[0].handshake(Handshake("/", {"Origin": page}, remote=(f"{who}-{number}", 1)))


USES = [calls, keys, rooms, processes, drops, refusals]


async def test_what_is_over_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BOUNDS:
        monkeypatch.setattr(f"wsrpc.{name}", 2)
    store = MemoryStore()
    async with servers(2, store=store, quotas=Quotas(requests=30, connections=9)) as made:
        for server in made:
            server.on("echo", echo, keep=60)
            server.on("numbers", numbers, keep=60)
            server.room("kept", keep=60, presence=5)
            server.on_join(lambda peer, name: True)
            server.on_presence(lambda room, present: None)
        before = Counter[str]()
        for number in range(1, 2 * ROUNDS + 1):
            for use in USES:
                await use(made, f"{use.__name__}{number}")
            await asyncio.sleep(LONG)
            if number == ROUNDS:
                before = reachable(*made, store)
        grown = reachable(*made, store) - before
        assert not {name: count for name, count in grown.items() if count >= ROUNDS}
