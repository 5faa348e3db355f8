"""`ReconnectHooks`: a client's `on_reconnect` handlers, and the `ReconnectInfo` that they get."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from .._handlers.introspection import name_of
from .._handlers.lifecycle import Unfinished
from .._handlers.registry import accepted
from ..errors import SessionLost

__all__ = ["ReconnectHooks", "ReconnectInfo"]


class ReconnectInfo(msgspec.Struct, frozen=True):
    """The argument of `on_reconnect` functions.

    ``resumed`` says whether the session goes on, so that nothing was lost. If not, the server has a new peer; ``lost``
    is then the `SessionLost` that the calls in flight got, or None if the session could not be resumed in any case.
    ``downtime`` is in seconds. ``attempts`` is how many attempts it took to dial, 0 after `Client.bind`.
    """

    resumed: bool
    attempts: int
    downtime: float
    lost: SessionLost | None = None


class ReconnectHooks:
    """The `on_reconnect` handlers of a client, which run on each connection but the first one.

    ``connected`` is `Peer.connected`.
    """

    def __init__(self, connected: Callable[[], bool]) -> None:
        self._connected = connected
        self.again = False
        """Whether there has been a connection since the client was made, or since `Client.close`."""
        self._functions: list[tuple[Callable[..., Any], int]] = []
        """Each with the number of arguments that it takes."""
        self._lost_at = 0.0
        self._lost: SessionLost | None = None
        self._info: ReconnectInfo | None = None
        """The info of the present connection. None if that is the first one, or if there is no connection."""

    def add(self, function: Callable[..., Any]) -> None:
        """Call ``function`` from the next connection on; see `Client.on_reconnect`."""
        self._functions.append((function, accepted("on_reconnect", ("info",), function)))

    def connection_made(self, attempts: int, now: float) -> None:
        """Prepare the `ReconnectInfo` of a connection that is about to open.

        If it replaces another one, that has just been lost, after ``now``.
        """
        lost, self._lost = self._lost, None
        self._info = ReconnectInfo(False, attempts, max(0.0, now - self._lost_at), lost) if self.again else None
        self.again = True

    def resumed(self, attempts: int, now: float) -> list[Unfinished]:
        """Return the calls to make when the session goes on."""
        self._info = ReconnectInfo(True, attempts, max(0.0, now - self._lost_at))
        return self.handlers()

    def session_lost(self, lost: SessionLost | None) -> None:
        """Note what the calls in flight got, for the `ReconnectInfo` of the next connection."""
        self._lost = lost

    def connection_lost(self, now: float) -> None:
        """Note when the connection ended. Handlers that have not begun on it are not called any more."""
        self._lost_at = now
        self._info = None

    def closed(self) -> None:
        """Treat the next connection as the first one: the user has closed the client."""
        self.again = False

    def handlers(self) -> list[Unfinished]:
        """Return the calls to make on the present connection; none on the first one.

        The caller awaits them one after another. A call does nothing if the connection has ended by then.
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
