"""`ReconnectHooks`: a client's `on_reconnect` handlers, and the `ReconnectInfo` that they get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from .._core.handlers.callables import name_of
from .._core.handlers.lifecycle import attempted
from .._core.handlers.registry import Registry
from .._core.session.peer_owner import Unfinished
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

    For a new session, the handlers are part of the opening, like the `open` handlers. When a session resumes, nothing
    waits for them.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.has_connected = False
        """Whether there has been a connection since the client was made, or since `Client.close`."""
        self.lost_at = 0.0
        self._lost: SessionLost | None = None
        self.session_info: ReconnectInfo | None = None
        """The info for the handlers of the present session. None on the first connection, and without a session."""
        self.resumed_info: ReconnectInfo | None = None
        """The info for the handlers of the present connection. None if the session has not resumed on it."""

    def session_started(self, attempts: int, now: float) -> None:
        """A session starts. Its connection may replace a connection that ends only after this call."""
        lost, self._lost = self._lost, None
        if self.has_connected:
            self.session_info = ReconnectInfo(False, attempts, max(0.0, now - self.lost_at), lost)
        else:
            self.session_info, self.has_connected = None, True

    def resumed(self, attempts: int, now: float) -> None:
        """The session has resumed on another connection."""
        self.resumed_info = ReconnectInfo(True, attempts, max(0.0, now - self.lost_at))

    def connection_lost(self, now: float) -> None:
        """The connection has ended."""
        self.lost_at = now
        self.resumed_info = None

    def session_lost(self, lost: SessionLost | None) -> None:
        """The session has ended. Its handlers that have not started are no longer called.

        Args:
            lost: the error that calls in flight got.
        """
        self._lost = lost
        self.session_info = None

    def closed(self) -> None:
        """The user has closed the client. The next connection counts as the first one."""
        self.has_connected = False
        self.session_info = self.resumed_info = None

    def handlers(self) -> list[Unfinished]:
        """Return the calls of the handlers for the present session. Await one after another.

        A call does nothing if the session has ended in the meantime.
        """
        info = self.session_info
        if info is None:
            return []
        return [
            ("on_reconnect", name_of(hook.function), self._call(hook.function, hook.accepted, info))
            for hook in self._registry.hooks.get("on_reconnect", ())
        ]

    async def _call(self, function: Callable[..., Any], count: int, info: ReconnectInfo) -> None:
        if self.session_info is info:
            await attempted(function, *(info,)[:count])
