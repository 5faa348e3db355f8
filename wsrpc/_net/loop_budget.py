"""`LoopBudget`: limits the time for expensive work in each turn of the event loop.

All callbacks that are ready run in the same turn of the event loop, for example a thousand handshakes. Nothing else
runs meanwhile. So expensive work first spends a part of the turn's budget, which is a few milliseconds. Work for which
nothing remains of the budget waits for a later turn, in order of arrival. Connections that receive little spend
nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary, proxy

T = TypeVar("T")

_of_loops: WeakKeyDictionary[Any, dict[object, Any]] = WeakKeyDictionary()


def shared(loop: Any, create: Callable[..., T], *arguments: object) -> T:
    """Return ``create(loop, *arguments)``: always the same object for the same event loop and the same arguments."""
    objects = _of_loops.setdefault(loop, {})
    found: T | None = objects.get((create, arguments))
    if found is None:
        # A reference would keep the loop alive.
        found = objects[create, arguments] = create(proxy(loop), *arguments)
    return found


SMALL_READ = 16 * 1024
"""Maximum number of bytes of one read while messages are small. (asyncio reads up to 256 KiB, which can be ten thousand
small messages. Other connections would wait noticeably for a few connections that send without a pause.)"""

LARGEST_READ = 128 * 1024
"""Maximum number of bytes of one read of large messages."""

IN_ONE_READ = 64
"""Number of large messages for which one read has room."""

BUDGETED_READ = 4 * 1024
"""Minimum number of bytes of a read that spends a part of the `LoopBudget`. (64 small requests have half as many.)"""

TURN_BUDGET = 0.002
"""Seconds of each turn for expensive work. (Less would not make turns shorter: one read that is full of requests takes
as long.)"""


def next_read(size: int, messages: int) -> int:
    """Return the maximum number of bytes to read next, after ``size`` bytes that completed ``messages`` messages.

    The number is large enough for about 64 messages of the same size. It is a power of two, from `SMALL_READ` (16 KiB)
    to 128 KiB. A read has a cost of its own, regardless of the number of bytes.
    """
    wanted = size * IN_ONE_READ // (messages or 1)
    if wanted < 2 * SMALL_READ:
        return SMALL_READ
    return min(1 << (wanted.bit_length() - 1), LARGEST_READ)


class Loop(Protocol):
    """The method of event loops that this module calls."""

    def call_soon(self, callback: Callable[[], object], /) -> object: ...


class LoopBudget:
    """Time for expensive work in each turn (iteration) of an event loop.

    In each turn, a few milliseconds of expensive work can be done, but at least one piece of work. More work has to
    wait for a later turn.
    """

    __slots__ = ("_loop", "_remaining", "_renewing", "_waiting")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._remaining = TURN_BUDGET
        self._renewing = False
        self._waiting: deque[tuple[float, Callable[[], object]]] = deque()

    def spend(self, seconds: float) -> bool:
        """Spend ``seconds`` of the present turn. Return False if nothing remains of the turn. Then call `wait`."""
        if self._waiting or self._remaining <= 0:
            return False
        self._spend(seconds)
        return True

    def wait(self, seconds: float, callback: Callable[[], object]) -> None:
        """Call ``callback``, which takes ``seconds``, in a later turn. ``callback`` must not raise an exception."""
        self._waiting.append((seconds, callback))

    def _spend(self, seconds: float) -> None:
        self._remaining -= seconds
        if self._remaining <= 0 and not self._renewing:  # not before, because each renewal needs a callback
            self._renewing = True
            self._loop.call_soon(self._renew)

    def _renew(self) -> None:
        self._renewing = False
        self._remaining = TURN_BUDGET
        while self._waiting and self._remaining > 0:
            seconds, callback = self._waiting.popleft()
            self._spend(seconds)
            callback()


def loop_budget_of(loop: Any) -> LoopBudget:
    """Return the `LoopBudget` of ``loop``. All server connections of the event loop share this object."""
    return shared(loop, LoopBudget)
