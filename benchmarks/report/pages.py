"""What the pages of the docs show of the run that is recorded in docs/performance."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from ..cuts import outcome
from ..measure import rate
from ..results import CurveResult, Run, load
from . import plots, tables
from .analysis import cell, columns_of, subjects_of

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "performance"
RESULTS = FOLDER / "results.json"
CUTS = FOLDER / "cuts.json"

COLOURS = {"websockets": 0, "wsrpc": 1, "js": 3}
"""Of the lines in the plots; each subject has the same in all."""
RATES = "Requests per second that a server answers on one core, with 64 in flight"
OVERVIEW = "64 small requests in flight on one connection: ratio to a bare websockets echo"

run = cache(lambda: load(RESULTS))
cuts = cache(lambda: outcome.load(CUTS))


def _ratios_of(kinds: tuple[str, ...], *keys: str, without: str = "") -> str:
    subjects = ["wsrpc", *(key for key, info in run().subjects.items() if info.kind in kinds and key != "wsrpc")]
    return tables.ratios(run(), columns_of(run(), *keys), [key for key in subjects if key != without])


def _section(title: str) -> str:
    [section] = [section for section in run().sections if section.title == title]
    return tables.section_ratios(run(), section)


def _rates() -> str:
    found = [(section.title, tables.section_rates(run(), section)) for section in run().sections]
    found += [(curve.title, tables.curve_rates(run(), curve)) for curve in run().curves]
    return "\n\n".join(f"<details markdown><summary>{title}</summary>\n\n{made}\n\n</details>" for title, made in found)


def _curves() -> str:
    return "\n\n".join(f"![{curve.title}: {curve.y}](../performance/{curve.key}.svg)" for curve in run().curves)


TABLES: dict[str, Callable[[], str]] = {
    "small requests": lambda: tables.small_requests(run()),
    "rates of wsrpc": lambda: tables.rates_of_wsrpc(
        run(), "broadcast", "emit", "items", "upload", "accepts", "accepts-tls", "idle"
    ),
    "transports": lambda: _ratios_of(
        ("wsrpc",), "requests", "async", "accepts", "accepts-tls", "idle", without="wsrpc-off"
    ),
    "servers of other systems": lambda: _ratios_of(
        ("rpc",), "requests", "1000x1", "echo-64k", "broadcast", "accepts", "idle", without="by-hand"
    ),
    "clients of other systems": lambda: _ratios_of(
        ("rpc",), "workers", "one", "emit", "items", "upload", "download", without="by-hand"
    ),
    "faster systems with calls": lambda: tables.better(run(), "rpc"),
    "faster bare echoes": lambda: tables.better(run(), "bare"),
    "rates beside others": lambda: f"![{RATES}](../performance/rates.svg)",
    "overview of small requests": lambda: f"![{OVERVIEW}](../performance/overview.svg)",
    "latency": lambda: tables.table(run().tables[0].columns, run().tables[0].rows),
    "cuts": lambda: tables.table(outcome.COLUMNS, outcome.rows(cuts())),
    "machine of the cuts": lambda: f"The run was on {cuts().date}, with {outcome.versions(cuts())}.",
    "plots": _curves,
    "all rates": _rates,
    "machine": lambda: f"{tables.facts(run().machine)}\n\n{tables.when(run())}",
    **{
        f"results of {title}": partial(_section, title)
        for title in (
            *("Small requests", "Payloads", "Python clients"),
            *("Streams and transfers", "The cost of sessions", "Connections"),
        )
    },
}
"""The tables by their names, which pages say in ``<!-- made by make tables: NAME -->``."""


def drawings() -> dict[str, str]:
    """The plots as SVG, by the name of their file in docs/performance."""
    bars = {"overview.svg": _bars(run()), "rates.svg": _rate_bars(run())}
    return {**bars, **{f"{curve.key}.svg": _plot(run(), curve) for curve in run().curves}}


def _bars(run: Run) -> str:
    [(section, column)] = columns_of(run, "requests")
    rows: list[plots.Bar] = []
    for key in subjects_of(run, section):
        one = cell(run, section, column, key)
        info = run.subjects[key]
        if one is not None:
            colour = {"wsrpc": 1, "bare": 0}.get(info.kind, 3)
            rows.append(plots.Bar(info.title.replace("`", ""), colour, one.ratio, tables.ratio(one.ratio)))
    rows.sort(key=lambda row: -row.value)
    return plots.bars(
        OVERVIEW, {1: "wsrpc", 3: "other systems with calls", 0: "bare echoes, which have no calls"}, rows
    )


def _rate_bars(run: Run) -> str:
    [(section, column)] = columns_of(run, "requests")
    rates = {key: rate(section.samples[column.key][key]) for key in tables.with_calls(run)}
    rows = [
        plots.Bar(
            run.subjects[key].title.replace("`", ""),
            {"wsrpc": 1, section.base: 0}.get(key, 3),
            one,
            tables.amount(one, column.unit),
        )
        for key, one in sorted(rates.items(), key=lambda item: -item[1])
    ]
    return plots.bars(RATES, {1: "wsrpc", 3: "other systems with calls", 0: "an echo, which has no calls"}, rows)


def _plot(run: Run, curve: CurveResult) -> str:
    lines = [
        plots.Line(
            run.subjects[key].title.replace("`", "").partition(",")[0],
            COLOURS.get(key, 3),
            {point: rate(samples) for point, samples in line.items() if rate(samples)},
        )
        for key, line in curve.lines.items()
    ]
    return plots.curve(curve.title, curve.x, curve.y, lines, bytes_on_x=curve.x == "bytes")
