"""The open-loop generator: compiled when it has to be, run for one slot at a time."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec

from ..generator import find_compiler
from ..processes import BenchmarkError, Child, start
from ..protocols import Texts

SOURCE = Path(__file__).with_name("open_loop.c")
WIRE = SOURCE.parents[1] / "generator" / "wire.c"
PROGRAM = SOURCE.parents[1] / "build" / "open_loop"
PATIENCE = 20.0
"""Seconds for the handshake and for the last answers."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """One slot, as the generator reports it. All times are in seconds."""

    answers: int
    """Answers to requests after the warm-up: as many as there are samples behind the percentiles."""
    seconds: float
    server_cpu: float
    """Share of one core."""
    p50: float
    p99: float
    p999: float
    longest: float
    late: float
    """99th percentile of how late the generator itself has sent. It is part of the other figures."""
    wrong: int = 0
    unanswered: int = 0

    @property
    def rate(self) -> float:
        """Right answers per second."""
        return self.answers / self.seconds


def compile_generator() -> None:
    """Raises BenchmarkError if there is no compiler, or if it complains."""
    newest = max(path.stat().st_mtime for path in (SOURCE, WIRE, WIRE.with_suffix(".h")))
    if PROGRAM.exists() and PROGRAM.stat().st_mtime >= newest:
        return
    PROGRAM.parent.mkdir(exist_ok=True)
    command: list[str | Path] = [find_compiler(), "-O2", "-o", PROGRAM, SOURCE, WIRE]
    outcome = subprocess.run(command, capture_output=True, text=True)
    if outcome.returncode != 0:
        raise BenchmarkError(f"cc could not compile {SOURCE.name}:\n{outcome.stderr.strip()}")


def run_generator(
    server: Child, port: int, texts: Texts, rate: float, *, warm: float, seconds: float, core: int
) -> Latency:
    """Load one server at ``rate`` requests per second; at 0, with as many as it can carry.

    Raises:
        BenchmarkError: it stops answering.
    """
    numbers = (str(port), str(server.pid), f"{rate:.3f}", str(warm), str(seconds))
    command: list[str | Path] = [PROGRAM, *numbers, texts.request.decode(), texts.result.decode()]
    with start(f"the generator on {server.name}", command, core) as generator:
        return msgspec.json.decode(generator.read_line(warm + seconds + PATIENCE), type=Latency)
