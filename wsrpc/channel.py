"""Named channels: a scope of event names within one connection."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from msgspec import UnsetType

from ._registry import Registry
from .caller import Caller, Sender
from .errors import ChannelClosed
from .router import Registrar

__all__ = ["Channel"]


class Channel(Registrar, Caller):
    """One named channel of one peer; `Peer.of` makes it. It has the same methods as the peer.

    Nothing travels to open or close it: a channel is a name on the messages.
    """

    __slots__ = ("_channel_name", "_closed", "_name", "_on_close", "_peer", "_reason", "_registry", "_sender")

    def __init__(self, name: str, sender: Sender, registry: Registry, on_close: Callable[[str], None]) -> None:
        self._channel_name = self._name = name
        self._peer = sender
        self._sender: Sender = self
        self._registry = registry
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
        """Remove the channel's handlers and middleware on this side. Local, idempotent, sends nothing.

        Using it afterwards raises `ChannelClosed`; `Peer.of` with the same name makes a new one.
        """
        if self._closed:
            return
        self._closed = True
        self._reason = reason
        self._on_close(self._name)

    def _check_open(self) -> None:
        if self._closed:
            raise ChannelClosed(self._name, self._reason)

    # The channel stands between its own methods and the peer's, to refuse what comes after its end.

    def send_event(self, channel: str | None, event: str, args: tuple[Any, ...], /) -> Coroutine[Any, Any, None]:
        self._check_open()
        return self._peer.send_event(channel, event, args)

    def send_event_nowait(self, channel: str | None, event: str, args: tuple[Any, ...], /) -> None:
        self._check_open()
        self._peer.send_event_nowait(channel, event, args)

    def send_request(
        self,
        channel: str | None,
        event: str,
        args: tuple[Any, ...],
        returns: Any,
        timeout: float | UnsetType | None,
        /,
    ) -> Coroutine[Any, Any, Any]:
        self._check_open()
        return self._peer.send_request(channel, event, args, returns, timeout)

    def __repr__(self) -> str:
        return f"<Channel {self._name!r}{' closed' if self._closed else ''} of {self._peer!r}>"
