"""wsrpc's server on another interpreter, for the cost of `async def` handlers: from 3.12 on, tasks start eagerly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .processes import BenchmarkError
from .subjects import WSRPC, Subject, python_server

ASK = "import msgspec, sys, tenacity, websockets; print(sys.version.split()[0])"
WANTED = (3, 13)


def subject_on(python: Path) -> Subject:
    """Raises BenchmarkError if that is not a Python with wsrpc's dependencies."""
    asked = subprocess.run([python, "-c", ASK], capture_output=True, text=True, check=False)
    if asked.returncode:
        reason = asked.stderr.strip().splitlines()[-1:] or ["it does not run"]
        raise BenchmarkError(f"--python {python}: {reason[0]}. It needs wsrpc's dependencies: pip install .")
    version = asked.stdout.strip()
    return Subject(
        f"wsrpc-python{version}",
        f"wsrpc on Python {version}",
        python_server("wsrpc", python=python),
        WSRPC,
    )


def find() -> Path | None:
    """Python 3.13 with wsrpc's dependencies, found and set up as ``make test-pythons`` does it, or None."""
    from scripts import test_pythons

    if sys.version_info[:2] == WANTED:
        return None
    pythons = test_pythons.find()
    if WANTED not in pythons:
        return None
    try:
        return test_pythons.environment(WANTED, pythons[WANTED][0])
    except subprocess.CalledProcessError as exc:
        raise BenchmarkError(
            f"the environment for Python 3.13 could not be made: {exc}. Name another Python with --python PATH, or "
            "leave it out: --without python"
        ) from exc
