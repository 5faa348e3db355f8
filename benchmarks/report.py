"""The outcome as text, ratios first, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import median

import msgspec

from .measure import Result
from .streams.loads import ITEM_BYTES, SMALL_TITLE, STREAMS, SharedResult
from .workloads import CLIENT_TITLE, PENDING

BUSY = 0.9
"""From this share of a core on, its owner counts as the one that limits the rate."""

KEPT_UP = 0.97
"""From this share on, a line carried as much as it was to."""

INTRODUCTION = f"""\
{PENDING} requests pending on one connection. "ratio" is to the first line of each table: the median over the
rounds, then the lowest and the highest. "by CPU" is the same by answers per second of server CPU time, the
one to trust where other work disturbed the run. "own" is the ratio to the bare echo of the same library.
"server" is the share of its core; "load" is the share of time in which the load generator was not waiting,
or that of a Python client. The µs are per answer. Of streams, an answer is an item."""

SHARED_INTRODUCTION = f"""\
small requests, one at a time, while {STREAMS} streams of {ITEM_BYTES // 1024} KiB items fill the line
  "p99 ratio" is to a bare websockets echo while {STREAMS} tasks send messages of that size at the byte rate
  that wsrpc had in the same round: lower is better. "share" is that of the slowest stream, in items, of the fastest."""

SHARED_COLUMNS = ("", "p99 ratio", "(low-high)", "p50 ms", "p99 ms", "MB/s", "requests/s", "share", "")

COLUMNS = ("", "ratio", "(low-high)", "by CPU", "own", "answers/s", "server", "load", "server µs", "load µs", "")


def render(results: Sequence[Result], shared: SharedResult, facts: dict[str, str]) -> str:
    blocks = [INTRODUCTION]
    for workload, group in groupby(results, key=lambda result: result.workload):
        blocks.append(_table(workload, COLUMNS, [_row(result) for result in group]))
    blocks.append(_table(SHARED_INTRODUCTION, SHARED_COLUMNS, _shared_rows(shared)))
    width = max(map(len, facts))
    blocks.append("\n".join(f"{name:<{width}}  {fact}" for name, fact in facts.items()))
    return "\n\n".join(blocks)


def write_json(
    path: Path, results: Sequence[Result], shared: SharedResult, facts: dict[str, str], seconds: float
) -> None:
    document = {
        "pending": PENDING,
        "seconds": round(seconds, 1),
        "machine": facts,
        "results": results,
        "shared_line": shared,
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


def _row(result: Result) -> tuple[str, ...]:
    return (
        result.title,
        f"{result.ratio:.2f}",
        f"({result.ratio_low:.2f}-{result.ratio_high:.2f})",
        f"{result.cpu_ratio:.2f}",
        "" if result.own_ratio is None else f"{result.own_ratio:.2f}",
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
    if result.workload in (CLIENT_TITLE, SMALL_TITLE) or (result.server_cpu >= BUSY and result.load_busy < BUSY):
        return ""
    if result.load_busy >= BUSY:
        return "the load generator is the limit" if result.subject != "ceiling" else ""
    return "disturbed: neither end had a core to itself"


def _shared_rows(shared: SharedResult) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for title, samples, ratios in (
        ("bare websockets echo", shared.bare, [1.0]),
        ("wsrpc", shared.wsrpc, shared.ratios),
    ):
        wrong = sum(sample.wrong for sample in samples)
        rate = median(sample.rate for sample in samples)
        remark = "could not carry as much" if rate < KEPT_UP * median(sample.rate for sample in shared.wsrpc) else ""
        rows.append(
            (
                title,
                f"{median(ratios):.2f}",
                f"({min(ratios):.2f}-{max(ratios):.2f})",
                f"{1e3 * median(sample.p50 for sample in samples):.2f}",
                f"{1e3 * median(sample.p99 for sample in samples):.2f}",
                f"{rate / 1e6:,.0f}",
                f"{median(sample.requests / sample.seconds for sample in samples):,.0f}",
                f"{min(sample.fairness for sample in samples):.2f}",
                f"{wrong:,} WRONG" if wrong else remark,
            )
        )
    return rows


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    table = [columns, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(columns))]
    lines = [title]
    for row in table:
        name, *numbers, remark = row
        cells = [f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:-1], strict=True)]
        lines.append("  ".join(["", f"{name:<{widths[0]}}", *cells, remark]).rstrip())
    return "\n".join(lines)
