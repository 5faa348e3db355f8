"""`World`: the processes of one simulated application, what is around them, and what goes wrong with them."""

from __future__ import annotations

import gc
import logging
import os
import random as random_module
import re
import secrets
import sys
import threading
import time
import warnings
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

from .loops import NotSimulated
from .network import Network
from .processes import Problem, Process, Surroundings
from .services import SimulatedEngine, SimulatedStore

T = TypeVar("T")

PROCESS_ADDRESS = re.compile(r"10\.0\.\d+\.\d+")
"""The address of a process; see `Simulation.process`."""
PEER_NAME = re.compile(r"peer [0-9a-f]{16} at | \(peer [0-9a-f]{16}\)")
"""Peer ids in log messages. They are left out of stories."""
ENDING_TIMEOUT = 600.0
"""Seconds after the last fault in which everything has to end."""
CHECKS = 0.5
"""Seconds between two calls of the functions of `World.checks`, and between two looks whether all have ended."""


class Step(NamedTuple):
    """A step of a process: the process with the number of its life, and the number of the step."""

    process: str
    number: int


class Fault(NamedTuple):
    """Something that goes wrong at a time, and for some seconds; see `faults`.

    ``which`` and ``strength`` (from 0 to 1) determine which process or connection it concerns, and how much.
    """

    when: float
    kind: str
    seconds: float
    which: int
    strength: float

    def pick(self, found: Collection[T]) -> T | None:
        return [*found][self.which % len(found)] if found else None


class Trouble:
    """A process with which something is wrong, or two between which something is, and the time at which it is over."""

    def __init__(self, kind: str, names: Collection[str], until: float) -> None:
        self.kind, self.names, self.until = kind, frozenset(names), until


