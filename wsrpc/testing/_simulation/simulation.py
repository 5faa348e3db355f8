"""`Simulation`: what an application sees of the world in which it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from random import Random
from types import MappingProxyType
from typing import Any

from ..._log.contract import Store
from ...cluster.engine import Engine
from .processes import Process
from .services import ANSWER_TIMES, SimulatedEngine, SimulatedStore
from .world import Fault, Step, World


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
        self, world: World, left_out: Collection[Step] = (), pace: Mapping[Step, float] = MappingProxyType({})
    ) -> None:
        self.seed: int = world.seed
        self.faults: Collection[Fault] = world.faults
        self._world = world
        self._left_out, self._pace = frozenset(left_out), pace

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

        Raises:
            RuntimeError: called in a process.
            ValueError: there is a process with this name.
        """
        world = self._world
        if any(each.name == name for each in world.processes):
            raise ValueError(f"there is a process {name!r} already")
        if world.running is not None:
            raise RuntimeError("add processes, the store and the engine outside of the processes, before they run")
        address = f"10.0.{len(world.processes) // 250}.{len(world.processes) % 250 + 1}"
        made = Process(name, address, main, world.around, serves=serves, mortal=serves if mortal is None else mortal)
        world.add(made, name, host or name)

    def store(self, **options: Any) -> Store:
        """Return the store of this simulation, for ``Server(store=)`` in all processes. Call it outside of them.

        It is a process of its own, named ``store``, and its data survive that process. The ``options`` are those of
        `MemoryStore`.
        """
        world = self._world
        if world.store is None:
            self.process("store", _wait, serves=True)
            answer_time = self.random_of("store").choice(ANSWER_TIMES)
            world.store = SimulatedStore(world.processes[-1], world.network, lambda: world.here, answer_time, options)
        store: Any = world.store  # its methods are found by name
        found: Store = store
        return found

    def engine(self) -> Engine:
        """Return the engine of this simulation, for the `Cluster` in all processes. Call it outside of them.

        It is a process of its own, named ``broker``.
        """
        world = self._world
        if world.engine is None:
            self.process("broker", _wait, serves=True)
            world.engine = SimulatedEngine(world.processes[-1], world.network, lambda: world.here)
        return world.engine

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return self._world.events.now

    @property
    def is_calm(self) -> bool:
        """Whether nothing goes wrong any more."""
        return self.now >= self._world.last_fault

    def is_well(self, *names: str, since: float, despite: Collection[str] = ()) -> bool:
        """Whether nothing has gone wrong since a time with some processes, and with connections between them.

        Faults of the kinds ``despite`` do not count.

        So a check can be strict where it may: who calls a process that is well gets an answer. Data that have left
        before still arrive late, and clients wait before they dial again.
        """
        return self._world.is_well(names, since, despite)

    @property
    def here(self) -> str:
        """The name of the process that runs now, and how often it was started, for example ``"client 2"``."""
        return f"{self._world.here} {self._world.here.life}"

    @property
    def random(self) -> Random:
        """The randomness of the process that runs now."""
        return self._world.here.choices

    def random_of(self, name: str) -> Random:
        """Return a source of randomness that does not depend on what others draw."""
        return self._world.around.random_of(name)

    def note(self, text: str) -> None:
        """Add a line to the story that is told if the simulation fails."""
        self._world.note(text)

    async def steps(self, count: int) -> AsyncIterator[int]:
        """Yield the numbers of the steps that the process takes: ``async for step in simulation.steps(20)``.

        A simulation that has failed is run again without some steps. The others still begin at the same times, and draw
        the same from `random`.
        """
        here, process = self.here, self._world.here
        for number in range(count):
            step = Step(here, number)
            if step in self._left_out:
                continue
            if (wait := self._pace.get(step, 0.0) - self.now) > 0:
                await asyncio.sleep(wait)
            process.choices = self.random_of(f"step {here} {number}")
            self._world.steps_done[step] = self.now
            yield number

    def always(self, check: Callable[[], object]) -> None:
        """Call ``check``, a plain function, again and again. It raises an exception if something is wrong."""
        self._world.checks.append(check)


async def _wait() -> None:
    await asyncio.Event().wait()
