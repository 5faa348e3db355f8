"""A call that waits for a device, and whose process is killed meanwhile: with real processes, and Redis."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from cluster_servers import servers
from engine_servers import ServerProcess, redis_server
from leftovers import turns_until
from programs import start

from wsrpc import Client
from wsrpc_adapters.redis import RedisEngine, RedisStore

LEASE = 1.0

CALLER = f"""
import asyncio, sys
from wsrpc.cluster import ClusterClient
from wsrpc_adapters.redis import RedisEngine, RedisStore

class Store(RedisStore):
    async def start(self, *args):
        state = await super().start(*args)
        print("it waits", flush=True)
        return state

async def main(url):
    async with ClusterClient(RedisEngine(url), name="shop", store=Store(url, lease={LEASE})) as shop:
        await shop.peer("lock").request("open_lock", 7, key="k", deliver_within=60)

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
def redis() -> Iterator[ServerProcess]:
    server = redis_server()
    yield server
    server.kill()


async def test_the_call_of_a_killed_process_reaches_the_device_once(redis: ServerProcess) -> None:
    store = RedisStore(redis.url, lease=LEASE)
    opened: list[int] = []
    lock = Client()

    @lock.on("open_lock", keep=60)
    async def open_lock(door: int) -> str:
        opened.append(door)
        return f"open {len(opened)}"

    caller = await start(sys.executable, "-c", CALLER, redis.url, stderr=None)
    assert caller.stdout is not None
    assert await caller.stdout.readline() == b"it waits\n"
    caller.kill()
    await caller.communicate()
    async with servers(2, RedisEngine(redis.url), patience=60, store=store) as cluster:
        await cluster.join(1, "lock", lock)
        await turns_until(lambda: opened, 30)
        peer = cluster[0].cluster.peer("lock")
        assert await peer.request("open_lock", 7, key="k", deliver_within=60) == "open 1"
        assert opened == [7]
