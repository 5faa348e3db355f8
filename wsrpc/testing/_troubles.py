"""Troubles of one direction of a proxy's connections, and the bytes on their way in it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Literal, TypeAlias

__all__ = ["FIN", "RESET", "Cut", "Direction", "Transit", "Troubles"]

FIN, RESET = b"", None
"""Entries beside bytes: the normal end of a direction, and the reset of the connection."""

SLICE = 0.01
"""Seconds that one piece takes at a bounded rate."""

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


class Transit:
    """Queue of pieces, each with the time at which it may arrive, which ``troubles`` decide."""

    def __init__(self, troubles: Troubles, time: Callable[[], float]) -> None:
        self._troubles = troubles
        self._time = time
        self._pieces: deque[tuple[float, float, bytes | None]] = deque()
        """When each piece came, when it may arrive, and the piece."""
        self._carried = 0.0
        """When, at a bounded rate, everything before has arrived."""
        self.size = 0
        """Bytes in the queue."""

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def put(self, piece: bytes | None) -> None:
        """Add a piece that was read."""
        now = self._time()
        if not self._pieces:
            self._carried = max(self._carried, now)
        self._pieces.append((now, now + self._troubles.draw_delay(), piece))
        self.size += len(piece or b"")

    def due(self) -> float:
        """Return when `take` may be called next."""
        came, due, piece = self._pieces[0]
        due = min(due, came + self._troubles.longest_delay)  # the delay may have ended meanwhile
        rate = self._troubles.rate
        if rate is None or not piece:
            return due
        return max(due, self._carried) + min(len(piece), self._slice(rate)) / rate

    def take(self) -> bytes | None:
        """Remove and return the piece that arrives next."""
        rate = self._troubles.rate
        due = self.due()
        came, _, piece = self._pieces.popleft()
        if rate is None or not piece:
            self.size -= len(piece or b"")
            return piece
        # A late call is made up for, up to one slice.
        self._carried = max(due, self._time() - SLICE)
        first, rest = piece[: self._slice(rate)], piece[self._slice(rate) :]
        if rest:
            self._pieces.appendleft((came, came, rest))
        self.size -= len(first)
        return first

    def clear(self) -> None:
        """Remove everything."""
        self._pieces.clear()
        self.size = 0

    def _slice(self, rate: float) -> int:
        return max(1, int(rate * SLICE))
