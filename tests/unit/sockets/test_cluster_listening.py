"""What an operator sees of the servers of a cluster, a server that cannot listen, and one that gets others' clients."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from leftovers import nothing_left as nothing_left
from raw_websocket import ask
from waiting import until

from wsrpc import Client, Reconnect, Server
from wsrpc.cluster import Cluster, MemoryEngine, _rebalancing

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


async def test_a_server_that_has_joined_gets_clients_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients reach the new server by its URL. None moves twice."""
    monkeypatch.setattr(_rebalancing, "QUIET", 3.0)  # longer than a node needs to know of another one
    engine, urls, sessions = MemoryEngine(), list[str](), list[Client]()
    first, second = (Server(cluster=Cluster(engine, rebalance=5)) for _ in range(2))
    async with first.listen() as listener, AsyncExitStack() as stack:
        urls.append(listener.url)
        for _ in range(12):
            client = Client(lambda: urls[-1], reconnect=Reconnect(initial=0.001, max=0.001))
            client.on("open", lambda client=client: sessions.append(client))
            await stack.enter_async_context(client)
        async with second.listen() as listener:
            urls.append(listener.url)
            await until(lambda: len(second.peers) >= 5 and len(sessions) >= 17)
            await stack.aclose()
        assert len(sessions) - 12 == len(set(sessions[12:]))
