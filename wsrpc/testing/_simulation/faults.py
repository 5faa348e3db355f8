"""What goes wrong in a simulation, and when: the plan that follows from a seed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from random import Random
from typing import NamedTuple, TypeVar

from .paths import Path
from .processes import Process
from .simulation import Simulation
from .streams import Pipe

__all__ = ["FAULTS", "PlannedFault", "plan"]

T = TypeVar("T")


class PlannedFault(NamedTuple):
    """A fault. ``which`` and ``strength`` (from 0 to 1) say which process or connection it concerns, and how much."""

    when: float
    kind: str
    seconds: float
    which: int
    strength: float

    def happen(self, simulation: Simulation, /) -> None:
        FAULTS[self.kind](simulation, self)

    def pick(self, found: Collection[T]) -> T | None:
        return [*found][self.which % len(found)] if found else None


def plan(random: Random, seconds: float, most: int, kinds: Collection[str]) -> list[PlannedFault]:
    """Draw some kinds of faults, and then up to ``most`` faults of these kinds within some seconds.

    Many happen in the beginning, or soon after another one, and to the same process or connection.
    """
    enabled = [kind for kind in FAULTS if random.random() < 0.35 and kind in kinds]
    drawn: list[PlannedFault] = []
    for _ in range(random.randint(0, most) if enabled else 0):
        when, which = random.uniform(0.0, random.choice([min(5.0, seconds), seconds])), random.randrange(1000)
        if drawn and random.random() < 0.5:
            before = random.choice(drawn)
            when, which = before.when + random.expovariate(0.5), random.choice([before.which, which])
        lasts = random.choice([0.05, 0.5, 2.0, 8.0, 30.0]) * random.uniform(0.5, 1.5)
        kind, strength = random.choice(enabled), round(random.random(), 3)
        drawn.append(PlannedFault(round(min(when, seconds), 3), kind, round(lasts, 3), which, strength))
    return sorted(drawn)


def _alive(sim: Simulation) -> list[Process]:
    return [each for each in sim.processes if each.alive and not each.ended]


def _lose(sim: Simulation, lost: Collection[Path], fault: PlannedFault) -> None:
    for path in lost:
        path.lose(fault.seconds)


# ---------------------------------------------------------------- processes


def _kill(sim: Simulation, fault: PlannedFault) -> None:
    _end(sim, fault, "{} is killed, and starts again {:g} s later", silently=False)


def _power(sim: Simulation, fault: PlannedFault) -> None:
    _end(sim, fault, "the machine of {} has no power for {:g} s", silently=True)


def _end(sim: Simulation, fault: PlannedFault, text: str, *, silently: bool) -> None:
    if (process := fault.pick([each for each in _alive(sim) if each.mortal])) is not None:
        sim.note(text.format(process, fault.seconds))
        sim.kill(process, silently=silently)
        sim.events.after(fault.seconds, lambda: sim.start(process))


def _stop(sim: Simulation, fault: PlannedFault) -> None:
    if (process := fault.pick([each for each in _alive(sim) if each.serves])) is not None:
        sim.note(f"{process} is asked to end, and then starts again")
        process.stop(then=lambda: sim.start(process))


def _pause(sim: Simulation, fault: PlannedFault) -> None:
    if (process := fault.pick(_alive(sim))) is not None:
        sim.note(f"{process} does nothing for {fault.seconds:g} s")
        process.pause(fault.seconds)


def _clock(sim: Simulation, fault: PlannedFault) -> None:
    if (process := fault.pick(sim.processes)) is not None:
        seconds = round((fault.strength - 0.5) * 7200, 1)
        sim.note(f"the clock on the wall of {process} jumps by {seconds:+g} s")
        process.set_clock(seconds)


# ---------------------------------------------------------------- the network


def _cut(sim: Simulation, fault: PlannedFault) -> None:
    if (path := fault.pick(sim.network.paths())) is not None:
        both = fault.strength < 0.5
        lost = [each for each in sim.network.paths() if each is path or (both and each.name == path.name[::-1])]
        sim.note(f"nothing gets from {' to '.join(path.name)}{', or back,' * both} for {fault.seconds:g} s")
        _lose(sim, lost, fault)


def _isolate(sim: Simulation, fault: PlannedFault) -> None:
    if (process := fault.pick(_alive(sim))) is not None:
        sim.note(f"{process} reaches nobody for {fault.seconds:g} s")
        _lose(sim, [each for each in sim.network.paths() if process.name in each.name], fault)


def _slow(sim: Simulation, fault: PlannedFault) -> None:
    if (path := fault.pick(sim.network.paths())) is not None:
        rate, latency = 1000.0 * 10 ** (4 * fault.strength), fault.strength / 2
        what = f"the way from {' to '.join(path.name)} takes {latency:g} s, at {rate:.0f} bytes/s"
        sim.note(f"{what}, for {fault.seconds:g} s")
        path.slow_down(rate, latency, fault.seconds)


def _reset(sim: Simulation, fault: PlannedFault) -> None:
    if (pipe := fault.pick(sim.network.connections())) is not None:
        sim.note(f"the connection of {pipe.source.process} and {pipe.sink.process} is reset")
        for end in (pipe.source, pipe.sink):
            end.hang_up()


def _silence(sim: Simulation, fault: PlannedFault) -> None:
    """A router forgets a connection: nothing arrives any more, and nobody is told."""
    if (pipe := fault.pick(sim.network.connections())) is not None:
        both = fault.strength < 0.5
        pipes: list[Pipe] = [pipe, pipe.sink.out] if both else [pipe]
        names = f"{pipe.source.process} to {pipe.sink.process}"
        sim.note(f"the connection from {names} carries nothing more{', or back' * both}")
        for each in pipes:
            each.lost = True


# ---------------------------------------------------------------- the store and the engine


def _late_store(sim: Simulation, fault: PlannedFault) -> None:
    if (store := sim.store_made) is not None:
        slowness = round(6.0 * fault.strength, 3)
        sim.note(f"what the store is asked takes up to {slowness:g} s to arrive, for {fault.seconds:g} s")
        store.slow.append(slowness)
        sim.events.after(fault.seconds, lambda: store.slow.remove(slowness))


def _restored_store(sim: Simulation, fault: PlannedFault) -> None:
    if (store := sim.store_made) is not None:
        snapshot = store.snapshot()

        def restore() -> None:
            sim.note(f"the store has forgotten the last {fault.seconds:g} s")
            store.restore(snapshot)

        sim.events.after(fault.seconds, restore)


def _lossy_engine(sim: Simulation, fault: PlannedFault) -> None:
    if (engine := sim.engine_made) is not None:
        engine.lose += 1 + int(fault.strength * 5)
        sim.note(f"the engine loses the next {engine.lose} messages")


FAULTS: dict[str, Callable[[Simulation, PlannedFault], None]] = {
    "kill": _kill,
    "power": _power,
    "stop": _stop,
    "pause": _pause,
    "clock": _clock,
    "cut": _cut,
    "isolate": _isolate,
    "slow": _slow,
    "reset": _reset,
    "forget": _silence,
    "late store": _late_store,
    "restored store": _restored_store,
    "lossy engine": _lossy_engine,
}
"""The kinds of faults."""
