"""`Deadlines`: time limits of opening and closing handshakes, which are nearly always removed before they are over.

With one timer of the event loop for each limit, most of the time would be spent on cancelled timers. Limits of the same
length are over in the order in which they started, so one timer serves all of them.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Hashable
from operator import methodcaller
from typing import Any

EMPTY_CONTEXT = contextvars.Context()
"""Context of the timer. The context of a connection would keep the objects in its context variables alive."""
MOST_GRANTS = 12
"""How often ``close_timeout`` is granted while bytes leave; see `Limits.close_timeout`."""
LARGEST_CLOSING = 256
"""More bytes than a Close frame and a ping take, also with TLS."""


def bytes_leave(undelivered: tuple[int, ...], acknowledged: bool) -> bool:
    """Return whether an end may take `Limits.close_timeout` once more, because messages have left meanwhile.

    Args:
        undelivered: the bytes that the remote system had not confirmed when the connection started to end, and each
            time that its limit was over.
        acknowledged: whether the remote peer has acknowledged messages meanwhile. (If there is a proxy, the remote
            system is the system of the proxy, which may hold much before a slow network.)
    """
    leave = acknowledged or LARGEST_CLOSING < undelivered[-2] > undelivered[-1]
    return leave and len(undelivered) <= MOST_GRANTS


class Deadlines:
    """Calls ``due`` with each object that is not removed within ``seconds`` after it was added, by default its `abort`.

    ``due`` may add the object again.
    """

    __slots__ = ("_call", "_has_timer", "_loop", "_seconds", "_until")

    def __init__(self, loop: Any, seconds: float, due: Callable[[Any], None] = methodcaller("abort")) -> None:
        self._call = due
        self._loop = loop
        self._seconds = seconds
        self._until: dict[Hashable, float] = {}
        """The objects, each with the time at which its limit is over. The earliest time is first."""
        self._has_timer = False
        """Whether a timer runs. There is no attribute for the timer, because the timer refers to the event loop."""

    def add(self, limited: Hashable) -> None:
        """Start the time limit of ``limited``. Adding it again has no effect."""
        if limited in self._until:
            return
        until = self._until[limited] = self._loop.time() + self._seconds
        if not self._has_timer:
            self._has_timer = True
            self._loop.call_at(until, self._due, context=EMPTY_CONTEXT)

    def remove(self, limited: Hashable) -> None:
        """Remove the time limit of ``limited``. Idempotent."""
        self._until.pop(limited, None)

    def _due(self) -> None:
        self._has_timer = False
        now = self._loop.time()
        for limited in [limited for limited, until in self._until.items() if until <= now]:
            if self._until.pop(limited, None) is not None:  # else the call for another object has removed it
                self._call(limited)
        if self._until and not self._has_timer:
            self._has_timer = True
            self._loop.call_at(next(iter(self._until.values())), self._due, context=EMPTY_CONTEXT)
