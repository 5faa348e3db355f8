"""`Caller`: the methods that send. `AnonymousChannel`: a channel that belongs to one request, as its users hold it."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

from msgspec import UNSET

from ..._base.misuse import refused
from ..._base.names import UNTYPED, OnChannel, Source
from ..._base.retry import Retry, check_retry
from ..channels.channel_core import ChannelCore
from ..handlers.introspection import Injection, injections
from ..handlers.invocation import CURRENT, Invocation
from ..handlers.method import HandlerOptions
from ..inboxes.event_inboxes import Waits, value_of
from ..sending.sender import Sender
from ..wire.messages import EVENT_OPTIONS, NO_OPTIONS, RequestOptions
from ..wire.rejections import reason_of
from . import calls
from .events import EventReader
from .options import CallOptions, ChannelCallOptions, ChannelEventOptions, EventOptions, StreamOptions, changed
from .proxy import make_emitter, make_proxy
from .registration import M, Registrar
from .stream import Stream

if TYPE_CHECKING:
    from typing_extensions import TypeForm, TypeVar

    T = TypeVar("T", default=Any)


class Caller(OnChannel):
    """`emit`, `emit_nowait`, `request`, `stream` and `open_channel` on one channel of one peer.

    On a client, ``offline`` says what happens to a message while there is no connection, or while the other side
    drains. ``"queue"`` lets it wait for the next connection. ``"fail"`` raises `ConnectionLost` at once, with
    ``outcome="not_sent"``. With ``"fail"``, a message that waits for the `open` handlers of a connection, or until the
    connection has room, also fails in this way when that connection ends. None, the default, means the option with
    which the client was made. On a server, messages wait only while the session of the peer is kept.
    """

    __slots__ = ()

    _event_options: type[Any] = EventOptions
    _call_options: type[Any] = CallOptions
    _stream_options: type[Any] = StreamOptions

    _sender: Sender

    def emit(self, event: str, /, *args: Any, **options: Unpack[EventOptions]) -> Coroutine[Any, Any, None]:
        """Send an event.

        Returns when the message is accepted for sending, not when it is delivered. While more than
        `Limits.high_water_bytes` bytes are unsent, calls wait, and they continue in the order in which they began. Each
        message is encoded only after the wait. Cancelling is safe: the event is then not sent.

        Args:
            offline: what to do with the message on a client that has no connection, or whose server is closing the
                connection. ``"queue"`` lets the message wait for the next connection. ``"fail"`` immediately raises
                `ConnectionLost`; it also raises this error if the connection ends while the message is still waiting to
                be sent, except while the `open` handlers are running. None, the default, uses the ``offline`` option of
                the client. On a server, messages wait for another connection only while the peer's session is kept.
            metadata: text for the handler besides the arguments, such as ``{"tenant": "acme"}``, which the handler
                reads as `Context.metadata`. At most 32 entries with together 4,096 bytes. Peers without wsrpc ignore
                it, or do not get it (`PeerStats.metadata_not_sent`).

        Raises:
            ConnectionLost: there is no connection, and the event cannot wait for one; ``outcome`` is ``"not_sent"``.
            QueueFull: the queue for messages that wait for a connection is full (`Limits.offline`).
            ReservedEvent: ``event`` is a lifecycle event of the main channel, such as ``open``.
            MessageTooBig: the message is larger than the remote peer accepts, or larger than
                `Limits.sent_message_bytes`; nothing is sent.
            ChannelClosed, ChannelNotReady: the channel was closed, or the response that opens it was not sent yet.
            TypeError, ValueError, RecursionError: an argument cannot be encoded; nothing is sent.
        """
        sender = self._sender
        if not options and not sender.outgoing:
            return sender.send_event(self._channel_name, event, args)
        try:
            chosen = changed(EVENT_OPTIONS, options, self._event_options, self.emit, event)
        except (TypeError, ValueError) as exc:
            return refused(exc)
        return calls.emit(sender, (self._channel_name, event, args), chosen)

    def emit_nowait(self, event: str, /, *args: Any, **options: Unpack[EventOptions]) -> None:
        """Send an event without waiting, from a plain function in the event loop's thread.

        Args:
            offline: as for `emit`.
            metadata: as for `emit`, but this method does not wait until the remote peer has announced that it accepts
                metadata. Before that, the event is sent without the metadata.

        Raises:
            QueueFull: too many bytes are unsent (`Limits.hard_cap_bytes`), or the queue for messages that wait for a
                connection is full; nothing is sent.
            ConnectionLost, ReservedEvent, MessageTooBig, ChannelClosed, TypeError, ValueError, RecursionError: as for
                `emit`.
        """
        sender = self._sender
        if not options and not sender.outgoing:
            sender.send_event_nowait(self._channel_name, event, args)
            return
        chosen = changed(EVENT_OPTIONS, options, self._event_options, self.emit_nowait, event)
        calls.emit_nowait(sender, (self._channel_name, event, args), chosen)

    # The overloads are written as coroutine functions because type checkers then see through asyncio.gather().

    @overload
    async def request(
        self,
        event: str,
        /,
        *args: Any,
        send: Source | None = None,
        retry: Retry | None = None,
        idempotent: bool = False,
        **options: Unpack[CallOptions],
    ) -> Any: ...

    @overload
    async def request(
        self,
        event: str,
        /,
        *args: Any,
        returns: TypeForm[T],
        send: Source | None = None,
        retry: Retry | None = None,
        idempotent: bool = False,
        **options: Unpack[CallOptions],
    ) -> T: ...

    def request(
        self,
        event: str,
        /,
        *args: Any,
        returns: Any = UNSET,
        send: Source | None = None,
        retry: Retry | None = None,
        idempotent: bool = False,
        **options: Unpack[CallOptions],
    ) -> Coroutine[Any, Any, Any]:
        """Send a request, and return its response.

        Args:
            returns: the type that the response is checked against and converted to. Without a type, the response is
                returned as decoded.
            timeout: the maximum time until the response, in seconds, including the time that the request waits to be
                sent. None for no limit. The default is `Limits.request_timeout`. With ``send``, this limit applies
                twice: until the handler is ready for the first item, and from the last item to the response. Sending
                the items has no time limit. A ``timeout`` that you pass is also sent to the handler, as
                `Context.remaining`, and limits the calls that the handler itself makes.
            send: an iterable or async iterable of items for the handler, which needs a parameter annotated
                ``AsyncIterator[...]``. The items are sent only as fast as the handler reads them. If you pass a
                generator, it is closed at the end, even if the handler stops reading early. If the iterable raises an
                exception, `request` raises the same exception, and the handler is stopped.
            retry: the rules for sending the request again if no handler ran; see `Retry`. ``timeout`` then limits the
                total time of all attempts and the waits between them. ``retry`` and ``send`` cannot be combined.
            idempotent: whether the handler can safely run twice. If true, ``retry`` also sends the request again if the
                handler may have run before the connection ended, or if the handler reached its time limit.
            offline: as for `emit`.
            metadata: as for `emit`.
            key: a text that names this call, such as ``"order-17"``. The handler needs ``keep=`` (see `Server.on`), and
                runs once for all calls with this key; later calls get the result of the first. Cancelling does not stop
                the handler. With ``retry``, also pass ``idempotent=True``: if the key does not belong to a session (see
                `Keep`), the request can be repeated on another connection, and the handler still runs only once.

        Cancelling is safe. It also cancels the handler on the remote peer. The handler gets the reason that you pass to
        ``task.cancel(reason)``.

        Raises:
            RemoteError: the remote peer rejected the request. Its subclasses stand for specific reasons.
            RequestTimeout: no response arrived in time, and a cancellation was sent to the remote peer. With ``retry``,
                ``__cause__`` is the error from the previous attempt.
            ConnectionLost: the connection ended before the response arrived; ``outcome`` says whether the handler may
                have run.
            BadResult: the response does not fit ``returns``.
            UnexpectedChannel: the response is a channel.
            ChannelClosed: the channel was closed; or, with ``send``, the remote peer ended the upload without an error.
            MessageTooBig: the message is larger than the remote peer accepts, or larger than
                `Limits.sent_message_bytes`; nothing was sent.
            TooManyRequests, QueueFull, ReservedEvent, TypeError, ValueError: the request could not be sent, for the
                reason that the exception gives.
        """
        if returns is UNSET and send is None and retry is None and not idempotent and not options:
            sender, handler = self._sender, CURRENT.get(None)
            if (handler is None or handler.deadline is None) and not sender.outgoing:
                # Most requests. The same as below, without calls.
                return sender.send_request(self._channel_name, event, args, NO_OPTIONS)
            return calls.request(sender, (self._channel_name, event, args), NO_OPTIONS)
        try:
            own = RequestOptions(returns, send=send, retry=retry, idempotent=idempotent)
            chosen = changed(own, options, self._call_options, self.request, event)
            if retry is not None:
                check_retry(retry, send)
            elif idempotent:
                raise TypeError("idempotent= says what retry= may ask again: give retry=wsrpc.Retry(), too")
        except (TypeError, ValueError) as exc:
            return refused(exc)
        return calls.request(self._sender, (self._channel_name, event, args), chosen)

    async def open_channel(
        self,
        event: str,
        /,
        *args: Any,
        **options: Unpack[CallOptions],
    ) -> AnonymousChannel:
        """Send a request that opens an anonymous channel, and return the channel for a conversation with the handler.

        The channel stays open until either side ends it, or the session ends. To end it, use ``async with``, or call
        its ``abort()``. ``timeout`` is the maximum time in seconds until the channel is open. ``offline`` and
        ``metadata`` are the same as for `emit`. Cancelling is safe, and cancels the handler on the remote peer.

        Raises:
            BadResult: the response is not a channel.
            WsrpcError: as for `request`.
        """
        return await self._open(event, args, changed(NO_OPTIONS, options, self._call_options, self.open_channel, event))

    async def _open(self, event: str, args: tuple[Any, ...], options: RequestOptions) -> AnonymousChannel:
        """Open a channel with options that are checked already, for `open_channel` and for proxies."""
        return AnonymousChannel(await calls.open_channel(self._sender, (self._channel_name, event, args), options))

    def stream(
        self,
        event: str,
        /,
        *args: Any,
        returns: TypeForm[T] = UNTYPED,
        send: Source | None = None,
        **options: Unpack[StreamOptions],
    ) -> Stream[T]:
        """Request a stream: ``async with peer.stream("subscribe", "news", returns=Update) as updates``.

        The request is sent when you enter the block or read the first item. See `Stream` for how a stream ends, and for
        the exceptions that it raises.

        Args:
            returns: the type that each item is checked against and converted to.
            timeout: the maximum time until the stream is open, in seconds. None for no limit. The default is
                `Limits.request_timeout`. The items have no time limit.
            send: items for the handler, as for `request`. If the iterable raises an exception, the stream raises the
                same exception.
            offline: as for `emit`.
            metadata: as for `emit`.
            key: as for `request`. The first call starts the handler, and later calls read the same items. Leaving the
                stream does not stop the handler; `Stream.stop` does.
            after: with ``key``, the position after which to begin: `Stream.position` of an earlier stream with this
                key, or the number of items to skip. A stream with a position never starts the handler. None begins
                with the first item.

        Raises:
            TypeError: ``returns`` is not a type that wsrpc can convert values to.
            TypeError, ValueError: an option is wrong.
        """
        chosen = changed(RequestOptions(send=send), options, self._stream_options, self.stream, event)
        sender, channel = self._sender, self._channel_name
        convert = None if returns is UNTYPED else sender.converter(returns)
        open = partial(calls.open_stream, sender, (channel, event, args), chosen)
        send_message = partial(calls.send_message, sender, (channel, event, args), chosen)
        return Stream(event, convert, open=open, context=chosen.context, send_message=send_message)

    def proxy(self, contract: TypeForm[T], /) -> T:
        """Return an object with the methods of a contract. Each method sends a request for the event of the same name.

        The contract is a `typing.Protocol`. A method sends the same message as `request`, `stream` or `open_channel`
        would, and converts the result to the type that the contract declares:

        - ``async def say(self, text: str) -> int`` is a request.
        - ``def history(self, since: int) -> Stream[Line]`` is a stream.
        - A parameter ``AsyncIterable[...]`` takes the items of an upload, like the argument ``send`` of `request`.
        - ``async def talk(self) -> AnonymousChannel`` opens a channel.
        - An attribute that is annotated with another contract is a proxy for the named channel of the same name.

        Arguments are sent by position. Omitted arguments at the end are not sent, so the handler's defaults apply. If
        you omit an argument and pass a later one, the contract's default is sent for the omitted argument.
        `with_options` returns a proxy with a timeout and other options. Exceptions have a note that contains the name
        of the method.

        Raises:
            TypeError: the contract is not valid. The error message names the method and explains the problem.
        """
        made: T = make_proxy(contract, self)
        return made

    def emitter(self, contract: TypeForm[T], /) -> T:
        """Return an object with the methods of a contract. Each method emits the event of the same name.

        An ``async def`` of the contract does what `emit` does, and a plain ``def`` does what `emit_nowait` does. Both
        are declared with the return type ``None``. Arguments are sent as described for `proxy`.

        Raises:
            TypeError: the contract is not valid. The error message names the method and explains the problem.
        """
        made: T = make_emitter(contract, self, accepts_offline="offline" in self._event_options.__annotations__)
        return made


class AnonymousChannel(Registrar, Caller, EventReader):
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

    The methods that send are those of `Peer`. The options ``offline`` and ``key`` do not apply, because a channel ends
    with its session.

    ``async with channel`` ends the channel at the end of the block. ``async for item in channel`` reads the items, like
    `items`.
    """

    __slots__ = ("__weakref__", "_channel_name", "_core", "_registry", "id")

    # Nothing waits for another connection here, because a channel belongs to its connection.
    _event_options = ChannelEventOptions
    _call_options = _stream_options = ChannelCallOptions

    def __init__(self, core: ChannelCore) -> None:
        self.id = core.id
        """The id of the request that opened the channel. Messages of the channel contain this id."""
        self._channel_name = core.id
        self._core = core
        self._registry = core.registry

    @property
    def _sender(self) -> Sender:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._core.sender or self._core.start_sending()

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
