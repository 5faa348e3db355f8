"""`AnonymousChannel`: a channel that belongs to one request, as its users hold it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

from msgspec import UNSET

from ..._base.misuse import refused
from ..._base.names import UNTYPED, Source
from ..channels.channel_core import ChannelCore
from ..handlers.introspection import Injection, injections
from ..handlers.invocation import Invocation
from ..handlers.method import HandlerOptions
from ..inboxes.event_inboxes import Waits, value_of
from ..wire.messages import EVENT_OPTIONS, NO_OPTIONS, RequestOptions
from ..wire.rejections import reason_of
from . import calls
from .events import EventReader
from .options import ChannelCallOptions, ChannelEventOptions, changed
from .proxy import make_emitter
from .registration import M, Registrar
from .stream import Stream

if TYPE_CHECKING:
    from typing_extensions import TypeForm, TypeVar

    T = TypeVar("T", default=Any)


class AnonymousChannel(Registrar, EventReader):
    """Channel without a name, opened by one request. Both sides can send, read and register handlers on it.

    The caller gets the channel from ``open_channel``. On the other side, the handler of the request can have a
    parameter that is annotated with this class. wsrpc then passes the channel to the handler, whose body is the
    conversation. A handler without such a parameter can create a channel with `Context.channel` and return it. The
    channel ends when either side ends it, when a handler whose body is the conversation returns, or when the session
    ends.

    Messages that arrive before this side registers a handler or starts a reader on the channel are kept, for at most
    `Limits.unread_timeout` seconds and up to `Limits.stream_queue_bytes` bytes. Beyond these limits, the channel is
    aborted. But if this side has sent something on the channel, the kept events are dropped instead, and counted in
    `Peer.ignored`.

    Sending on a channel from `Context.channel` raises `ChannelNotReady` until the response that opens the channel has
    been sent. After the channel has ended, sending raises `ChannelClosed` with the reason for the end.

    ``async with channel`` ends the channel at the end of the block. ``async for item in channel`` reads the items, like
    `items`.
    """

    __slots__ = ("__weakref__", "_channel_name", "_core", "_registry", "id")

    def __init__(self, core: ChannelCore) -> None:
        self.id = core.id
        """The id of the request that opened the channel. Messages of the channel contain this id."""
        self._channel_name = core.id
        self._core = core
        self._registry = core.registry

    @property
    def closed(self) -> bool:
        """Whether the channel has ended."""
        return self._core.over

    @property
    def close_reason(self) -> Any:
        """The reason for the end of the channel.

        On the side that ended the channel, this is the argument of `close` or `abort`. On the other side, it is the
        argument of `abort`, or a `RemoteError` if that argument is an error. The argument of `close` is sent only if
        `close` sends an abort; otherwise the other side gets a `RemoteError` that says that the channel does not exist.
        If the session ended, the reason is a `ConnectionLost`. After a normal end, it is None.
        """
        return self._core.close_reason

    def __repr__(self) -> str:
        state = "closed" if self.closed else self._core.state.value
        return f"<AnonymousChannel {self.id} {state}>"

    # ------------------------------------------------------------ the end

    def close(self, reason: object = None) -> None:
        """End the channel on this side. Requests that this side has sent on it fail with `ChannelClosed`.

        ``reason`` is for this side. As in JavaScript, the remote peer gets an abort when it next sends something on the
        channel, and that abort says only that the channel does not exist. If the remote peer is producing items, it
        gets an abort with ``reason`` immediately, because a producer that waits for flow-control credit would never
        send anything. Calling `close` again has no effect.
        """
        self._core.check_thread()
        self._core.close(reason)

    async def abort(self, reason: object = None) -> None:
        """End the channel on both sides, and send ``reason``: an `RpcError`, a string or any other value.

        For an exception that is not an `RpcError`, only the text is sent. On both sides, requests that were sent on the
        channel fail with `ChannelClosed`, and the handler whose body is the conversation is cancelled. Calling `abort`
        again has no effect. Cancelling is safe.
        """
        self._core.check_thread("channel.abort()")
        self._core.abort(reason)

    async def wait_closed(self) -> None:
        """Wait until the channel has ended, and handlers have received the messages that arrived before the end.

        Cancelling is safe.
        """
        await self._core.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._core.check_thread("channel.abort()")
        if error is None:
            self._core.finish()
        else:
            self._core.abort(reason_of(error))

    # ------------------------------------------------------------ reading

    def items(self, *, returns: TypeForm[T] = UNTYPED) -> Stream[T]:
        """Read the items that the remote peer produces, like ``for await (... of channel)`` in JavaScript.

        After the last item, the channel stays open. ``async for item in channel`` does the same, without ``returns``.

        Args:
            returns: the type that each item is checked against and converted to.

        Raises:
            ChannelClosed: the channel has ended.
            RuntimeError: the items are already being read.
        """
        self._core.check_open()
        convert = None if returns is UNTYPED else self._core.owner.registry.converter(returns)
        return Stream("next", convert, reading=self._core.read_items())

    def __aiter__(self) -> Stream[Any]:
        return self.items()

    def _read_events(self, event: str, returns: Any, keep: Waits) -> Stream[Any]:
        self._core.check_open()
        convert = value_of(returns, self._core.owner.registry.converter)
        return Stream(event, convert, reading=self._core.read_events(event, keep))

    def _is_over(self) -> Exception:
        return self._core.closed_error()

    # ------------------------------------------------------------ handlers

    def use(self, middleware: M, /) -> M:
        """Run ``middleware(ctx, call_next)`` around the handlers of this channel. Works as a decorator.

        The middleware runs only around events and requests on this anonymous channel. See `Server.use`.

        Raises:
            TypeError: ``middleware`` does not take these two arguments.
            ChannelClosed: the channel has ended.
        """
        self._registry = self._core.own_registry()
        return super().use(middleware)

    def implement(self, contract: TypeForm[Any], implementation: object, /) -> None:
        """Register the methods of an object as the handlers of a contract, on this channel.

        See `Server.implement`. After this call, messages that were kept for the channel are handled.

        Raises:
            TypeError: a method is missing, or its signature does not fit the contract. The error message shows both
                signatures. Nothing is registered.
            ChannelClosed: the channel has ended.
        """
        self._listen()
        super().implement(contract, implementation)

    def _register(self, event: str, handler: Any, options: HandlerOptions, *, once: bool) -> Any:
        self._listen()
        return super()._register(event, handler, options, once=once)

    def _listen(self) -> None:
        self._registry = self._core.own_registry()
        self._core.mailbox.listen()

    def _check_open(self) -> None:
        self._core.check_open()

    # ------------------------------------------------------------ sending
    # Nothing waits for another connection here, because a channel belongs to its connection.

    def emit(self, event: str, /, *args: Any, **options: Unpack[ChannelEventOptions]) -> Coroutine[Any, Any, None]:
        """Send an event on the channel.

        Returns when the message is accepted for sending, not when it is delivered. While more than
        `Limits.high_water_bytes` bytes are unsent, calls wait, and they continue in the order in which they began. The
        message is encoded after the wait. Cancelling is safe: the event is then not sent. ``metadata`` is the same as
        for `Peer.emit`.

        Raises:
            ChannelClosed: the channel has ended, for example because its session ended.
            ChannelNotReady: the response that opens the channel has not been sent yet.
            MessageTooBig: the message is larger than the remote peer accepts, or larger than
                `Limits.sent_message_bytes`; nothing is sent.
            TypeError, ValueError, RecursionError: an argument cannot be encoded; nothing is sent.
        """
        core = self._core
        sender = core.sender or core.start_sending()
        if not options and not sender.outgoing:
            return sender.send_event(self.id, event, args)
        try:
            chosen = changed(EVENT_OPTIONS, options, ChannelEventOptions, self.emit, event)
        except (TypeError, ValueError) as exc:
            return refused(exc)
        return calls.emit(sender, (self.id, event, args), chosen)

    def emit_nowait(self, event: str, /, *args: Any, **options: Unpack[ChannelEventOptions]) -> None:
        """Send an event without waiting, from a plain function in the event loop's thread.

        Raises:
            QueueFull: too many bytes are unsent (`Limits.hard_cap_bytes`); nothing is sent.
            ChannelClosed, ChannelNotReady, MessageTooBig, TypeError, ValueError, RecursionError: as for `emit`.
        """
        core = self._core
        sender = core.sender or core.start_sending()
        if not options and not sender.outgoing:
            sender.send_event_nowait(self.id, event, args)
            return
        chosen = changed(EVENT_OPTIONS, options, ChannelEventOptions, self.emit_nowait, event)
        calls.emit_nowait(sender, (self.id, event, args), chosen)

    def emitter(self, contract: TypeForm[T], /) -> T:
        """Return an object whose methods emit the events of a contract on the channel; see `Peer.emitter`.

        Raises:
            TypeError: the contract is not valid. The error message names the method and explains the problem.
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
        send: Source | None = None,
        **options: Unpack[ChannelCallOptions],
    ) -> Any: ...

    @overload
    async def request(
        self,
        event: str,
        /,
        *args: Any,
        returns: TypeForm[T],
        send: Source | None = None,
        **options: Unpack[ChannelCallOptions],
    ) -> T: ...

    def request(
        self,
        event: str,
        /,
        *args: Any,
        returns: Any = UNSET,
        send: Source | None = None,
        **options: Unpack[ChannelCallOptions],
    ) -> Coroutine[Any, Any, Any]:
        """Send a request on the channel, and return its response. The arguments mean the same as for `Peer.request`.

        Cancelling is safe, and cancels the handler on the remote peer.

        Raises:
            ChannelClosed: the channel has ended, for example because its session ended.
            ChannelNotReady: the response that opens the channel has not been sent yet.
            WsrpcError: as for `Peer.request`.
        """
        try:
            own = RequestOptions(returns, send=send)
            chosen = changed(own, options, ChannelCallOptions, self.request, event)
        except (TypeError, ValueError) as exc:
            return refused(exc)
        core = self._core
        return calls.request(core.sender or core.start_sending(), (self.id, event, args), chosen)

    async def open_channel(self, event: str, /, *args: Any, **options: Unpack[ChannelCallOptions]) -> AnonymousChannel:
        """Send a request that opens another anonymous channel, and return that channel.

        The channel stays open until either side ends it, or the session ends. To end it, use ``async with``, or call
        its `abort`. ``timeout`` is the maximum time in seconds until the channel is open. Cancelling is safe, and
        cancels the handler on the remote peer.

        Raises:
            BadResult: the response is not a channel.
            WsrpcError: as for `request`.
        """
        chosen = changed(NO_OPTIONS, options, ChannelCallOptions, self.open_channel, event)
        core = self._core
        sender = core.sender or core.start_sending()
        return AnonymousChannel(await calls.open_channel(sender, (self.id, event, args), chosen))


def user_channel_of(invocation: Invocation) -> AnonymousChannel:
    """Return the channel that `Context.channel` returns, and raise what it raises."""
    channel: AnonymousChannel | None = invocation.user_channel
    if channel is None:
        channel = invocation.user_channel = AnonymousChannel(invocation.make_channel())
    return channel


injections[AnonymousChannel] = Injection(user_channel_of, conversation=True)


def core_of(channel: AnonymousChannel) -> ChannelCore:
    """Return the object behind a channel that a user holds."""
    return channel._core  # pyright: ignore[reportPrivateUsage] - the one internal use of a channel's inside
