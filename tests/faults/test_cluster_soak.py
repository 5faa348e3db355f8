"""Processes of a cluster are killed, and its engine is killed and frozen, under load: what callers are told is true.

``WSRPC_SOAK=1`` kills 200 processes, kills the engine 50 times and freezes it 20 times, on each kind of engine.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, count, pairwise, product
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
from cluster_station import ENGINES, NUMBERS, SLOTS, Station, address
from engine_servers import ServerProcess, lasting_port, nats_server, redis_server

SOAK = os.environ.get("WSRPC_SOAK") == "1"
KILLS = 200 if SOAK else 3
ENGINE_KILLS = 50 if SOAK else 2
ENGINE_FREEZES = 20 if SOAK else 1

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

PROGRAM = Path(__file__).parent / "cluster_station.py"
ROOT = Path(__file__).parent.parent.parent
START: dict[str, Callable[[int], ServerProcess]] = {
    "nats": lambda port: nats_server(port=port),
    "redis": lambda port: redis_server(port=port),
}


@pytest.fixture(autouse=True)
def few_log_lines() -> Generator[None]:
    """pytest would keep all lines about nodes that are lost."""
    logger = logging.getLogger("wsrpc")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


# ------------------------------------------------------------ processes


class Killed(Exception):
    """The process was killed before it has answered."""


KILLED = "killed"


class Asked(Protocol):
    """A `Station`, in the process of the test or in another one."""

    number: int

    async def ask(self, what: str, *args: Any) -> Any: ...


class Mortal:
    """A `Station` in a process of its own. Who asks it while it is killed gets a `Killed`."""

    def __init__(self, process: asyncio.subprocess.Process, slot: int, number: int) -> None:
        self.slot = slot
        self.number = number
        self.addresses = [address(slot), f"own/{number}"]
        self.node = ""
        self._process = process
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {0: asyncio.get_running_loop().create_future()}
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            number, answer, error = msgspec.json.decode(line)
            self._asked[number].set_result((answer, error))
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_result((None, KILLED))

    async def _answer(self, number: int) -> Any:
        answer, error = await self._asked[number]
        del self._asked[number]
        if error == KILLED:
            raise Killed
        assert error is None, error
        return answer

    async def started(self) -> None:
        """Wait until it takes part."""
        self.node = await self._answer(0)

    async def ask(self, what: str, *args: Any) -> Any:
        """Ask it."""
        assert self._process.stdin is not None
        if self._reading.done():
            raise Killed
        number = next(self._numbers)
        self._asked[number] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(msgspec.json.encode([number, what, args]) + b"\n")
        return await self._answer(number)

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
    """An engine, and the processes of a cluster: the one of the test, which is never killed, and others."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.port = lasting_port()
        self.engine = START[kind](self.port)
        self.folder = folder
        self.mortals: dict[int, Mortal] = {}
        """By slot."""
        self._numbers = count(1)
        self._all: list[Mortal] = []

    def journal(self, number: int) -> Path:
        return self.folder / f"journal-{number}"

    async def start(self, slot: int, slots: int = SLOTS) -> Mortal:
        """Start a process in a slot. It takes part a moment later."""
        number = next(self._numbers)
        with (self.folder / f"errors-{number}").open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(PROGRAM), self.kind, self.engine.url, str(slot), str(number)),
                *(str(self.journal(number)), str(slots)),
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "adapters")])},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
            )
        mortal = self.mortals[slot] = Mortal(process, slot, number)
        self._all.append(mortal)
        return mortal

    async def close(self) -> None:
        for mortal in self._all:
            await mortal.kill()
        self.engine.kill()

    def check_no_complaints(self) -> None:
        for file in self.folder.glob("errors-*"):
            assert file.read_text() == "", file.name


@asynccontextmanager
async def world(kind: str, folder: Path) -> AsyncGenerator[World]:
    made = World(kind, folder)
    try:
        yield made
    finally:
        await made.close()


# ------------------------------------------------------------ what the journals say


@dataclass
class Call:
    number: int
    kind: str
    slot: int
    ended: str
    began: float
    at: float
    why: str

    @property
    def caller(self) -> int:
        return self.number // NUMBERS

    @property
    def seconds(self) -> float:
        return self.at - self.began


