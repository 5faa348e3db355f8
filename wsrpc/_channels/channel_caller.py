"""Emitting and requesting on an anonymous channel, which belongs to its connection: nothing waits for another one."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Never, TypeVar, overload

from msgspec import UNSET, UnsetType

from .._sending.caller import EventReader, Sender, Source, no_keywords, refused

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from .anonymous import AnonymousChannel

__all__ = ["ChannelCaller"]

T = TypeVar("T")

_OPTIONS = {
    "emit": "none",
    "emit_nowait": "none",
    "request": "returns=, timeout= and send=",
    "open_channel": "timeout=",
}


class ChannelCaller(EventReader):
    """`emit`, `request`, `open_channel`, `events` and the like, without what is about another connection."""

    __slots__ = ()

    _sender: Sender

    def emit(self, event: str, /, *args: Any, **unsupported: Never) -> Coroutine[Any, Any, None]:
        """Send an event on the channel, which nobody answers.

        Returns when the message is accepted for sending, not when it is delivered: while the line is above
        its high-water mark it waits, in turn, before encoding. Cancelling is safe: the event is then not
        sent.

        Raises:
            ChannelClosed, ChannelNotReady: the channel is over, or not delivered yet; it is over with its connection.
            MessageTooBig: the other side has said that it takes less at once; nothing is sent.
            TypeError, ValueError: if an argument cannot be encoded; nothing is sent.
        """
        if unsupported:
            return refused(no_keywords("emit", event, unsupported, _OPTIONS))
        return self._sender.send_event(self._channel_name, event, args)

    def emit_nowait(self, event: str, /, *args: Any, **unsupported: Never) -> None:
        """Like `emit`, for plain functions in the event loop's thread; it never waits.

        Raises:
            QueueFull: at the hard cap of unsent bytes; nothing is sent.
            ChannelClosed, ChannelNotReady, MessageTooBig, TypeError, ValueError: as for `emit`.
        """
        if unsupported:
            raise no_keywords("emit_nowait", event, unsupported, _OPTIONS)
        self._sender.send_event_nowait(self._channel_name, event, args)

    # The overloads are written as coroutine functions because type checkers then see through asyncio.gather().

    @overload
    async def request(
        self,
        event: str,
        /,
        *args: Any,
        timeout: float | UnsetType | None = UNSET,
        send: Source | None = None,
        **unsupported: Never,
    ) -> Any: ...

    @overload
    async def request(
        self,
        event: str,
        /,
        *args: Any,
        returns: TypeForm[T],
        timeout: float | UnsetType | None = UNSET,
        send: Source | None = None,
        **unsupported: Never,
    ) -> T: ...

    def request(
        self,
        event: str,
        /,
        *args: Any,
        returns: Any = UNSET,
        timeout: float | UnsetType | None = UNSET,
        send: Source | None = None,
        **unsupported: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Send a request on the channel and return its answer; the options are as in `Peer.request`.

        Cancelling is safe and cancels remotely.

        Raises:
            ChannelClosed, ChannelNotReady: the channel is over, or not delivered yet; it is over with its connection.
            RemoteError, RequestTimeout, BadResult and the others of `Peer.request`.
        """
        if unsupported:
            return refused(no_keywords("request", event, unsupported, _OPTIONS))
        if send is not None:
            return self._sender.upload(self._channel_name, event, args, returns, timeout, send)
        return self._sender.send_request(self._channel_name, event, args, returns, timeout)

    async def open_channel(
        self, event: str, /, *args: Any, timeout: float | UnsetType | None = UNSET, **unsupported: Any
    ) -> AnonymousChannel:
        """Send a request whose answer is a channel, for a conversation with its handler, and return it.

        The channel stays open until either side ends it, or the connection ends: ``async with`` it, or abort it.
        ``timeout`` as in `request`, until the channel is open. Cancelling is safe and cancels remotely.

        Raises:
            BadResult: the answer is not a channel.
            RemoteError, RequestTimeout, ChannelClosed and the others of `request`.
        """
        if unsupported:
            raise no_keywords("open_channel", event, unsupported, _OPTIONS)
        return await self._sender.open_channel(self._channel_name, event, args, timeout)
