"""Time limits that nearly always end before they are over: those of opening and of closing handshakes.

With a timer of the event loop for each, most of the time would be spent on timers that were cancelled. Limits of the
same length end in the order in which they began, so one timer serves all of them.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Protocol

EMPTY_CONTEXT = contextvars.Context()
"""Context of the timer. That of the connection that starts it would keep the objects of its variables alive."""


class Abortable(Protocol):
    """What has a time limit."""

    def abort(self) -> None:
        """Called when the time is over."""
        ...


class Deadlines:
    """Aborts what is not discarded within ``seconds`` after it was added."""

    __slots__ = ("_has_timer", "_loop", "_seconds", "_until")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._until: dict[Abortable, float] = {}
        """When the time of each is over, the first one first."""
        self._has_timer = False
        """Whether a timer runs: until the first deadline, or until one that was discarded meanwhile. The timer is not
        kept here, because it refers to the loop."""

    def add(self, limited: Abortable) -> None:
        """Begin the time of ``limited``, unless it has begun."""
        if limited in self._until:
            return
        until = self._until[limited] = self._loop.time() + self._seconds
        if not self._has_timer:
            self._has_timer = True
            self._loop.call_at(until, self._due, context=EMPTY_CONTEXT)

    def remove(self, limited: Abortable) -> None:
        """End the time of ``limited``. Idempotent."""
        self._until.pop(limited, None)

    def _due(self) -> None:
        self._has_timer = False
        now = self._loop.time()
        for limited in [limited for limited, until in self._until.items() if until <= now]:
            if self._until.pop(limited, None) is not None:  # else another one's end has discarded it
                limited.abort()
        if self._until and not self._has_timer:
            self._has_timer = True
            self._loop.call_at(next(iter(self._until.values())), self._due, context=EMPTY_CONTEXT)
