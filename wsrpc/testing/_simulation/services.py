"""The store and the engine of a simulation: each a process of its own, which others reach over the network."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from ..._log.contract import LogGone, StoreFull, StoreLost
from ..._log.memory_store import MemoryStore
from ...cluster.engine import PROBE, RESPONSE_TIMEOUT, EngineListener
from ...errors import EngineLost, MessageTooBig
from .network import Network
from .processes import Process

ANSWER_TIMES = [2.0, 30.0]
"""Seconds after which a store that has not answered counts as lost: those of `wsrpc_adapters.redis.RedisStore`, and
those of a store that somebody else has made.
"""


class SimulatedStore:
    """A `Store` in a process of its own. What it keeps survives that process, as on a disk.

    Each method asks it over the network. So a caller may have given up when the store does what it was asked.

    Args:
        process: the process of the store.
        asking: returns the process that asks.
        answer_time: seconds after which it counts as lost if it has not answered.
        options: of the `MemoryStore` that keeps everything.
    """

    def __init__(
        self, process: Process, network: Network, asking: Callable[[], Process], answer_time: float, options: Any
    ) -> None:
        self._process, self._network, self._asking = process, network, asking
        self._kept = MemoryStore(**options)
        self.lease = self._kept.lease
        self._answer_time = answer_time
        self.slow: list[float] = []
        """Of each fault that makes it slow: the seconds that a step takes to arrive, at most."""
        self.lossy: dict[str, bool] = {}
        """The methods whose results get lost, or "*" for all. True: the calls hang. False: they raise `StoreLost`."""

    def __repr__(self) -> str:
        return "<SimulatedStore>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(self._kept, name):  # such as `look`, which a store need not have
            raise AttributeError(name)
        return partial(self._ask, name)

    async def close(self) -> None:
        """Do nothing: there is no connection to close."""

    def snapshot(self) -> dict[str, Any]:
        """Return what is kept now, for `restore`."""
        self._kept.wake_readers()  # a future cannot be copied
        return copy.deepcopy(vars(self._kept))

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Forget what has happened since the snapshot. It is used once."""
        self._kept.wake_readers()
        vars(self._kept).update(snapshot)

    def clear(self) -> None:
        vars(self._kept).clear()

    async def _ask(self, name: str, *args: Any, **options: Any) -> Any:
        asking, store = self._asking(), self._process
        args, options = copy.deepcopy((args, options))  # as they are now
        answered: asyncio.Future[tuple[Any, Exception | None]] = asking.loop.create_future()
        there, back, life = self._network.path(asking, store), self._network.path(store, asking), asking.life

        def arrived(result: tuple[Any, Exception | None]) -> None:
            if not answered.done():
                answered.set_result(result)

        def answer(result: Any, error: Exception | None = None) -> None:
            back.travel(lambda: asking.call(partial(arrived, (result, error)), life))

        async def step(silent: bool) -> None:
            try:
                result, error = await getattr(self._kept, name)(*args, **options), None
            except (LogGone, StoreFull, TypeError, ValueError) as exc:
                result, error = None, exc
            if not silent:
                answer(result, error)

        def arrive() -> None:
            if store.alive:
                if (hangs := self.lossy.get(name, self.lossy.get("*"))) is False:
                    answer(None, StoreLost("the connection to the store is lost"))
                if hangs is None or store.choices.random() < 0.7:
                    store.call(lambda: store.keep(step(silent=hangs is not None)))
            elif not store.powerless:
                answer(None, StoreLost("the store refuses connections"))

        there.travel(arrive, not_before=there.events.now + max(self.slow, default=0.0) * store.choices.random())
        try:
            async with asyncio.timeout(self._answer_time + options.get("wait", 0.0)):
                result, error = await answered
        except TimeoutError:
            raise StoreLost(f"the store does not answer within {self._answer_time:g} s") from None
        if error is not None:
            raise error
        return result


class SimulatedEngine:
    """An engine whose broker is a process of its own, which forgets everything when it is killed."""

    def __init__(self, process: Process, network: Network, asking: Callable[[], Process]) -> None:
        self.process, self.network, self._asking = process, network, asking
        self.largest = 1024 * 1024
        self.lose = 0
        """How many of the next messages get lost, as with a broker that drops some for a slow reader."""
        self.connections: dict[SimulatedEngineConnection, None] = {}

    def __repr__(self) -> str:
        return "<SimulatedEngine>"

    async def connect(self, listener: EngineListener, /) -> SimulatedEngineConnection:
        connection = SimulatedEngineConnection(self, self._asking(), listener)
        await connection.ask(lambda: self.connections.setdefault(connection))
        connection.watch()
        return connection

    def deliver(self, subject: str, payload: bytes) -> bool:
        """Deliver a message to all subscribers. Return whether there is one."""
        if self.lose:
            self.lose -= 1
            return True
        found = [each for each in self.connections if subject in each.subjects and each.is_open]
        for connection in found:
            connection.send_back(partial(connection.receive, subject, payload))
        return bool(found)

    def clear(self) -> None:
        self.connections.clear()


