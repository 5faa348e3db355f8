"""`MemoryEngine`: an engine in memory, for tests."""

from __future__ import annotations

import asyncio
import random

from ..errors import EngineLost, MessageTooBig
from .engine import FEW, RESPONSE_TIMEOUT, EngineListener

SILENT = f"no response within {RESPONSE_TIMEOUT:g} s"


class MemoryEngine:
    """In-memory engine, for a cluster of one process. Pass the same object to the `Cluster` of each server.

    An engine carries the messages of a cluster; see `wsrpc.cluster.engine`. All servers must be in one event loop.
    Tests can interrupt the engine, and make it lose messages.

    Messages that are published in one turn of the event loop arrive in a later turn.

    Args:
        largest: the maximum size of a payload, in bytes.
        seed: the seed for choosing at random which messages are lost.
    """

    def __init__(self, *, largest: int = 1024 * 1024, seed: int = 1) -> None:
        self.largest = largest
        self.loss = 0.0
        """The share of messages that are lost, from 0 to 1. You can set it."""
        self._dice = random.Random(seed)
        self.down = False
        """If true, `connect` raises `EngineLost`. You can set it."""
        self.connections: set[MemoryEngineConnection] = set()
        self.delivered = 0
        """The number of messages that have arrived. A message counts once for each connection that got it."""
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._lose = 0

    @property
    def frozen(self) -> bool:
        """Whether the engine is frozen, which means that it does not respond and no messages arrive."""
        return not self._thawed.is_set()

    async def connect(self, listener: EngineListener, /) -> MemoryEngineConnection:
        """Connect to the engine; see `Engine.connect`."""
        if self.down:
            raise EngineLost("the engine is down")
        await self.wait_thawed()
        connection = MemoryEngineConnection(self, listener)
        self.connections.add(connection)
        return connection

    async def wait_thawed(self) -> None:
        """Wait until the engine is no longer frozen.

        Raises:
            EngineLost: the engine is still frozen after `wsrpc.cluster.engine.RESPONSE_TIMEOUT` seconds.
        """
        try:
            async with asyncio.timeout(RESPONSE_TIMEOUT):
                await self._thawed.wait()
        except TimeoutError:
            raise EngineLost(SILENT) from None

    def cut(self) -> None:
        """End all connections. Messages in transit are lost."""
        for connection in tuple(self.connections):
            connection.end("cut")

    def freeze(self) -> None:
        """Stop delivering messages and stop responding, until `thaw` is called.

        After `wsrpc.cluster.engine.RESPONSE_TIMEOUT` seconds, the connections end.
        """
        self._thawed.clear()
        for connection in tuple(self.connections):
            connection.notice_silence()

    def thaw(self) -> None:
        """Deliver messages and respond again."""
        self._thawed.set()
        for connection in tuple(self.connections):
            connection.notice_answer()

    def lose(self, count: int) -> None:
        """Lose the next ``count`` messages, counted over all connections."""
        self._lose += count

    def deliver(self, subject: str, payload: bytes) -> None:
        """Deliver a message to all connections that have subscribed to ``subject``."""
        if self._lose:
            self._lose -= 1
            return
        if self.loss and self._dice.random() < self.loss:
            return
        for connection in tuple(self.connections):
            if connection.has_subscribed(subject):
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
        self._written = asyncio.Event()
        """Set each time messages were delivered, and at the end."""
        self._silence: asyncio.TimerHandle | None = None
        """Timer that ends the connection. None unless the engine is frozen."""
        self._closing = False
        self._lost: asyncio.Future[str] = self._loop.create_future()
        """The reason why the connection has ended."""

    @property
    def unsent(self) -> int:
        return sum(len(payload) for _, payload in self._out)

    def has_subscribed(self, subject: str) -> bool:
        return subject in self._subjects and not self._lost.done() and not self._loop.is_closed()

    def publish(self, subject: str, payload: bytes, /) -> None:
        self._check()
        if len(payload) > self.largest:
            raise MessageTooBig(f"the engine takes at most {self.largest} bytes in one message, got {len(payload)}")
        if not self._out:
            self._loop.call_soon(self._write)
        self._out.append((subject, payload))

    def _write(self) -> None:
        if self._lost.done() or self._engine.frozen:
            return
        out, self._out = self._out, []
        for subject, payload in out:
            self._engine.deliver(subject, payload)
        self._written.set()

    async def is_received(self, subject: str, payload: bytes, /) -> bool:
        self.publish(subject, payload)
        await self._answer()
        return any(connection.has_subscribed(subject) for connection in self._engine.connections)

    async def drain(self) -> None:
        while self.unsent > FEW and not self._lost.done():
            self._written.clear()
            await self._written.wait()

    async def subscribe(self, subject: str, /) -> None:
        await self._answer()
        self._subjects.add(subject)

    async def _answer(self) -> None:
        self._check()
        if self._engine.frozen:
            await self._engine.wait_thawed()
            self._check()

    def _check(self) -> None:
        if self._lost.done():
            raise EngineLost(self._lost.result())
        if self._closing:
            raise EngineLost("closed")

    async def close(self) -> None:
        if not self._closing and not self._lost.done():
            self._closing = True
            self._write()
            if not self._engine.frozen:
                self.end("closed")
        await asyncio.wait((self._lost,))
        await asyncio.sleep(0)  # the listener is notified in this turn of the event loop

    def notice_silence(self) -> None:
        """End the connection after `RESPONSE_TIMEOUT`, unless the engine responds before."""
        if self._silence is None:
            self._silence = self._loop.call_later(RESPONSE_TIMEOUT, self.end, SILENT)

    def notice_answer(self) -> None:
        """Continue, because the engine responds again."""
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        self._loop.call_soon(self._write)
        if self._closing:
            self._loop.call_soon(self.end, "closed")

    def end(self, reason: str) -> None:
        """End the connection, and notify the listener. Idempotent."""
        if self._lost.done():
            return
        self._lost.set_result(reason)
        self._written.set()
        self._engine.connections.discard(self)
        if self._silence is not None:
            self._silence.cancel()
        self._loop.call_soon(self.listener.lost, reason)
