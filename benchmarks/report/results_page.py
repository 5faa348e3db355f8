"""docs/contributing/benchmark-results.md: all tables of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from ..cuts.outcome import Cuts
from ..measure import rate
from ..results import Column, CurveResult, Run, SectionResult
from .analysis import Cell, amount, async_to_def, cell, ratio, subjects_of
from .cuts import sessions_that_are_cut
from .markdown import QUICK, ratio_cell, rounds, table

INTRODUCTION = """\
# Benchmark results

This page has all results of one benchmark run. [Benchmarks](benchmarks.md) shows how to repeat the run, and where wsrpc
is not the fastest. The section [Read the results](benchmarks.md#read-the-results) explains ratios, the ceiling, and the
marks \\* and –. In all tables, "wsrpc" without a further name is wsrpc on its default transport.
"""

ASYNC = """\
## `async def` handlers

The ratio is the rate with an `async def` handler that does not wait, divided by the rate with a `def` handler of the
same system. Both rates are from [Small requests](#small-requests), and the ratio is the median over the rounds. wsrpc
runs each call of an `async def` handler in a task. On Python 3.12 and later, wsrpc starts tasks eagerly.

Go, gRPC and fastapi-websocket-rpc have only one kind of handler, so both of their rates are measurements of the same
work. The distance of their ratios from 1 shows how much two such measurements differ.
"""

GROWTH = """\
## How the cost grows

Each plot shows how the rate changes when one quantity grows. A flat line means that the cost of one request or delivery
does not grow. Both axes are logarithmic.
"""

ALL_RATES = """\
## All rates

- **rate** and **ratio**: the medians over {rounds}. The median ratio can differ slightly from the ratio of the median
  rates.
- **lowest–highest**: the range of the ratio over the rounds.
- **by CPU**: as the ratio, but computed from the work that each server did per second of its CPU time. If other
  programs disturbed the run, this value is more reliable than the ratio.
- **share of the ceiling**: the rate, divided by the [ceiling](benchmarks.md#read-the-results). A share above 100% means
  that the system was faster than the smallest server.
"""


def blocks(run: Run, cuts: Cuts) -> Iterator[str]:
    yield INTRODUCTION
    if run.quick:
        yield QUICK
    for section in run.sections:
        yield from _section(run, section)
    yield from _async(run)
    for one in run.tables:
        yield f"## {one.title}\n"
        yield f"{one.about}\n"
        yield table(one.columns, one.rows)
    yield from sessions_that_are_cut(cuts)
    if run.curves:
        yield GROWTH
        for curve in run.curves:
            yield f"![{curve.title}: {curve.y}](../performance/{curve.key}.svg)\n"
            yield f"*{curve.about}.*\n"
    yield from _rates(run)
    yield from _machine(run)


def _section(run: Run, section: SectionResult) -> Iterator[str]:
    yield f"## {section.title}\n"
    about = f"\n{section.about}" if section.about else ""
    yield f"The ratios are relative to the row *{run.subjects[section.base].title}*.{about}\n"
    yield "\n".join(f"- **{column.title}**: {column.about}." for column in section.columns) + "\n"
    keys = [key for key in subjects_of(run, section) if run.subjects[key].kind != "ceiling"]
    rows = [
        [run.subjects[key].title, *(ratio_cell(cell(run, section, column, key)) for column in section.columns)]
        for key in keys
    ]
    yield table(["", *(column.title for column in section.columns)], rows)
    own = _own_rows(run, section, keys)
    if own:
        yield "In the next table, each row is relative to a bare echo of the same library instead:\n"
        yield table(["", *(column.title for column in section.columns)], own)


def _own_rows(run: Run, section: SectionResult, keys: Sequence[str]) -> list[list[str]]:
    rows: list[list[str]] = []
    for key in keys:
        if run.subjects[key].own in ("", section.base):
            continue
        cells = [cell(run, section, column, key) for column in section.columns]
        if any(found is not None and found.own is not None for found in cells):
            own = [ratio(found.own) if found is not None and found.own is not None else "–" for found in cells]
            rows.append([run.subjects[key].title, *own])
    return rows


def _async(run: Run) -> Iterator[str]:
    shares = async_to_def(run)
    if not shares:
        return
    yield ASYNC
    yield table(["", "ratio"], [[run.subjects[key].title, ratio(share)] for key, share in shares.items()])


def _rates(run: Run) -> Iterator[str]:
    yield ALL_RATES.format(rounds=rounds(run))
    for section in run.sections:
        rows: list[list[str]] = []
        for column in section.columns:
            for key in subjects_of(run, section):
                found = cell(run, section, column, key)
                if found is not None:
                    rows.append([column.title, run.subjects[key].title, *_rate_cells(found, column)])
        yield f"<details><summary>{section.title}</summary>\n"
        yield table(
            ["workload", "system", "rate", "ratio", "lowest–highest", "by CPU", "share of the ceiling"], rows, left=2
        )
        yield "</details>\n"
    for curve in run.curves:
        yield f"<details><summary>{curve.title}</summary>\n"
        yield f"The column titles are numbers of {curve.x}. The rates are in {curve.y}.\n"
        points = sorted({point for line in curve.lines.values() for point in line})
        rows = [
            [
                run.subjects[key].title,
                *(amount(rate(line[point]), curve.y) if point in line else "–" for point in points),
            ]
            for key, line in curve.lines.items()
        ]
        yield table(["", *(f"{point:,}" for point in points)], rows)
        yield from _zeros(curve)
        yield "</details>\n"


def _zeros(curve: CurveResult) -> Iterator[str]:
    """A slot may be too short for a server that answers many requests in bursts."""
    nothing = [samples for line in curve.lines.values() for samples in line.values() if not rate(samples)]
    if nothing:
        seconds = median(sample.seconds for samples in nothing for sample in samples)
        yield (
            f"A rate of 0 means that no answer arrived during the measured {seconds:.2g} s in most rounds. The plot\n"
            "leaves out this point.\n"
        )


def _rate_cells(found: Cell, column: Column) -> list[str]:
    unit = "" if column.unit.startswith("bytes") else f" {column.unit}"
    return [
        f"{amount(found.rate, column.unit)}{unit}",
        ratio(found.ratio),
        f"{ratio(found.low)}–{ratio(found.high)}",
        "–" if found.cpu is None else ratio(found.cpu),
        "–" if found.of_ceiling is None else f"{found.of_ceiling:.0%}",
    ]


def _machine(run: Run) -> Iterator[str]:
    yield "## The machine\n"
    yield table(["item", "value or version"], [[name, fact] for name, fact in run.machine.items()], left=2)
    yield (
        f"The run was on {run.date}, and took {run.took / 60:.1f} minutes. It had {rounds(run)}. Most measurements\n"
        f"took {run.seconds:g} s, after {run.warm:g} s of warm-up.\n"
    )
