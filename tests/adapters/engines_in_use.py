"""Engines under test, by one interface: in memory, NATS and Redis."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

import pytest
from engine_servers import EngineServer, RedisClusterServers, nats_server, redis_server

from wsrpc.cluster import MemoryEngine
from wsrpc.cluster.engine import Engine
from wsrpc.testing._engine_checks import Open as Connect
from wsrpc.testing._engine_checks import Recorder, check_over, connect_to, connections, new_subject
from wsrpc_adapters.nats import NatsEngine
from wsrpc_adapters.redis import RedisEngine

__all__ = [
    "CONNECT",
    "KINDS",
    "START",
    "Connect",
    "InMemory",
    "MortalEngine",
    "OnServer",
    "Recorder",
    "check_over",
    "connect",
    "connect_to",
    "subject",
]

KINDS = ("memory", "nats", "redis")

START: dict[str, Callable[[], EngineServer]] = {
    "nats": nats_server,
    "redis": redis_server,
    "redis cluster": RedisClusterServers,
}
CONNECT: dict[str, Callable[[str], Engine]] = {
    "nats": NatsEngine,
    "redis": RedisEngine,
    "redis cluster": RedisEngine,
}


@pytest.fixture
async def connect(engine: Engine) -> AsyncGenerator[Connect]:
    """Connects to the engine of the test. Afterwards the connections are closed, and each has ended once."""
    async with connections(lambda: engine) as connect:
        yield connect


@pytest.fixture
def subject() -> str:
    """One that no other test uses."""
    return new_subject()


class InMemory:
    def __init__(self) -> None:
        self.engine = MemoryEngine()
        self.freeze = self.engine.freeze
        self.thaw = self.engine.thaw

    def kill(self) -> None:
        self.engine.down = True
        self.engine.cut()


class OnServer:
    def __init__(self, kind: str) -> None:
        server = START[kind]()
        self.engine = CONNECT[kind](server.url)
        self.freeze = server.freeze
        self.thaw = server.thaw
        self.kill = server.kill


MortalEngine = InMemory | OnServer
"""An engine whose broker tests may freeze and kill."""
