"""A clock under the test's control."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

from .._base.scheduler import LoopScheduler, Timer


class Clock:
    """Clock whose time changes only with `advance`. Pass it to `pair` or `connect`.

    It controls the deadlines of connections and sessions, also `Handshake.expires`. Futures, tasks and
    `asyncio.sleep` use the running event loop, and so does what belongs to no connection: what a store keeps
    (``keep=``), and `Server.close`.
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._order = count()
        self._timers: list[tuple[float, int, _ClockTimer]] = []
        self._real = LoopScheduler()

    def time(self) -> float:
        """Return the clock's time, in seconds."""
        return self._now

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        timer = _ClockTimer(callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_soon(self, callback: Callable[[], object], /) -> None:
        self._real.call_soon(callback)

    def create_future(self) -> asyncio.Future[Any]:
        return self._real.create_future()

    def spawn(
        self, coroutine: Coroutine[Any, Any, None], /, context: contextvars.Context | None = None
    ) -> asyncio.Task[None]:
        return self._real.spawn(coroutine, context)

    def advance(self, seconds: float) -> None:
        """Advance the clock by ``seconds``.

        Timers that become due run inside this call, in order, each at its own time.
        """
        until = self._now + seconds
        while self._timers and self._timers[0][0] <= until:
            when, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, when)
            if not timer.cancelled:
                timer.callback()
        self._now = until

    @property
    def next_deadline(self) -> float | None:
        """The time when the next timer becomes due, or None if there is no timer."""
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None


class _ClockTimer:
    __slots__ = ("callback", "cancelled")

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
