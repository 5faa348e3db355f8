"""wsrpc's server on Python 3.13, for the cost of `async def` handlers: from 3.12 on, tasks start eagerly."""

from __future__ import annotations

import subprocess

from interop import pythons

from .processes import BenchmarkError
from .subjects import WSRPC, Subject, python_server

WANTED = (3, 13, "")


def find() -> Subject | None:
    """The server, in an environment that is made as ``make test-pythons`` does it; None if there is no such Python."""
    found = pythons.find()
    if pythons.HERE == WANTED or WANTED not in found:
        return None
    try:
        python = pythons.environment(WANTED, found[WANTED][0])
        version = subprocess.check_output(
            [python, "-c", "import sys; print(sys.version.split()[0])"], text=True
        ).strip()
    except subprocess.CalledProcessError as exc:
        raise BenchmarkError(f"the environment for Python 3.13: {exc}. Or leave it out: --without python") from exc
    server = python_server("wsrpc", python=python)
    return Subject(f"wsrpc-python{version}", f"wsrpc on Python {version}", server, WSRPC)
