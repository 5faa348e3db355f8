"""Engines under test, by one interface: in memory, NATS and Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from itertools import count
from typing import Any

import pytest
from engine_servers import EngineServer, nats_server, redis_server

from wsrpc.cluster import MemoryEngine
from wsrpc.cluster.engine import Engine, EngineConnection
from wsrpc.errors import EngineLost
from wsrpc_adapters.nats import NatsEngine
from wsrpc_adapters.redis import RedisEngine

KINDS = ("memory", "nats", "redis")

START: dict[str, Callable[[], EngineServer]] = {"nats": nats_server, "redis": redis_server}
CONNECT: dict[str, Callable[[str], Engine]] = {"nats": NatsEngine, "redis": RedisEngine}


class Recorder:
    """A listener that notes what it is told, and lets tests wait for it."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.reasons: list[str] = []
        self._told = asyncio.Event()

    def received(self, subject: str, payload: bytes) -> None:
        assert not self.reasons, f"{subject} came after the end"
        self.got.append((subject, payload))
        self._told.set()

    def lost(self, reason: str) -> None:
        self.reasons.append(reason)
        self._told.set()

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, payload in self.got]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self._told.clear()
                await self._told.wait()

    async def number(self, count: int) -> None:
        """Wait for that many messages."""
        await self.until(lambda: len(self.got) >= count)
        assert len(self.got) == count

    async def ended(self) -> str:
        """Wait for the end, and return its reason."""
        await self.until(lambda: self.reasons)
        return self.reasons[0]


async def connect_to(engine: Engine, heard: Any) -> EngineConnection:
    """Connect, and try again, as a node does: on a busy machine, an attempt may take longer than it is given."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await engine.connect(heard)
            except EngineLost as exc:
                if not exc.reason.startswith("no response"):
                    raise


Connect = Callable[[], Awaitable[tuple[EngineConnection, Recorder]]]
NUMBERS = count()


@pytest.fixture
async def connect(engine: Engine) -> AsyncGenerator[Connect]:
    """Connects to the engine of the test. Afterwards the connections are closed, and each has ended once."""
    made: list[tuple[EngineConnection, Recorder]] = []

    async def connect() -> tuple[EngineConnection, Recorder]:
        recorder = Recorder()
        made.append((await connect_to(engine, recorder), recorder))
        return made[-1]

    yield connect
    for connection, recorder in made:
        await connection.close()
        assert len(recorder.reasons) == 1


@pytest.fixture
def subject() -> str:
    """One that no other test uses."""
    return f"test-{next(NUMBERS)}.a_B.9"


async def check_over(connection: EngineConnection, recorder: Recorder) -> None:
    """Whether a connection that has ended does nothing any more, and says why."""
    [reason] = recorder.reasons
    assert reason
    for call in (connection.subscribe, connection.unsubscribe):
        with pytest.raises(EngineLost) as caught:
            await call("x")
        assert caught.value.reason == reason
    with pytest.raises(EngineLost) as caught:
        connection.publish("x", b"")
    assert (caught.value.reason, caught.value.outcome) == (reason, "not_sent")
    await connection.drain()
    await connection.close()
    await connection.close()
    assert recorder.reasons == [reason]


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
