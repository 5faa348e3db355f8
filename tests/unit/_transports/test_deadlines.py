"""`Deadlines`: one timer for all that have the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wsrpc._transports.deadlines import Deadlines


class Clock:
    """An event loop as far as `Deadlines` uses one."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object], *, context: object) -> object:
        self.timers.append((when, callback))
        return object()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer[0] <= self.now]
        self.timers = [timer for timer in self.timers if timer[0] > self.now]
        for _, callback in due:
            callback()


class Limited:
    def __init__(self) -> None:
        self.aborted = 0
        self.then: Callable[[], object] = lambda: None

    def abort(self) -> None:
        self.aborted += 1
        self.then()


def started(seconds: float = 10.0) -> tuple[Clock, Deadlines]:
    clock: Any = Clock()
    return clock, Deadlines(clock, seconds)


def test_each_has_its_whole_time_and_one_timer_serves_all() -> None:
    clock, deadlines = started()
    first, second, third = Limited(), Limited(), Limited()
    deadlines.add(first)
    clock.advance(4.0)
    deadlines.add(second)
    deadlines.add(third)
    assert len(clock.timers) == 1
    clock.advance(6.0)
    assert [each.aborted for each in (first, second, third)] == [1, 0, 0]
    assert len(clock.timers) == 1
    clock.advance(3.9)
    assert second.aborted == 0
    clock.advance(0.1)
    assert [each.aborted for each in (first, second, third)] == [1, 1, 1]
    assert not clock.timers


def test_what_was_discarded_is_not_aborted() -> None:
    clock, deadlines = started()
    first, second = Limited(), Limited()
    deadlines.add(first)
    deadlines.add(second)
    deadlines.discard(first)
    deadlines.discard(first)
    clock.advance(10.0)
    assert (first.aborted, second.aborted) == (0, 1)
    deadlines.add(first)
    deadlines.discard(first)
    clock.advance(10.0)
    assert first.aborted == 0 and not clock.timers


def test_abort_may_discard_and_add() -> None:
    clock, deadlines = started()
    first, second, third = Limited(), Limited(), Limited()
    deadlines.add(first)
    deadlines.add(second)

    def ended() -> None:
        deadlines.discard(second)
        deadlines.add(third)

    first.then = ended
    clock.advance(10.0)
    assert (first.aborted, second.aborted, third.aborted, len(clock.timers)) == (1, 0, 0, 1)
    clock.advance(10.0)
    assert third.aborted == 1
