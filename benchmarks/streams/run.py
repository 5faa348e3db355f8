"""The run of the stream measurements: in turns, as all others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import msgspec

from ..processes import Child, start
from ..report.text import table
from ..runner import Plan
from .loads import ITEM_BYTES, STREAMS, Shared, SharedResult, Task

START_SECONDS = 15.0
KEPT_UP = 0.97
"""From this share on, a line carried as much as it was to."""

INTRODUCTION = f"""\
small requests, one at a time, while {STREAMS} streams of {ITEM_BYTES // 1024} KiB items fill the line
  "p99 ratio" is to a bare websockets echo while {STREAMS} tasks send messages of that size at the byte rate
  that wsrpc had in the same round: lower is better. "share" is that of the slowest stream, in items, of the fastest."""

COLUMNS = ["", "p99 ratio", "(low-high)", "p50 ms", "p99 ms", "MB/s", "requests/s", "share", ""]


def run_streams(plan: Plan, *, server_core: int, load_core: int) -> SharedResult:
    """Raises BenchmarkError."""
    shared: dict[str, list[Shared]] = {"wsrpc": [], "bare": []}
    with ExitStack() as stack:
        clients = {kind: _start(stack, kind, server_core, load_core) for kind in ("bare", "wsrpc")}
        for _ in range(plan.rounds):
            # Streams set their pace themselves; the bare line is made to carry the same.
            ours = _ask(clients["wsrpc"], Task(plan.warm, plan.seconds))
            theirs = _ask(clients["bare"], Task(plan.warm, plan.seconds, rate=ours.rate))
            shared["wsrpc"].append(ours)
            shared["bare"].append(theirs)
    return SharedResult(**shared)


def print_streams(plan: Plan, *, server_core: int, load_core: int) -> bool:
    """Print how it went; whether every answer was right."""
    shared = run_streams(plan, server_core=server_core, load_core=load_core)
    print(table(INTRODUCTION, COLUMNS, _rows(shared)))
    return not shared.wrong


def _rows(shared: SharedResult) -> list[list[str]]:
    rows: list[list[str]] = []
    for title, samples, ratios in (
        ("bare websockets echo", shared.bare, [1.0]),
        ("wsrpc", shared.wsrpc, shared.ratios),
    ):
        wrong = sum(sample.wrong for sample in samples)
        rate = median(sample.rate for sample in samples)
        remark = "could not carry as much" if rate < KEPT_UP * median(sample.rate for sample in shared.wsrpc) else ""
        rows.append(
            [
                title,
                f"{median(ratios):.2f}",
                f"({min(ratios):.2f}-{max(ratios):.2f})",
                f"{1e3 * median(sample.p50 for sample in samples):.2f}",
                f"{1e3 * median(sample.p99 for sample in samples):.2f}",
                f"{rate / 1e6:,.0f}",
                f"{median(sample.requests / sample.seconds for sample in samples):,.0f}",
                f"{min(sample.fairness for sample in samples):.2f}",
                f"{wrong:,} WRONG" if wrong else remark,
            ]
        )
    return rows


def _start(stack: ExitStack, kind: str, server_core: int, load_core: int) -> Child:
    server = stack.enter_context(start(f"the stream server of {kind}", _python("server", kind), server_core))
    port = server.read_line(START_SECONDS)
    command = _python("client", kind, port)
    client = stack.enter_context(start(f"the stream client of {kind}", command, load_core))
    client.read_line(START_SECONDS)
    return client


def _ask(client: Child, task: Task) -> Shared:
    client.write_line(msgspec.json.encode(task).decode())
    return msgspec.json.decode(client.read_line(task.warm + task.seconds + 15), type=Shared)


def _python(module: str, *arguments: str) -> Sequence[str | Path]:
    return [sys.executable, "-m", f"{__package__}.{module}", *arguments]
