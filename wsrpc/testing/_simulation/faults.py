"""Faults of a simulation: the kinds, and the plan that follows from a seed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from math import inf
from random import Random

from .paths import RESEND_DELAY, Path
from .processes import Process
from .streams import Pipe
from .world import Fault, World

METHODS = "open", "append", "read", "hold", "adopt", "pending", "topics", "*", "*", "*", "*"
"""Those of a `Store` whose results matter most, and all."""
NOTICED = 45.0
"""Seconds after which both ends have noticed that a connection carries nothing more, by the default heartbeat."""


def plan(random: Random, seconds: float, most: int, kinds: Collection[str]) -> list[Fault]:
    """Draw some kinds of faults, and then up to ``most`` faults of these kinds within some seconds.

    Many happen in the beginning, or soon after another one, and to the same process or connection. In some
    plans, somebody has a slow network all the time.
    """
    known = [kind for kind in FAULTS if kind in kinds]
    enabled = random.sample(known, min(len(known), random.choice([1, 2, 2, 3, 5, 8])))
    drawn: list[Fault] = []
    for _ in range(random.randint(0, most) if enabled else 0):
        latest = random.choice([min(1.0, seconds), min(5.0, seconds), seconds, seconds])
        when, which = random.uniform(0.0, latest), random.randrange(1000)
        if drawn and random.random() < 0.5:
            before = random.choice(drawn)
            when, which = before.when + random.expovariate(0.5), random.choice([before.which, which])
        lasts = random.choice([0.05, 0.5, 2.0, 8.0, 30.0]) * random.uniform(0.5, 1.5)
        kind, strength = random.choice(enabled), round(random.random(), 3)
        if kind in ("slow", "break", "lossy store"):  # who sends much, or asks for long, needs longer to notice
            lasts = min(3 * lasts, 60.0)
        drawn.append(Fault(round(min(when, seconds), 3), kind, round(lasts, 3), which, strength))
    if "slow" in known and len(drawn) < most and random.random() < 1 / 8:
        which, strength = random.randrange(1000), round(random.uniform(0.3, 0.9), 3)
        drawn.append(Fault(1.0, "slow", 1.5 * seconds, which, strength))
    return sorted(drawn)


def _alive(world: World) -> list[Process]:
    return [each for each in world.processes if each.alive and not each.ended]


# ---------------------------------------------------------------- processes


def _kill(world: World, fault: Fault) -> None:
    _end(world, fault, "{} is killed", silently=False)


def _power(world: World, fault: Fault) -> None:
    _end(world, fault, "the machine of {} has no power {}", silently=True)


def _end(world: World, fault: Fault, text: str, *, silently: bool) -> None:
    if (process := fault.pick([each for each in _alive(world) if each.mortal])) is not None:
        world.note(text.format(process, world.until(fault.seconds)))
        world.trouble(fault.kind, [process.name], fault.seconds)
        world.kill(process, silently=silently)
        world.events.after(fault.seconds, lambda: world.start(process))


def _stop(world: World, fault: Fault) -> None:
    if (process := fault.pick([each for each in _alive(world) if each.serves])) is not None:
        world.note(f"{process} is asked to end")
        trouble = world.trouble(fault.kind, [process.name], inf)

        def start() -> None:
            world.start(process)
            trouble.until = world.events.now

        process.stop(then=start)


def _pause(world: World, fault: Fault) -> None:
    if (process := fault.pick(_alive(world))) is not None:
        world.note(f"{process} does nothing {world.until(fault.seconds)}")
        world.trouble(fault.kind, [process.name], fault.seconds)
        process.pause(fault.seconds)


def _clock(world: World, fault: Fault) -> None:
    if (process := fault.pick(world.processes)) is not None:
        seconds = round((fault.strength - 0.5) * 7200, 1)
        world.note(f"the clock on the wall of {process} jumps by {seconds:+g} s")
        world.trouble(fault.kind, [process.name], 0.0)
        process.set_clock(seconds)


# ---------------------------------------------------------------- the network


def _some_path(world: World, fault: Fault) -> Path | None:
    """Pick a path of the process to which another fault with the same ``which`` happens."""
    process = fault.pick(_alive(world))
    found = [] if process is None else world.network.paths_of(process)
    return found[int(fault.strength * 7919) % len(found)] if found else None


def _some_connection(world: World, fault: Fault) -> Pipe | None:
    process, connections = fault.pick(_alive(world)), world.network.connections()
    of_process = [pipe for pipe in connections if process in (pipe.source.process, pipe.sink.process)]
    found = of_process or connections
    return found[int(fault.strength * 7919) % len(found)] if found else None


def _cut(world: World, fault: Fault) -> None:
    if (path := _some_path(world, fault)) is not None:
        both = fault.strength < 0.5
        world.note(f"nothing gets from {' to '.join(path.name)}{', or back,' * both} {world.until(fault.seconds)}")
        world.trouble(fault.kind, path.name, fault.seconds + RESEND_DELAY)
        for each in world.network.paths():
            if each is path or (both and each.name == path.name[::-1]):
                each.lose(fault.seconds)


def _isolate(world: World, fault: Fault) -> None:
    if (process := fault.pick(_alive(world))) is not None:
        world.note(f"{process} reaches nobody {world.until(fault.seconds)}")
        world.trouble(fault.kind, [process.name], fault.seconds + RESEND_DELAY)
        for path in world.network.paths():
            if process.name in path.name:
                path.lose(fault.seconds)


def _slow(world: World, fault: Fault) -> None:
    pipe = _some_connection(world, fault) if fault.which % 3 else None  # most bytes travel on connections
    if (path := pipe.path if pipe else _some_path(world, fault)) is not None:
        both = fault.which % 2 > 0
        rate, latency = 5000.0 * 200**fault.strength, fault.strength / (2 + 2 * both)
        what = f"the way from {' to '.join(path.name)}{', and back,' * both} takes {latency:g} s, at {rate:.0f} bytes/s"
        world.note(f"{what}, {world.until(fault.seconds)}")
        world.trouble(fault.kind, path.name, fault.seconds)
        users = {each.name for each in world.processes if not each.serves}

        def ends(source: str, target: str) -> tuple[str, str]:
            """Return the ends of a path. For a user, all others are one."""
            return "" if target in users else source, "" if source in users else target

        slow = [ends(*path.name), ends(*path.name[::-1])][: 1 + both]
        for each in world.network.paths():
            if ends(*each.name) in slow:
                each.slow_down(rate, latency, fault.seconds)


def _reset(world: World, fault: Fault) -> None:
    if (pipe := _some_connection(world, fault)) is not None:
        world.note(f"the connection of {pipe.source.process} and {pipe.sink.process} is reset")
        _hang_up(world, pipe)


def _flap(world: World, fault: Fault) -> None:
    """A process loses all its connections, again and again."""
    if (process := fault.pick([each for each in _alive(world) if each.life])) is not None:
        pause, until = round(0.05 * 100**fault.strength, 3), world.events.now + fault.seconds
        world.note(f"{process} loses its connections every {pause:g} s, {world.until(fault.seconds)}")
        world.trouble(fault.kind, [process.name], fault.seconds // pause * pause)

        def reset() -> None:
            for pipe in world.network.connections():
                if pipe.source.process is process:
                    _hang_up(world, pipe)
            if world.events.now + pause < until:
                world.events.after(pause, reset)

        reset()


def _break(world: World, fault: Fault) -> None:
    """Connections break in the middle of a message, or of their beginnings."""
    if (pipe := _some_connection(world, fault)) is not None:
        process, weaken = pipe.source.process, world.network.weaken
        part = fault.strength * 101 % 1  # often that of a handshake and the first answer
        size = int(30 * 1000**part if fault.which % 2 else 120 + 500 * part)
        world.note(
            f"{world.until(fault.seconds)}, each connection of {process} ends when {process} has sent {size} bytes"
        )
        world.trouble("break", [process.name], fault.seconds)
        weaken(process, size)
        world.events.after(fault.seconds, partial(weaken, process, inf))


def _hang_up(world: World, pipe: Pipe) -> None:
    world.trouble("reset", [pipe.source.process.name, pipe.sink.process.name], 0.0)
    pipe.hang_up()


def _silence(world: World, fault: Fault) -> None:
    """A router forgets a connection: all data are dropped silently."""
    if (pipe := _some_connection(world, fault)) is not None:
        both = fault.strength < 0.5
        pipes: list[Pipe] = [pipe, pipe.sink.out] if both else [pipe]
        names = [pipe.source.process.name, pipe.sink.process.name]
        world.note(f"the connection from {' to '.join(names)} carries nothing more{', or back' * both}")
        world.trouble(fault.kind, names, NOTICED)
        for each in pipes:
            each.lost = True


# ---------------------------------------------------------------- the store and the engine


def _late_store(world: World, fault: Fault) -> None:
    if (store := world.store) is not None:
        slowness = round(20.0 * fault.strength**3, 3)
        world.note(f"what the store is asked takes up to {slowness:g} s to arrive, {world.until(fault.seconds)}")
        world.trouble(fault.kind, ["store"], fault.seconds + slowness)
        store.slow.append(slowness)
        world.events.after(fault.seconds, lambda: store.slow.remove(slowness))


def _lossy_store(world: World, fault: Fault) -> None:
    """Calls of one method, or of all, fail with `StoreLost` or hang. The store performs most of them."""
    if (store := world.store) is not None:
        name, hangs = METHODS[int(fault.strength * 7919) % len(METHODS)], fault.strength < 0.5
        world.note(f"the store {'does not answer' if hangs else 'fails'} after `{name}`, {world.until(fault.seconds)}")
        world.trouble(fault.kind, ["store"], fault.seconds)
        store.lossy[name] = hangs
        world.events.after(fault.seconds, lambda: store.lossy.pop(name, None))


def _restored_store(world: World, fault: Fault) -> None:
    if (store := world.store) is not None:
        snapshot = store.snapshot()

        def restore() -> None:
            world.note(f"the store has forgotten the last {fault.seconds:g} s")
            store.restore(snapshot)

        world.trouble(fault.kind, ["store"], fault.seconds)
        world.events.after(fault.seconds, restore)


def _lossy_engine(world: World, fault: Fault) -> None:
    if (engine := world.engine) is not None:
        world.trouble(fault.kind, ["broker"], 0.0)
        engine.lose += 1 + int(fault.strength * 5)
        world.note(f"the engine loses the next {engine.lose} messages")


FAULTS: dict[str, Callable[[World, Fault], None]] = {
    "kill": _kill,
    "power": _power,
    "stop": _stop,
    "pause": _pause,
    "clock": _clock,
    "cut": _cut,
    "isolate": _isolate,
    "slow": _slow,
    "reset": _reset,
    "flap": _flap,
    "break": _break,
    "forget": _silence,
    "late store": _late_store,
    "lossy store": _lossy_store,
    "restored store": _restored_store,
    "lossy engine": _lossy_engine,
}
"""The kinds of faults."""


def schedule_faults(world: World) -> None:
    """Schedule the faults of a world."""
    for fault in world.faults:
        world.events.at(fault.when, partial(FAULTS[fault.kind], world, fault))
