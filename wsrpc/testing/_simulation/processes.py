"""`Process`: one simulated process, with an event loop, clocks and randomness of its own."""

from __future__ import annotations

import asyncio
import io
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from .events import Event, Events
from .loops import ProcessLoop, Sockets

TURN, LONG_TURN = 0.0002, 0.03
"""Seconds that a turn of the event loop takes, at most, and one in `SELDOM`. What arrives then meets in the next."""
SELDOM = 15


LIBRARIES = str(Path(__file__).parents[2]), str(Path(asyncio.__file__).parent)
"""The folders of wsrpc and asyncio."""


class Problem(NamedTuple):
    """Something that is not as it should be.

    Attributes:
        kind: what two failures of the same kind have in common.
        what: the problem in one line, unless that is the first line of the text.
    """

    kind: str
    text: str
    what: str = ""

    @classmethod
    def of(cls, error: BaseException, before: str = "") -> Problem:
        """Describe an exception: of a group, all of it, and the first as its kind."""
        first = error
        while group := getattr(first, "exceptions", None):  # what `asyncio.TaskGroup` raises
            first = group[0]
        frames = traceback.extract_tb(first.__traceback__)
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        what = traceback.format_exception_only(first)[-1].strip().partition("\n")[0]
        text = "".join(traceback.format_exception(error)).rstrip()
        return cls(f"{type(first).__name__} {place}", f"{before}{text}", what)


def _ignore(loop: object, context: object) -> None:
    """Ignore what an event loop complains of."""


