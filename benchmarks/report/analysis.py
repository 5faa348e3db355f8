"""Ratios and remarks, computed from the samples of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from ..measure import Sample, bad, cpu_ratio, rate, ratios
from ..results import Column, Run, SectionResult

BOUND = 0.8
"""From this share of what its generator can do on, a row says little about the subject: it is generator-bound."""
TIE = 0.03
"""Ratios that differ by less than this share count as equal."""


@dataclass(frozen=True)
class Cell:
    """One subject under one workload."""

    ratio: float
    """To the base of the section: the median over the rounds."""
    low: float
    high: float
    cpu: float | None
    rate: float
    own: float | None
    """As `ratio`, to the bare echo of the same library."""
    of_ceiling: float | None
    """Share of the rate that the generator reaches with the smallest server."""
    bad: int

    @property
    def bound(self) -> bool:
        return self.of_ceiling is not None and self.of_ceiling >= BOUND


def cell(run: Run, section: SectionResult, column: Column, subject: str) -> Cell | None:
    """None for what was not measured: the subject cannot do that."""
    measured = section.samples[column.key]
    samples = measured.get(subject)
    base = measured.get(section.base)
    if not samples or not base:
        return None
    to_base = ratios(samples, base)
    info = run.subjects[subject]
    own = measured.get(info.own)
    return Cell(
        ratio=median(to_base),
        low=min(to_base),
        high=max(to_base),
        cpu=cpu_ratio(samples, base),
        rate=rate(samples),
        own=median(ratios(samples, own)) if own else None,
        of_ceiling=_of_ceiling(run, section, column, subject, samples),
        bad=bad(samples),
    )


def _of_ceiling(run: Run, section: SectionResult, column: Column, subject: str, samples: list[Sample]) -> float | None:
    measured = section.samples[column.key]
    if column.lower_is_better or run.subjects[subject].kind == "ceiling":
        return None
    for ceiling in ("ceiling-accepts", run.subjects[subject].ceiling):
        if ceiling in measured:
            return median(ratios(samples, measured[ceiling]))
    return None


def subjects_of(run: Run, section: SectionResult) -> list[str]:
    """Those that have a row, in the order of the run."""
    return [key for key in run.subjects if any(key in measured for measured in section.samples.values())]


def column_of(run: Run, key: str) -> tuple[SectionResult, Column] | None:
    """The workload with that key, and its section, if it was measured."""
    for section in run.sections:
        for column in section.columns:
            if column.key == key:
                return section, column
    return None


def async_to_def(run: Run) -> dict[str, float]:
    """The rate with `async def` handlers to that with `def` handlers, subject by subject, round by round."""
    for section in run.sections:
        if {"requests", "async"} <= section.samples.keys():
            plain, later = section.samples["requests"], section.samples["async"]
            return {
                key: median(ratios(later[key], plain[key]))
                for key in subjects_of(run, section)
                if key in plain and key in later and run.subjects[key].kind in ("wsrpc", "rpc")
            }
    return {}


@dataclass(frozen=True)
class Faster:
    """Something that wsrpc is not the fastest at."""

    section: SectionResult
    column: Column
    best: str
    """The fastest way of using wsrpc there."""
    ahead: list[tuple[str, float]]
    """Who is faster, and how many times."""


def where_others_are_faster(run: Run, kind: str) -> Iterator[Faster]:
    """For each workload the subjects of that kind ("rpc" or "bare") that are ahead of every way of using wsrpc."""
    for section in run.sections:
        for column in section.columns:
            found = {key: one for key in subjects_of(run, section) if (one := cell(run, section, column, key))}
            # In the short slots of a quick run, on a busy machine, one can have done nothing at all.
            ours = [key for key, one in found.items() if run.subjects[key].kind == "wsrpc" and one.rate > 0]
            if not ours:
                continue
            ours.sort(key=lambda key: found[key].ratio, reverse=not column.lower_is_better)
            best = ours[0]
            others = [(key, times_ahead(section, column, key, best)) for key in found if run.subjects[key].kind == kind]
            ahead = [(key, times) for key, times in others if times > 1 + TIE]
            if ahead:
                yield Faster(section, column, best, sorted(ahead, key=lambda one: -one[1]))


def times_ahead(section: SectionResult, column: Column, one: str, other: str) -> float:
    """How many times better one subject is than another: the median over the rounds, as all ratios."""
    measured = section.samples[column.key]
    first, second = (other, one) if column.lower_is_better else (one, other)
    return median(ratios(measured[first], measured[second]))


def number(value: float) -> str:
    """With three digits and a unit: 1.23M, 45.6k."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def amount(value: float, unit: str) -> str:
    """A rate, or a size, in the unit of its column."""
    if unit == "bytes/s":
        return f"{value / 1e6:,.0f} MB/s"
    if unit == "bytes each":
        return f"{value / 1024:.1f} KiB"
    return number(value)


def ratio(value: float) -> str:
    if math.isinf(value):
        return "∞"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