@dataclass
class Emitted:
    n: int
    began: float
    at: float
    sent: int
    nodes: list[str]
    missed: list[str]


@dataclass
class Heard:
    n: int
    at: float


@dataclass
class Journal:
    """What one process has written down."""

    number: int
    slot: int = -1
    node: str = ""
    up: float = float("inf")
    calls: list[Call] = field(default_factory=list)
    ran: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    parked: list[int] = field(default_factory=list)
    unparked: dict[int, float] = field(default_factory=dict)
    emitted: dict[str, list[Emitted]] = field(default_factory=lambda: defaultdict(list))
    heard: dict[tuple[str, str], list[Heard]] = field(default_factory=lambda: defaultdict(list))
    """By the client's address and the sender."""
    gaps: list[float] = field(default_factory=list)

    @property
    def clients(self) -> tuple[str, str]:
        """The addresses of its clients."""
        return address(self.slot), f"own/{self.number}"


def read_journals(files: Iterable[Path]) -> list[Journal]:
    found = []
    for file in files:
        journal = Journal(int(file.name.removeprefix("journal-")))
        for line in file.read_bytes().splitlines():
            what, *rest = msgspec.json.decode(line)
            if what == "up":
                journal.slot, journal.node, journal.up = rest
            elif what == "call":
                journal.calls.append(Call(*rest))
            elif what == "ran":
                journal.ran[rest[0]].append(rest[1])
            elif what == "parked":
                journal.parked.append(rest[0])
            elif what == "unparked":
                journal.unparked[rest[0]] = rest[1]
            elif what == "emit":
                journal.emitted[rest[0]].append(Emitted(*rest[1:]))
            elif what == "heard":
                journal.heard[rest[0], rest[1]].append(Heard(rest[2], rest[3]))
            else:
                assert what == "gap", what
                journal.gaps.append(rest[0])
        found.append(journal)
    return sorted(found, key=lambda journal: journal.number)


def check_outcomes(journals: list[Journal], least: int) -> None:
    """Compare what callers were told with what has run.

    Args:
        least: how many calls have ended in each way, at least.
    """
    ran: Counter[int] = Counter()
    for journal in journals:
        for number, times in journal.ran.items():
            ran[number] += len(times)
    ends: Counter[str] = Counter()
    wrong: list[Call] = []
    for call in chain.from_iterable(journal.calls for journal in journals):
        ends[call.ended] += 1
        park = call.kind == "park"  # which ends only with a connection, or because it is cancelled
        allowed = {"not_sent": (0,), "unknown": (0, 1), "cancelled" if park else "answered": (0, 1) if park else (1,)}
        if ran[call.number] not in allowed.get(call.ended, ()):
            wrong.append(call)
    print(ends)
    assert not wrong, wrong[:10]
    # All of that would hold if nothing had happened.
    assert min(ends[ended] for ended in ("answered", "not_sent", "unknown")) > least, ends


def check_order(journals: list[Journal]) -> None:
    """Each sender's events come in order, none twice."""
    for journal in journals:
        for (client, sender), heard in journal.heard.items():
            for before, after in pairwise(heard):
                assert before.n < after.n, (journal.number, client, sender, before, after)


def check_lost(journals: list[Journal], ends: dict[int, float], since: float = 0.0) -> tuple[list[Emitted], int]:
    """Each event has come to each client that was there, or somebody was told that it has not.

    Args:
        ends: when processes were killed, by their numbers.
        since: when all knew each other.

    Returns:
        Those that are missing because of a gap that was told, and how many were reported as missed.
    """
    told: list[Emitted] = []
    missed = 0
    lost: list[tuple[object, ...]] = []
    for receiver, sender in product(journals, journals):
        # Those who were killed, or have just come, are left out.
        begin = since or max(receiver.up, sender.up) + 1 + BUSY
        end = min(ends.get(each.number, float("inf")) for each in (receiver, sender)) - 1 - BUSY
        for client, (name, emitted) in product(receiver.clients, sender.emitted.items()):
            got = {each.n for each in receiver.heard.get((client, name), ())}
            for event in emitted:
                if event.n in got or not begin <= event.began <= end:
                    continue
                if receiver.node in event.missed:
                    missed += 1
                elif any(gap >= event.began for gap in receiver.gaps):
                    told.append(event)
                else:
                    lost.append((name, event, f"at {receiver.number} {client}", receiver.gaps))
    assert not lost, (len(lost), lost[:5])
    return told, missed


