"""Some workers on one port, without a proxy: sessions resume through any of them.

``make soak`` takes both engines, and cuts more often.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cluster_workers import AT_ONCE, Worker, environment, running
from effort import SEED, SOAK
from engine_servers import EngineServer
from engines_in_use import START
from waiting import until

from wsrpc import Client, ReconnectInfo, dial
from wsrpc._http.http_dial import dial_http
from wsrpc.transport import Transport
from wsrpc.types import Dial

APP = """
import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from itertools import count

from wsrpc import Peer, Server, current_peer
from wsrpc.cluster import Cluster
from wsrpc_adapters.nats import NatsEngine
from wsrpc_adapters.redis import RedisEngine

logging.basicConfig(level=logging.INFO, format="%(process)d %(message)s")
url = os.environ["ENGINE"]
app = Server(cluster=Cluster(RedisEngine(url) if url.startswith("redis") else NatsEngine(url)))
app.on("echo", lambda value: value)
app.on("note", lambda number: current_peer().state["notes"].append(number))
app.on("noted", lambda: current_peer().state["notes"])
app.on("where", lambda: (os.getpid(), getattr(current_peer().transport, "node", "")))


@app.on("ticks")
async def ticks() -> AsyncGenerator[int]:
    for number in count():
        yield number
        await asyncio.sleep(0.002)


@app.on("open")
def opened(peer: Peer) -> None:
    peer.state.update(calls=0, notes=[])


@app.on("call")
async def call(peer: Peer) -> int:
    peer.state["calls"] += 1
    peer.emit_nowait("called", peer.state["calls"])
    return peer.state["calls"]
"""
WORKERS = 4 if SOAK else 3
CUTS = 50 if SOAK else 3
CLIENTS = 20 if SOAK else 2


@pytest.fixture(params=START if SOAK else ["nats"])
def engine(request: pytest.FixtureRequest) -> Iterator[EngineServer]:
    server = START[request.param]()
    yield server
    server.kill()


@asynccontextmanager
async def workers(engine: EngineServer, folder: Path) -> AsyncGenerator[tuple[Worker, str]]:
    (folder / "app.py").write_text(APP, "utf-8")
    options = ("--port", "0", "--workers", str(WORKERS), "--no-access-log", "--drain-timeout", "1")
    async with running(folder, "app:app", *options, env=environment(engine.url), command=("wsrpc", "serve")) as worker:
        await worker.logged("is connected to its engine", WORKERS)
        yield worker, f"ws://127.0.0.1:{await worker.port()}/ws"


def dial_either(dice: random.Random) -> Dial:
    """Return a function that dials a WebSocket, or HTTP, whose requests come to any worker."""
    ways: list[Dial] = [dial, dial_http, partial(dial_http, polls=True)]

    async def dial_one(url: str, **options: Any) -> Transport:
        return await dice.choice(ways)(url, **options)

    return dial_one


class Visitor:
    """A client that calls and emits without a pause, and compares what it gets."""

    def __init__(self, url: str, dial: Dial | None = None) -> None:
        self.client = Client(url, reconnect=AT_ONCE, dial=dial)
        self.backs: list[ReconnectInfo] = []
        self.forwarded = Counter[bool]()
        self._called: list[int] = []
        self._ticks: list[int] = []
        self._over = False
        self._calls = self._notes = 0
        self.client.on("called", self._called.append)
        self.client.on_reconnect(self.backs.append)

    @asynccontextmanager
    async def living(self) -> AsyncGenerator[None]:
        """Let it call and emit during the block. Nothing is lost, doubled or out of order."""
        async with self.client:
            await self.where()  # so that the session has a name
            async with asyncio.TaskGroup() as group:
                for work in (self._call, self._note, self._follow):
                    group.create_task(work())
                yield
                self._over = True
            assert await self.client.request("noted") == [*range(self._notes)]
            assert self._called == [*range(1, self._calls + 1)]
            assert self._ticks == [*range(len(self._ticks))] and len(self._ticks) > CUTS
            assert all(back.resumed for back in self.backs)

    async def _call(self) -> None:
        while not self._over:
            self._calls += 1
            assert await self.client.request("call", timeout=None) == self._calls

    async def _note(self) -> None:
        while not self._over:
            await self.client.wait_connected()  # only 256 events wait for a connection
            await self.client.emit("note", self._notes)
            self._notes += 1
            await asyncio.sleep(0.002)

    async def _follow(self) -> None:
        async for tick in self.client.stream("ticks"):
            self._ticks.append(tick)
            if self._over:
                return

    async def where(self) -> tuple[int, str]:
        """The process that has the session, and the node that passes the messages on, if there is one."""
        return await self.client.request("where", returns=tuple[int, str], timeout=None)

    async def cut(self) -> str:
        """Lose the connection, and return the node that passes the messages on from now on."""
        await self.client.wait_connected()
        assert self.client.peer.transport is not None
        self.client.peer.transport.abort()
        _, node = await self.where()
        self.forwarded[bool(node)] += 1
        return node

    async def live(self, dice: random.Random) -> None:
        async with self.living():
            for _ in range(CUTS):
                await asyncio.sleep(dice.uniform(0, 0.1))
                await self.cut()
            while not self.forwarded[True]:  # by chance, it has always come to the process that has the session
                await self.cut()


async def test_every_session_resumes_through_any_worker(engine: EngineServer, tmp_path: Path) -> None:
    """Also if the worker that passes its messages on ends."""
    dice = random.Random(SEED)
    async with workers(engine, tmp_path) as (worker, url):
        visitors = [Visitor(url, dial_either(dice) if number % 2 else None) for number in range(CLIENTS)]
        async with asyncio.TaskGroup() as group:
            for each in visitors:
                group.create_task(each.live(dice))
        assert all(len(each.backs) == each.forwarded.total() for each in visitors)

        visitor = Visitor(url)
        async with visitor.living():
            for how, size in ((signal.SIGKILL, 1_000_000), (signal.SIGTERM, 4_000_000)):  # more than NATS accepts
                while not (node := await visitor.cut()):
                    pass
                block = "x" * size
                assert await visitor.client.request("echo", block) == block
                process = int(await worker.logged(rf"(\d+) node {node} of cluster 'wsrpc' is connected"))
                owner, backs = (await visitor.where())[0], len(visitor.backs)
                os.kill(process, how)
                await until(lambda backs=backs: len(visitor.backs) > backs)  # type: ignore[misc]
                assert (await visitor.where())[0] == owner
