"""A client that is back after a drop, and who is told: `on_reconnect`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ._registry import accepted

__all__ = ["ReconnectInfo", "Returns"]


class ReconnectInfo(msgspec.Struct, frozen=True):
    """What `on_reconnect` functions get.

    ``downtime`` is in seconds; ``attempts`` counts those that it took to dial, 0 after `Client.bind`. ``resumed`` is
    false: the server has a new peer. (No session survives a drop yet.)
    """

    resumed: bool
    attempts: int
    downtime: float


class Returns:
    """Counts how a client comes back, and tells the user's functions of it."""

    def __init__(self) -> None:
        self.again = False
        """Whether the next connection is not the first since `Client.close`."""
        self._functions: list[tuple[Callable[..., Any], int]] = []
        """With how many arguments each takes."""
        self._lost_at = 0.0
        self._info: ReconnectInfo | None = None
        """Of the present connection; None if it is the first."""

    def add(self, function: Callable[..., Any]) -> None:
        """See `Client.on_reconnect`."""
        self._functions.append((function, accepted("on_reconnect", ("info",), function)))

    def lost(self, now: float) -> None:
        """A connection is over."""
        self._lost_at = now

    def downtime(self, now: float) -> float:
        """Seconds since then."""
        return now - self._lost_at

    def bound(self, attempts: int, downtime: float) -> None:
        """There is another connection."""
        self._info = ReconnectInfo(False, attempts, downtime) if self.again else None
        self.again = True

    def opened(self, call: Callable[..., None]) -> None:
        """It is open: tell the functions by ``call(event, function, *args)``."""
        if self._info is not None:
            for function, count in list(self._functions):  # one may register another
                call("on_reconnect", function, *(self._info,)[:count])
