"""Processes of a cluster are killed, and its engine is killed and frozen, under load: what callers are told is true.

``WSRPC_SOAK=1`` kills 200 processes, kills the engine 50 times and freezes it 20 times, on each kind of engine.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import reduce
from itertools import count, product
from operator import or_
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from cluster_station import ENGINES, NUMBERS, Call, Emitted, Gap, Heard, Note, Ran, Unparked, Up, address
from effort import SEED, SOAK
from engine_servers import ServerProcess, lasting_port, nats_server, redis_server
from programs import start

KILLS, SLOTS = (200, 4) if SOAK else (1, 2)
ENGINE_KILLS = 50
ENGINE_FREEZES = 20

BUSY = 0.0 if SOAK else 10.0
"""Seconds more for everything on a machine that is busy with other tests. The long form has it for itself."""
ENDED = 6.0 + BUSY
"""Seconds after the kill of a process in which all that it was part of has ended."""
BACK = 2.0 + BUSY
"""Seconds after the return of the engine in which everybody can call everybody."""
REFUSED = 2.0 + BUSY
"""Seconds in which a call fails that cannot be sent."""
FREEZE_NOTICED = 2.5 + BUSY
"""Seconds for which a process may take a frozen engine for one that works."""
KILL_NOTICED = 0.5 + BUSY
"""Seconds for which a process may take an engine that was killed for one that works."""
RIDDEN = 5.0
"""Seconds without an engine that calls survive."""

PROGRAM = Path(__file__).with_name("cluster_station.py")
START: dict[str, Callable[[int], ServerProcess]] = {
    "nats": lambda port: nats_server(port=port),
    "redis": lambda port: redis_server(port=port),
}


# ------------------------------------------------------------ processes


class Killed(Exception):
    """The process was killed before it has answered."""


class Station:
    """A process. Who asks it while it is killed gets a `Killed`."""

    def __init__(self, process: asyncio.subprocess.Process, slot: int, number: int) -> None:
        self.slot = slot
        self.number = number
        self.addresses = [address(slot), f"own/{number}"]
        self.node = ""
        self._process = process
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[tuple[Any, str | None]]] = {}
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            number, answer, error = msgspec.json.decode(line)
            self._asked.pop(number).set_result((answer, error))
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(Killed())

    async def started(self) -> None:
        """Wait until it takes part."""
        self.node = await self.ask("node")

    async def ask(self, what: str, *args: Any) -> Any:
        assert self._process.stdin is not None
        if self._reading.done():
            raise Killed
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(msgspec.json.encode([number, what, args]) + b"\n")
        said, error = await answer
        assert error is None, error
        return said

    async def kill(self) -> float:
        """End it at once. Return when."""
        assert self._process.stdin is not None
        with suppress(ProcessLookupError):
            self._process.kill()
        killed = time.monotonic()
        await self._process.wait()
        await self._reading
        self._process.stdin.close()
        return killed


class World:
    """An engine, and the processes of a cluster. The one in slot 0 is never killed."""

    def __init__(self, kind: str, folder: Path, slots: int) -> None:
        self.kind = kind
        self.port = lasting_port()
        self.engine = START[kind](self.port)
        self.folder = folder
        self.slots = slots
        self.present: dict[int, Station] = {}
        """By slot."""
        self._numbers = count()
        self._all: list[Station] = []

    async def start(self, slot: int) -> Station:
        """Start a process in a slot. It takes part a moment later."""
        number = next(self._numbers)
        words = (sys.executable, str(PROGRAM), self.kind, self.engine.url, str(slot), str(number))
        with (self.folder / f"errors-{number}").open("wb") as errors:
            process = await start(
                *words, str(self.folder / f"journal-{number}"), str(self.slots), stderr=errors.fileno()
            )
        station = self.present[slot] = Station(process, slot, number)
        self._all.append(station)
        return station

    async def ask_all(self, what: str, *args: Any) -> list[Any]:
        return await asyncio.gather(*(station.ask(what, *args) for station in self.present.values()))

    async def whole(self, patience: float) -> float:
        """Wait until everybody can call everybody. Return when that was so."""
        async with asyncio.timeout(patience + 10):
            found: list[float] = await self.ask_all("whole", time.monotonic())
        return max(found)

    async def stop(self) -> list[float]:
        """Let everybody begin nothing new. Return how long each took to end what there was."""
        stopped = await self.ask_all("stop")
        left = await self.ask_all("left")
        assert not any(left), left
        return stopped

    async def close(self) -> None:
        for station in self._all:
            await station.kill()
        self.engine.kill()


@asynccontextmanager
async def world(kind: str, folder: Path, slots: int) -> AsyncGenerator[World]:
    made = World(kind, folder, slots)
    try:
        yield made
    finally:
        await made.close()
    for file in folder.glob("errors-*"):
        assert file.read_text() == "", file.name


# ------------------------------------------------------------ what the journals say


DECODER: msgspec.json.Decoder[Note] = msgspec.json.Decoder(reduce(or_, Note.__subclasses__()))


N = TypeVar("N", bound=Note)


class Journal:
    """What one process has written down."""

    def __init__(self, file: Path) -> None:
        self.number = int(file.name.removeprefix("journal-"))
        self._notes: defaultdict[type[Note], list[Any]] = defaultdict(list)
        for line in file.read_bytes().splitlines():
            note = DECODER.decode(line)
            self._notes[type(note)].append(note)
        self.up = next(iter(self[Up]), Up(-1, "", float("inf")))
        self.clients = address(self.up.slot), f"own/{self.number}"

    def __getitem__(self, kind: type[N]) -> list[N]:
        return self._notes[kind]


def read_journals(folder: Path) -> list[Journal]:
    return sorted(map(Journal, folder.glob("journal-*")), key=lambda journal: journal.number)


def calls_of(journals: list[Journal]) -> list[Call]:
    return [call for journal in journals for call in journal[Call]]


def check_outcomes(journals: list[Journal]) -> None:
    """Compare what callers were told with what has run."""
    ran = Counter(note.number for journal in journals for note in journal[Ran])
    ends: Counter[str] = Counter()
    wrong: list[Call] = []
    for call in calls_of(journals):
        ends[call.ended] += 1
        park = call.kind == "park"  # which ends only with a connection, or because it is cancelled
        allowed = {"not_sent": (0,), "unknown": (0, 1), "cancelled" if park else "answered": (0, 1) if park else (1,)}
        if ran[call.number] not in allowed.get(call.ended, ()):
            wrong.append(call)
    print(ends)
    assert not wrong, wrong[:10]


def check_events(journals: list[Journal], ends: dict[int, float], since: float = 0.0) -> tuple[list[Emitted], int]:
    """Each event has come to each client that was there, or somebody was told that it has not; in order, none twice.

    Args:
        ends: when processes were killed, by their numbers.
        since: when all knew each other.

    Returns:
        Those that are missing because of a gap that was told, and how many were reported as missed.
    """
    told: list[Emitted] = []
    missed = 0
    lost: list[tuple[object, ...]] = []
    got: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for heard in (heard for journal in journals for heard in journal[Heard]):
        assert heard.n > max(got[heard.client, heard.sender][-1:], default=0), heard
        got[heard.client, heard.sender].append(heard.n)
    for receiver, sender in product(journals, journals):
        # Those who were killed, or have just come, are left out.
        begin = since or max(receiver.up.at, sender.up.at) + 1 + BUSY
        end = min(ends.get(each.number, float("inf")) for each in (receiver, sender)) - 1 - BUSY
        for client, event in product(receiver.clients, sender[Emitted]):
            if event.n in got[client, event.sender] or not begin <= event.began <= end:
                continue
            if receiver.up.node in event.missed:
                missed += 1
            elif any(gap.at >= event.began for gap in receiver[Gap]):
                told.append(event)
            else:
                lost.append((event, f"at {receiver.number} {client}", receiver[Gap]))
    assert not lost, (len(lost), lost[:5])
    return told, missed


# ------------------------------------------------------------ processes are killed


@pytest.mark.timeout(3600 if SOAK else 180)
@pytest.mark.parametrize("kind", ["nats", pytest.param("redis", marks=pytest.mark.soak)])
async def test_processes_are_killed(kind: str, tmp_path: Path) -> None:
    dice = random.Random(SEED)
    kills = count(1)
    ends: dict[int, float] = {}
    gone: list[float] = []
    async with world(kind, tmp_path, SLOTS) as w:
        home = await w.start(0)

        async def see_it_go(dead: Station, killed: float) -> None:
            """Wait until nobody knows of a process that was killed."""

            async def see(station: Station) -> None:
                with suppress(Killed):  # meanwhile
                    gone.append(await station.ask("gone", dead.node, dead.addresses) - killed)

            # Those that have not started yet would answer late, and have never heard of it.
            await asyncio.gather(*(see(station) for station in w.present.values() if station.node))

        async def live_and_die(slot: int, group: asyncio.TaskGroup) -> None:
            """Processes in a slot, one after the other. The last one stays."""
            station = await w.start(slot)
            while (n := next(kills)) <= KILLS:
                running = None
                # Mostly in the midst of the work, sometimes while it starts.
                if n % 3 == 1 or dice.random() < 0.9:
                    await station.started()
                    # A handler for it runs there, which has to be cancelled in time, and one here.
                    await home.ask("parked_by", station.number)
                    running = await station.ask("parked_by", home.number)
                    await asyncio.sleep(dice.uniform(0.2, 2.0))
                else:
                    await asyncio.sleep(dice.uniform(0, 1.0))
                killed = ends[station.number] = await station.kill()
                if station.node:
                    group.create_task(see_it_go(station, killed))
                if running is not None:
                    assert await home.ask("ended", running) == "unknown"
                if n % 3 == 1:
                    await home.ask("gone", station.node, station.addresses)
                    assert await home.ask("call", slot) == "not_sent"
                # Sometimes its addresses are nowhere for longer than its lease.
                await asyncio.sleep(dice.choice((0, 0, 0.5, 1, 7)) if SOAK else 0)
                station = await w.start(slot)
            await station.started()

        await home.started()
        async with asyncio.TaskGroup() as group:
            for slot in range(1, w.slots):
                group.create_task(live_and_die(slot, group))
        await w.whole(ENDED)  # after the last one has come
        nodes = await w.ask_all("nodes")
        stopped = await w.stop()
    journals = read_journals(tmp_path)
    check_outcomes(journals)
    check_events(journals, ends)
    check_ends(journals, ends)
    assert nodes == [sorted(station.node for station in w.present.values())] * w.slots
    assert max(stopped) <= ENDED
    assert gone and max(gone) <= ENDED


def check_ends(journals: list[Journal], ends: dict[int, float]) -> None:
    """Whatever a process that was killed was part of has ended in time, at the others."""
    took: list[float] = []
    slow: list[Call] = []
    ran_at = {note.number: journal.number for journal in journals for note in journal[Ran]}
    for call in calls_of(journals):
        if call.kind == "park":
            # It lasts as long as the process that it runs in.
            callee = ran_at.get(call.number)
            if callee in ends and call.ended != "cancelled":
                took.append(call.at - ends[callee])
                if took[-1] > ENDED:
                    slow.append(call)
        elif call.seconds > ENDED:
            slow.append(call)
        elif call.ended == "unknown":
            took.append(call.seconds)
    unparked: list[float] = []
    for journal in journals:
        at = {note.number: note.at for note in journal[Unparked]}
        for ran in journal[Ran]:
            caller = ran.number // NUMBERS
            if ran.parked and caller in ends and journal.number not in ends:
                unparked.append(at.get(ran.number, float("inf")) - ends[caller])
    print(f"others know of a death after {max(took):.3f} s, and its handlers are cancelled after {max(unparked):.3f} s")
    assert not slow, slow[:5]
    assert max(unparked) <= ENDED


# ------------------------------------------------------------ the engine is killed and frozen


@dataclass
class Outage:
    how: str
    began: float
    over: float = float("inf")
    whole: float = float("inf")
    """When everybody could call everybody again."""

    @property
    def lasts(self) -> bool:
        """Whether it was too long for calls, and events, that were sent before anybody knew of it."""
        return self.over - self.began > RIDDEN - 0.5

    def can_end(self, call: Call) -> bool:
        noticed = self.began + (FREEZE_NOTICED if self.how == "frozen" else KILL_NOTICED)
        return self.lasts and self.began <= call.at and call.began <= min(self.whole, noticed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ENGINES)
async def test_the_engine_is_killed_and_frozen(kind: str, tmp_path: Path) -> None:
    dice = random.Random(SEED)
    outages: list[Outage] = []
    hows = ["killed"] * ENGINE_KILLS + ["frozen"] * ENGINE_FREEZES
    dice.shuffle(hows)
    async with world(kind, tmp_path, slots=3) as w:
        for slot in range(w.slots):
            await w.start(slot)
        for station in w.present.values():
            await station.started()
        await w.whole(BACK)
        home, *others = w.present.values()

        async def everything_ends(running: list[int]) -> None:
            """Wait for what an outage does that is longer than sessions between nodes, and leases, live."""
            async with asyncio.timeout(RIDDEN + FREEZE_NOTICED + 1):
                for number in running:
                    assert await home.ask("ended", number) == "unknown"
                assert await home.ask("call", others[0].slot) == "not_sent"
                await home.ask("missed")

        for n, how in enumerate(hows):
            running = [await station.ask("parked_by", home.number) for station in others]
            outage = Outage(how, time.monotonic())
            outages.append(outage)
            if how == "killed":
                w.engine.kill()
            else:
                w.engine.freeze()
            if n % 5 == 1:
                await everything_ends(running)
            else:
                await asyncio.sleep(dice.uniform(0.05, 4))
            if how == "killed":
                w.engine = await asyncio.to_thread(START[kind], w.port)
            else:
                w.engine.thaw()
            outage.over = time.monotonic()
            outage.whole = await w.whole(BACK)
            await asyncio.sleep(dice.uniform(0, 1))
        await w.stop()
    journals = read_journals(tmp_path)
    check_outcomes(journals)
    told, missed = check_events(journals, {}, outages[0].began)
    assert told and missed
    for event in told:
        fine = (each.lasts and each.began - 0.5 <= event.began <= each.whole for each in outages)
        assert any(fine), "short ones lose nothing"
    check_outages(journals, outages)
    assert max(each.whole - each.over for each in outages) <= BACK


def check_outages(journals: list[Journal], outages: list[Outage]) -> None:
    """Calls fail at once while there is no engine, and local ones go on."""
    wrong: list[Call] = []
    for call in calls_of(journals):
        if call.began < outages[0].began:
            continue  # not everybody was there
        if call.kind == "local":
            fine = call.ended == "answered" and call.seconds < 1 + BUSY
        elif call.ended == "not_sent":
            fine = call.seconds <= REFUSED and "PeerNotFound" not in call.why  # it was there all the time
        else:
            # A call that ended in one outage may have been lost in the one before.
            fine = call.ended != "unknown" or any(each.can_end(call) for each in outages)
        if not fine:
            wrong.append(call)
    assert not wrong, (wrong[:5], outages)
