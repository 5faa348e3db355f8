"""What is on its way in one direction of a proxied connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ._way import Way

__all__ = ["FIN", "RESET", "Transit"]

FIN, RESET = b"", None
"""What can be on its way beside bytes: the end in good order, and the other one."""

SLICE = 0.01
"""Seconds that a slow line takes for one piece."""


class Transit:
    """Pieces in order, each with the time at which it may arrive; the troubles of the ``way`` decide when that is."""

    def __init__(self, way: Way, time: Callable[[], float]) -> None:
        self._way = way
        self._time = time
        self._pieces: deque[tuple[float, float, bytes | None]] = deque()  # when it came, when it may arrive, what it is
        self._carried = 0.0  # when a slow line is done with what went before
        self.size = 0
        """Bytes."""

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def put(self, piece: bytes | None) -> None:
        """Add what has been read."""
        now = self._time()
        if not self._pieces:
            self._carried = max(self._carried, now)
        self._pieces.append((now, now + self._way.draw_delay(), piece))
        self.size += len(piece or b"")

    def due(self) -> float:
        """When `take` may be called next."""
        came, due, piece = self._pieces[0]
        due = min(due, came + self._way.longest_delay)  # a delay may be over meanwhile
        rate = self._way.rate
        if rate is None or not piece:
            return due
        return max(due, self._carried) + min(len(piece), self._slice(rate)) / rate

    def take(self) -> bytes | None:
        """What arrives next."""
        rate = self._way.rate
        due = self.due()
        came, _, piece = self._pieces.popleft()
        if rate is None or not piece:
            self.size -= len(piece or b"")
            return piece
        # Being late is made up for, within a slice.
        self._carried = max(due, self._time() - SLICE)
        first, rest = piece[: self._slice(rate)], piece[self._slice(rate) :]
        if rest:
            self._pieces.appendleft((came, came, rest))
        self.size -= len(first)
        return first

    def clear(self) -> None:
        """Forget everything."""
        self._pieces.clear()
        self.size = 0

    def _slice(self, rate: float) -> int:
        return max(1, int(rate * SLICE))
