"""Emits to a room with members at four workers, beside python-socketio on the same Redis."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median

from ..machine import allow_descriptors
from ..measure import cpu_seconds
from ..processes import Child, start
from ..report.text import table
from .brokers import serving

__all__ = ["Workers", "run_emits", "workers_of"]

WORKERS, MEMBERS = 4, 1000
LEAST = 5.0
AT_ONCE = (1, 16)
"""Emits one right after the other, before the next ones wait until all members have them."""
START_SECONDS = 30.0

INTRODUCTION = f"""\
emits to a room with {MEMBERS:,} members at {WORKERS} workers, on one Redis
  One worker emits; the CPU time is that of all {WORKERS}. python-socketio runs on uvicorn with uvloop, wsrpc on
  asyncio. "one at a time": the next one when all members have the one before."""
COLUMNS = ["", "emits per CPU second", "(low-high)", "to socketio", "(low-high)", ""]


@dataclass(frozen=True)
class Workers:
    """Four workers and their members."""

    workers: list[Child]
    members: Child

    def measure(self, count: int, at_once: int) -> float:
        """Emit, and return the CPU time that each emit took of all workers, in seconds."""
        before = sum(cpu_seconds(worker.pid) for worker in self.workers)
        for _ in range(count // at_once):
            self.members.write_line(str(at_once))
            self.members.read_line(10)
            self.workers[0].write_line(str(at_once))
            self.workers[0].read_line(60)
            self.members.read_line(60)
        return (sum(cpu_seconds(worker.pid) for worker in self.workers) - before) / count


@contextmanager
def workers_of(kind: str, url: str, count: int, *cores: int) -> Iterator[Workers]:
    """Start the workers of a kind, with so many members in all.

    Raises:
        BenchmarkError: a process cannot be started.
    """
    with ExitStack() as stack:
        command = [sys.executable, "-m", f"{__package__}.worker", kind, url]
        workers = [stack.enter_context(start(f"worker of {kind}", command, *cores)) for _ in range(WORKERS)]
        ports = [worker.read_line(START_SECONDS) for worker in workers]
        command = [sys.executable, "-m", f"{__package__}.members", kind, str(count), *ports]
        members = stack.enter_context(start(f"members of {kind}", command, *cores))
        members.read_line(START_SECONDS)
        yield Workers(workers, members)


def run_emits(rounds: int, count: int, *cores: int) -> bool:
    """Print the emits per CPU second of both; whether wsrpc has as many times more as are asked for."""
    allow_descriptors(MEMBERS + 200)
    took: dict[tuple[str, int], list[float]] = {}
    with serving("redis", *cores) as (url, _), ExitStack() as stack:
        subjects = {kind: stack.enter_context(workers_of(kind, url, MEMBERS, *cores)) for kind in ("wsrpc", "socketio")}
        for at_once in AT_ONCE:
            for subject in subjects.values():
                subject.measure(at_once, at_once)
            for _ in range(rounds):
                for kind, subject in subjects.items():
                    took.setdefault((kind, at_once), []).append(subject.measure(count, at_once))
    rows: list[list[str]] = []
    fine = True
    for at_once in AT_ONCE:
        theirs = took["socketio", at_once]
        for kind in subjects:
            some = took[kind, at_once]
            ratios = [other / ours for ours, other in zip(some, theirs, strict=True)]
            rows.append(
                [
                    f"{kind}, {'one at a time' if at_once == 1 else f'{at_once} at a time'}",
                    f"{1 / median(some):,.1f}",
                    f"({1 / max(some):,.1f}-{1 / min(some):,.1f})",
                    f"{median(ratios):.1f}",
                    f"({min(ratios):.1f}-{max(ratios):.1f})",
                    f"at least {LEAST:g}" if kind == "wsrpc" else "",
                ]
            )
            fine &= kind != "wsrpc" or median(ratios) >= LEAST
    print(table(INTRODUCTION, COLUMNS, rows))
    return fine
