"""`WakeWatch`: notices that this machine was asleep, or that this process was stopped."""

from __future__ import annotations

import time
from collections.abc import Callable

from .._base.scheduler import Timer, Timers

LOOK_EVERY = 1.0
"""Seconds between two looks, by the event loop's clock, which counts only while the machine is awake."""
ASLEEP = 10.0
"""Seconds away that count as sleep. A busy machine may be late by less."""

# The event loop's clock stands still while the machine sleeps, on Linux and macOS; this one does not.
_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


def clock() -> float:
    """Return seconds, including those in which the machine sleeps."""
    return time.time() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)


class WakeWatch:
    """Calls ``woke(seconds)`` soon after the machine, or the process, has been away for long. Runs until `stop`."""

    def __init__(self, loop: Timers, woke: Callable[[float], None]) -> None:
        self._loop = loop
        self._woke = woke
        self._looked = clock()
        self._timer: Timer = self._next()

    def stop(self) -> None:
        """Stop watching, and let go of the event loop. Idempotent."""
        self._timer.cancel()

    def _next(self) -> Timer:
        return self._loop.call_at(self._loop.time() + LOOK_EVERY, self._look)

    def _look(self) -> None:
        now = clock()
        away = now - self._looked - LOOK_EVERY
        self._looked = now
        self._timer = self._next()
        if away >= ASLEEP:
            self._woke(away)
