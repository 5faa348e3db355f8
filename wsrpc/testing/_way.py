"""What goes wrong at present in one direction of a proxy's connections."""

from __future__ import annotations

import random
from typing import Literal, TypeAlias

__all__ = ["Cut", "Direction", "Way"]

Direction: TypeAlias = Literal["up", "down"]
"""``"up"`` is towards the server, ``"down"`` towards the client."""


class Cut:
    """One block of `FaultProxy.cut_after`."""

    def __init__(self, count: int) -> None:
        self.count = count


class Way:
    """The troubles of one direction, for all connections: each block that is entered adds one to a list."""

    def __init__(self, jitter: random.Random) -> None:
        self._jitter = jitter
        self.passed = 0
        """Bytes that were handed on, of all connections."""
        self.silences: list[None] = []
        self.stalls: list[None] = []
        self.mid_frames: list[None] = []
        self.cuts: list[Cut] = []
        self.delays: list[tuple[float, float]] = []
        """Seconds, and how many more at most."""
        self.rates: list[float] = []
        """Bytes a second, of each connection."""

    @property
    def free(self) -> bool:
        """Whether what is read may be handed on at once."""
        return not (self.stalls or self.delays or self.rates)

    @property
    def rate(self) -> float | None:
        """The rate that holds."""
        return min(self.rates, default=None)

    @property
    def longest_delay(self) -> float:
        """Seconds that a piece can take."""
        return sum(seconds + jitter for seconds, jitter in self.delays)

    def draw_delay(self) -> float:
        """Seconds that the next piece takes."""
        return sum(seconds + self._jitter.uniform(0.0, jitter) for seconds, jitter in self.delays)
