"""An engine in memory."""

from __future__ import annotations

import asyncio
import random

from ..engine import PATIENCE, EngineListener
from ..errors import EngineLost, MessageTooBig

__all__ = ["MemoryEngine"]


class MemoryEngine:
    """An engine for the nodes of one process, which tests may disturb. Nodes that share one hear each other.

    What is published in one turn of the event loop arrives in a later one.

    Args:
        largest: bytes of the largest payload.
        seed: of the choice which messages are lost.
    """

    def __init__(self, *, largest: int = 1024 * 1024, seed: int = 1) -> None:
        self.largest = largest
        self.loss = 0.0
        """The share of the messages that are lost. Assign it."""
        self._dice = random.Random(seed)
        self.down = False
        """Whether nobody can connect. Assign it."""
        self.frozen = False
        """Whether nothing is answered, and nothing arrives. Connections notice that after `PATIENCE`. Assign it by
        `freeze`."""
        self.connections: set[MemoryEngineConnection] = set()
        self.delivered = 0
        """Messages that have arrived, each counted for each connection that got it."""
        self._lose = 0

    async def connect(self, listener: EngineListener, /) -> MemoryEngineConnection:
        """Connect; see `Engine`."""
        if self.down:
            raise EngineLost("the engine is down")
        if self.frozen:
            await asyncio.sleep(PATIENCE)
            raise EngineLost(f"no answer within {PATIENCE:g} s")
        connection = MemoryEngineConnection(self, listener)
        self.connections.add(connection)
        return connection

    def cut(self) -> None:
        """End all connections, with what is on its way."""
        for connection in tuple(self.connections):
            connection.end("cut")

    def freeze(self) -> None:
        """Neither carry nor answer anything until `thaw`. Connections end after `PATIENCE`."""
        self.frozen = True
        for connection in tuple(self.connections):
            connection.notice_silence()

    def thaw(self) -> None:
        """Carry and answer again."""
        self.frozen = False

    def lose(self, count: int) -> None:
        """Lose the next ``count`` messages, for everybody."""
        self._lose += count

    def carry(self, subject: str, payload: bytes) -> None:
        """Deliver a message to all that have subscribed."""
        if self._lose:
            self._lose -= 1
            return
        if self.loss and self._dice.random() < self.loss:
            return
        for connection in tuple(self.connections):
            if connection.hears(subject):
                self.delivered += 1
                connection.listener.received(subject, payload)


class MemoryEngineConnection:
    """A connection to a `MemoryEngine`."""

    def __init__(self, engine: MemoryEngine, listener: EngineListener) -> None:
        self.largest = engine.largest
        self.listener = listener
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._subjects: set[str] = set()
        self._out: list[tuple[str, bytes]] = []
        self._lost = ""
        """Why it has ended."""

    @property
    def unsent(self) -> int:
        return sum(len(payload) for _, payload in self._out)

    def hears(self, subject: str) -> bool:
        return subject in self._subjects

    def publish(self, subject: str, payload: bytes, /) -> None:
        if self._lost:
            raise EngineLost(self._lost)
        if len(payload) > self.largest:
            raise MessageTooBig(f"the engine takes at most {self.largest} bytes in one message, got {len(payload)}")
        if not self._out:
            self._loop.call_soon(self._write)
        self._out.append((subject, payload))

    def _write(self) -> None:
        out, self._out = self._out, []
        if self._lost or self._engine.frozen:
            return
        for subject, payload in out:
            self._engine.carry(subject, payload)

    async def drain(self) -> None:
        await asyncio.sleep(0)

    async def subscribe(self, subject: str, /) -> None:
        self._check()
        self._subjects.add(subject)

    async def unsubscribe(self, subject: str, /) -> None:
        self._check()
        self._subjects.discard(subject)

    def _check(self) -> None:
        if self._lost:
            raise EngineLost(self._lost)

    async def close(self) -> None:
        if not self._lost:
            self._write()
            self.end("closed")

    def notice_silence(self) -> None:
        """End it after `PATIENCE`, if the engine is still frozen then."""
        self._loop.call_later(PATIENCE, self._silent)

    def _silent(self) -> None:
        if self._engine.frozen:
            self.end(f"no answer within {PATIENCE:g} s")

    def end(self, reason: str) -> None:
        """End it, and tell the listener. Idempotent."""
        if not self._lost:
            self._lost = reason
            self._engine.connections.discard(self)
            self._loop.call_soon(self.listener.lost, reason)
