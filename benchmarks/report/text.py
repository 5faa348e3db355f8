"""The tables for the terminal, ratios first."""

from __future__ import annotations

from collections.abc import Sequence

from ..measure import Sample, rate
from ..results import Run, SectionResult
from .analysis import Cell, amount, async_to_def, cell, ratio, subjects_of

INTRODUCTION = """\
Ratios are to the base of each table, measured a moment before: the median over the rounds. "*" is generator-bound:
within 20 % of what the load generator reaches with the smallest server, so the subject may be faster than that.
"-": the system cannot do that, or the load generator cannot say it. "!": answers were wrong or missing."""


def render(run: Run) -> str:
    blocks = [INTRODUCTION]
    for section in run.sections:
        blocks += [_ratios(run, section), _own(run, section), _rates(run, section)]
    if shares := async_to_def(run):
        rows = [[run.subjects[key].title, ratio(share)] for key, share in shares.items()]
        blocks.append(table("`async def` handlers that do not wait, to `def` handlers", ["", "ratio"], rows))
    blocks += [table(f"{one.title}: {one.about}", one.columns, one.rows) for one in run.tables]
    for curve in run.curves:
        points = sorted({point for line in curve.lines.values() for point in line})
        rows = [
            [run.subjects[key].title, *(_point(line.get(point), curve.y) for point in points)]
            for key, line in curve.lines.items()
        ]
        blocks.append(table(f"{curve.title}: {curve.y}", ["", *(f"{point:,}" for point in points)], rows))
    width = max(map(len, run.machine))
    blocks.append("\n".join(f"{name:<{width}}  {fact}" for name, fact in run.machine.items()))
    blocks.append(f"{run.rounds} rounds of {run.seconds:g} s each, in {run.took / 60:.1f} min")
    return "\n\n".join(block for block in blocks if block)


def _ratios(run: Run, section: SectionResult) -> str:
    rows = [
        [run.subjects[key].title, *(_ratio(cell(run, section, column, key)) for column in section.columns)]
        for key in subjects_of(run, section)
        if run.subjects[key].kind != "ceiling"
    ]
    title = f"{section.title}: ratio to {run.subjects[section.base].title}"
    return table(title, ["", *(column.title for column in section.columns)], rows)


def _ratio(found: Cell | None) -> str:
    if found is None:
        return "-"
    return ratio(found.ratio) + ("!" if found.bad else "*" if found.bound else " ")


def _own(run: Run, section: SectionResult) -> str:
    rows: list[list[str]] = []
    for key in subjects_of(run, section):
        cells = [cell(run, section, column, key) for column in section.columns]
        if any(found is not None and found.own is not None for found in cells):
            own = [ratio(found.own) if found is not None and found.own is not None else "-" for found in cells]
            rows.append([run.subjects[key].title, *own])
    if not rows:
        return ""
    title = f"{section.title}: ratio to the bare echo of the same library"
    return table(title, ["", *(column.title for column in section.columns)], rows)


def _rates(run: Run, section: SectionResult) -> str:
    rows: list[list[str]] = []
    for key in subjects_of(run, section):
        row = [run.subjects[key].title]
        for column in section.columns:
            found = cell(run, section, column, key)
            row.append("-" if found is None else _rate(found, column.unit))
        rows.append(row)
    units = ", ".join(dict.fromkeys(column.unit for column in section.columns))
    title = f"{section.title}: {units}, and share of the ceiling"
    return table(title, ["", *(column.title for column in section.columns)], rows)


def _rate(found: Cell, unit: str) -> str:
    share = "" if found.of_ceiling is None else f" {found.of_ceiling:4.0%}"
    return f"{amount(found.rate, unit)}{share}"


def _point(samples: Sequence[Sample] | None, unit: str) -> str:
    return amount(rate(samples), unit) if samples else "-"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Names to the left, numbers to the right."""
    lines = [columns, *rows]
    widths = [max(len(row[column]) for row in lines) for column in range(len(columns))]
    text = [title]
    for name, *numbers in lines:
        cells = [f"{one:>{width}}" for one, width in zip(numbers, widths[1:], strict=True)]
        text.append("  ".join(["", f"{name:<{widths[0]}}", *cells]).rstrip())
    return "\n".join(text)
