"""`Path`: a network path from one process to another."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from .events import Events

FAST = 1e9
"""Bytes per second of a path that is not slow."""
RESEND_DELAY = 0.5
"""Maximum seconds until TCP sends lost data again."""


class Path:
    """Network path from one process to another. Faults change it.

    Args:
        name: the names of both processes.
        latency: minimum seconds that anything takes. Up to as many are added at random.
    """

    def __init__(self, name: tuple[str, str], events: Events, random: Random, latency: float) -> None:
        self.name = name
        self.events = events
        self.rate = FAST
        """Bytes per second."""
        self.latency = self._usual_latency = latency
        """Minimum seconds that anything takes."""
        self._random = random
        self._slow: list[tuple[float, float]] = []
        """The rate and the latency of each fault that makes it slow."""
        self._losses = 0
        """Number of active faults that block the path."""
        self._held: list[Callable[[], object]] = []

    def travel(self, arrive: Callable[[], object], *, not_before: float = 0.0) -> float:
        """Schedule an arrival, not before the given time. Return when it happens unless a fault delays it."""
        when = max(self.events.now + self.latency * (1.0 + self._random.random()), not_before)
        self.events.at(when, partial(self.pass_on, arrive))
        return when

    def pass_on(self, arrive: Callable[[], object]) -> None:
        """Call ``arrive`` now. While the path is blocked, hold it, because TCP retransmits until it succeeds."""
        if self._losses:
            self._held.append(arrive)
        else:
            arrive()

    def slow_down(self, rate: float, latency: float, seconds: float) -> None:
        """Reduce the rate and increase the latency for some seconds."""
        self._slow.append((rate, latency))
        self._set_speed()
        self.events.after(seconds, partial(self._speed_up, rate, latency))

    def _speed_up(self, rate: float, latency: float) -> None:
        self._slow.remove((rate, latency))
        self._set_speed()

    def _set_speed(self) -> None:
        self.rate = min((rate for rate, _ in self._slow), default=FAST)
        self.latency = max((latency for _, latency in self._slow), default=self._usual_latency)

    def lose(self, seconds: float) -> None:
        """Block the path for some seconds."""
        self._losses += 1
        self.events.after(seconds + self._random.uniform(0.0, RESEND_DELAY), self._heal)

    def _heal(self) -> None:
        self._losses -= 1
        if not self._losses:
            held, self._held = self._held, []
            for arrive in held:
                arrive()