class Surroundings:
    """What all processes of a simulation share."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.events = Events()
        self.running: Process | None = None
        """The process whose turn it is."""
        self.problems: list[Problem] = []
        """What was not as it should be."""

    def random_of(self, name: str) -> Random:
        """Return the randomness of one part. It does not depend on what the others draw."""
        return Random(f"{self.seed} {name}")


class Process:
    """One process of a simulation.

    Attributes:
        name: its name, which is also its name in the network.
        life: how often it was started.
        alive: whether it runs. False after it was killed.
        ended: whether its function has returned.
    """

    loop: ProcessLoop
    choices: Random
    """For the application's own decisions."""
    sockets: Sockets

    def __init__(
        self,
        name: str,
        address: str,
        main: Callable[[], Coroutine[Any, Any, object]],
        around: Surroundings,
        *,
        serves: bool,
        mortal: bool,
    ) -> None:
        self.name, self.address = name, address
        self.serves, self.mortal = serves, mortal
        self.life = 0
        self.alive = self.ended = False
        self.powerless = False
        """Whether its machine has no power, so that nobody answers."""
        self._main, self._around, self._events = main, around, around.events
        self._task: asyncio.Task[object] | None = None
        self._tasks: set[asyncio.Task[object]] = set()
        self._remains: list[object] = []
        """What was left when it was killed. Nothing of that may run, not even its `finally` blocks."""
        self._paused_until = self._busy_until = 0.0
        self._next: Event | None = None
        self._next_at = 0.0
        self._ahead = around.random_of(f"clock of {name}").uniform(0.0, 1e5)
        self._wall = 1.8e9

    def __repr__(self) -> str:
        return self.name

    # ------------------------------------------------------------ its life

    def start(self) -> None:
        self.life += 1
        self._random = self._around.random_of(f"turns of {self.name} {self.life}")
        self.choices = self._around.random_of(f"choices of {self.name} {self.life}")
        self.alive, self.ended, self.powerless = True, False, False
        self._paused_until = self._busy_until = self._events.now
        self.loop = ProcessLoop(self.monotonic, self.wake, self._random, self.sockets)
        self.loop.set_exception_handler(self._complain)

        def start_main() -> None:
            self._task = self.loop.create_task(self._main(), name=self.name)
            self._task.add_done_callback(self._has_ended)

        self.call(start_main)

    def _has_ended(self, task: asyncio.Task[object]) -> None:
        self.ended = True
        if not task.cancelled() and (error := task.exception()) is not None:
            self._around.problems.append(Problem.of(error, f"{self}: "))

    def _complain(self, loop: object, context: dict[str, Any]) -> None:
        if self.alive:
            text = f"{self}: {context.get('message')} {context.get('exception')!r}"
            self._around.problems.append(Problem(str(context.get("message")), text))

    def stop(self, then: Callable[[], object] = lambda: None) -> None:
        """Cancel its function, so that it ends in an orderly way. Call ``then`` when it has ended.

        Without effect while it already ends: to cancel it again would cut its end short.
        """

        def cancel() -> None:
            assert self._task is not None
            if self._task.cancelling():
                return
            self._task.add_done_callback(lambda _: self._events.after(0.0, then))
            for task in (self._task, *self._tasks):
                task.cancel()

        self.call(cancel)

    def kill(self) -> None:
        """End it at once. Nothing of it runs any more."""
        self.alive = False
        self._remains += [self.loop, *asyncio.all_tasks(self.loop)]
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def keep(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Run a coroutine in a task, until the process ends. Drop it if the process is about to end."""
        if self._task is None or self._task.cancelling() or self.ended:
            coroutine.close()
            return
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def where(self) -> str:
        """Return the stack of its function, as text."""
        text = io.StringIO()
        if self._task is not None:
            self._task.print_stack(file=text)
        return text.getvalue()

    def calls(self) -> list[str]:
        """Return the calls of wsrpc in which its tasks wait, each with its event and the line that made it."""
        found: list[str] = []
        for task in asyncio.all_tasks(self.loop) if self.alive else ():
            waits: Any = task.get_coro()
            place, call = "", ""
            while (frame := getattr(waits, "cr_frame", None) or getattr(waits, "ag_frame", None)) is not None:
                code, event = frame.f_code, frame.f_locals.get("event")
                if not code.co_filename.startswith(LIBRARIES):
                    place, call = f", {Path(code.co_filename).name}:{frame.f_lineno} in {code.co_name}", ""
                elif not call and code.co_filename.startswith(LIBRARIES[0]) and (place or event):
                    call = f"{code.co_name}({event!r})" if event else f"{code.co_name} of {frame.f_locals.get('self')}"
                waits = getattr(waits, "cr_await", None) or getattr(waits, "ag_await", None)
            if call:
                found.append(f"{self} waits for {call}{place}")
        return sorted(found)

    def check_end(self) -> None:
        """Check that no task is left after its end. After another problem, tasks may be left."""
        if self.alive and self.ended and not self._around.problems:
            for task in sorted(map(repr, asyncio.all_tasks(self.loop))):
                self._around.problems.append(Problem("a task is left", f"{self}: a task is left: {task}"))

    def bury(self) -> None:
        """Drop what is left of it, and its function, which may refer to that."""
        vars(self).pop("_main", None)
        loops = [each for each in (*self._remains, vars(self).pop("loop", None)) if isinstance(each, ProcessLoop)]
        for loop in dict.fromkeys(loops):
            loop.set_exception_handler(_ignore)
            loop.close()
        self._remains.clear()
        self._tasks.clear()
        self._task = None

    # ------------------------------------------------------------ its clocks

    def monotonic(self) -> float:
        return self._events.now + self._ahead

    def time(self) -> float:
        return self._events.now + self._wall

    def set_clock(self, seconds: float) -> None:
        """Change the wall clock by some seconds."""
        self._wall += seconds

    # ------------------------------------------------------------ its turns

    def call(self, callback: Callable[[], object], life: int = 0, source: object = None) -> None:
        """Run a callback in its next turn, if it is alive and in the given life. Keep the order of each ``source``."""
        if self.alive and life in (0, self.life):
            self.loop.arrive(callback, source or callback)
            self.wake()

    def wake(self) -> None:
        self._turn_at(self._events.now)

    def pause(self, seconds: float) -> None:
        """Do nothing for some time, as on a machine that is too busy."""
        self._paused_until = max(self._paused_until, self._events.now + seconds)

    def _turn_at(self, when: float) -> None:
        when = max(when, self._busy_until, self._paused_until)
        if self._next is not None:
            if self._next_at <= when:
                return
            self._next.cancel()
        self._next, self._next_at = self._events.at(when, self._turn), when

    def _turn(self) -> None:
        self._next = None
        now = self._events.now
        if now < self._paused_until:
            self._turn_at(now)
            return
        self._around.running = self
        try:
            self.loop.turn()
        finally:
            self._around.running = None
        most = TURN if self._random.randrange(SELDOM) else LONG_TURN
        self._busy_until = now + self._random.random() * most
        if self.loop.idle_until is not None:
            self._turn_at(self.loop.idle_until - self._ahead + 1e-9)
