"""Noticing that this machine was asleep, or this process stopped."""

from __future__ import annotations

import time
from collections.abc import Callable

from .._base.scheduler import Scheduler, Timer

__all__ = ["WakeWatch"]

LOOK_EVERY = 1.0
"""Seconds, of which the event loop's clock counts only those in which the machine is awake."""
ASLEEP = 10.0
"""Seconds away that count as sleep; less than that is a busy machine."""

# The event loop's clock stands still while the machine sleeps, on Linux and macOS; this one does not.
_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


def clock() -> float:
    """Seconds, those asleep included."""
    return time.time() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)


class WakeWatch:
    """Calls ``woke(seconds)`` soon after the machine, or the process, has been away for long."""

    def __init__(self, loop: Scheduler, woke: Callable[[float], None]) -> None:
        self._loop = loop
        self._woke = woke
        self._timer: Timer | None = None
        self._looked = 0.0

    def start(self) -> None:
        """Watch from now on; call `stop` to let go of the event loop."""
        if self._timer is None:
            self._looked = clock()
            self._schedule()

    def stop(self) -> None:
        """Watch no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        self._timer = self._loop.call_at(self._loop.time() + LOOK_EVERY, self._look)

    def _look(self) -> None:
        now = clock()
        away = now - self._looked - LOOK_EVERY
        self._looked = now
        self._schedule()
        if away >= ASLEEP:
            self._woke(away)
