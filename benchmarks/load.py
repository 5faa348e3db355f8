"""The load generator in C: compiled when it has to be, run for one slot at a time."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import msgspec

from .measure import Sample
from .processes import BenchmarkError, Child, start
from .workloads import PENDING, Workload

SOURCE = Path(__file__).with_name("load.c")
PROGRAM = SOURCE.parent / "build" / "load"


def compile_load() -> None:
    """Raises BenchmarkError if there is no compiler, or if it complains."""
    if PROGRAM.exists() and PROGRAM.stat().st_mtime >= SOURCE.stat().st_mtime:
        return
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchmarkError(
            "cc is missing: the load generator is in C, for one in Python would be slower than the servers. "
            "Install a C compiler (Debian, Ubuntu: apt-get install gcc libc6-dev; Fedora: dnf install gcc)."
        )
    PROGRAM.parent.mkdir(exist_ok=True)
    outcome = subprocess.run([compiler, "-O2", "-o", PROGRAM, SOURCE], capture_output=True, text=True)
    if outcome.returncode != 0:
        raise BenchmarkError(f"cc could not compile {SOURCE.name}:\n{outcome.stderr.strip()}")


def run_load(
    server: Child, port: int, workload: Workload, expected: str, warm: float, seconds: float, core: int
) -> Sample:
    """Loads one server for `warm` + `seconds` seconds. Raises BenchmarkError if it stops answering."""
    command = [
        PROGRAM,
        *("run", str(port), str(server.pid), str(PENDING), str(warm), str(seconds)),
        "separate" if workload.separate else "batched",
        workload.request,
        expected,
    ]
    with start(f"the load on {server.name}", command, core) as load:
        return msgspec.json.decode(load.read_line(warm + seconds + 15), type=Sample)
