"""What an operator sees of the servers of a cluster, and a server that cannot listen."""

from __future__ import annotations

import asyncio

import pytest
from leftovers import nothing_left as nothing_left
from raw_websocket import ask
from waiting import until

from wsrpc import Server
from wsrpc.cluster import Cluster, MemoryEngine

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_a_server_without_its_engine_is_degraded_and_goes_on() -> None:
    engine = MemoryEngine()
    server = Server(cluster=Cluster(engine))
    async with server.listen() as listener:
        for lost, body in ((0, b"ok\n"), (1, b"degraded\n"), (1, b"ok\n")):
            answer = await ask(listener.port, b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n" + body)
            stats = server.stats()
            assert stats.healthy and stats.cluster is not None
            assert (stats.cluster.connected, stats.cluster.engines_lost) == (not engine.down, lost)
            engine.down = not engine.down
            if engine.down:
                engine.cut()
            await until(lambda: server.cluster.connected is not engine.down)


@pytest.mark.parametrize("why", ["the port is taken", "it is cancelled"])
async def test_a_server_that_does_not_listen_after_all_leaves_its_cluster(why: str) -> None:
    """Its node stayed, with its tasks."""
    engine = MemoryEngine()
    async with Server().listen() as taken:
        listening = asyncio.create_task(Server(cluster=Cluster(engine)).listen(port=taken.port).__aenter__())
        if why == "it is cancelled":
            engine.freeze()
            await asyncio.sleep(0)
            listening.cancel()
        with pytest.raises((OSError, asyncio.CancelledError)):
            await listening
        engine.thaw()
        await until(lambda: not engine.connections)
