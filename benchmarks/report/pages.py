"""What the pages of the docs show of the run that is recorded in docs/performance."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec

from ..cuts import outcome
from ..measure import rate
from ..results import TableResult, load
from . import plots, tables
from .analysis import columns_of

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "performance"
RATES = "Requests per second that a server answers on one core, with 64 in flight"

run = cache(lambda: load(FOLDER / "results.json"))
idle = cache(lambda: msgspec.json.decode((FOLDER / "idle.json").read_bytes(), type=TableResult))


def _ratios_of(kinds: tuple[str, ...], *keys: str, without: str) -> str:
    subjects = ["wsrpc", *(key for key, info in run().subjects.items() if info.kind in kinds and key != "wsrpc")]
    return tables.ratios(run(), columns_of(run(), *keys), [key for key in subjects if key != without])


TABLES: dict[str, Callable[[], str]] = {
    "small requests": lambda: tables.small_requests(run()),
    "rates of wsrpc": lambda: tables.rates_of_wsrpc(run(), "broadcast", "emit", "items", "upload"),
    "transports": lambda: _ratios_of(("wsrpc",), "requests", "async", "accepts", "idle", without="wsrpc-off"),
    "servers of other systems": lambda: _ratios_of(
        ("rpc",), "1000x1", "echo-64k", "broadcast", "accepts", without="by-hand"
    ),
    "clients of other systems": lambda: _ratios_of(
        ("rpc",), "workers", "one", "emit", "items", "upload", "download", without="by-hand"
    ),
    "cuts": lambda: tables.table(outcome.COLUMNS, outcome.rows(outcome.load(FOLDER / "cuts.json"))),
    "idle": lambda: tables.table(idle().columns[:-1], [row[:-1] for row in idle().rows]),  # the kernel's are equal
    "rates beside others": lambda: f"![{RATES}](../performance/rates.svg)",
}
"""The tables by their names, which pages say in ``<!-- made by make tables: NAME -->``."""


def drawings() -> dict[str, str]:
    """The plots as SVG, by the name of their file in docs/performance."""
    [(section, column)] = columns_of(run(), "requests")
    rates = {key: rate(section.samples[column.key][key]) for key in tables.with_calls(run())}
    rows = [
        plots.Bar(
            run().subjects[key].title.replace("`", ""),
            {"wsrpc": 1, section.base: 0}.get(key, 3),
            one,
            tables.amount(one, column.unit),
        )
        for key, one in sorted(rates.items(), key=lambda item: -item[1])
    ]
    legend = {1: "wsrpc", 3: "other systems with calls", 0: "an echo, which has no calls"}
    return {"rates.svg": plots.bars(RATES, legend, rows)}
