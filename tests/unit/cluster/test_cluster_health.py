"""What an operator sees of the servers of a cluster."""

from __future__ import annotations

import asyncio

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import ask

from wsrpc import Server
from wsrpc.cluster import Cluster, MemoryEngine, _membership

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_a_server_without_its_engine_is_degraded_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_membership, "RESPONSE_TIMEOUT", 0.05)
    engine = MemoryEngine()
    engine.down = True
    server = Server(cluster=Cluster(engine))
    async with server.listen() as listener:
        for lost in (0, 1):
            for body in (b"degraded\n", b"ok\n"):
                answer = await ask(listener.port, b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n" + body)
                stats = server.stats()
                assert stats.healthy and stats.cluster is not None
                assert (stats.cluster.connected, stats.cluster.engines_lost) == (not engine.down, lost)
                engine.down = not engine.down
                if engine.down:
                    engine.cut()
                await turns_until(lambda: server.cluster.connected is not engine.down)


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
        await turns_until(lambda: not engine.connections)


@pytest.mark.parametrize("fault", ["", "down", "frozen"])
async def test_a_server_that_is_open_is_connected_to_its_engine_if_that_answers(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It returned before, so that the first calls raised `EngineLost`. An engine that is away does not hold it up."""
    if fault:
        monkeypatch.setattr(_membership, "RESPONSE_TIMEOUT", 0.05)
    engine = MemoryEngine()
    engine.down = fault == "down"
    if fault == "frozen":
        engine.freeze()
    server = Server(cluster=Cluster(engine))
    async with asyncio.timeout(5):
        await server.open()
    assert server.cluster.connected is (fault == "")
    engine.thaw()
    await server.close()
