"""What a test does in a forked child."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

forks = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of Python 3.12: threads beside a fork


def in_child(function: Callable[[], object]) -> object:
    """Fork, and return what the function returns, or how it fails, in the child."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, str(function()).encode())
        except BaseException as exc:
            os.write(write, str(exc).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with open(read) as said:
        return said.read()
