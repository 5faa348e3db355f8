"""Refuses libraries that are older than wsrpc requires. (pip may install them because of another package.)"""

from __future__ import annotations

import re
from contextlib import suppress
from importlib.metadata import distribution, version

FLOOR = re.compile(r"([\w.-]+)>=([\d.]+)")
"""A requirement in the metadata of wsrpc, without a marker. (Requirements of extras have a marker.)"""

OWN_BUILD = re.compile(r"[!+]|dev")
"""Matches the version of a build that somebody made for themselves. Such a version says little about the content."""


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
