"""`Expiry`: ends a connection when the credentials of its client expire."""

from __future__ import annotations

import time
from collections.abc import Callable

from .scheduler import Timer, Timers

EXPIRED = "the credentials have expired"
"""The close reason."""

RECHECK = 60.0
"""Maximum seconds until the next check of the system's clock, which may be changed."""


class Expiry:
    """Timer that calls ``expired`` at the time ``when``, in seconds since the epoch."""

    __slots__ = ("_expired", "_loop", "_timer", "_when")

    def __init__(self, loop: Timers, when: float, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._when = when
        self._expired = expired
        self._timer = self._start_timer()

    def _start_timer(self) -> Timer:
        left = self._when - time.time()
        return self._loop.call_at(self._loop.time() + min(max(0.0, left), RECHECK), self._time_over)

    def _time_over(self) -> None:
        if time.time() < self._when:  # the clock was set back, or `RECHECK` was shorter
            self._timer = self._start_timer()
        else:
            self._expired()

    def cancel(self) -> None:
        """Stop the timer. Idempotent."""
        self._timer.cancel()
