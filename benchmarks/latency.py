"""Latency at fixed rates: the saturation of every server first, then every server at its rates, in turns."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median

from .generator import run_load
from .measure import Latency, Sample, bad
from .processes import BenchmarkError, Child, start
from .protocols import ADD, ADD_ASYNC, Call
from .results import TableResult
from .runner import START_SECONDS, say
from .subjects import Subject

PENDING = 64
"""Requests in flight when the saturation of a server is measured."""
SHARES = (0.1, 0.5, 0.8)
"""Rates, as shares of the saturation of each server."""
SAME = 0.5
"""The share of the base's saturation that gives the rate at which others are compared with it."""
TOO_MUCH = 0.9
"""Of a server's saturation: above it, latency says how long the slot was."""
ENOUGH_FOR_P999 = 20_000
"""Samples behind a 99.9th percentile: with fewer, it is a handful of accidents."""
LATE = 0.0002
"""Seconds that the generator is never late if it has its core to itself: it polls, and is 10 to 40 µs late."""

LINES = (
    ("websockets", ADD, "websockets"),
    ("wsrpc", ADD, "websockets"),
    ("wsrpc", ADD_ASYNC, "websockets"),
    ("uvicorn", ADD, "uvicorn"),
    ("wsrpc-asgi", ADD, "uvicorn"),
    ("wsrpc-uvicorn", ADD, "uvicorn"),
    ("js", ADD, "websockets"),
)
"""Key of the subject, what it is asked, and the bare echo that it is compared with, which comes before it."""

COLUMNS = ["", "load", "requests/s", "p50", "p99", "p99.9", "longest", "late", "p99 ratio", "lowest–highest", "remark"]


@dataclass(frozen=True)
class Plan:
    """How long: a slot takes ``seconds``, or as long as ``samples`` requests take at its rate."""

    rounds: int
    warm: float
    seconds: float
    samples: int


DEFAULT = Plan(rounds=3, warm=0.15, seconds=0.5, samples=ENOUGH_FOR_P999 + 1000)
QUICK = Plan(rounds=1, warm=0.05, seconds=0.1, samples=500)


@dataclass
class Row:
    """One server, asked one thing at one rate, in all rounds."""

    subject: Subject
    call: Call
    saturation: float
    rate: float
    compared: bool
    """Whether its p99 is compared with that of its base at the same rate."""
    samples: list[Sample] = field(default_factory=list)

    @property
    def latencies(self) -> list[Latency]:
        return [sample.latency for sample in self.samples if sample.latency is not None]

    @property
    def title(self) -> str:
        kind = "async def" if self.call == ADD_ASYNC else "def"
        return f"{self.subject.title}, {kind} handler" if self.subject.is_wsrpc else self.subject.title


class Servers:
    """The servers of the lines: each stands still but while it is measured."""

    def __init__(self, stack: ExitStack, subjects: Sequence[Subject], plan: Plan, server_core: int, load_core: int):
        self._plan, self._load_core = plan, load_core
        self._servers: dict[str, tuple[Child, int]] = {}
        for subject in subjects:
            server = stack.enter_context(start(subject.title, subject.command(), server_core))
            self._servers[subject.key] = server, int(server.read_line(START_SECONDS))
            server.pause()

    def measure(self, subject: Subject, call: Call, seconds: float, **options: object) -> Sample:
        server, port = self._servers[subject.key]
        texts = None if subject.speaks is None else subject.speaks.texts(call)
        assert texts is not None
        options |= {"warm": self._plan.warm, "seconds": seconds, "separate": True}
        server.resume()
        sample = run_load(server, port, texts, self._load_core, **options)
        server.pause()
        return sample


def measure_table(quick: bool, chosen: Sequence[Subject], *, server_core: int, load_core: int) -> TableResult:
    """Measure the lines of the chosen subjects, for the report of a whole run. Raises BenchmarkError."""
    plan = QUICK if quick else DEFAULT
    subjects = {subject.key: subject for subject in chosen}
    lines = [(subjects[key], call, base) for key, call, base in LINES if {key, base} <= subjects.keys()]
    with ExitStack() as stack:
        servers = Servers(stack, list({line[0].key: line[0] for line in lines}.values()), plan, server_core, load_core)
        found: list[list[float]] = [[] for _ in lines]
        for _ in range(plan.rounds):
            for (subject, call, _), rates in zip(lines, found, strict=True):
                rates.append(servers.measure(subject, call, plan.seconds, pending=PENDING).rate)
        bases: dict[str, Row] = {}
        rows: list[tuple[Row, str]] = []
        for (subject, call, base), rates in zip(lines, found, strict=True):
            most, is_base = median(rates), subject.key == base
            if not most:
                text = "the machine is too busy with other programs to measure latency"
                raise BenchmarkError(f"{subject.title} answered nothing within {plan.seconds:g} s: {text}")
            own = [Row(subject, call, most, share * most, is_base and share == SAME) for share in SHARES]
            if is_base:
                [bases[base]] = [row for row in own if row.compared]
            elif bases[base].rate <= TOO_MUCH * most:
                own.append(Row(subject, call, most, bases[base].rate, compared=True))
            rows += [(row, base) for row in own]
        for number in range(1, plan.rounds + 1):
            say(f"latency, round {number} of {plan.rounds}")
            for row, _ in rows:
                seconds = max(plan.seconds, plan.samples / row.rate)
                row.samples.append(servers.measure(row.subject, row.call, seconds, rate=row.rate))
    return TableResult(
        key="latency",
        title="Latency at fixed rates",
        columns=COLUMNS,
        rows=[_cells(row, bases[base]) for row, base in rows],
        bad=sum(bad(row.samples) for row, _ in rows),
    )


def _cells(row: Row, base: Row) -> list[str]:
    enough = min(sample.answers for sample in row.samples) >= ENOUGH_FOR_P999
    latencies = row.latencies
    ratios = [ours.p99 / theirs.p99 for ours, theirs in zip(latencies, base.latencies, strict=True)]
    return [
        row.title,
        f"{row.rate / row.saturation:.0%}",
        f"{row.rate:,.0f}",
        _micro([each.p50 for each in latencies]),
        _micro([each.p99 for each in latencies]),
        _micro([each.p999 for each in latencies]) if enough else "–",
        _micro([each.longest for each in latencies]),
        _micro([each.late for each in latencies]),
        f"{median(ratios):.2f}" if row.compared else "",
        f"{min(ratios):.2f}–{max(ratios):.2f}" if row.compared else "",
        _remark(row, base),
    ]


def _remark(row: Row, base: Row) -> str:
    if wrong := bad(row.samples):
        return f"{wrong:,} WRONG OR MISSING ANSWERS"
    if any(each.late > LATE for each in row.latencies):
        return "disturbed: other programs used the core of the generator"
    return f"relative to {base.title}" if row.compared and row is not base else ""


def _micro(seconds: list[float]) -> str:
    return f"{1e6 * median(seconds):,.0f}"
