"""`Deadlines`: one timer for all that have the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wsrpc._transports.deadlines import Deadlines


class Loop:
    """An event loop as far as `Deadlines` uses one."""

    now = 0.0

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object], *, context: object) -> object:
        self.timers.append((when, callback))
        return object()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for timer in [timer for timer in self.timers if timer[0] <= self.now]:
            self.timers.remove(timer)
            timer[1]()


class Limited:
    aborted = 0
    then: Callable[[], object] | None = None

    def abort(self) -> None:
        self.aborted += 1
        if self.then is not None:
            self.then()


def started() -> tuple[Any, Deadlines, list[Limited]]:
    loop: Any = Loop()
    return loop, Deadlines(loop, 10.0), [Limited() for _ in range(3)]


def test_each_has_its_whole_time_and_one_timer_serves_all() -> None:
    loop, deadlines, each = started()
    deadlines.add(each[0])
    loop.advance(4.0)
    deadlines.add(each[1])
    deadlines.add(each[2])
    deadlines.discard(each[2])
    deadlines.discard(each[2])
    for seconds, aborted, timers in ((6.0, [1, 0, 0], 1), (3.9, [1, 0, 0], 1), (0.1, [1, 1, 0], 0)):
        assert len(loop.timers) == 1
        loop.advance(seconds)
        assert ([one.aborted for one in each], len(loop.timers)) == (aborted, timers)


def test_abort_may_discard_and_add() -> None:
    loop, deadlines, (first, second, third) = started()
    deadlines.add(first)
    deadlines.add(second)

    def ended() -> None:
        deadlines.discard(second)
        deadlines.add(third)

    first.then = ended
    loop.advance(10.0)
    assert (first.aborted, second.aborted, third.aborted, len(loop.timers)) == (1, 0, 0, 1)
    loop.advance(10.0)
    assert third.aborted == 1
