"""What an operator sees of a server in a cluster whose engine is away."""

from __future__ import annotations

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import ask

from wsrpc import Server
from wsrpc.cluster import Cluster
from wsrpc.testing import MemoryEngine

pytestmark = pytest.mark.usefixtures("nothing_left")


async def health(port: int) -> tuple[bytes, bytes]:
    """The status and the body."""
    answer = await ask(port, b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
    return answer.split(b" ")[1], answer.partition(b"\r\n\r\n")[2]


async def test_a_server_without_its_engine_is_degraded_and_goes_on() -> None:
    engine = MemoryEngine()
    engine.down = True
    server = Server(cluster=Cluster(engine))
    async with server.listen() as listener:
        for lost in (0, 1):
            assert await health(listener.port) == (b"200", b"degraded\n")
            stats = server.stats()
            assert stats.healthy and stats.cluster is not None
            assert (stats.cluster.connected, stats.cluster.engines_lost) == (False, lost)
            engine.down = False
            await turns_until(lambda: server.cluster.connected)
            assert await health(listener.port) == (b"200", b"ok\n")
            engine.down = True
            engine.cut()
            await turns_until(lambda: not server.cluster.connected)
    assert server.stats().cluster is None
