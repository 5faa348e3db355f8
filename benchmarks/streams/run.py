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
from .loads import ITEM_BYTES, STREAMS, Pairs, Shared, SharedResult, Task

START_SECONDS = 15.0
KEPT_UP = 0.97
"""From this share on, a line carried as much as it was to."""

ROUNDS, QUICK_ROUNDS = 10, 2
SECONDS = 0.8
"""Of a slot, at least: two to eight thousand requests, so that a 99th percentile is not the worst accident."""
PACED = 0.5
"""Share of what the slower of the two carried in the same round."""

INTRODUCTION = f"""\
small requests, one at a time, beside {STREAMS} streams of {ITEM_BYTES // 1024} KiB items
  "filled": streams go as fast as their reader reads; beside the bare `websockets` echo {STREAMS} tasks send messages of
  that size at the byte rate that wsrpc had in the same round. It has no flow control: where its reader cannot keep
  up, messages pile up in the buffers of the system, and answers wait behind megabytes.
  "paced": both at {PACED:.0%} of what the slower one carried in that round, so that neither end is busy all the time.
  "p99 ratio" is wsrpc to bare: lower is better. "share" is that of the slowest stream, in items, of the fastest."""

COLUMNS = ["", "p99 ratio", "(low-high)", "p50 ms", "p99 ms", "(low-high)", "MB/s", "requests/s", "share", ""]


def run_streams(plan: Plan, *, server_core: int, load_core: int) -> SharedResult:
    """Raises BenchmarkError."""
    result = SharedResult(filled=Pairs(bare=[], wsrpc=[]), paced=Pairs(bare=[], wsrpc=[]))
    with ExitStack() as stack:
        clients = {kind: _start(stack, kind, server_core, load_core) for kind in ("bare", "wsrpc")}

        def pair(pairs: Pairs, rate: float) -> float:
            """Measure one pair. Return the rate of the slower one."""
            seconds = max(plan.seconds, SECONDS)
            ours = _ask(clients["wsrpc"], Task(plan.warm, seconds, rate))
            theirs = _ask(clients["bare"], Task(plan.warm, seconds, rate or ours.rate))
            pairs.wsrpc.append(ours)
            pairs.bare.append(theirs)
            return min(ours.rate, theirs.rate)

        for _ in range(QUICK_ROUNDS if plan.quick else ROUNDS):
            slower = pair(result.filled, 0.0)
            pair(result.paced, PACED * slower)
    return result


def print_streams(plan: Plan, *, server_core: int, load_core: int) -> bool:
    """Print how it went; whether every answer was right."""
    shared = run_streams(plan, server_core=server_core, load_core=load_core)
    rows = _rows("filled", shared.filled) + _rows("paced", shared.paced)
    print(table(INTRODUCTION, COLUMNS, rows))
    return not shared.wrong


def _rows(title: str, pairs: Pairs) -> list[list[str]]:
    rows: list[list[str]] = []
    for name, samples, ratios in (("bare", pairs.bare, [1.0]), ("wsrpc", pairs.wsrpc, pairs.ratios)):
        wrong = sum(sample.wrong for sample in samples)
        short = sum(one.rate < KEPT_UP * ours.rate for one, ours in zip(samples, pairs.wsrpc, strict=True))
        remark = f"carried less in {short} of {len(samples)} rounds" if short else ""
        p99 = [1e3 * sample.p99 for sample in samples]
        rows.append(
            [
                f"{title}: {name}",
                f"{median(ratios):.2f}",
                f"({min(ratios):.2f}-{max(ratios):.2f})",
                f"{1e3 * median(sample.p50 for sample in samples):.2f}",
                f"{median(p99):.2f}",
                f"({min(p99):.2f}-{max(p99):.2f})",
                f"{median(sample.rate for sample in samples) / 1e6:,.0f}",
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
