"""`Sender`: sends events and requests for the objects that users hold."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Never, Protocol

from ..._base.names import ChannelRef
from ..inboxes.event_inboxes import ToValue, Waits
from ..inboxes.inbox import Inbox
from ..wire.messages import EVENT_OPTIONS, RequestOptions


class Sender(Protocol):
    """Sends for a `Caller`: `Requester`, `ClusterSender`, or `RefusingSender` after the end of a channel."""

    @property
    def request_timeout(self) -> float | None:
        """Seconds for a request without ``timeout=``."""
        ...

    @property
    def outgoing(self) -> Sequence[Any]:
        """The functions of `use_outgoing`, which a caller runs before it calls this object."""
        ...

    def target(self) -> tuple[Any, str | None]:
        """Return the peer to which messages are sent, and its address. The peer may be unknown, and have no address."""
        ...

    def send_event(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions = EVENT_OPTIONS, /
    ) -> Coroutine[Any, Any, None]: ...

    def send_event_nowait(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions = EVENT_OPTIONS, /
    ) -> None: ...

    def send_request(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> Coroutine[Any, Any, Any]: ...

    def request_again(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> Coroutine[Any, Any, Any]: ...

    def upload(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> Coroutine[Any, Any, Any]: ...

    def open_stream(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> Coroutine[Any, Any, Inbox]: ...

    def converter(self, returns: Any, /) -> Callable[[Any], Any]: ...


class ReadingSender(Sender, Protocol):
    """Sends and reads for a `ReadingCaller`."""

    def read_events(self, channel: ChannelRef, event: str, convert: ToValue, keep: Waits, /) -> Inbox: ...

    def read_items(self, channel: str, /) -> Inbox: ...


class RefusingSender:
    """Sender of a channel that cannot send. Each call raises the error that ``error`` returns."""

    request_timeout: float | None = None
    outgoing = ()

    def __init__(self, error: Callable[[], Exception]) -> None:
        self._error = error

    async def _refuse(self, *_: object) -> Never:
        raise self._error()

    def _refuse_now(self, *_: object) -> Never:
        raise self._error()

    send_event = send_request = request_again = open_stream = upload = _refuse
    send_event_nowait = converter = read_events = read_items = target = _refuse_now
