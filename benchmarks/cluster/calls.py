"""Calls to a peer of another process: the engine, two nodes and the peer on two cores."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import msgspec

from ..measure import cpu_seconds
from ..processes import Child, start
from ..report.text import table
from .brokers import serving
from .tasks import Result, Task

__all__ = ["Measured", "measure", "run_calls"]

LEAST = {"nats": 10_000, "redis": 7_000}
"""Calls per second."""
MOST_LATER = 0.005
"""Seconds that the 99th percentile of calls may be above that of local ones, at half of that rate."""
START_SECONDS = 15.0

INTRODUCTION = """\
calls from node A to a peer that is connected to node B; the engine, both nodes and the peer share two cores
  "local" is the same at node B, where nothing passes the engine. "calls" has 64 under way at a time. "paced" begins so
  many calls per second, whether or not those before have been answered; p99 counts from when a call was due. CPU is
  that of the engine, node A, node B and the peer, so their sum says how many calls two cores of their own would do."""
COLUMNS = ["", "per second", "(low-high)", "of local", "us of CPU each", "p50 ms", "p99 ms", ""]


@dataclass(frozen=True)
class Measured:
    """One measurement."""

    result: Result
    cpu: tuple[float, ...]
    """Seconds of CPU of each process for one call or item."""


def run_calls(rounds: int, seconds: float, *cores: int) -> bool:
    """Print the rates; whether they are those asked for."""
    fine = True
    rows: list[list[str]] = []
    for kind, least in LEAST.items():
        measured = measure(kind, rounds, seconds, least / 2, *cores)
        fine &= not any(each.result.wrong for some in measured.values() for each in some)
        fine &= median(each.result.rate for each in measured["calls"]) >= least
        pairs = zip(measured["paced"], measured["paced, local"], strict=True)
        later = median(there.result.p99 - here.result.p99 for there, here in pairs)
        fine &= later <= MOST_LATER
        remarks = {
            "calls": f"at least {least:,}",
            "paced": f"p99 {1e3 * later:+.2f} ms, at most {1e3 * MOST_LATER:+.0f}",
        }
        for what, some in measured.items():
            rows.append(_row(f"{kind}: {what}", some, measured.get(f"{what}, local"), remarks.get(what, "")))
    print(table(INTRODUCTION, COLUMNS, rows))
    return fine


def _row(title: str, some: list[Measured], local: list[Measured] | None, remark: str) -> list[str]:
    results = [each.result for each in some]
    rates = [result.rate for result in results]
    share = "" if local is None else f"{median(rate / b.result.rate for rate, b in zip(rates, local, strict=True)):.2f}"
    cpu = [1e6 * median(seconds) for seconds in zip(*(each.cpu for each in some), strict=True)]
    timed = any(result.p99 for result in results)
    wrong = sum(result.wrong for result in results)
    return [
        title,
        f"{median(rates):,.0f}",
        f"({min(rates):,.0f}-{max(rates):,.0f})",
        share,
        f"{sum(cpu):.1f} = {' + '.join(f'{each:.1f}' for each in cpu)}",
        f"{1e3 * median(result.p50 for result in results):.2f}" if timed else "",
        f"{1e3 * median(result.p99 for result in results):.2f}" if timed else "",
        f"{wrong:,} WRONG" if wrong else remark,
    ]


def measure(kind: str, rounds: int, seconds: float, rate: float, *cores: int) -> dict[str, list[Measured]]:
    """Return what was measured, by name; the local ones are those whose name ends so. ``rate`` is that of "paced".

    Raises:
        BenchmarkError: a process cannot be started, or does not answer.
    """
    tasks = [
        Task("calls", seconds),
        Task("paced", seconds, rate=rate),
        Task("stream", seconds),
        Task("upload", seconds),
    ]
    measured: dict[str, list[Measured]] = {}
    with ExitStack() as stack:
        url, broker = stack.enter_context(serving(kind, *cores))
        command = [sys.executable, "-m", f"{__package__}.node", url]
        far, near = [stack.enter_context(start(f"node {name}", command, *cores)) for name in "AB"]
        far.read_line(START_SECONDS)
        port = near.read_line(START_SECONDS)
        command = [sys.executable, "-m", f"{__package__}.callee", port]
        peer = stack.enter_context(start("the peer", command, *cores))
        peer.read_line(START_SECONDS)
        pids = (broker, far.pid, near.pid, peer.pid)
        for _ in range(rounds):
            for task in tasks:
                for name, node in ((task.what, far), (f"{task.what}, local", near)):
                    measured.setdefault(name, []).append(_ask(node, task, pids))
    return measured


def _ask(node: Child, task: Task, pids: tuple[int, ...]) -> Measured:
    before = [cpu_seconds(pid) for pid in pids]
    node.write_line(msgspec.json.encode(task).decode())
    result = msgspec.json.decode(node.read_line(task.seconds + 15), type=Result)
    return Measured(
        result, tuple((cpu_seconds(pid) - so_far) / result.total for pid, so_far in zip(pids, before, strict=True))
    )
