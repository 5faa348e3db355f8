"""`Path`: the way from one process to another."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from .events import Events

FAST = 1e9
"""Bytes a second of a path that is not slow."""
RESEND_DELAY = 0.5
"""Seconds after which TCP sends again what was lost, at most."""


class Path:
    """The way from one process to another. Faults change it.

    Args:
        name: the names of both processes.
        latency: seconds that everything takes at least. Up to as many are added at random.
    """

    def __init__(self, name: tuple[str, str], events: Events, random: Random, latency: float) -> None:
        self.name = name
        self.events = events
        self.rate = FAST
        """Bytes a second."""
        self.latency = self._usual_latency = latency
        """Seconds that everything takes at least."""
        self._random = random
        self._slow: list[tuple[float, float]] = []
        """The rate and the latency of each fault that makes it slow."""
        self._losses = 0
        """How many faults let nothing arrive."""
        self._held: list[Callable[[], object]] = []

    def travel(self, arrive: Callable[[], object], *, not_before: float = 0.0) -> float:
        """Let something arrive, at the earliest at a time. Returns when it will arrive if the path is well."""
        when = max(self.events.now + self.latency * (1.0 + self._random.random()), not_before)
        self.events.at(when, partial(self.pass_on, arrive))
        return when

    def pass_on(self, arrive: Callable[[], object]) -> None:
        """Let something arrive now. While the path is lost, it waits, as TCP sends it again until it arrives."""
        if self._losses:
            self._held.append(arrive)
        else:
            arrive()

    def slow_down(self, rate: float, latency: float, seconds: float) -> None:
        """Be slow for some time."""
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
        """Let nothing arrive for some time."""
        self._losses += 1
        self.events.after(seconds + self._random.uniform(0.0, RESEND_DELAY), self._heal)

    def _heal(self) -> None:
        self._losses -= 1
        if not self._losses:
            held, self._held = self._held, []
            for arrive in held:
                arrive()
