"""`simulate`: runs an application with many seeds, and reports the shortest story of a failure."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from random import Random
from typing import Any

from .faults import FAULTS, plan, schedule_faults
from .simulation import Simulation
from .world import Fault, Step, World

Application = Callable[[Simulation], object]

TRIES = 200
"""Runs in which a shorter story is looked for."""


class SimulationFailed(AssertionError):
    """An application has failed in a simulation. The text has the seed, the story, and what was wrong.

    Attributes:
        seed: the integer that repeats the failure.
    """

    def __init__(self, seed: int, text: str) -> None:
        super().__init__(text)
        self.seed = seed


def simulate(
    application: Application,
    *,
    seed: int | Iterable[int] = range(100),
    seconds: float = 60.0,
    faults: Collection[str] = tuple(FAULTS),
    most_faults: int = 8,
) -> None:
    """Run an application in a simulated world, once for each seed.

    Each run has the same result for the same seed, with one version of Python and of the program. If a run fails, it is
    run again with fewer faults and fewer steps, to find a short story.

    Args:
        application: a function of a `Simulation`, to which it adds processes. It may be a generator with one ``yield``:
            what follows runs in the end, and checks what must hold.
        seed: the seeds. To repeat a failure, pass its seed.
        seconds: virtual seconds in which faults happen.
        faults: the kinds of faults that may happen. All kinds are in `FAULTS`. None: ``faults=()``.
        most_faults: the number of faults in one run, at most.

    Raises:
        SimulationFailed: a process or a check has raised an exception, or a process has not ended, for example.
        ValueError: there is no such kind of fault, or no seed.
        TypeError: the application is a coroutine function, or a seed is no integer.
        RuntimeError: it is called in a coroutine.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError("simulate() runs event loops of its own: call it outside of coroutines")
    if unknown := [kind for kind in faults if kind not in FAULTS]:
        raise ValueError(f"faults= are some of {', '.join(FAULTS)}; got {', '.join(map(repr, unknown))}")
    if inspect.iscoroutinefunction(application) or inspect.isasyncgenfunction(application):
        raise TypeError(
            "an application is a plain function or generator: only the functions of its processes are async"
        )
    seeds: list[Any] = [seed] if isinstance(seed, int) else [*seed]
    if any(not isinstance(each, int) for each in seeds):
        raise TypeError(f"seed= is an integer, or several, got {seed!r}")
    if not seeds:
        raise ValueError("seed= has no integer, so nothing would run")
    for each in seeds:
        failed = _Failed(application, each)
        if failed.happens(plan(Random(f"{each} plan"), seconds, most_faults, faults)):
            failed.shorten()
            raise SimulationFailed(each, failed.text())


class _Failed:
    """A failure, and the shortest run in which it was seen."""

    def __init__(self, application: Application, seed: int) -> None:
        self._application, self._seed = application, seed
        self._faults: Collection[Fault] = ()
        self._left_out: Collection[Step] = ()
        self._pace: Mapping[Step, float] = {}
        """When each step of the first run began."""
        self._world = World(seed)
        self._tries = TRIES

    def happens(self, faults: Collection[Fault], left_out: Collection[Step] = ()) -> bool:
        """Run with these faults, and without these steps. Returns whether that fails in the same way, and keeps it."""
        self._tries -= 1
        world = World(self._seed, faults)
        schedule_faults(world)
        world.run(partial(self._application, Simulation(world, left_out, self._pace)))
        before = self._world.problems
        if not world.problems or (before and world.problems[0].kind != before[0].kind):
            return False
        self._faults, self._left_out, self._world = faults, left_out, world
        self._pace = self._pace or dict(world.steps_done)
        return True

    def shorten(self) -> None:
        """Leave out one fault after another, and then steps, at first many at once, from the last one on."""
        for fault in [*self._faults][::-1]:
            self.happens([each for each in self._faults if each is not fault])
        size = len(self._world.steps_done) // 2
        while size and self._tries > 0:
            end = len(self._world.steps_done)
            while end > 0 and self._tries > 0:
                left_out = [*self._world.steps_done][max(0, end - size) : end]
                if left_out:
                    self.happens(self._faults, {*self._left_out, *left_out})
                end -= size
            size //= 2

    def text(self) -> str:
        world = self._world
        wrong = dict.fromkeys(world.named(problem.text) for problem in world.problems)
        first = world.problems[0]
        what = world.named(first.what or first.text.partition("\n")[0])
        story = [*world.story, f"{world.events.now:9.3f}  this is wrong: {what}"]
        unended = ["", "These calls have not ended:", *world.unended] if world.unended else []
        return "\n".join([f"seed {self._seed} fails:", "", *story, *unended, "", *wrong])
