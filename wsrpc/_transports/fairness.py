"""Sharing the event loop between those who do much in one turn of it and all others.

What is ready in a turn all runs before anybody else's has its next one, however many are ready: four connections that
send on and on, or a thousand handshakes that were kept back for one moment. So what is known to cost much takes a place
here first. There are places for a few milliseconds of that, and for one of it in any case; what finds none waits for a
later turn, first come first served. Who sends little takes none, and notices only how long a turn lasts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary, proxy

__all__ = ["MUCH", "READ", "Turns", "turns_of"]

READ = 16 * 1024
"""Bytes that one read takes at most. (asyncio's own takes 256 KiB. Full of small messages it is ten thousand of them,
dealt with in one go; with four connections that send on and on, the others waited for a third of a second.)"""

MUCH = 4 * 1024
"""Bytes of a read that takes a place in the turn. (64 requests that are small are half as much.)"""

AT_ONCE = 0.002
"""Seconds of a turn that go to those who do much. (Less makes it no shorter: one read that is full of requests takes as
long by itself.)"""


class Loop(Protocol):
    """What is used of an event loop."""

    def call_soon(self, callback: Callable[[], object], /) -> object: ...


class Turns:
    """Places in the turns of an event loop."""

    __slots__ = ("_left", "_loop", "_renewing", "_waiting")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._left = AT_ONCE
        self._renewing = False
        self._waiting: deque[tuple[float, Callable[[], object]]] = deque()

    def take(self, seconds: float) -> bool:
        """Whether there is a place, in this turn, for what costs ``seconds``. If not, `wait`."""
        if self._waiting or self._left <= 0:
            return False
        self._spend(seconds)
        return True

    def wait(self, seconds: float, callback: Callable[[], object]) -> None:
        """Call ``callback``, which does not raise, in a later turn that has a place."""
        self._waiting.append((seconds, callback))

    def _spend(self, seconds: float) -> None:
        self._left -= seconds
        if self._left <= 0 and not self._renewing:  # not before: each time it is a turn more
            self._renewing = True
            self._loop.call_soon(self._renew)

    def _renew(self) -> None:
        self._renewing = False
        self._left = AT_ONCE
        while self._waiting and self._left > 0:
            seconds, callback = self._waiting.popleft()
            self._spend(seconds)
            callback()


_of_loops: WeakKeyDictionary[Any, Turns] = WeakKeyDictionary()


def turns_of(loop: Any) -> Turns:
    """The places for reading in the turns of ``loop``, shared by all connections of servers that run in it."""
    turns = _of_loops.get(loop)
    if turns is None:
        weak: Any = proxy(loop)  # or the loop would never be thrown away
        turns = _of_loops[loop] = Turns(weak)
    return turns
