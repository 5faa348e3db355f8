"""Bytes on their way in one direction of a proxied connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ._troubles import Troubles

FIN, RESET = b"", None
"""Entries beside bytes: the normal end of a direction, and the reset of the connection."""

SLICE = 0.01
"""Seconds that one piece takes at a bounded rate."""


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
