"""Named channels of a server: for all its peers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._handlers.registration import Registrar
from .._handlers.registry import Registry
from ..errors import ChannelClosed
from .broadcast import Audience, Broadcaster

__all__ = ["ServerChannel"]


class ServerChannel(Registrar, Broadcaster):
    """A named channel of a server: handlers for all peers, and emitting to all."""

    def __init__(self, name: str, registry: Registry, audience: Audience, on_close: Callable[[str], object]) -> None:
        self._channel_name = self._name = name
        self._registry = registry
        self._audience = audience
        self._on_close = on_close
        self._closed = False
        self._reason: object = None

    @property
    def name(self) -> str:
        """The channel's name."""
        return self._name

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def close_reason(self) -> Any:
        """What `close` was called with."""
        return self._reason

    def close(self, reason: object = None) -> None:
        """Remove the channel's handlers and middleware. Local, idempotent, sends nothing."""
        if not self._closed:
            self._closed = True
            self._reason = reason
            self._on_close(self._name)

    def _check_open(self) -> None:
        if self._closed:
            raise ChannelClosed(self._name, self._reason)

    def __repr__(self) -> str:
        return f"<ServerChannel {self._name!r}{' closed' if self._closed else ''}>"
