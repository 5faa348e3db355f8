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
    """Timer that calls ``expired`` at the time ``when``, in seconds since the epoch.

    It is read from the system's clock, which may be changed, and from ``loop``, which a test may advance. The earlier
    one counts.
    """

    __slots__ = ("_expired", "_loop", "_timer", "_until", "_when")

    def __init__(self, loop: Timers, when: float, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._when = when
        self._until = loop.time() + when - time.time()
        self._expired = expired
        self._timer = self._start_timer()

    def _left(self) -> float:
        return min(self._when - time.time(), self._until - self._loop.time())

    def _start_timer(self) -> Timer:
        return self._loop.call_at(self._loop.time() + min(max(0.0, self._left()), RECHECK), self._time_over)

    def _time_over(self) -> None:
        if self._left() > 0:  # `RECHECK` was shorter
            self._timer = self._start_timer()
        else:
            self._expired()

    def cancel(self) -> None:
        """Stop the timer. Idempotent."""
        self._timer.cancel()
