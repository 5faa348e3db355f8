"""Presence in four processes, of which one is killed: with Redis."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from engine_servers import ServerProcess, redis_server
from leftovers import turns_until
from presence_watchers import Viewer
from programs import start

from wsrpc import Client
from wsrpc.cluster._directory import NODE_TIMEOUT

GRACE = 2.0
NOTICED = 6.0
"""Seconds after which every process knows that another one was killed. (Its lease is shorter.)"""

SERVER = f"""
import asyncio, sys
from wsrpc import Server
from wsrpc.cluster import Cluster
from wsrpc_adapters.redis import RedisEngine

server = Server(cluster=Cluster(RedisEngine(sys.argv[1]), name="shop"))
server.room("lobby", allow=lambda peer: True, presence={GRACE})

@server.on_handshake
def gate(handshake):
    handshake.principal = handshake.query["user"]

@server.on_presence
def changed(room, present):
    print(present.user, present.state, flush=True)

async def main():
    async with server.listen(port=0) as listener:
        print(listener.url, flush=True)
        await server.serve_forever()

asyncio.run(main())
"""


@pytest.fixture
def redis() -> Iterator[ServerProcess]:
    server = redis_server()
    yield server
    server.kill()


def end(process: Process) -> None:
    if process.returncode is None:
        process.kill()


async def line_of(process: Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode()


@asynccontextmanager
async def viewer(url: str, user: str) -> AsyncGenerator[Viewer]:
    async with Client(f"{url}?user={user}", proxy=None) as client:
        yield await Viewer(client).join()


async def test_the_users_of_a_killed_process(redis: ServerProcess) -> None:
    """They are away within 6 s, and offline when the grace time is over. One process reports it."""
    async with asyncio.timeout(60), AsyncExitStack() as stack:
        processes = [await start(sys.executable, "-c", SERVER, redis.url) for _ in range(4)]
        for process in processes:
            stack.callback(end, process)
        urls = [(await line_of(process)).strip() for process in processes]
        viewers = [await stack.enter_async_context(viewer(url, f"user/{at}")) for at, url in enumerate(urls[:3])]
        await stack.enter_async_context(viewer(urls[3], "ada"))
        await stack.enter_async_context(viewer(urls[3], "bob"))
        await stack.enter_async_context(viewer(urls[0], "bob"))
        others = {"user/0": "online", "user/1": "online", "user/2": "online", "bob": "online"}
        for each in viewers:
            await each.sees(ada="online", **others)
        while await line_of(processes[3]) != "ada online\n":  # it reports this a moment after the others know it
            pass
        loop = asyncio.get_running_loop()
        processes[3].kill()
        killed = loop.time()
        await turns_until(lambda: all(each.known == {"ada": "away", **others} for each in viewers), 30)
        away = loop.time() - killed
        await turns_until(lambda: all(each.known == others for each in viewers), 30)
        offline = loop.time() - killed
        assert away <= NOTICED, away
        assert NODE_TIMEOUT / 2 + GRACE <= offline <= NOTICED + GRACE, offline
        for each in viewers:
            assert (each.states("ada"), each.states("bob")) == (["online", "away", "offline"], ["online"])
        for process in processes[:3]:
            process.kill()
        printed = [(await process.communicate())[0].decode().splitlines() for process in processes]
        assert not any(line.startswith("ada ") for line in printed[3])
        reported = [line for lines in printed[:3] for line in lines if line.startswith("ada ")]
        assert reported == ["ada away", "ada offline"], printed
