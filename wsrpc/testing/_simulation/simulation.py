"""`Simulation`: what an application sees of the world in which it runs."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random as random_module
import secrets
import sys
import time
import warnings
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol
from unittest.mock import patch

from ..._keyed.contract import Store
from ...cluster.engine import Engine
from .network import Network
from .processes import Problem, Process, Surroundings
from .services import SimulatedEngine, SimulatedStore

__all__ = ["Fault", "Simulation", "Step"]

ENDING_TIMEOUT = 600.0
"""Seconds after the last fault in which everything has to end."""
CHECKS = 0.5
"""Seconds between two calls of the functions of `Simulation.always`."""


class Step(NamedTuple):
    """A step of a process: the process with the number of its life, and the number of the step."""

    process: str
    number: int


class Fault(Protocol):
    """Something that goes wrong at a time, and for some seconds. See `faults`."""

    @property
    def when(self) -> float: ...

    @property
    def kind(self) -> str: ...

    @property
    def seconds(self) -> float: ...

    def happen(self, simulation: Simulation, /) -> None: ...


class Simulation:
    """The processes of an application, and the world around them. `simulate` makes it and passes it to the application.

    The application adds processes to it. Each has an event loop and clocks of its own. It reaches the others by their
    names: one calls ``server.listen(port=80)`` in a process named ``server``, and ``Client("ws://server:80/")`` in
    another one. Time is virtual: it passes only while all processes wait. `asyncio.sleep`, `time.monotonic` and
    `time.time` follow it. The network, the order in which processes run, what goes wrong, and the modules `random` and
    `secrets` follow from one integer.

    There are no TLS, no threads and no file descriptors. Functions for the executor of the event loop run in its own
    thread. Handlers with ``thread=True`` are not simulated.

    Attributes:
        seed: the integer.
        faults: what goes wrong, in the order of time.
    """

    def __init__(
        self,
        seed: int,
        faults: Collection[Fault] = (),
        left_out: Collection[Step] = (),
        pace: Mapping[Step, float] = MappingProxyType({}),
    ) -> None:
        self.seed = seed
        self.faults = [*faults]
        self.network = Network(around := Surroundings(seed))
        self.events = around.events
        self.problems = around.problems
        """What was wrong. Empty if the simulation was a success."""
        self.processes: list[Process] = []
        self.story: list[str] = []
        """What has happened."""
        self.steps_done: dict[Step, float] = {}
        """When each step began."""
        self.store_made: SimulatedStore | None = None
        self.engine_made: SimulatedEngine | None = None
        self._around = around
        self._left_out, self._pace = frozenset(left_out), pace
        self._checks: list[Callable[[], object]] = []
        self._last_fault = max((fault.when + fault.seconds for fault in self.faults), default=0.0)

    # ------------------------------------------------------------ for applications

    def process(
        self,
        name: str,
        main: Callable[[], Coroutine[Any, Any, object]],
        *,
        serves: bool = False,
        mortal: bool | None = None,
        host: str = "",
    ) -> None:
        """Add a process, which runs the coroutine that ``main`` returns.

        The simulation fails if it raises an exception, or does not end within ten minutes after the last fault, and
        also if wsrpc logs an ERROR in it, or a task is left in the end.

        Args:
            name: the name of the process, also in the network.
            serves: whether it runs until all others have ended. Then it is cancelled.
            mortal: whether it may be killed. It then starts again. By default, processes that serve may.
            host: another name in the network, which several processes may have, such as that of a load balancer.
        """
        address = f"10.0.{len(self.processes) // 250}.{len(self.processes) % 250 + 1}"
        made = Process(name, address, main, self._around, serves=serves, mortal=serves if mortal is None else mortal)
        self.processes.append(made)
        self.network.add(made, name, host or name)

    def store(self, **options: Any) -> Store:
        """Return the store of this simulation, for ``Server(store=)`` in all processes.

        It is a process of its own, named ``store``, and its data survive that process. The ``options`` are those of
        `MemoryStore`.
        """
        if self.store_made is None:
            self.process("store", _wait, serves=True)
            self.store_made = SimulatedStore(self.processes[-1], self.network, lambda: self._here, options)
        store: Any = self.store_made  # its methods are found by name
        found: Store = store
        return found

    def engine(self) -> Engine:
        """Return the engine of this simulation, for the `Cluster` in all processes. Its process is named ``broker``."""
        if self.engine_made is None:
            self.process("broker", _wait, serves=True)
            self.engine_made = SimulatedEngine(self.processes[-1], self.network, lambda: self._here)
        return self.engine_made

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return self.events.now

    @property
    def is_calm(self) -> bool:
        """Whether nothing goes wrong any more."""
        return self.now >= self._last_fault

    @property
    def here(self) -> str:
        """The name of the process that runs now, and how often it was started, for example ``"client 2"``."""
        return f"{self._here} {self._here.life}"

    @property
    def random(self) -> Random:
        """The randomness of the process that runs now."""
        return self._here.choices

    @property
    def running(self) -> Process | None:
        """The process whose turn it is."""
        return self._around.running

    @property
    def _here(self) -> Process:
        if (process := self.running) is None:
            raise RuntimeError("no process of the simulation runs")
        return process

    def random_of(self, name: str) -> Random:
        """Return a source of randomness that does not depend on what others draw."""
        return self._around.random_of(name)

    def note(self, text: str) -> None:
        """Add a line to the story that is told if the simulation fails."""
        process = self._around.running
        self.story.append(f"{self.now:9.3f}  {f'{process}: ' if process else ''}{text}")

    async def steps(self, count: int) -> AsyncIterator[int]:
        """Yield the numbers of the steps that the process takes: ``async for step in simulation.steps(20)``.

        A simulation that has failed is run again without some steps. The others still begin at the same times, and draw
        the same from `random`.
        """
        here, process = self.here, self._here
        for number in range(count):
            step = Step(here, number)
            if step in self._left_out:
                continue
            if (wait := self._pace.get(step, 0.0) - self.now) > 0:
                await asyncio.sleep(wait)
            process.choices = self.random_of(f"step {here} {number}")
            self.steps_done[step] = self.now
            yield number

    def always(self, check: Callable[[], object]) -> None:
        """Call ``check`` again and again. It raises an exception if something is wrong."""
        self._checks.append(check)

    # ------------------------------------------------------------ for faults

    def start(self, process: Process) -> None:
        """Start a process that has ended or was killed."""
        if process.alive and not process.ended:
            return
        if process.alive:
            process.check_end()
            process.kill()
        process.start()

    def kill(self, process: Process, *, silently: bool = False) -> None:
        """End a process at once. ``silently``: its machine has no power, so nobody answers."""
        process.kill()
        process.powerless = silently
        self.network.killed(process, silently=silently)

    # ------------------------------------------------------------ a run

    def run(self, application: Callable[[Simulation], object]) -> None:
        """Run an application, and fill `story` and `problems`."""
        with self._world(), _Log(self).listening():
            try:
                made: Any = application(self)
                finishing: Iterator[object] = made if hasattr(made, "__next__") else iter(())
                next(finishing, None)
                self._run_all()
                if not self.problems:
                    next(finishing, None)
            except Exception as exc:
                self.problems.append(Problem.of(exc))
            for process in self.processes:
                process.check_end()
            self._bury()

    def _run_all(self) -> None:
        for fault in self.faults:
            self.events.at(fault.when, partial(fault.happen, self))
        for process in self.processes:
            process.start()
        self._run(self._last_fault, lambda: False)
        callers = [each for each in self.processes if not each.serves]
        self._run_until_ended(callers)
        for process in reversed(self.processes):
            if process.serves and process.alive and not self.problems:
                process.stop()
                self._run_until_ended([process])
        self._run(self.now + 60.0, lambda: False)

    def _run_until_ended(self, processes: Collection[Process]) -> None:
        self._run(self.now + ENDING_TIMEOUT, lambda: all(each.ended for each in processes))
        for process in processes:
            if not process.ended and not self.problems:
                self.problems.append(Problem(f"{process} waits", f"{process} has not ended:\n{process.where()}"))

    def _run(self, until: float, is_enough: Callable[[], bool]) -> None:
        checked = self.now
        while not self.problems and not is_enough() and self.events.run_next(until):
            if self.now > checked + CHECKS:
                checked = self.now
                for check in self._checks:
                    check()

    @contextmanager
    def _world(self) -> Generator[None]:
        """Let time and randomness come from this simulation."""
        around, entropy = self._around, self.random_of("entropy").randbytes
        real_monotonic, real_time = time.monotonic, time.time

        def monotonic() -> float:
            return real_monotonic() if around.running is None else around.running.monotonic()

        def token_bytes(size: int | None = None) -> bytes:
            return entropy(32 if size is None else size)

        def wall() -> float:
            return real_time() if around.running is None else around.running.time()

        with ExitStack() as stack:
            stack.callback(random_module.setstate, random_module.getstate())
            random_module.seed(f"{self.seed} random")
            stack.enter_context(patch.object(time, "monotonic", monotonic))
            stack.enter_context(patch.object(time, "time", wall))
            stack.enter_context(patch.object(os, "urandom", entropy))
            stack.enter_context(patch.object(secrets, "token_bytes", token_bytes))
            gc.freeze()  # collections look only at what the simulation makes
            stack.callback(gc.unfreeze)
            if gc.isenabled():  # what a collection finds would end at a time that depends on earlier programs
                gc.disable()
                stack.callback(gc.enable)
            yield

    def _bury(self) -> None:
        """Drop what is left. What coroutines have prepared for their ends runs now, and concerns nobody."""
        hook, sys.unraisablehook = sys.unraisablehook, _ignore
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # coroutines that have not begun
                self.events.clear()
                self.network.clear()
                for service in (self.engine_made, self.store_made):
                    if service is not None:
                        service.clear()
                for process in self.processes:
                    process.bury()
                gc.collect()
        finally:
            sys.unraisablehook = hook


def _ignore(unraisable: object) -> None:
    """Ignore what a coroutine raises when it is dropped."""


async def _wait() -> None:
    await asyncio.Event().wait()


class _Log(logging.Handler):
    """What wsrpc logs: warnings are parts of the story, and errors are problems."""

    def __init__(self, simulation: Simulation) -> None:
        super().__init__(logging.WARNING)
        self._simulation = simulation

    def emit(self, record: logging.LogRecord) -> None:
        process = self._simulation.running
        if process is None or not process.alive:
            return
        text = record.getMessage()
        self._simulation.note(f"{record.levelname.lower()}: {text}")
        if record.levelno >= logging.ERROR:
            error = record.exc_info[1] if record.exc_info else None
            said = f"{process} logs: {text}"
            found = Problem(record.msg, said) if error is None else Problem.of(error, f"{said}\n")
            self._simulation.problems.append(found)

    @contextmanager
    def listening(self) -> Generator[None]:
        log = logging.getLogger("wsrpc")
        before, log.propagate = log.propagate, False
        log.addHandler(self)
        try:
            yield
        finally:
            log.removeHandler(self)
            log.propagate = before
