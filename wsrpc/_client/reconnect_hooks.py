"""`ReconnectHooks`: a client's `on_reconnect` handlers, and the `ReconnectInfo` that they get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from .._core.handlers.introspection import name_of
from .._core.handlers.lifecycle import Unfinished, called
from .._core.handlers.registry import Registry
from ..errors import SessionLost


class ReconnectInfo(msgspec.Struct, frozen=True):
    """Argument of `Client.on_reconnect` functions.

    Attributes:
        resumed: whether the session has resumed, in which case nothing was lost. If false, the server has a new peer
            for the client.
        attempts: how many times the client has dialed since it was last ``"connected"``, including attempts whose
            connection was lost while the `open` handlers were running. 0 after `Client.bind`.
        downtime: the time without a connection, in seconds.
        lost: the `SessionLost` that requests in flight raised. None if the session has resumed, or ended together with
            its connection, for example because of a Close frame.
    """

    resumed: bool
    attempts: int
    downtime: float
    lost: SessionLost | None = None


class ReconnectHooks:
    """The `on_reconnect` handlers of a client, which are called for each connection but the first one.

    Those of a new session are part of its opening, as the `open` handlers are. Where a session resumes, nothing waits
    for them.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.has_connected = False
        """Whether there has been a connection since the client was made, or since `Client.close`."""
        self._lost_at = 0.0
        self._lost: SessionLost | None = None
        self.session_info: ReconnectInfo | None = None
        """The info of the present session. None if it has the first connection, or if there is no session."""
        self.resumed_info: ReconnectInfo | None = None
        """The info of the present connection. None if the session has not resumed on it, or if there is none."""

    def connection_made(self, attempts: int, now: float) -> None:
        """Note that a session begins.

        If its connection replaces another one, that has just been lost, after ``now``.
        """
        lost, self._lost = self._lost, None
        if self.has_connected:
            self.session_info = ReconnectInfo(False, attempts, max(0.0, now - self._lost_at), lost)
        else:
            self.session_info, self.has_connected = None, True

    def resumed(self, attempts: int, now: float) -> None:
        """Note that the session has resumed on another connection."""
        self.resumed_info = ReconnectInfo(True, attempts, max(0.0, now - self._lost_at))

    def connection_lost(self, now: float) -> None:
        """Note when the connection ended."""
        self._lost_at = now
        self.resumed_info = None

    def session_lost(self, lost: SessionLost | None) -> None:
        """Note what the calls in flight got. Handlers that have not begun in the session are not called any more."""
        self._lost = lost
        self.session_info = None

    def closed(self) -> None:
        """Treat the next connection as the first one: the user has closed the client."""
        self.has_connected = False
        self.session_info = self.resumed_info = None

    def handlers(self, info: ReconnectInfo) -> list[Unfinished]:
        """Return the calls to make with ``info``, which is `session_info`. Await them one after another.

        A call does nothing if the session has ended by then.
        """
        return [
            ("on_reconnect", name_of(hook.function), self._call(hook.function, hook.accepted, info))
            for hook in self._registry.hooks.get("on_reconnect", ())
        ]

    async def _call(self, function: Callable[..., Any], count: int, info: ReconnectInfo) -> None:
        if self.session_info is info:
            await called(function, (info,)[:count])
