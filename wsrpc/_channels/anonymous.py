"""`AnonymousChannel`: a channel that belongs to one request, as its users hold it."""

from __future__ import annotations

from collections.abc import Coroutine
from operator import methodcaller
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never, Self, TypeVar, overload

from msgspec import UNSET, UnsetType

from .._base.names import Source
from .._calling.caller import EventReader, no_keywords, refused
from .._calling.proxy import make_emitter
from .._handlers.introspection import injectable
from .._handlers.registration import Registrar
from .._handlers.registry import Middleware
from .._protocol.rejections import reason_of
from .._sending.pending import RequestOptions
from .._streams.event_values import Waits
from .._streams.stream import Stream
from .core import ChannelCore

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ["AnonymousChannel", "core_of"]

T = TypeVar("T")
M = TypeVar("M", bound=Middleware)

_OPTIONS = {
    "emit": "none",
    "emit_nowait": "none",
    "request": "returns=, timeout= and send=",
    "open_channel": "timeout=",
}


@injectable(methodcaller("channel"), conversation=True)
class AnonymousChannel(Registrar, EventReader):
    """Channel without a name that one request opened. Both sides emit, request, register handlers and read on it.

    The caller gets it from ``open_channel``. The handler of that request either has a parameter annotated with this
    class, and its body is the conversation; or it makes a channel with `Context.channel` and returns it. The channel
    is over when either side aborts it, when the connection ends, or when the conversation's body returns.

    Messages that arrive before the first handler is registered or the first reader reads are kept, for
    `Limits.unread` seconds and up to `Limits.stream_queue` bytes. After that the channel is aborted. If this side has
    sent something on it, the events are dropped instead, and counted in `Peer.ignored`. Sending raises
    `ChannelNotReady` before a handler's channel is delivered, and `ChannelClosed` with the reason after the end.

    ``async with channel`` ends it when the block is left. ``async for item in channel`` reads the items of
    ws-wrapper's iterator protocol.
    """

    __slots__ = ("__weakref__", "_channel_name", "_core", "_registry", "id")

    def __init__(self, core: ChannelCore) -> None:
        self.id = core.id
        """The id of the request that opened it, which is the channel's name on the wire."""
        self._channel_name = core.id
        self._core = core
        self._registry = core.registry

    @property
    def closed(self) -> bool:
        """Whether the channel is over."""
        return self._core.closed

    @property
    def close_reason(self) -> Any:
        """Why it is over: the argument of `close` or `abort` on either side (errors of the remote peer as
        `RemoteError`), a `ConnectionLost`, or None after a good end."""
        return self._core.close_reason

    def __repr__(self) -> str:
        return f"<AnonymousChannel {self.id} {self._core.state.value}>"

    # ------------------------------------------------------------ the end

    def close(self, reason: object = None) -> None:
        """End the channel on this side. Local and idempotent. Requests that this side made on it fail: `ChannelClosed`.

        The remote peer learns of it by an abort when it next sends something on the channel. A producer that waits for
        credit would never send anything, so it gets an abort at once.
        """
        self._core.check_thread()
        self._core.close(reason)

    async def abort(self, reason: object = None) -> None:
        """End the channel on both sides. ``reason`` is sent: an `RpcError`, text or any value. Idempotent.

        Of another exception only the text is sent. On either side requests that were made on the channel fail with
        `ChannelClosed`, and the handler whose body is the conversation is cancelled. Cancelling is safe.
        """
        self._core.check_thread("channel.abort()")
        self._core.abort(reason)

    async def wait_closed(self) -> None:
        """Wait until the channel is over and handlers have got the messages before its end. Cancelling is safe."""
        await self._core.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._core.check_thread("channel.abort()")
        if error is None:
            self._core.finish()
        else:
            self._core.abort(reason_of(error))

    # ------------------------------------------------------------ reading

    @overload
    def items(self) -> Stream[Any]: ...

    @overload
    def items(self, *, returns: TypeForm[T]) -> Stream[T]: ...

    def items(self, *, returns: Any = UNSET) -> Stream[Any]:
        """Read the items of ws-wrapper's iterator protocol; at their end the channel stays open, as in JavaScript.

        ``async for item in channel`` does the same, without ``returns``.

        Raises:
            ChannelClosed: the channel is over.
            RuntimeError: the items are being read already.
        """
        return self._core.read_items(returns)

    def __aiter__(self) -> Stream[Any]:
        return self.items()

    def _read_events(self, event: str, returns: Any, keep: Waits) -> Stream[Any]:
        return self._core.read_events(event, returns, keep)

    def _is_over(self) -> Exception:
        return self._core.gone()

    # ------------------------------------------------------------ handlers

    def use(self, middleware: M, /) -> M:
        self._registry = self._core.own_registry()
        return super().use(middleware)

    def implement(self, contract: TypeForm[Any], implementation: object, /) -> None:
        self._listen()
        super().implement(contract, implementation)

    def _register(self, event: str, handler: Any, **options: Any) -> Any:
        self._listen()
        return super()._register(event, handler, **options)

    def _listen(self) -> None:
        self._registry = self._core.own_registry()
        self._core.mailbox.listen()

    def _check_open(self) -> None:
        self._core.check_open()

    # ------------------------------------------------------------ sending
    # Nothing waits for another connection here, because a channel belongs to its connection.

    def emit(self, event: str, /, *args: Any, **unsupported: Never) -> Coroutine[Any, Any, None]:
        """Send an event on the channel. An event has no answer.

        Returns when the message is accepted for sending, not when it is delivered. While the connection is above its
        high-water mark, the message waits for its turn before it is encoded. Cancelling is safe: the event is then not
        sent.

        Raises:
            ChannelClosed, ChannelNotReady: the channel is over, or not delivered yet; it is over with its connection.
            MessageTooBig: the remote peer has said that it takes less at once; nothing is sent.
            TypeError, ValueError: if an argument cannot be encoded; nothing is sent.
        """
        if unsupported:
            return refused(no_keywords("emit", event, unsupported, _OPTIONS))
        core = self._core
        return (core.sender or core.start_sending()).send_event(self.id, event, args)

    def emit_nowait(self, event: str, /, *args: Any, **unsupported: Never) -> None:
        """Like `emit`, for plain functions in the event loop's thread. It never waits.

        Raises:
            QueueFull: at the hard cap of unsent bytes; nothing is sent.
            ChannelClosed, ChannelNotReady, MessageTooBig, TypeError, ValueError: as for `emit`.
        """
        if unsupported:
            raise no_keywords("emit_nowait", event, unsupported, _OPTIONS)
        core = self._core
        (core.sender or core.start_sending()).send_event_nowait(self.id, event, args)

    def emitter(self, contract: TypeForm[T], /) -> T:
        """Return an object whose methods emit the events of a contract on the channel; see `Caller.emitter`.

        Raises:
            TypeError: the contract cannot work; the text names the method and says why.
        """
        made: T = make_emitter(contract, self)
        return made

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
        """Send a request on the channel and return its answer. The options are those of `Peer.request`.

        Cancelling is safe and cancels remotely.

        Raises:
            ChannelClosed, ChannelNotReady: the channel is over, or not delivered yet; it is over with its connection.
            WsrpcError: as for `Peer.request`.
        """
        if unsupported:
            return refused(no_keywords("request", event, unsupported, _OPTIONS))
        core = self._core
        sender = core.sender or core.start_sending()
        options = RequestOptions(returns, timeout, send=send)
        if send is not None:
            return sender.upload(self.id, event, args, options)
        return sender.send_request(self.id, event, args, options)

    async def open_channel(
        self, event: str, /, *args: Any, timeout: float | UnsetType | None = UNSET, **unsupported: Any
    ) -> AnonymousChannel:
        """Send a request whose answer is a channel, for a conversation with its handler, and return the channel.

        The channel stays open until either side ends it, or the connection ends: ``async with`` it, or abort it.
        ``timeout`` as in `request`, until the channel is open. Cancelling is safe and cancels remotely.

        Raises:
            BadResult: the answer is not a channel.
            WsrpcError: as for `request`.
        """
        if unsupported:
            raise no_keywords("open_channel", event, unsupported, _OPTIONS)
        core = self._core
        sender = core.sender or core.start_sending()
        return await sender.open_channel(self.id, event, args, RequestOptions(timeout=timeout))


def core_of(channel: AnonymousChannel) -> ChannelCore:
    """Return the object behind a channel that a user holds."""
    return channel._core  # pyright: ignore[reportPrivateUsage] - the one internal use of a channel's inside
