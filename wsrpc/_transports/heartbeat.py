"""Finding out that the line is dead: nobody answers, or nothing can be written.

A line can die without a word: the other machine loses power, a NAT forgets, a cable is pulled. Then writing goes on for
as long as the operating system has room for it, and nothing comes in. So each side asks, with a ping, and the question
leaves whether the line is full or idle. There is no task: a connection that is idle costs one timer, and one more
while a ping is on its way.

What proves that the other side is there: the answer to the latest ping, and that something leaves a backlog. The
operating system has room for more only because the other side's has confirmed what it got, which a dead line does
not do. Data that comes in proves nothing, as the line may be dead in the one direction only.

But something in between, a proxy for instance, may confirm what never arrives, or lose only the answers. So what leaves
counts no further than the ping may be behind it: once as much has left after the ping as buffers on the way can hold,
the ping was read, if anybody reads.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from typing import Protocol

from .._base.closing import CloseCode
from .._base.scheduler import Timer
from ..limits import Limits

__all__ = ["Heartbeat", "StallWatch"]

CLOSELY = 0.5
"""Seconds, at most, between two looks at a backlog."""

BUFFERS = 16 * 1024 * 1024
"""Bytes that may be between us and a reader that is slow: Linux's own buffers, which grow, take 10 MiB on a line."""


class Backlog(Protocol):
    """What a connection shows, and does, here."""

    @property
    def written(self) -> int:
        """Bytes handed over for writing since the connection began."""
        ...

    def backlog(self) -> int:
        """How many of them the operating system has not taken yet."""
        ...

    def drop(self, code: int, reason: str) -> None:
        """The line is dead: end the connection without waiting for anything."""
        ...


class Line(Backlog, Protocol):
    """One that can also be asked whether somebody is there."""

    def send_ping(self, payload: bytes) -> None:
        """Write a ping now, behind what was sent before, whether there is room or not."""
        ...


class Timers(Protocol):
    """What is used of an event loop."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer: ...


class Progress:
    """Whether a backlog moves. ``since`` is when it was last seen to, or when the watch began.

    What leaves after the first ``enough`` bytes, counted from what was written by then, is not looked at.
    """

    __slots__ = ("_end", "_left", "_line", "behind", "since")

    def __init__(self, line: Backlog, now: float, enough: int = sys.maxsize) -> None:
        self._line = line
        self._end = line.written + enough
        self.since = now
        backlog = line.backlog()
        self.behind = backlog > 0
        """Whether there is a backlog."""
        self._left = line.written - backlog

    def look(self, now: float) -> None:
        backlog = self._line.backlog()
        left = self._line.written - backlog
        if self.behind and self._left < min(left, self._end):
            self.since = now
        self._left = left
        self.behind = backlog > 0


class Heartbeat:
    """Pings every ``Limits.ping_interval`` seconds, and drops the line when none is answered.

    That is ``Limits.ping_timeout`` seconds after the ping was written, or after its backlog, which the ping may be
    part of, last moved. The next ping leaves an interval after the last one, and not before that was answered.
    """

    __slots__ = (
        "_interval",
        "_line",
        "_loop",
        "_payload",
        "_progress",
        "_sent_at",
        "_timeout",
        "_timer",
        "_until_next",
    )

    def __init__(self, line: Line, loop: Timers, limits: Limits) -> None:
        self._line = line
        self._loop = loop
        self._interval = limits.ping_interval
        if self._interval is not None:
            # Many connections that came back together must not beat together ever after.
            self._interval *= random.uniform(0.9, 1.0)
        self._timeout = limits.ping_timeout
        self._timer: Timer | None = None
        self._payload = b""
        self._sent_at = 0.0
        self._progress: Progress | None = None
        self._until_next = False
        """Whether the timer is that of the next ping, although the last one is not answered yet."""

    def start(self) -> None:
        """The connection is open: ping from now on, unless ``ping_interval`` is None."""
        if self._interval is not None:
            self._timer = self._loop.call_at(self._loop.time() + self._interval, self._beat)

    def stop(self) -> None:
        """No more pings, and no judgement of the last one. Idempotent."""
        self._payload = b""
        self._until_next = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pong(self, payload: bytes) -> bool:
        """An answer arrived; says whether it counts. What answers an earlier ping, or none, does not."""
        if not self._payload or payload != self._payload:
            return False
        if self._until_next:
            self._payload = b""
            return True
        self.stop()
        assert self._interval is not None
        self._timer = self._loop.call_at(max(self._sent_at + self._interval, self._loop.time()), self._beat)
        return True

    def _beat(self) -> None:
        assert self._interval is not None
        now = self._loop.time()
        if self._timeout is None:  # to keep the line open where it would be forgotten, nothing more
            self._timer = self._loop.call_at(now + self._interval, self._beat)
            self._line.send_ping(b"")
            return
        # Random, so that nobody can answer without having read it.
        self._payload = os.urandom(8)
        self._sent_at = now
        self._line.send_ping(self._payload)
        self._progress = Progress(self._line, now, BUFFERS)
        if self._progress.behind or self._interval >= self._timeout:
            self._look_again(now, now + self._timeout)
        else:  # nearly always the answer is there by then, and one timer for a ping is enough
            self._until_next = True
            self._timer = self._loop.call_at(now + self._interval, self._interval_over)

    def _interval_over(self) -> None:
        self._until_next = False
        if not self._payload:
            self._beat()
        else:
            assert self._timeout is not None
            self._look_again(self._loop.time(), self._sent_at + self._timeout)

    def _look_again(self, now: float, due: float) -> None:
        assert self._progress is not None and self._timeout is not None
        if self._progress.behind:
            due = min(due, now + closely(self._timeout))
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        progress = self._progress
        assert progress is not None and self._timeout is not None
        now = self._loop.time()
        was_behind = progress.behind
        progress.look(now)
        due = progress.since + self._timeout
        if now < due:
            self._look_again(now, due)
        elif progress.behind and not was_behind:
            # What was written since may be all that keeps the answer back: see whether it moves.
            self._look_again(now, now + self._timeout)
        else:
            self.stop()
            self._line.drop(CloseCode.INTERNAL_ERROR, f"no answer to a ping within {self._timeout:g} s")


class StallWatch:
    """Drops a full line on which nothing leaves for ``Limits.stall`` seconds, or as long as a heartbeat may take."""

    __slots__ = ("_limit", "_line", "_loop", "_progress", "_timer")

    def __init__(self, line: Backlog, loop: Timers, limits: Limits) -> None:
        self._line = line
        self._loop = loop
        self._limit = limits.stall
        if limits.ping_interval is not None and limits.ping_timeout is not None:
            self._limit = min(self._limit, limits.ping_interval + limits.ping_timeout)
        self._progress: Progress | None = None
        self._timer: Timer | None = None

    def start(self) -> None:
        """The line is full."""
        now = self._loop.time()
        self._progress = Progress(self._line, now)
        self._timer = self._loop.call_at(now + closely(self._limit), self._look)

    def stop(self) -> None:
        """The line has room again, or is over. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        progress = self._progress
        assert progress is not None
        now = self._loop.time()
        progress.look(now)
        due = progress.since + self._limit
        if now < due:
            self._timer = self._loop.call_at(min(due, now + closely(self._limit)), self._look)
        else:
            self._line.drop(CloseCode.ABNORMAL, f"nothing could be written for {self._limit:g} s")


def closely(limit: float) -> float:
    """Seconds between two looks, so that ``limit`` is kept well enough."""
    return min(CLOSELY, limit / 8)
