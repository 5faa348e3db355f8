"""Prints the lowest version that pyproject.toml allows of each dependency and of each extra, as requirements of pip.

Usage: python scripts/floors.py
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
FLOOR = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)>=(?P<version>[0-9.]+)")


def floors(*, extras: bool = True) -> list[str]:
    """Return a requirement of exactly the lowest version for each dependency, and for those of the extras."""
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    required = list(project["dependencies"])
    for extra, packages in project["optional-dependencies"].items():
        if extras and extra != "all":
            required += packages
    found: list[str] = []
    for requirement in required:
        floor = FLOOR.fullmatch(requirement)
        if floor is None:
            sys.exit(f"pyproject.toml: {requirement!r} has no lowest version. Expected a requirement like 'name>=1.2'")
        found.append(f"{floor['name']}=={floor['version']}")
    return found


if __name__ == "__main__":
    print(*floors())
