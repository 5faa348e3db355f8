"""One measurement, and what several of them amount to."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from statistics import median

import msgspec


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of the requests of one slot that were sent at fixed times, in seconds."""

    p50: float
    p99: float
    p999: float
    longest: float
    late: float
    """99th percentile of how late the generator itself has sent. It is part of the other figures."""


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One slot of one round. CPU figures are shares of one core: 1.0 is all of it.

    ``answers`` counts whatever the workload's unit says: requests, deliveries, items, bytes.
    """

    answers: int
    seconds: float
    server_cpu: float = 0.0
    checked: int = 0
    """Answers that the generator in C checked, before, in and after the time that counts."""
    wrong: int = 0
    unanswered: int = 0
    latency: Latency | None = None
    """Of a load with a rate."""

    @property
    def rate(self) -> float:
        """Right answers per second; nobody may be fast by being wrong."""
        return max(self.answers - self.wrong, 0) / self.seconds

    @property
    def server_us(self) -> float:
        """Microseconds of the server's CPU time per answer."""
        return 1e6 * self.server_cpu * self.seconds / max(self.answers, 1)


def ratios(ours: Sequence[Sample], base: Sequence[Sample]) -> list[float]:
    """Our rate to that of the base, round by round: each pair was measured within moments.

    It is infinite where the base did nothing at all, as happens in the short slots of a quick run.
    """
    return [mine.rate / theirs.rate if theirs.rate else math.inf for mine, theirs in zip(ours, base, strict=True)]


def cpu_ratio(ours: Sequence[Sample], base: Sequence[Sample]) -> float | None:
    """The same by answers per second of the server's CPU time, the median.

    It agrees with the ratio where the server was the limit and had a core to itself, and is the one to trust where
    other work disturbed the run.
    """
    pairs = list(zip(ours, base, strict=True))
    if any(mine.server_us == 0 or theirs.server_us == 0 for mine, theirs in pairs):
        return None
    return median(theirs.server_us / mine.server_us for mine, theirs in pairs)


def rate(samples: Sequence[Sample]) -> float:
    return median(sample.rate for sample in samples)


def bad(samples: Sequence[Sample]) -> int:
    """Wrong and missing answers."""
    return sum(sample.wrong + sample.unanswered for sample in samples)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all its threads together."""
    with open(f"/proc/{pid}/stat") as stat:
        # The second field, the name, may contain anything; what follows its closing parenthesis does not.
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
