"""What a node is asked to measure, and what it says. Each is a line of JSON."""

from __future__ import annotations

import msgspec

__all__ = ["CALLEE", "Result", "Task"]

CALLEE = "callee"
"""The address of the peer that is called."""


class Task(msgspec.Struct, frozen=True):
    """One measurement at a node: ``what`` is the name of a method of `node.Load`."""

    what: str
    seconds: float
    pending: int = 64
    """Calls that are under way at a time."""
    rate: float = 0.0
    """Calls per second, where the rate is given."""


class Result(msgspec.Struct, frozen=True):
    """What came of it."""

    done: int
    """Calls or items."""
    seconds: float
    total: int
    """Calls or items, those before the measurement included."""
    p50: float
    p99: float
    """Seconds from when a call was due to its answer, where the rate was given."""
    wrong: int

    @property
    def rate(self) -> float:
        return self.done / self.seconds
