"""Where the client of `test_client_life` lives: a loop whose time is the machine's, and two servers behind lines."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import rule
from leftovers import other_tasks
from machine import LoopMachine

from wsrpc import ConnectionLost, Limits, Peer, Server, Stream
from wsrpc._core.api.registration import Registrar
from wsrpc.testing import FaultProxy

__all__ = ["TURN", "Place", "WorldMachine"]

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


class Place:
    """Where a server is found, through a line. When one is gone, another one can be started."""

    def __init__(self, world: WorldMachine, limits: Limits, prepare: Callable[[Server], None]) -> None:
        self._world = world
        self._limits = limits
        self._prepare = prepare
        self._troubles = AsyncExitStack()
        self._endings: list[asyncio.Task[None]] = []
        self._proxies: list[FaultProxy] = []
        self._listening: Any = None
        self.up = False
        self.url = ""
        """Of the line to the server that there was last."""
        self.server: Server
        self.servers: list[Server] = []

    async def start(self) -> None:
        self.server = Server(limits=self._limits)
        self._prepare(self.server)
        self.servers.append(self.server)
        self._listening = self.server.listen()
        await self._listening.__aenter__()
        proxy = FaultProxy(self._listening.url)
        await proxy.__aenter__()
        self._proxies.append(proxy)
        self.url = proxy.url
        self.up = True

    def end(self, drain: float = 0.0, *, kill: bool = False) -> None:
        """Close the server, and let it take its time; ``kill``: all its connections are gone at once."""
        self.up = False
        ending = self._end(self.server, self._listening, self._proxies[-1], drain, kill)
        self._endings.append(asyncio.get_running_loop().create_task(ending))

    async def _end(self, server: Server, listening: Any, proxy: FaultProxy, drain: float, kill: bool) -> None:
        # asyncio's own server, closed in the turn after it has accepted, would leave that socket to the collector: so
        # nobody comes in when it is closed.
        async with proxy.refuse():
            await self._world.turns(5)
            if kill:
                listening._port().stop()
                for peer in server.peers:
                    if peer.transport is not None:
                        peer.transport.abort()
            await server.close(drain)

    @property
    def quiet(self) -> bool:
        """Whether no server is in the midst of closing."""
        return all(task.done() for task in self._endings)

    # ------------------------------------------------------------ its line

    def drop(self) -> None:
        self._proxies[-1].drop()

    async def trouble(self, kind: str) -> None:
        """There is trouble on the line until `repair`."""
        proxy = self._proxies[-1]
        troubles: dict[str, Callable[[], AbstractAsyncContextManager[None]]] = {
            "cut": proxy.cut,
            "refuse": proxy.refuse,
            "few_bytes_up": lambda: proxy.cut_after(10, "up"),
            "few_bytes_down": lambda: proxy.cut_after(10, "down"),
            "stall_up": lambda: proxy.stall("up"),
        }
        await self._troubles.enter_async_context(troubles[kind]())

    async def repair(self) -> None:
        await self._troubles.aclose()

    async def leave(self) -> None:
        """Everything here ends."""
        if self.up:
            self.end()
        await self._world.until(lambda: self.quiet, "the servers close")
        for task in self._endings:
            task.result()
        for proxy in self._proxies:
            leaving = asyncio.get_running_loop().create_task(proxy.__aexit__(None, None, None))
            await self._world.until(leaving.done, "a proxy ends")
            leaving.result()
