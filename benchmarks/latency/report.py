"""The measurement from its lines to its table."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from ..results import TableResult
from ..subjects import Subject
from .run import DEFAULT, ENOUGH_FOR_P999, QUICK, Row, run_latency
from .subjects import lines

COLUMNS = ["", "load", "requests/s", "p50", "p99", "p99.9", "longest", "late", "p99 ratio", "lowest–highest", "remark"]

LATE = 0.0002
"""Seconds that the generator is never late if it has its core to itself: it polls, and is 10 to 40 µs late."""


def measure_table(quick: bool, chosen: Sequence[Subject], *, server_core: int, load_core: int) -> TableResult:
    """Measure the lines of the chosen subjects, for the report of a whole run. Raises BenchmarkError."""
    keys = {subject.key for subject in chosen}
    found = [line for line in lines() if {line.subject.key, line.base} <= keys]
    plan = QUICK if quick else DEFAULT
    rows = run_latency(found, plan, server_core=server_core, load_core=load_core)
    return TableResult(
        key="latency",
        title="Latency at fixed rates",
        columns=COLUMNS,
        rows=[_cells(row) for row in rows],
        bad=sum(row.bad for row in rows),
    )


def _cells(row: Row) -> list[str]:
    enough = min(sample.answers for sample in row.samples) >= ENOUGH_FOR_P999
    ratios, latencies = row.ratios, row.latencies
    return [
        row.title,
        f"{row.rate / row.saturation:.0%}",
        f"{row.rate:,.0f}",
        _micro([each.p50 for each in latencies]),
        _micro([each.p99 for each in latencies]),
        _micro([each.p999 for each in latencies]) if enough else "-",
        _micro([each.longest for each in latencies]),
        _micro([each.late for each in latencies]),
        f"{median(ratios):.2f}" if ratios else "",
        f"({min(ratios):.2f}-{max(ratios):.2f})" if ratios else "",
        _remark(row),
    ]


def _remark(row: Row) -> str:
    if row.bad:
        return f"{row.bad:,} WRONG OR MISSING ANSWERS"
    if any(each.late > LATE for each in row.latencies):
        return "disturbed: other programs used the core of the generator"
    return f"relative to {row.base}" if row.ratios and row.share is None else ""


def _micro(seconds: list[float]) -> str:
    return f"{1e6 * median(seconds):,.0f}"