class World:
    """The processes of one simulated application, what is around them, and what goes wrong with them.

    Args:
        seed: the integer from which everything follows.
        faults: what goes wrong; see `schedule_faults`.
    """

    def __init__(self, seed: int, faults: Collection[Fault] = ()) -> None:
        self.seed = seed
        self.faults = sorted(faults)
        self.around = Surroundings(seed)
        self.events = self.around.events
        self.problems = self.around.problems
        """What was wrong. Empty if the simulation was a success."""
        self.network = Network(self.around)
        self.processes: list[Process] = []
        self.store: SimulatedStore | None = None
        self.engine: SimulatedEngine | None = None
        self.story: list[str] = []
        """The lines of the story so far."""
        self.unended: list[str] = []
        """The calls that had not ended when a problem was seen."""
        self.steps_done: dict[Step, float] = {}
        """When each step began."""
        self.checks: list[Callable[[], object]] = []
        """Functions that are called again and again."""
        self._troubles: list[Trouble] = []
        self._is_over = False
        """Whether all processes have ended that do not serve."""

    @property
    def last_fault(self) -> float:
        """The time at which the last fault is over."""
        return max((fault.when + fault.seconds for fault in self.faults), default=0.0)

    @property
    def running(self) -> Process | None:
        """The process whose turn it is."""
        return self.around.running

    @property
    def here(self) -> Process:
        """The process whose turn it is.

        Raises:
            RuntimeError: there is none.
        """
        if (process := self.running) is None:
            raise RuntimeError("no process of the simulation runs")
        return process

    def add(self, process: Process, *names: str) -> None:
        self.processes.append(process)
        self.network.add(process, *names)

    def note(self, text: str) -> None:
        """Add a line to the story."""
        process = self.running
        self.story.append(self.named(f"{self.events.now:9.3f}  {f'{process}: ' if process else ''}{text}"))

    def named(self, text: str) -> str:
        """Return a text with the names of processes in place of their addresses."""
        return PROCESS_ADDRESS.sub(lambda found: self.network.name_of(found[0]), PEER_NAME.sub("", text))

    def until(self, seconds: float) -> str:
        """Return the end of something that lasts ``seconds``, as text for the story."""
        return f"until {self.events.now + seconds:.3f}"

    # ------------------------------------------------------------ what goes wrong

    def trouble(self, kind: str, names: Collection[str], seconds: float) -> Trouble:
        """Note that something is wrong with a process, or between two, for some seconds."""
        self._troubles.append(made := Trouble(kind, names, self.events.now + seconds))
        return made

    def is_well(self, names: Collection[str], since: float, despite: Collection[str] = ()) -> bool:
        """Whether nothing was wrong with some processes, and between them, since a time; see `Simulation.is_well`."""
        found = (each for each in self._troubles if each.names.issubset(names) and each.until >= since)
        return all(each.kind in despite for each in found)

    def start(self, process: Process) -> None:
        """Start a process that has ended or was killed, unless the simulation ends."""
        if self._is_over or (process.alive and not process.ended):
            return
        if process.alive:
            process.check_end()
            process.kill()
        process.start()
        self.note(f"{process} starts again")

    def kill(self, process: Process, *, silently: bool = False) -> None:
        """End a process at once. ``silently``: its machine has no power, so nobody answers."""
        process.kill()
        process.powerless = silently
        self.network.killed(process, silently=silently)

    # ------------------------------------------------------------ a run

    def run(self, application: Callable[[], object]) -> None:
        """Run an application, and fill `story` and `problems`."""
        with self._time_and_randomness(), _Log(self).listening():
            try:
                self._run_application(application)
            except Exception as exc:
                self.problems.append(Problem.of(exc))
            for process in self.processes:
                process.check_end()
                self.unended += process.calls() if self.problems else ()
            self._bury()

    def _run_application(self, application: Callable[[], object]) -> None:
        made: Any = application()
        finishing: Iterator[object] = made if hasattr(made, "__next__") else iter(())
        next(finishing, None)
        self._run_all()
        if not self.problems:
            for _ in finishing:
                raise RuntimeError("an application has one `yield`")

    def _run_all(self) -> None:
        if not (callers := [each for each in self.processes if not each.serves]):
            raise ValueError("nothing runs: add a process without serves=True")
        for process in self.processes:
            process.start()
        self._run(self.last_fault, lambda: False)
        self._run_until_ended(callers)
        self._is_over = True
        for process in reversed(self.processes):
            if process.serves and process.alive and not self.problems:
                process.stop()
                self._run_until_ended([process])
        self._run(self.events.now + 60.0, lambda: False)

    def _run_until_ended(self, processes: Collection[Process]) -> None:
        self._run(self.events.now + ENDING_TIMEOUT, lambda: all(each.ended for each in processes))
        for process in processes:
            if not process.ended and not self.problems:
                self.problems.append(Problem(f"{process} waits", f"{process} has not ended:\n{process.where()}"))

    def _run(self, until: float, is_enough: Callable[[], bool]) -> None:
        checked = -CHECKS
        while not self.problems and self.events.run_next(until):
            if self.events.now > checked + CHECKS:
                checked = self.events.now
                for check in self.checks:
                    if (found := check()) is False or hasattr(found, "__await__"):
                        raise TypeError(f"a check raises an exception if something is wrong; {check} returns {found!r}")
                if is_enough():
                    return

    @contextmanager
    def _time_and_randomness(self) -> Generator[None]:
        """Replace time and randomness by those of this world."""
        here = threading.get_ident()
        around, entropy = self.around, self.around.random_of("entropy").randbytes
        real_monotonic, real_time, real_sleep = time.monotonic, time.time, time.sleep

        def monotonic() -> float:
            return real_monotonic() if around.running is None else around.running.monotonic()

        def token_bytes(size: int | None = None) -> bytes:
            return entropy(32 if size is None else size)

        def wall() -> float:
            return real_time() if around.running is None else around.running.time()

        def sleep(seconds: float) -> None:
            if around.running is not None and threading.get_ident() == here:
                raise NotSimulated("in a simulation, nothing waits outside of asyncio: use asyncio.sleep()")
            real_sleep(seconds)

        with ExitStack() as stack:
            stack.callback(random_module.setstate, random_module.getstate())
            random_module.seed(f"{self.seed} random")
            stack.enter_context(patch.object(time, "monotonic", monotonic))
            stack.enter_context(patch.object(time, "time", wall))
            stack.enter_context(patch.object(time, "sleep", sleep))
            stack.enter_context(patch.object(os, "urandom", entropy))
            stack.enter_context(patch.object(secrets, "token_bytes", token_bytes))
            gc.freeze()  # collections look only at what the simulation makes
            stack.callback(gc.unfreeze)
            if gc.isenabled():  # what a collection finds would end at a time that depends on earlier programs
                gc.disable()
                stack.callback(gc.enable)
            yield

    def _bury(self) -> None:
        """Drop what is left. `finally` blocks of coroutines run now, and their errors are ignored."""
        hook, sys.unraisablehook = sys.unraisablehook, _ignore
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # coroutines that have not begun
                self.events.clear()
                self.checks.clear()
                self.network.clear()
                for service in (self.engine, self.store):
                    if service is not None:
                        service.clear()
                for process in self.processes:
                    process.bury()
                while gc.collect():
                    pass  # what has just run to its end may have held more
        finally:
            sys.unraisablehook = hook


def _ignore(unraisable: object) -> None:
    """Ignore what a coroutine raises when it is dropped."""


class _Log(logging.Handler):
    """What wsrpc logs: warnings are parts of the story, and errors are problems."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        process = self._world.running
        if process is None or not process.alive:
            return
        text = record.getMessage()
        self._world.note(f"{record.levelname.lower()}: {text}")
        if record.levelno >= logging.ERROR:
            error = record.exc_info[1] if record.exc_info else None
            said = f"{process} logs: {text}"
            found = Problem(record.msg, said) if error is None else Problem.of(error, f"{said}\n")
            self._world.problems.append(found)

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
