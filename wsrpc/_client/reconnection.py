"""The `on_reconnect` handlers of a client, and what they are called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from .._handlers.lifecycle import Unfinished, name_of
from .._handlers.registry import accepted

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
    """Counts how a client comes back, and keeps the `on_reconnect` handlers; ``connected`` is `Peer.connected`."""

    def __init__(self, connected: Callable[[], bool]) -> None:
        self._connected = connected
        self.again = False
        """Whether the next connection is not the first since `Client.close`."""
        self._functions: list[tuple[Callable[..., Any], int]] = []
        """With how many arguments each takes."""
        self._lost_at = 0.0
        self._info: ReconnectInfo | None = None
        """Of the present connection; None if it is the first, or there is none."""

    def add(self, function: Callable[..., Any]) -> None:
        """See `Client.on_reconnect`."""
        self._functions.append((function, accepted("on_reconnect", ("info",), function)))

    def lost(self, now: float) -> None:
        """A connection is over."""
        self._lost_at = now
        self._info = None

    def downtime(self, now: float) -> float:
        """Seconds since then."""
        return now - self._lost_at

    def bound(self, attempts: int, downtime: float) -> None:
        """There is another connection."""
        self._info = ReconnectInfo(False, attempts, downtime) if self.again else None
        self.again = True

    def handlers(self) -> list[Unfinished]:
        """What the functions have to do on the present connection; nothing on the first one.

        They are called one after another, each when the one before has returned and the connection is still there.
        """
        if self._info is None:
            return []
        return [
            ("on_reconnect", name_of(function), self._call(function, count, self._info))
            for function, count in self._functions
        ]

    async def _call(self, function: Callable[..., Any], count: int, info: ReconnectInfo) -> None:
        if self._info is info and self._connected():
            result = function(*(info,)[:count])
            if inspect.isawaitable(result):
                await result
