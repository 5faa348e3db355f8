"""One measurement, and what several of them amount to."""

from __future__ import annotations

import os
from statistics import median

import msgspec


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One slot of one round, as the load reports it. CPU figures are shares of one core: 1.0 is all of it."""

    answers: int
    seconds: float
    server_cpu: float
    load_busy: float
    wrong: int = 0
    unanswered: int = 0
    answers_per_read: float | None = None

    @property
    def rate(self) -> float:
        """Right answers per second; nobody may be fast by being wrong."""
        return max(self.answers - self.wrong, 0) / self.seconds

    @property
    def server_us(self) -> float:
        """Microseconds of the server's CPU time per answer."""
        return 1e6 * self.server_cpu * self.seconds / max(self.answers, 1)

    @property
    def load_us(self) -> float:
        """Microseconds per answer in which the load was busy."""
        return 1e6 * self.load_busy * self.seconds / max(self.answers, 1)


class Result(msgspec.Struct, kw_only=True):
    """All samples of one subject under one workload."""

    workload: str
    subject: str
    title: str
    samples: list[Sample]
    ratio: float = 0.0
    """Median over the rounds of this rate to the first subject's, measured a moment before or after."""
    ratio_low: float = 0.0
    ratio_high: float = 0.0
    cpu_ratio: float = 0.0
    """The same by answers per second of the server's CPU time. It agrees with `ratio` where the server was
    the limit and had a core to itself, and is the one to trust where other work disturbed the run."""
    own_ratio: float | None = None
    """As `ratio`, to the bare echo that the same library makes."""
    rate: float = 0.0
    """Answers per second, the median."""
    server_cpu: float = 0.0
    load_busy: float = 0.0
    server_us: float = 0.0
    load_us: float = 0.0
    bad: int = 0

    def summarise(self, base: list[Sample], own: list[Sample] | None = None) -> None:
        """Fills in what follows from the samples; `base` are those of the first subject, round by round.

        `own` are those of the bare echo that the same library makes.
        """
        samples = self.samples
        pairs = list(zip(samples, base, strict=True))
        ratios = [ours.rate / theirs.rate for ours, theirs in pairs]
        self.ratio, self.ratio_low, self.ratio_high = median(ratios), min(ratios), max(ratios)
        self.cpu_ratio = median(theirs.server_us / ours.server_us for ours, theirs in pairs)
        if own is not None:
            self.own_ratio = median(ours.rate / theirs.rate for ours, theirs in zip(samples, own, strict=True))
        self.rate = median(sample.rate for sample in samples)
        self.server_cpu = median(sample.server_cpu for sample in samples)
        self.load_busy = median(sample.load_busy for sample in samples)
        self.server_us = median(sample.server_us for sample in samples)
        self.load_us = median(sample.load_us for sample in samples)
        self.bad = sum(sample.wrong + sample.unanswered for sample in samples)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all its threads together."""
    with open(f"/proc/{pid}/stat") as stat:
        # The second field, the name, may contain anything; what follows its closing parenthesis does not.
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