class SimulatedEngineConnection:
    """A connection to a `SimulatedEngine`."""

    def __init__(self, engine: SimulatedEngine, process: Process, listener: EngineListener) -> None:
        self.largest = engine.largest
        self.unsent = 0
        self.subjects: dict[str, None] = {}
        """What the broker knows of it."""
        self._engine, self._process, self._listener = engine, process, listener
        self._life, self._broker_life = process.life, engine.process.life
        self._there = engine.network.path(process, engine.process)
        self._back = engine.network.path(engine.process, process)
        self._arrives_there = self._arrives_back = 0.0
        self._lost: asyncio.Future[str] = process.loop.create_future()
        self._closing = False

    @property
    def is_open(self) -> bool:
        """Whether its process has not ended since. The broker learns that at once."""
        return self._process.alive and self._process.life == self._life

    def watch(self) -> None:
        """Check the broker regularly. That is done without the process, which has a turn only if the broker is lost."""
        events, answered = self._engine.network.events, list[bool]()

        def check() -> None:
            if not answered:
                self._process.call(partial(self._end, f"no response within {RESPONSE_TIMEOUT:g} s"), self._life)

        if self.is_open and not self._lost.done():
            self._send(lambda: self._back.travel(lambda: answered.append(True)))
            events.after(RESPONSE_TIMEOUT, check)
            events.after(PROBE, self.watch)

    # ------------------------------------------------------------ the way there and back

    def _send(self, act: Callable[[], object]) -> None:
        """Schedule an action of the broker, after all that was sent before."""

        def arrive() -> None:
            broker = self._engine.process
            if broker.alive and broker.life == self._broker_life:
                act()
            elif not broker.powerless:
                self.send_back(partial(self._end, "the broker has ended the connection"))

        self._arrives_there = self._there.travel(arrive, not_before=self._arrives_there)

    def send_back(self, act: Callable[[], object]) -> None:
        """Schedule an action of the process, after all that was sent back before."""
        arrive = partial(self._process.call, act, self._life, self)
        self._arrives_back = self._back.travel(arrive, not_before=self._arrives_back)

    async def ask(self, act: Callable[[], Any]) -> Any:
        """Schedule an action of the broker, and return its result.

        Raises:
            EngineLost: the connection is over, or the broker does not answer.
        """
        self._check()
        answered: asyncio.Future[Any] = self._process.loop.create_future()

        def arrived(result: Any) -> None:
            if not answered.done():
                answered.set_result(result)

        self._send(lambda: self.send_back(partial(arrived, act())))
        try:
            async with asyncio.timeout(RESPONSE_TIMEOUT):
                await asyncio.wait((answered, self._lost), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            self._end(f"no response within {RESPONSE_TIMEOUT:g} s")
        self._check()
        return answered.result()

    # ------------------------------------------------------------ the contract of engines

    def _check(self) -> None:
        if self._lost.done():
            raise EngineLost(self._lost.result())
        if self._closing:
            raise EngineLost("closed")

    def publish(self, subject: str, payload: bytes, /) -> None:
        self._check()
        if len(payload) > self.largest:
            raise MessageTooBig(f"the engine takes at most {self.largest} bytes in one message, got {len(payload)}")
        self._send(partial(self._engine.deliver, subject, payload))

    async def is_received(self, subject: str, payload: bytes, /) -> bool:
        received: bool = await self.ask(partial(self._engine.deliver, subject, payload))
        return received

    async def drain(self) -> None:
        """Return at once: what was published has left."""

    async def subscribe(self, subject: str, /) -> None:
        await self.ask(lambda: self.subjects.setdefault(subject))

    async def close(self) -> None:
        if not self._closing and not self._lost.done():
            self._closing = True
            self._end("closed")
        await asyncio.wait((self._lost,))
        await asyncio.sleep(0)

    def receive(self, subject: str, payload: bytes) -> None:
        if not self._lost.done():  # timers that are due run first, because clients of brokers read in tasks
            self._process.loop.call_soon(self._listener.received, subject, payload)

    def _end(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_result(reason)
            self._send(partial(self._engine.connections.pop, self, None))
            self._process.loop.call_soon(self._listener.lost, reason)
