"""The outcome as text."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from .run import ENOUGH_FOR_P999, Row

INTRODUCTION = """\
One request after the other at fixed times on one connection, whether or not the answers to earlier ones have
come; latency counts from the time at which a request was to be sent. "of its most" is the share of the rate that
the server carries with 64 requests pending. µs, medians over the rounds; "p99 ratio" is to the first line at the
same rate in the same round (median, lowest and highest): lower is better. "late" is how late the generator was."""

COLUMNS = ("", "of its most", "requests/s", "p50", "p99", "p99.9", "longest", "late", "p99 ratio", "(low-high)", "")


def render(rows: Sequence[Row], facts: dict[str, str]) -> str:
    """Return the table, with ``facts`` about the machine at its foot."""
    table = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(COLUMNS))]
    lines = [INTRODUCTION, ""]
    for number, (name, *cells, remark) in enumerate(table):
        if number > 1 and name != table[number - 1][0]:
            lines.append("")
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:-1], strict=True)]
        lines.append("  ".join([f"{name:<{widths[0]}}", *padded, remark]).rstrip())
    width = max(map(len, facts))
    return "\n".join([*lines, "", *(f"{name:<{width}}  {fact}" for name, fact in facts.items())])


def _cells(row: Row) -> tuple[str, ...]:
    enough = min(sample.answers for sample in row.samples) >= ENOUGH_FOR_P999
    ratios = row.ratios
    return (
        row.title,
        f"{row.rate / row.saturation:.0%}",
        f"{row.rate:,.0f}",
        _micro([sample.p50 for sample in row.samples]),
        _micro([sample.p99 for sample in row.samples]),
        _micro([sample.p999 for sample in row.samples]) if enough else "-",
        _micro([sample.longest for sample in row.samples]),
        _micro([sample.late for sample in row.samples]),
        f"{median(ratios):.2f}" if ratios else "",
        f"({min(ratios):.2f}-{max(ratios):.2f})" if ratios else "",
        f"{row.bad:,} WRONG OR MISSING ANSWERS" if row.bad else "",
    )


def _micro(seconds: list[float]) -> str:
    return f"{1e6 * median(seconds):,.0f}"
