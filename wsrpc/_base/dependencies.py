"""Refuses libraries that are older than wsrpc needs: installed without dependencies, or beside another package."""

from __future__ import annotations

import re
from contextlib import suppress
from importlib.metadata import distribution, version

FLOOR = re.compile(r"([\w.-]+)>=([\d.]+)")
"""A requirement in the metadata, which pip wrote from pyproject.toml. Those of the extras have a marker behind it."""

OWN_BUILD = re.compile(r"[!+]|dev")
"""In a version that somebody has chosen for a build of their own, which says little of what is in it."""


def check_dependencies() -> None:
    """Check that each library has at least the version that wsrpc requires.

    Raises:
        ImportError: a library is too old. The error message has both versions.
    """
    problem = None
    # A bundled program may have no metadata, and a broken installation may leave some that cannot be read.
    with suppress(Exception):
        wsrpc = distribution("python-wsrpc")
        for floor in filter(None, map(FLOOR.fullmatch, wsrpc.requires or ())):
            name, needed = floor.groups()
            installed = version(name)
            if not OWN_BUILD.search(installed) and _numbers(installed) < _numbers(needed):
                problem = f"wsrpc {wsrpc.version} needs {name} {needed} or later, and {installed} is installed"
                problem += f": pip install '{name}>={needed}'"
                break
    if problem is not None:
        raise ImportError(problem)


def _numbers(text: str) -> list[int]:
    return [*map(int, re.findall(r"\d+", text)), 0, 0]  # 15 is 15.0.0
