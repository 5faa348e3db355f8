"""`Events`: what will happen, in the order of virtual time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Event:
    """Something that will happen. ``cancel`` prevents it."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], object]) -> None:
        self.action: Callable[[], object] | None = action

    def cancel(self) -> None:
        self.action = None


class Events:
    """Virtual time, and what happens at which time. It passes only in `run_next`."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the beginning."""
        self._heap: list[tuple[float, int, Event]] = []
        self._order = count()

    def at(self, when: float, action: Callable[[], object]) -> Event:
        """Let something happen at a time. Events of one time happen in the order of these calls."""
        event = Event(action)
        heapq.heappush(self._heap, (max(when, self.now), next(self._order), event))
        return event

    def after(self, seconds: float, action: Callable[[], object]) -> Event:
        return self.at(self.now + seconds, action)

    def clear(self) -> None:
        """Let nothing happen any more."""
        self._heap.clear()

    def run_next(self, until: float) -> bool:
        """Let the next event happen. Returns False if there is none before ``until``, which is the time then."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, event = heapq.heappop(heap)
            action, event.action = event.action, None
            if action is not None:
                action()
                return True
        self.now = max(self.now, until)
        return False
