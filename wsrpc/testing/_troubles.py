"""Troubles of one direction of a proxy's connections."""

from __future__ import annotations

import random
from typing import Literal, TypeAlias

Direction: TypeAlias = Literal["up", "down"]
"""``"up"`` is towards the server, ``"down"`` towards the client."""


class Cut:
    """One block of `FaultProxy.cut_after`."""

    def __init__(self, count: int) -> None:
        self.count = count


class Troubles:
    """Troubles of one direction, for all connections. Each block that is entered adds an entry to one of the lists."""

    def __init__(self, jitter: random.Random) -> None:
        self._jitter = jitter
        self.passed = 0
        """Bytes that were passed on, of all connections."""
        self.silences: list[None] = []
        self.stalls: list[None] = []
        self.mid_frames: list[None] = []
        self.cuts: list[Cut] = []
        self.delays: list[tuple[float, float]] = []
        """Seconds, and the most that jitter adds to them."""
        self.rates: list[float] = []
        """Bytes per second, of each connection."""

    @property
    def none_delay(self) -> bool:
        """Whether bytes may be passed on as soon as they are read."""
        return not (self.stalls or self.delays or self.rates)

    @property
    def rate(self) -> float | None:
        """The rate that applies, in bytes per second."""
        return min(self.rates, default=None)

    @property
    def longest_delay(self) -> float:
        """Seconds that a piece is delayed at most."""
        return sum(seconds + jitter for seconds, jitter in self.delays)

    def draw_delay(self) -> float:
        """Seconds that the next piece is delayed."""
        return sum(seconds + self._jitter.uniform(0.0, jitter) for seconds, jitter in self.delays)