# ------------------------------------------------------------ processes are killed


@pytest.mark.timeout(3600 if SOAK else 180)
@pytest.mark.parametrize("kind", ENGINES)
async def test_processes_are_killed(kind: str, tmp_path: Path) -> None:
    dice = random.Random(1)
    kills = count(1)
    ends: dict[int, float] = {}
    gone: list[float] = []
    async with world(kind, tmp_path) as w:
        engine = ENGINES[kind](w.engine.url)
        async with Station(engine, 0, 0, w.journal(0)) as home:

            async def see_it_go(dead: Mortal, killed: float) -> None:
                """Wait until nobody knows of a process that was killed."""

                async def see(station: Asked) -> None:
                    with suppress(Killed):  # meanwhile
                        gone.append(await station.ask("gone", dead.node, dead.addresses) - killed)

                # Those that have not started yet would answer late, and have never heard of it.
                others: list[Asked] = [home, *(mortal for mortal in w.mortals.values() if mortal.node)]
                await asyncio.gather(*map(see, others))

            async def live_and_die(slot: int, group: asyncio.TaskGroup) -> None:
                """Processes in a slot, one after the other. The last one stays."""
                mortal = await w.start(slot)
                while next(kills) <= KILLS:
                    # Mostly in the midst of the work, sometimes while it starts.
                    if dice.random() < 0.9:
                        await mortal.started()
                        # A handler for it runs there, which has to be cancelled in time.
                        await home.parked_by(mortal.number)
                        await asyncio.sleep(dice.uniform(0.2, 2.0))
                    else:
                        await asyncio.sleep(dice.uniform(0, 1.0))
                    killed = ends[mortal.number] = await mortal.kill()
                    if mortal.node:
                        group.create_task(see_it_go(mortal, killed))
                    # Sometimes its addresses are nowhere for longer than its lease.
                    await asyncio.sleep(dice.choice((0, 0, 0.5, 1, 7 if SOAK else 1)))
                    mortal = await w.start(slot)
                await mortal.started()

            async with asyncio.TaskGroup() as group:
                for slot in range(1, SLOTS):
                    group.create_task(live_and_die(slot, group))
            stations: list[Asked] = [home, *w.mortals.values()]
            now = time.monotonic()
            async with asyncio.timeout(ENDED + 10):  # everybody can call everybody after the last one has come
                await asyncio.gather(*(station.ask("whole", now) for station in stations))
            home_node = home.cluster.nodes[0]
            nodes = await asyncio.gather(*(station.ask("nodes") for station in stations))
            stopped = await asyncio.gather(*(station.ask("stop") for station in stations))
            left = await asyncio.gather(*(station.ask("left") for station in stations))
    journals = read_journals(tmp_path.glob("journal-*"))
    check_outcomes(journals, KILLS)
    check_order(journals)
    check_lost(journals, ends)
    check_ends(journals, ends)
    assert not any(left), left
    assert nodes == [sorted([home_node, *(mortal.node for mortal in w.mortals.values())])] * SLOTS
    assert stopped and max(stopped) <= ENDED
    assert gone and max(gone) <= ENDED
    w.check_no_complaints()


def check_ends(journals: list[Journal], ends: dict[int, float]) -> None:
    """Whatever a process that was killed was part of has ended in time, at the others."""
    took: list[float] = []
    slow: list[Call] = []
    for call in chain.from_iterable(journal.calls for journal in journals):
        if call.kind == "park":
            # It lasts as long as the process that it runs in.
            callee = [each for each in journals if call.number in each.ran]
            if callee and callee[0].number in ends and call.ended != "cancelled":
                took.append(call.at - ends[callee[0].number])
                if took[-1] > ENDED:
                    slow.append(call)
        elif call.seconds > ENDED:
            slow.append(call)
        elif call.ended == "unknown":
            took.append(call.seconds)
    unparked: list[float] = []
    for journal in journals:
        for number in journal.parked:
            caller = number // NUMBERS
            if caller in ends and journal.number not in ends:
                unparked.append(journal.unparked.get(number, float("inf")) - ends[caller])
    print(f"others know of a death after {max(took):.3f} s, and its handlers are cancelled after {max(unparked):.3f} s")
    assert not slow, slow[:5]
    assert took and unparked and max(unparked) <= ENDED


