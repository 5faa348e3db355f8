"""Fair sharing of the event loop between connections that receive much and all others.

Whatever is ready in a turn of the event loop runs in that turn, however much it is: the reads of four connections that
send without a pause, or a thousand handshakes that were delayed for a moment. Nothing else runs meanwhile. So work that
is known to be expensive takes a place in the turn first. A turn has places for a few milliseconds of such work, and for
at least one piece of it; work that finds no place waits for a later turn, first come, first served. Connections that
receive little take no places, and depend only on the length of a turn.
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


READ = 16 * 1024
"""Maximum number of bytes of one read while messages are small. (asyncio itself reads up to 256 KiB, which can be ten
thousand small messages: other connections would wait noticeably for a few that send without a pause.)"""

READ_OF_LARGE = 128 * 1024
"""Bytes that one read takes at most, however large messages are."""

IN_ONE_READ = 64
"""Messages for which a read makes room if they are large."""

MUCH = 4 * 1024
"""Minimum number of bytes of a read that needs a part of the `LoopBudget`. (64 small requests have half as many.)"""

AT_ONCE = 0.002
"""Seconds of a turn that are available for expensive work. (Less would not make a turn shorter: a single read
that is full of requests takes as long.)"""


def next_read(size: int, messages: int) -> int:
    """Return the maximum number of bytes to read next, after ``size`` bytes that completed ``messages`` messages.

    The number is large enough for about 64 messages of the same size. It is a power of two, from `READ` (16 KiB) to 128
    KiB. A read has a cost of its own, regardless of the number of bytes.
    """
    wanted = size * IN_ONE_READ // (messages or 1)
    if wanted < 2 * READ:
        return READ
    return min(1 << (wanted.bit_length() - 1), READ_OF_LARGE)


class Loop(Protocol):
    """Part of an event loop that is used here."""

    def call_soon(self, callback: Callable[[], object], /) -> object: ...


class LoopBudget:
    """Places for expensive work in each turn (iteration) of an event loop.

    A turn has places for a few milliseconds of expensive work, but at least for one piece of work. More work has to
    wait for a place in a later turn.
    """

    __slots__ = ("_loop", "_remaining", "_renewing", "_waiting")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._remaining = AT_ONCE
        self._renewing = False
        self._waiting: deque[tuple[float, Callable[[], object]]] = deque()

    def spend(self, seconds: float) -> bool:
        """Take a place in this turn for ``seconds`` of work. Return False if there is no place; then call `wait`."""
        if self._waiting or self._remaining <= 0:
            return False
        self._spend(seconds)
        return True

    def wait(self, seconds: float, callback: Callable[[], object]) -> None:
        """Call ``callback`` in a later turn that has a place for ``seconds`` of work. ``callback`` must not raise."""
        self._waiting.append((seconds, callback))

    def _spend(self, seconds: float) -> None:
        self._remaining -= seconds
        if self._remaining <= 0 and not self._renewing:  # not before, because each renewal costs a turn
            self._renewing = True
            self._loop.call_soon(self._renew)

    def _renew(self) -> None:
        self._renewing = False
        self._remaining = AT_ONCE
        while self._waiting and self._remaining > 0:
            seconds, callback = self._waiting.popleft()
            self._spend(seconds)
            callback()


def loop_budget_of(loop: Any) -> LoopBudget:
    """Return the `LoopBudget` of ``loop``. All server connections of the event loop share this object."""
    return shared(loop, LoopBudget)
