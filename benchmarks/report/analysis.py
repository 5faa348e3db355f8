"""Ratios and remarks, computed from the samples of a run."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from ..measure import bad, cpu_ratio, rate, ratios
from ..results import Column, Run, SectionResult

BOUND = 0.8
"""From this share of what its generator can do on, a row says little about the subject: it is generator-bound."""


@dataclass(frozen=True)
class Cell:
    """One subject under one workload."""

    ratio: float
    """To the base of the section: the median over the rounds."""
    low: float
    high: float
    cpu: float | None
    rate: float
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
    ceiling = None if subject == "grpc" else measured.get("ceiling")  # gRPC has a load generator of its own
    return Cell(
        ratio=median(to_base),
        low=min(to_base),
        high=max(to_base),
        cpu=cpu_ratio(samples, base),
        rate=rate(samples),
        of_ceiling=None if ceiling is None else median(ratios(samples, ceiling)),
        bad=bad(samples),
    )


def subjects_of(run: Run, section: SectionResult) -> list[str]:
    """Those that have a row, in the order of the run."""
    measured = {key for samples in section.samples.values() for key in samples}
    return [key for key in run.subjects if key in measured and run.subjects[key].kind != "ceiling"]


def columns_of(run: Run, *keys: str) -> list[tuple[SectionResult, Column]]:
    """The workloads with these keys, those that were measured, and their sections."""
    found = {column.key: (section, column) for section in run.sections for column in section.columns}
    return [found[key] for key in keys if key in found]


def times_ahead(section: SectionResult, column: Column, one: str, other: str) -> float:
    """How many times better one subject is than another: the median over the rounds, as all ratios."""
    measured = section.samples[column.key]
    first, second = (other, one) if column.lower_is_better else (one, other)
    return median(ratios(measured[first], measured[second]))
