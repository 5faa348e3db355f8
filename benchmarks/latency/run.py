"""The run: saturation of every server first, then every server at its rates, in turns."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import msgspec

from ..processes import Child, start
from .generator import Latency, compile_generator, run_generator
from .subjects import SUBJECTS, Subject

START_SECONDS = 15.0

SHARES = (0.1, 0.5, 0.8)
"""Rates, as shares of the saturation of each server."""

SAME = 0.5
"""The share of the first subject's saturation that gives the rate at which all are compared."""

TOO_MUCH = 0.9
"""Of a server's saturation: above it, latency says how long the slot was."""

ENOUGH_FOR_P999 = 20_000
"""Samples behind a 99.9th percentile: with fewer, it is the mean of a dozen accidents."""


@dataclass(frozen=True)
class Plan:
    """How long: a slot takes ``seconds``, or as long as ``samples`` requests take at its rate."""

    rounds: int
    warm: float
    seconds: float
    samples: int


DEFAULT = Plan(rounds=3, warm=0.3, seconds=1.0, samples=ENOUGH_FOR_P999 + 1000)
QUICK = Plan(rounds=1, warm=0.1, seconds=0.4, samples=2000)


class Row(msgspec.Struct, kw_only=True):
    """All rounds of one subject at one rate."""

    subject: str
    title: str
    saturation: float
    """Requests per second that it carries at most: the median."""
    share: float | None
    """Of its saturation. None: at the rate that is `SAME` for all."""
    rate: float
    samples: list[Latency]
    ratios: list[float] = []
    """Its p99 to that of the first subject at the same rate, round by round: lower is better."""

    @property
    def bad(self) -> int:
        return sum(sample.wrong + sample.unanswered for sample in self.samples)


def run_latency(plan: Plan, *, server_core: int, load_core: int, node: str | None) -> list[Row]:
    """Measure everything; ``node`` None leaves the JavaScript server out. Raises BenchmarkError."""
    compile_generator()
    with ExitStack() as stack:
        servers: list[tuple[Subject, Child, int]] = []
        for subject in SUBJECTS:
            if subject.key != "js" or node is not None:
                server = stack.enter_context(start(subject.title, subject.command(node), server_core))
                servers.append((subject, server, int(server.read_line(START_SECONDS))))

        def measure(subject: Subject, server: Child, port: int, rate: float) -> Latency:
            seconds = plan.seconds if rate == 0 else max(plan.seconds, plan.samples / rate)
            return run_generator(server, port, subject, rate, warm=plan.warm, seconds=seconds, core=load_core)

        saturations: dict[str, list[float]] = {}
        for _ in range(plan.rounds):
            for subject, server, port in servers:
                saturations.setdefault(subject.key, []).append(measure(subject, server, port, 0).rate)
        rows, comparisons = _rows([subject for subject, _, _ in servers], saturations)
        for number in range(1, plan.rounds + 1):
            print(f"latency, round {number} of {plan.rounds}", file=sys.stderr, flush=True)
            for subject, server, port in servers:
                for row in [*rows, *comparisons]:
                    if row.subject == subject.key:
                        row.samples.append(measure(subject, server, port, row.rate))
    base = next(row for row in rows if row.subject == SUBJECTS[0].key and row.share == SAME)
    for row in [base, *comparisons]:
        row.ratios = [ours.p99 / theirs.p99 for ours, theirs in zip(row.samples, base.samples, strict=True)]
    return [*rows, *comparisons]


def _rows(subjects: list[Subject], saturations: dict[str, list[float]]) -> tuple[list[Row], list[Row]]:
    """Return what is to be measured: each subject at its own rates, and those that can carry it at the same rate."""
    same = SAME * median(saturations[subjects[0].key])
    rows: list[Row] = []
    comparisons: list[Row] = []
    for subject in subjects:
        saturation = median(saturations[subject.key])
        for share in SHARES:
            rows.append(_row(subject, saturation, share, share * saturation))
        if subject is not subjects[0] and same <= TOO_MUCH * saturation:
            comparisons.append(_row(subject, saturation, None, same))
    return rows, comparisons


def _row(subject: Subject, saturation: float, share: float | None, rate: float) -> Row:
    return Row(
        subject=subject.key, title=subject.title, saturation=saturation, share=share, rate=rate, samples=[], ratios=[]
    )