# ------------------------------------------------------------ the engine is killed and frozen


@dataclass
class Outage:
    how: str
    began: float
    over: float = float("inf")
    whole: float = float("inf")
    """When everybody could call everybody again."""

    @property
    def noticed(self) -> float:
        """Seconds for which a process may take the engine for one that works."""
        return FREEZE_NOTICED if self.how == "frozen" else KILL_NOTICED

    def can_end(self, call: Call) -> bool:
        """Return whether it lasted for too long for a call that was sent before anybody knew of it."""
        lasted = self.over - self.began >= RIDDEN - 0.5
        return lasted and self.began <= call.at and call.began <= min(self.whole, self.began + self.noticed)

    def __str__(self) -> str:
        return f"{self.how} for {self.over - self.began:.2f} s, whole {self.whole - self.over:.3f} s later"


@pytest.mark.timeout(3600 if SOAK else 180)
@pytest.mark.parametrize("kind", ENGINES)
async def test_the_engine_is_killed_and_frozen(kind: str, tmp_path: Path) -> None:
    dice = random.Random(2)
    slots = 3
    outages: list[Outage] = []
    hows = ["killed"] * ENGINE_KILLS + ["frozen"] * ENGINE_FREEZES
    dice.shuffle(hows)
    async with world(kind, tmp_path) as w:
        engine = ENGINES[kind](w.engine.url)
        for slot in range(1, slots):
            await w.start(slot, slots)
        async with Station(engine, 0, 0, w.journal(0), slots) as home:
            stations: list[Asked] = [home, *w.mortals.values()]
            for mortal in w.mortals.values():
                await mortal.started()

            async def whole(since: float) -> float:
                async with asyncio.timeout(BACK + 10):
                    found: list[float] = await asyncio.gather(*(each.ask("whole", since) for each in stations))
                return max(found)

            await whole(time.monotonic())
            for n, how in enumerate(hows):
                # Some are longer than sessions between nodes, and leases, live.
                long = n % 5 == 1
                seconds = dice.uniform(6, 8) if long else dice.uniform(0.05, 4 if SOAK else 1)
                outage = Outage(how, time.monotonic())
                outages.append(outage)
                if how == "killed":
                    w.engine.kill()
                    await asyncio.sleep(seconds)
                    w.engine = await asyncio.to_thread(START[kind], w.port)
                else:
                    w.engine.freeze()
                    await asyncio.sleep(seconds)
                    w.engine.thaw()
                outage.over = time.monotonic()
                outage.whole = await whole(outage.over)
                await asyncio.sleep(dice.uniform(0, 1))
            await asyncio.gather(*(station.ask("stop") for station in stations))
            left = await asyncio.gather(*(station.ask("left") for station in stations))
    journals = read_journals(tmp_path.glob("journal-*"))
    if SOAK:
        print(*outages, sep="\n")
    check_outcomes(journals, len(outages))
    check_order(journals)
    told, missed = check_lost(journals, {}, outages[0].began)
    assert told and missed
    lasting = [each for each in outages if each.over - each.began > RIDDEN - 0.5]
    for event in told:
        assert any(each.began - 0.5 <= event.began <= each.whole for each in lasting), "short ones lose nothing"
    check_outages(journals, outages)
    assert not any(left), left
    w.check_no_complaints()
    assert max(each.whole - each.over for each in outages) <= BACK


def check_outages(journals: list[Journal], outages: list[Outage]) -> None:
    """Calls fail at once while there is no engine, and local ones go on."""
    wrong: list[Call] = []
    for call in chain.from_iterable(journal.calls for journal in journals):
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
    for call in wrong[:5]:
        print("WRONG", call, [str(each) for each in outages if each.began <= call.at and call.began <= each.whole])
    assert not wrong
