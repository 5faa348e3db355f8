"""Tables in Markdown: printed after a run, and shown by the pages of the docs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from ..measure import rate
from ..results import Column, CurveResult, Run, SectionResult
from .analysis import Cell, cell, columns_of, subjects_of, times_ahead

READ = """\
Ratios are relative to the base of each table, measured a moment before: the median over the rounds. The mark † means
generator-bound: at least 80% of what the load generator reaches with the smallest server, so the system may be faster.
"–": the system cannot do that, or the load generator cannot say it. "!": answers were wrong or missing."""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """The first ``left`` columns to the left, numbers to the right."""
    lines = [columns, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    rule = ["-" * width if number < left else "-" * (width - 1) + ":" for number, width in enumerate(widths)]
    shown = [
        [
            text.ljust(width) if number < left else text.rjust(width)
            for number, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in (lines[0], rule, *lines[1:])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in shown)


def facts(machine: Mapping[str, str]) -> str:
    return table(["item", "value or version"], [list(fact) for fact in machine.items()], left=2)


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


def _ratio_cell(found: Cell | None) -> str:
    if found is None:
        return "–"
    return ratio(found.ratio) + ("!" if found.bad else "†" if found.bound else "")


def _rate_cell(found: Cell | None, column: Column) -> str:
    if found is None:
        return "–"
    share = "" if found.of_ceiling is None else f" ({found.of_ceiling:.0%})"
    return amount(found.rate, column.unit) + share


def ratios(run: Run, places: Sequence[tuple[SectionResult, Column]], subjects: Iterable[str]) -> str:
    """A row for each subject that has at least a third of these workloads."""
    rows: list[list[str]] = []
    for key in subjects:
        cells = [cell(run, section, column, key) for section, column in places]
        if 3 * sum(found is not None for found in cells) >= len(cells):
            rows.append([run.subjects[key].title, *map(_ratio_cell, cells)])
    return table(["", *(column.title for _, column in places)], rows)


def section_ratios(run: Run, section: SectionResult) -> str:
    places = columns_of(run, *(column.key for column in section.columns))
    return ratios(run, places, subjects_of(run, section))


def section_rates(run: Run, section: SectionResult) -> str:
    """The rates of a section, and their shares of the ceiling."""
    rows = [
        [run.subjects[key].title, *(_rate_cell(cell(run, section, one, key), one) for one in section.columns)]
        for key in subjects_of(run, section)
    ]
    titles = [one.title if one.unit.startswith("bytes") else f"{one.title}, {one.unit}" for one in section.columns]
    return table(["", *titles], rows)


def curve_rates(run: Run, curve: CurveResult) -> str:
    points = sorted({point for line in curve.lines.values() for point in line})
    rows = [
        [run.subjects[key].title, *(amount(rate(line[one]), curve.y) if one in line else "–" for one in points)]
        for key, line in curve.lines.items()
    ]
    return table([f"{curve.y} by {curve.x}", *(f"{point:,}" for point in points)], rows)


def with_calls(run: Run) -> list[str]:
    """wsrpc, the systems with calls that it is compared with, and the bare echo that it runs on."""
    [(section, _)] = columns_of(run, "requests")
    return [
        key
        for key in sorted(subjects_of(run, section), key="wsrpc".__ne__)
        if key in ("wsrpc", section.base) or run.subjects[key].kind == "rpc"
    ]


def small_requests(run: Run) -> str:
    """Requests a second with one and with 64 in flight, and how many times as many wsrpc answers."""
    places = columns_of(run, "single", "requests")
    rows = [
        [
            run.subjects[key].title,
            *(amount(rate(section.samples[column.key][key]), column.unit) for section, column in places),
            *("" if key == "wsrpc" else ratio(times_ahead(section, one, "wsrpc", key)) for section, one in places),
        ]
        for key in with_calls(run)
    ]
    return table(["system", "1 in flight", "64 in flight", "wsrpc, 1", "wsrpc, 64"], rows)


def rates_of_wsrpc(run: Run, *keys: str) -> str:
    rows: list[list[str]] = []
    for section, column in columns_of(run, *keys):
        unit = "" if column.unit.startswith("bytes") else f" {column.unit}"
        shown = amount(rate(section.samples[column.key]["wsrpc"]), column.unit)
        rows.append([f"{section.title}: {column.title}", shown + unit])
    return table(["work", "wsrpc"], rows)


def report(run: Run) -> str:
    """All tables of a run, for the terminal."""
    blocks = [READ]
    for section in run.sections:
        base = run.subjects[section.base].title
        blocks += [
            f"## {section.title}, relative to: {base}",
            section_ratios(run, section),
            section_rates(run, section),
        ]
    for one in run.tables:
        blocks += [f"## {one.title}", table(one.columns, one.rows)]
    for curve in run.curves:
        blocks += [f"## {curve.title}", curve_rates(run, curve)]
    blocks += ["## The machine", facts(run.machine), when(run)]
    return "\n\n".join(blocks)


def when(run: Run) -> str:
    return (
        f"The run was on {run.date}, and took {run.took / 60:.1f} minutes. It had {run.rounds} rounds. Most "
        f"measurements took {run.seconds:g} s, after {run.warm:g} s of warm-up."
    )
