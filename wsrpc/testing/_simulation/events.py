"""`Events`: a queue of actions in virtual time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Event:
    """A scheduled action. ``cancel`` removes it."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], object]) -> None:
        self.action: Callable[[], object] | None = action

    def cancel(self) -> None:
        self.action = None


class Events:
    """Virtual time, and the actions that are scheduled in it. Time passes only in `run_next`."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the start of the simulation."""
        self._heap: list[tuple[float, int, Event]] = []
        self._order = count()

    def at(self, when: float, action: Callable[[], object]) -> Event:
        """Schedule an action. Actions of the same time run in the order of these calls."""
        event = Event(action)
        heapq.heappush(self._heap, (max(when, self.now), next(self._order), event))
        return event

    def after(self, seconds: float, action: Callable[[], object]) -> Event:
        return self.at(self.now + seconds, action)

    def clear(self) -> None:
        """Remove all actions."""
        self._heap.clear()

    def run_next(self, until: float) -> bool:
        """Run the next action. If there is none before ``until``, advance the time to it and return False."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, event = heapq.heappop(heap)
            action, event.action = event.action, None
            if action is not None:
                action()
                return True
        self.now = max(self.now, until)
        return False
