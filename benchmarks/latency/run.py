"""The run: saturation of every server first, then every server at its rates, in turns."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import msgspec

from ..generator import run_load
from ..measure import Latency, Sample
from ..processes import Child, start
from ..runner import say
from .subjects import Line

START_SECONDS = 15.0
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


@dataclass(frozen=True)
class Plan:
    """How long: a slot takes ``seconds``, or as long as ``samples`` requests take at its rate."""

    rounds: int
    warm: float
    seconds: float
    samples: int


DEFAULT = Plan(rounds=3, warm=0.15, seconds=0.5, samples=ENOUGH_FOR_P999 + 1000)
QUICK = Plan(rounds=1, warm=0.05, seconds=0.1, samples=500)
DEFAULT_SECONDS, QUICK_SECONDS = 120.0, 9.0
"""About how long these take."""


class Row(msgspec.Struct, kw_only=True):
    """All rounds of one line of `subjects` at one rate."""

    key: str
    title: str
    saturation: float
    """Requests per second that it carries at most: the median."""
    share: float | None
    """Of its saturation. None: at the rate at which it is compared with its base."""
    rate: float
    base: str = ""
    """Title of the line that it is compared with."""
    samples: list[Sample]
    ratios: list[float]
    """Its p99 to that of its base at the same rate, round by round: lower is better."""

    @property
    def latencies(self) -> list[Latency]:
        return [sample.latency for sample in self.samples if sample.latency is not None]

    @property
    def bad(self) -> int:
        return sum(sample.wrong + sample.unanswered for sample in self.samples)


def run_latency(lines: list[Line], plan: Plan, *, server_core: int, load_core: int) -> list[Row]:
    """Measure all lines, each of whose bases must be among them. Raises BenchmarkError."""
    with ExitStack() as stack:
        servers: dict[str, tuple[Child, int]] = {}
        for subject in {line.subject.key: line.subject for line in lines}.values():
            server = stack.enter_context(start(subject.title, subject.command(), server_core))
            servers[subject.key] = server, int(server.read_line(START_SECONDS))
            server.pause()

        def measure(line: Line, seconds: float, **options: object) -> Sample:
            server, port = servers[line.subject.key]
            server.resume()
            sample = run_load(
                server, port, line.texts, load_core, warm=plan.warm, seconds=seconds, separate=True, **options
            )
            server.pause()
            return sample

        saturations: dict[str, list[float]] = {line.key: [] for line in lines}
        for _ in range(plan.rounds):
            for line in lines:
                saturations[line.key].append(measure(line, plan.seconds, pending=PENDING).rate)
        rows = {line.key: _rows(line, lines, saturations) for line in lines}
        for number in range(1, plan.rounds + 1):
            say(f"latency, round {number} of {plan.rounds}")
            for line in lines:
                for row in rows[line.key]:
                    row.samples.append(measure(line, max(plan.seconds, plan.samples / row.rate), rate=row.rate))
    for line in lines:
        base = next(row for row in rows[_base(line, lines).key] if row.share == SAME)
        for row in rows[line.key]:
            if row.share is None or row is base:
                row.base = base.title
                row.ratios = [ours.p99 / theirs.p99 for ours, theirs in zip(row.latencies, base.latencies, strict=True)]
    return [row for line in lines for row in rows[line.key]]


def _base(line: Line, lines: list[Line]) -> Line:
    return next(other for other in lines if other.is_base and other.subject.key == line.base)


def _rows(line: Line, lines: list[Line], saturations: dict[str, list[float]]) -> list[Row]:
    """Return what is to be measured of one line: its own rates, and the rate of its base if it can carry that."""
    saturation = median(saturations[line.key])
    rates: list[tuple[float | None, float]] = [(share, share * saturation) for share in SHARES]
    same = SAME * median(saturations[_base(line, lines).key])
    if not line.is_base and same <= TOO_MUCH * saturation:
        rates.append((None, same))
    return [
        Row(key=line.key, title=line.title, saturation=saturation, share=share, rate=rate, samples=[], ratios=[])
        for share, rate in rates
    ]
