"""The world of a state machine with real sockets: a loop whose time is the machine's."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import rule
from leftovers import other_tasks
from machine import LoopMachine

from wsrpc import ConnectionLost, Peer, Server, Stream
from wsrpc._core.api.registration import Registrar

__all__ = ["TURN", "WorldMachine"]

TURN = 0.001
"""Seconds that a turn of the loop takes, whatever it does: so short timers run out by themselves, and on every machine
in the same turn."""
STUCK = 8.0
"""Real seconds after which a condition that does not come about is a failure."""


class TurningLoop(asyncio.SelectorEventLoop):
    """Real sockets, but time passes only where the machine says so."""

    now = 1000.0

    def time(self) -> float:
        return self.now


class Errors(logging.Handler):
    """What wsrpc logs as an error: a handler that failed, here one whose assertion did."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{record.getMessage()} {record.exc_info and record.exc_info[1]!r}")


class WorldMachine(LoopMachine):
    """A state machine in which time passes only where a rule says so."""

    new_loop: Callable[[], Any] = TurningLoop

    def __init__(self) -> None:
        super().__init__()
        self.errors = Errors()
        log = logging.getLogger("wsrpc")
        log.addHandler(self.errors)
        log.propagate = False  # pytest would keep what is logged, and the clients that are in tracebacks there
        self.number = 0
        self.labels = 0
        self.runs: Counter[int] = Counter()
        self.sends: list[asyncio.Task[None]] = []
        self.works: list[Any] = []
        """Calls of either side, each with its ``task`` and whether it was ``cancelled``."""
        self.sources = 0
        self.gate = asyncio.Event()

    async def turns(self, count: int = 20) -> None:
        for _ in range(count):
            self.loop.now += TURN
            await asyncio.sleep(0)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something that takes only turns of the loop."""
        patience = time.monotonic() + STUCK
        while not condition():
            await self.turns(1)
            assert time.monotonic() < patience, f"this does not come about: {what}; tasks: {other_tasks()}"

    async def all_end(self, tasks: Iterable[Awaitable[Any]], what: str) -> None:
        found = [asyncio.ensure_future(each) for each in tasks]
        await self.until(lambda: all(task.done() for task in found), what)
        for task in found:
            task.result()

    async def leap(self, seconds: float) -> None:
        """Let time pass all at once, as on a machine that is very busy."""
        self.loop.now += seconds
        await self.turns(3)

    def let_all_through(self, gate: str = "gate") -> None:
        """Let the tasks that wait at a gate go on, and none that comes later."""
        old = getattr(self, gate)
        setattr(self, gate, asyncio.Event())
        self.inside(old.set)

    # ------------------------------------------------------------ what both sides serve

    def register(self, side: Registrar, *more: Callable[..., Any]) -> None:
        def now(number: int) -> int:
            self.starts(number)
            return number

        async def park(number: int) -> int:
            self.starts(number)
            await self.gate.wait()
            return number

        handlers: tuple[Callable[..., Any], ...] = (now, park, self.items, *more)
        for handler in handlers:
            side.on(handler.__name__, handler)

    def starts(self, number: int) -> None:
        self.runs[number] += 1

    async def items(self, count: int, size: int) -> AsyncIterator[list[Any]]:
        """Items with pauses until the gate is opened: a stream of either side, or an upload."""
        self.sources += 1
        try:
            for number in range(count):
                if number % 4 == 3:
                    await self.gate.wait()
                yield [number, "x" * size]
        finally:
            self.sources -= 1

    # ------------------------------------------------------------ what both models do

    async def read_items(self, items: Stream[list[Any]], count: int, most: int) -> None:
        """Read ``most`` of ``count`` items. There are no gaps, whatever happens."""
        got: list[int] = []
        try:
            async with items:
                while len(got) < most:
                    await self.may_read()
                    got.append((await anext(items))[0])
        except StopAsyncIteration:
            assert len(got) == count, f"{got}, and not {count} items"
        finally:
            assert got == list(range(len(got))), got

    async def may_read(self) -> None:
        """Let readers wait."""

    @rule(which=st.integers(0, 20))
    def cancel(self, which: int) -> None:
        running = [work for work in self.works if not work.task.done()]
        if running:
            work = running[which % len(running)]
            work.cancelled = True
            work.task.cancel()

    @staticmethod
    async def accept(server: Server, transport: Any) -> None:
        try:
            await server.accept(transport)
        except ConnectionLost:
            return

    async def check_left(self, peer: Peer) -> None:
        """Nothing is left of a client that is closed."""
        assert (peer.pending, peer.active, peer.anonymous_channels) == (0, 0, 0), peer
        assert peer._core.reporter.running == {} and peer._current.dispatcher.active == {}
        await self.until(lambda: not other_tasks(), "no task is left")
        assert self.sources == 0, "a source was not closed"

    def leave_world(self) -> None:
        """Nothing is left here if all went well; if not, what is said of that is not to be lost in other complaints."""
        log = logging.getLogger("wsrpc")
        log.removeHandler(self.errors)
        log.propagate = True
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.run(self.turns(20))
        self.loop.close()
