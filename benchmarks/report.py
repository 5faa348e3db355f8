"""The outcome as text, ratios first, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import msgspec

from .measure import Result
from .workloads import CLIENT_TITLE, PENDING

BUSY = 0.9
"""From this share of a core on, its owner counts as the one that limits the rate."""

INTRODUCTION = f"""\
{PENDING} requests pending on one connection. "ratio" is to the first line of each table: the median over the
rounds, then the lowest and the highest. "by CPU" is the same by answers per second of server CPU time, the
one to trust where other work disturbed the run. "server" is the share of its core; "load" is the share of
time in which the load generator was not waiting, or that of a Python client. The µs are per answer."""

COLUMNS = ("", "ratio", "(low-high)", "by CPU", "answers/s", "server", "load", "server µs", "load µs", "")


def render(results: Sequence[Result], facts: dict[str, str]) -> str:
    blocks = [INTRODUCTION]
    for workload, group in groupby(results, key=lambda result: result.workload):
        blocks.append(_table(workload, [_row(result) for result in group]))
    width = max(map(len, facts))
    blocks.append("\n".join(f"{name:<{width}}  {fact}" for name, fact in facts.items()))
    return "\n\n".join(blocks)


def write_json(path: Path, results: Sequence[Result], facts: dict[str, str], seconds: float) -> None:
    document = {"pending": PENDING, "seconds": round(seconds, 1), "machine": facts, "results": results}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


def _row(result: Result) -> tuple[str, ...]:
    return (
        result.title,
        f"{result.ratio:.2f}",
        f"({result.ratio_low:.2f}-{result.ratio_high:.2f})",
        f"{result.cpu_ratio:.2f}",
        f"{result.rate:,.0f}",
        f"{result.server_cpu:.0%}",
        f"{result.load_busy:.0%}",
        f"{result.server_us:.2f}",
        f"{result.load_us:.2f}",
        _remark(result),
    )


def _remark(result: Result) -> str:
    if result.bad:
        return f"{result.bad:,} WRONG OR MISSING ANSWERS"
    if result.workload == CLIENT_TITLE or (result.server_cpu >= BUSY and result.load_busy < BUSY):
        return ""
    if result.load_busy >= BUSY:
        return "the load generator is the limit" if result.subject != "ceiling" else ""
    return "disturbed: neither end had a core to itself"


def _table(title: str, rows: list[tuple[str, ...]]) -> str:
    table = [COLUMNS, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(COLUMNS))]
    lines = [title]
    for row in table:
        name, *numbers, remark = row
        cells = [f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:-1], strict=True)]
        lines.append("  ".join(["", f"{name:<{widths[0]}}", *cells, remark]).rstrip())
    return "\n".join(lines)
