"""The blocking classes. Do not edit: ``scripts/make_blocking.py`` makes them of the asynchronous ones."""

from __future__ import annotations

import ssl as ssl_module
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never, Self, TypeAlias, TypeVar, overload

from msgspec import UNSET, UnsetType

from .._api.anonymous import AnonymousChannel as AsyncAnonymousChannel
from .._api.anonymous import channel_of
from .._api.peer import Peer as AsyncPeer
from .._base.misuse import no_parentheses
from .._base.names import F, Offline, Profile, Redact, StrPath
from .._base.state import Key, PeerState
from .._client.backoff import DEFAULT_RECONNECT, Reconnect
from .._client.client import Client as AsyncClient
from .._client.reconnection import ReconnectInfo
from .._client.states import ClientState
from .._cluster.cluster import ClusterClient as AsyncClusterClient
from .._conversion.convert import DecHook, EncHook
from .._handlers.injections import Injection, injections
from .._protocol.codecs import Codec
from .._sending.retry import Retry
from .._server.broadcast import EmitReport, kept
from .._server.rooms import Members
from .._streams.event_values import Keep
from .._streams.stream import Stream as AsyncStream
from .._transports.dial import Dial, PerAttempt, dial
from ..engine import Engine
from ..limits import Limits
from ..stats import ClusterStats, PeerStats
from ..transport import ConnectionInfo
from ._contracts import implement, make_emitter, make_proxy
from ._delegate import (
    FORMS,
    ClientRoot,
    ClusterRoot,
    Delegate,
    blocking_form,
    client_portal,
    cluster_portal,
    inner_of,
    own_form,
    per_attempt,
    upload,
)
from ._handlers import MISSING, check_plain, in_a_thread, register
from ._stream import Stream

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = [
    "AnonymousChannel",
    "Channel",
    "Client",
    "ClusterClient",
    "ClusterPeer",
    "ClusterPeerChannel",
    "ClusterRoom",
    "ClusterRoomChannel",
    "Peer",
]

T = TypeVar("T")

SkipAddressed: TypeAlias = "ClusterPeer | Iterable[ClusterPeer] | None"


class EventReader(Delegate):
    """`events` and `wait_for` on one channel of one peer."""

    __slots__ = ()

    @overload
    def events(self, event: str, /, *, keep: Keep = "all") -> Stream[Any]: ...

    @overload
    def events(self, event: str, /, *, returns: TypeForm[T], keep: Keep = "all") -> Stream[T]: ...

    def events(self, event: str, /, *, returns: Any = UNSET, keep: Keep = "all") -> Stream[Any]:
        """Read the events with the given name: ``for text in client.events("said", returns=str)``.

        Reading begins at this call, so events that arrive between the call and the loop are not missed. Readers do not
        replace handlers: a handler of the event still runs. If there are several readers, each gets every event.
        Readers get no requests, except on an `AnonymousChannel`. The response to a request that has been read is None,
        unless a handler responds.

        Reading continues until you end it: with ``close()``, at the end of ``with``, or when no reference to the stream
        is left. On a client, reading continues across reconnects, and ends when the client is closed. On a server's
        peer, the loop raises `ConnectionLost` when the session ends. See `Stream` for the other exceptions.

        Args:
            returns: the type of each value. A tuple type of fixed length, such as ``tuple[str, int]``, stands for all
                arguments; any other type stands for exactly one argument. An event that does not fit is dropped with a
                warning, and counted in ``peer.ignored["wrong arguments"]``. Without ``returns``, the value is None for
                an event without arguments, the argument if there is one, and a tuple if there are several.
            keep: which unread events are kept. With ``"all"``, events are kept up to `Limits.stream_queue` bytes. If
                more arrive, the stream yields the kept events and then raises `StreamOverflow`. With ``"newest"``, only
                the latest event is kept. `StreamOverflow` is also raised if all unread messages of the connection would
                exceed `Limits.unread_bytes`.

        Raises:
            ReservedEvent: ``event`` is a lifecycle event of the main channel, such as ``open``. Register a handler
                instead.
            ChannelClosed: the channel was closed.
            TypeError, ValueError: ``returns`` is not a type that wsrpc can convert values to, or ``keep`` is neither
                ``"all"`` nor ``"newest"``.
        """
        return Stream(self._run(self._inner.events, event, returns=returns, keep=keep), self._portal)

    @overload
    def wait_for(self, event: str, /, *, timeout: float | None = None) -> Any: ...

    @overload
    def wait_for(self, event: str, /, *, returns: TypeForm[T], timeout: float | None = None) -> T: ...

    def wait_for(self, event: str, /, *, returns: Any = UNSET, timeout: float | None = None) -> Any:
        """Return the value of the next event with the given name: ``client.wait_for("ready", timeout=5)``.

        To send something and then read the event that the remote peer sends in response, call `events` first.

        Args:
            returns: the type of the value, as for `events`. An event that does not fit is dropped.
            timeout: the maximum time in seconds, counted from the call. None for no limit.

        Raises:
            RequestTimeout: no such event arrived in time. This exception is also a `TimeoutError`.
            ConnectionLost: the client was closed, or the session of a server's peer ended.
            ReservedEvent, ChannelClosed, TypeError, ValueError: as for `events`.
        """
        return self._run(self._inner.wait_for, event, returns=returns, timeout=timeout)


class Caller(Delegate):
    """`emit`, `emit_nowait`, `request`, `stream` and `open_channel` on one channel of one peer.

    On a client, ``offline`` says what happens to a message while there is no connection, or while the other side
    drains. ``"queue"`` lets it wait for the next connection. ``"fail"`` raises `ConnectionLost` at once, with
    ``outcome="not_sent"``. With ``"fail"``, a message that waits for the `open` handlers of a connection, or until the
    connection has room, also fails in this way when that connection ends. None, the default, means the option with
    which the client was made. A server's peer has one connection only, so nothing waits for another one.
    """

    __slots__ = ()

    def emit(self, event: str, /, *args: Any, offline: Offline | None = None, **unsupported: Never) -> None:
        """Send an event.

        Returns when the message is accepted for sending, not when it is delivered. While more than `Limits.high_water`
        bytes are unsent, calls wait, and they continue in the order in which they began. Each message is encoded only
        after the wait. With ``offline="fail"``, calls also wait while the `open` handlers are running.

        Args:
            offline: what to do with the message on a client that has no connection, or whose server is closing the
                connection. ``"queue"`` lets the message wait for the next connection. ``"fail"`` immediately raises
                `ConnectionLost`; it also raises this error if the connection ends while the message is still waiting to
                be sent. None, the default, uses the ``offline`` option of the client. On a server, messages wait for
                another connection only while the peer's session is kept.

        Raises:
            ConnectionLost: there is no connection, and the event cannot wait for one; ``outcome`` is ``"not_sent"``.
            QueueFull: the queue for messages that wait for a connection is full (`Limits.offline`).
            ReservedEvent: ``event`` is a lifecycle event of the main channel, such as ``open``.
            MessageTooBig: the message is larger than the remote peer accepts, or larger than `Limits.sent_message`;
                nothing is sent.
            ChannelClosed: the channel was closed.
            TypeError, ValueError, RecursionError: an argument cannot be encoded; nothing is sent.
        """
        self._run(self._inner.emit, event, *args, offline=offline, **unsupported)

    def emit_nowait(self, event: str, /, *args: Any, offline: Offline | None = None, **unsupported: Never) -> None:
        """Send an event without waiting.

        If ``offline`` is ``"fail"`` and the `open` handlers are running, the event is sent when they have finished. If
        the connection ends before that, the event is not sent, and a warning is logged.

        Args:
            offline: as for `emit`.

        Raises:
            QueueFull: too many bytes are unsent (`Limits.hard_cap`), or the queue for messages that wait for a
                connection is full; nothing is sent.
            ConnectionLost, ReservedEvent, MessageTooBig, ChannelClosed, TypeError, ValueError, RecursionError: as for
                `emit`.
        """
        self._run(self._inner.emit_nowait, event, *args, offline=offline, **unsupported)

    @overload
    def request(
        self,
        event: str,
        /,
        *args: Any,
        timeout: float | UnsetType | None = UNSET,
        send: Iterable[Any] | None = None,
        retry: Retry | None = None,
        idempotent: bool = False,
        offline: Offline | None = None,
        **unsupported: Never,
    ) -> Any: ...

    @overload
    def request(
        self,
        event: str,
        /,
        *args: Any,
        returns: TypeForm[T],
        timeout: float | UnsetType | None = UNSET,
        send: Iterable[Any] | None = None,
        retry: Retry | None = None,
        idempotent: bool = False,
        offline: Offline | None = None,
        **unsupported: Never,
    ) -> T: ...

    def request(
        self,
        event: str,
        /,
        *args: Any,
        returns: Any = UNSET,
        timeout: float | UnsetType | None = UNSET,
        send: Iterable[Any] | None = None,
        retry: Retry | None = None,
        idempotent: bool = False,
        offline: Offline | None = None,
        **unsupported: Any,
    ) -> Any:
        """Send a request, and return its response.

        Args:
            returns: the type that the response is checked against and converted to. Without a type, the response is
                returned as decoded.
            timeout: the maximum time until the response, in seconds, including the time that the request waits to be
                sent. None for no limit. The default is `Limits.timeout`. With ``send``, this limit applies twice: until
                the handler is ready for the first item, and from the last item to the response. Sending the items has
                no time limit.
            send: an iterable of items for the handler, which needs a parameter annotated ``AsyncIterator[...]``. The
                iterable is read in a thread. The items are sent only as fast as the handler reads them. If you pass a
                generator, it is closed at the end, even if the handler stops reading early. If the iterable raises an
                exception, `request` raises the same exception, and the handler is stopped.
            retry: the rules for sending the request again if no handler ran; see `Retry`. ``timeout`` then limits the
                total time of all attempts and the waits between them. ``retry`` and ``send`` cannot be combined.
            idempotent: whether the handler can safely run twice. If true, ``retry`` also sends the request again if the
                handler may have run before the connection ended, or if the handler reached its time limit.
            offline: as for `emit`.

        Ctrl-C cancels the handler on the remote peer, and then raises KeyboardInterrupt.

        Raises:
            RemoteError: the remote peer rejected the request. Its subclasses stand for specific reasons.
            RequestTimeout: no response arrived in time, and a cancellation was sent to the remote peer. With ``retry``,
                ``__cause__`` is the error from the previous attempt.
            ConnectionLost: the connection ended before the response arrived; ``outcome`` says whether the handler may
                have run.
            BadResult: the response does not fit ``returns``.
            UnexpectedChannel: the response is a channel.
            ChannelClosed: the channel was closed; or, with ``send``, the remote peer ended the upload without an error.
            MessageTooBig: the message is larger than the remote peer accepts, or larger than `Limits.sent_message`;
                nothing was sent.
            TooManyRequests, QueueFull, ReservedEvent, TypeError, ValueError: the request could not be sent, for the
                reason that the exception gives.
        """
        run = self._run if send is not None or retry is not None else self._ask
        return run(
            self._inner.request,
            event,
            *args,
            returns=returns,
            timeout=timeout,
            send=upload(send),
            retry=retry,
            idempotent=idempotent,
            offline=offline,
            **unsupported,
        )

    def open_channel(
        self,
        event: str,
        /,
        *args: Any,
        timeout: float | UnsetType | None = UNSET,
        offline: Offline | None = None,
        **unsupported: Any,
    ) -> AnonymousChannel:
        """Send a request that opens an anonymous channel, and return the channel for a conversation with the handler.

        The channel stays open until either side ends it, or the session ends. To end it, use ``with``, or call its
        ``abort()``. ``timeout`` is the maximum time in seconds until the channel is open. ``offline`` is the same as
        for `emit`. Ctrl-C cancels the handler on the remote peer, and then raises KeyboardInterrupt.

        Raises:
            BadResult: the response is not a channel.
            WsrpcError: as for `request`.
        """
        return AnonymousChannel(
            self._run(self._inner.open_channel, event, *args, timeout=timeout, offline=offline, **unsupported),
            self._portal,
        )

    @overload
    def stream(
        self,
        event: str,
        /,
        *args: Any,
        timeout: float | UnsetType | None = UNSET,
        send: Iterable[Any] | None = None,
        offline: Offline | None = None,
        **unsupported: Never,
    ) -> Stream[Any]: ...

    @overload
    def stream(
        self,
        event: str,
        /,
        *args: Any,
        returns: TypeForm[T],
        timeout: float | UnsetType | None = UNSET,
        send: Iterable[Any] | None = None,
        offline: Offline | None = None,
        **unsupported: Never,
    ) -> Stream[T]: ...

    def stream(
        self,
        event: str,
        /,
        *args: Any,
        returns: Any = UNSET,
        timeout: float | UnsetType | None = UNSET,
        send: Iterable[Any] | None = None,
        offline: Offline | None = None,
        **unsupported: Any,
    ) -> Stream[Any]:
        """Request a stream: ``with peer.stream("subscribe", "news", returns=Update) as updates``.

        The request is sent when you enter the block or read the first item. See `Stream` for how a stream ends, and for
        the exceptions that it raises.

        Args:
            returns: the type that each item is checked against and converted to.
            timeout: the maximum time until the stream is open, in seconds. None for no limit. The default is
                `Limits.timeout`. The items have no time limit.
            send: items for the handler, as for `request`. If the iterable raises an exception, the stream raises the
                same exception.
            offline: as for `emit`.

        Raises:
            TypeError: ``returns`` is not a type that wsrpc can convert values to.
        """
        return Stream(
            self._inner.stream(
                event, *args, returns=returns, timeout=timeout, send=upload(send), offline=offline, **unsupported
            ),
            self._portal,
        )

    def proxy(self, contract: TypeForm[T], /) -> T:
        """Return an object with the methods of a contract. Each method sends a request for the event of the same name.

        The contract is a `typing.Protocol`. A method sends the same message as `request`, `stream` or `open_channel`
        would, and converts the result to the type that the contract declares:

        - ``def say(self, text: str) -> int`` is a request.
        - ``def history(self, since: int) -> Stream[Line]`` is a stream.
        - A parameter ``Iterable[...]`` takes the items of an upload, like the argument ``send`` of `request`.
        - ``def talk(self) -> AnonymousChannel`` opens a channel.
        - An attribute that is annotated with another contract is a proxy for the named channel of the same name.

        Arguments are sent by position. Omitted arguments at the end are not sent, so the handler's defaults apply. If
        you omit an argument and pass a later one, the contract's default is sent for the omitted argument.
        `with_options` returns a proxy with a timeout and other options. Exceptions have a note that contains the name
        of the method.

        Raises:
            TypeError: the contract is not valid. The error message names the method and explains the problem.
        """
        made: T = make_proxy(contract, self._inner, self._portal)
        return made

    def emitter(self, contract: TypeForm[T], /) -> T:
        """Return an object with the methods of a contract. Each method emits the event of the same name.

        Each method is declared with the return type ``None``. Arguments are sent as described for `proxy`.

        Raises:
            TypeError: the contract is not valid. The error message names the method and explains the problem.
        """
        made: T = make_emitter(contract, self, takes_offline=True)
        return made


class ReadingCaller(Caller, EventReader):
    """The methods of `Caller`, with `events` and `wait_for`. Its sender is a `ReadingSender`."""

    __slots__ = ()


class RawCaller(ReadingCaller):
    """The methods of `ReadingCaller`, with `send_raw`, `send_raw_nowait` and `send_json`."""

    __slots__ = ()

    def send_raw(self, message: str | bytes, *, offline: Offline | None = None) -> None:
        """Send a raw message, outside the wsrpc protocol. A str is sent as text, and bytes are sent as binary.

        Raw messages and other messages are sent in the order of the calls. Like `emit`, this method waits while too
        many bytes are unsent; ``offline`` is the same as for `emit`. The function that the remote peer has registered
        with `on_raw` gets the message. A message that looks like a protocol message is handled as a protocol message.

        Raises:
            ConnectionLost: the message cannot wait for another connection, and there is no connection or the remote
                peer is closing; ``outcome`` is ``"not_sent"``.
            QueueFull: the queue for messages that wait for a connection is full (`Limits.offline`).
            MessageTooBig: the message is larger than the remote peer accepts, or larger than `Limits.sent_message`.
            TypeError: ``message`` is neither str nor bytes.
            ValueError: ``message`` is bytes, but binary messages on this connection are reserved for MessagePack, or
                may become so. Two wsrpc peers reserve them, unless one of the peers had an `on_raw` function when they
                connected. A client without an `on_raw` function cannot send bytes before the server has announced
                whether it reserves binary messages. A server that does not use wsrpc never announces this. With
                ``extensions=False``, you can always send bytes. With ``profile="go"``, every raw message raises this
                exception.
        """
        self._run(self._inner.send_raw, message, offline=offline)

    def send_json(self, value: object, *, offline: Offline | None = None) -> None:
        """Send a value as a raw text message in JSON; see `send_raw`. It is encoded like an argument of `emit`."""
        self._run(self._inner.send_json, value, offline=offline)

    def send_raw_nowait(self, message: str | bytes, *, offline: Offline | None = None) -> None:
        """Send a raw message without waiting.

        Args:
            offline: as for `emit`.

        Raises:
            QueueFull: too many bytes are unsent (`Limits.hard_cap`), or the queue for messages that wait for a
                connection is full; nothing is sent.
            ConnectionLost, MessageTooBig, TypeError, ValueError: as for `send_raw`.
        """
        self._run(self._inner.send_raw_nowait, message, offline=offline)


class Registrar(Delegate):
    """The methods `on`, `once` and `use`, for one channel of one registry."""

    __slots__ = ()

    @overload
    def on(
        self, event: str, /, *, lax: bool | None = None, ordered: bool = False, hidden: bool = False
    ) -> Callable[[F], F]: ...

    @overload
    def on(
        self, event: str, handler: F, /, *, lax: bool | None = None, ordered: bool = False, hidden: bool = False
    ) -> F: ...

    @overload
    def on(self, event: str, handler: None, /) -> None: ...

    def on(
        self,
        event: Any = MISSING,
        handler: Any = MISSING,
        /,
        *,
        lax: bool | None = None,
        ordered: bool = False,
        hidden: bool = False,
    ) -> Any:
        """Register the handler of an event, either as a decorator or with a direct call. Passing None removes the
        handler. The handler is a plain function, and runs in a thread.

        A new handler replaces the old one. If the two were registered at different places in the code, a warning is
        logged. On the main channel, open, connect, close, disconnect, error and message are lifecycle events, which
        report what happens to the connection. A server and its peers can each have a handler for the same lifecycle
        event; all of these handlers run.

        Args:
            lax: whether msgspec converts arguments leniently, for example numeric strings to numbers. None, the
                default, uses the ``lax`` option of the server, client or router.
            ordered: whether the handler handles the messages of each peer one at a time, in the order of arrival,
                instead of concurrently.
            hidden: whether to omit the handler from API descriptions, such as the result of `wsrpc.schema.describe`.
                Remote peers can still call the handler.

        Raises:
            TypeError: the function is an ``async def``, or cannot be a handler. The error message names the parameter
                and says what to do.
            ValueError: the event is handled by a method of a `Service`, or the channel is reserved for wsrpc.
        """
        convert = partial(blocking_form, portal=self._portal)
        options = {"lax": lax, "ordered": ordered, "hidden": hidden}
        return register(self._inner, self._portal, "on", event, handler, convert, **options)

    @overload
    def once(self, event: str, /, *, lax: bool | None = None, hidden: bool = False) -> Callable[[F], F]: ...

    @overload
    def once(self, event: str, handler: F, /, *, lax: bool | None = None, hidden: bool = False) -> F: ...

    @overload
    def once(self, event: str, handler: None, /) -> None: ...

    def once(
        self, event: Any = MISSING, handler: Any = MISSING, /, *, lax: bool | None = None, hidden: bool = False
    ) -> Any:
        """Register a handler for only the next event or request with the given name.

        This handler takes precedence over a handler that is registered with `on`, and is removed when it is called. It
        stays registered if a message does not reach it because the arguments do not fit, there are too many channels,
        or the request is cancelled.

        The options and exceptions are those of `on`.
        """
        convert = partial(blocking_form, portal=self._portal)
        return register(self._inner, self._portal, "once", event, handler, convert, lax=lax, hidden=hidden)

    def implement(self, contract: TypeForm[Any], implementation: object, /) -> None:
        """Register the methods of an object as handlers for the events of a contract.

        The contract is a `typing.Protocol`, as for `Peer.proxy`. A ``def`` implements a request of the contract, and a
        generator implements a method that returns a `Stream`. Methods may have additional parameters that are injected,
        such as a `Peer`. To set options of a handler, decorate the implementing method with `method`.

        Raises:
            TypeError: a method is missing, or its signature does not fit the contract. The error message shows both
                signatures. Nothing is registered.
            ValueError: an event is handled by a method of a `Service`, or the channel is reserved for wsrpc.
        """
        implement(self._inner, self._portal, contract, implementation)


class Declarer(Registrar):
    """The methods of `Registrar`, and `declare`, for servers, clients, routers and their channels."""

    __slots__ = ()

    def declare(self, contract: TypeForm[Any], /) -> None:
        """Declare which events this side emits, so that API descriptions include them.

        Pass the contract that you also pass to ``emitter()``. `wsrpc.schema.describe`, TypeScript declarations and
        generated Python clients then include the events of the contract.

        Raises:
            TypeError: the contract is not valid, or this object is a `Channel` of a server's peer.
        """
        self._apply(self._inner.declare, contract)


class RawRegistrar(Delegate):
    """The method `on_raw`, for server, client and peer."""

    __slots__ = ()

    @no_parentheses("@server.on_raw")
    def on_raw(self, function: Callable[[Peer, Any], T], /) -> Callable[[Peer, Any], T]:
        """Call ``function(peer, message)`` with each message that is not a protocol message. Works as a decorator.

        ``message`` is str or bytes. The function runs in a thread, and handles the messages of each peer one at a time.
        Waiting messages count against `Limits.waiting`, like events. Exceptions are logged, and passed to ``error``
        handlers. Register the function before peers connect, because two wsrpc peers use binary messages for the
        protocol if neither of them has such a function.

        Raises:
            TypeError: ``function`` does not take these two arguments.
            ValueError: a `Service` already receives all messages.
        """
        check_plain(function, "a function of on_raw")
        convert = partial(blocking_form, portal=self._portal)
        self._apply(self._inner.on_raw, in_a_thread(function, convert))
        return function


class Channel(Declarer, ReadingCaller):
    """Named channel of one peer, with its own event names. `Peer.of` returns it.

    Emit events, send requests and register handlers on a channel in the same way as on a peer. A channel is only a name
    in messages, so nothing is sent when you open or close a channel.
    """

    __slots__ = ()

    @property
    def name(self) -> str:
        """The name of the channel."""
        result: str = self._inner.name
        return result

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        result: bool = self._inner.closed
        return result

    @property
    def close_reason(self) -> Any:
        """The reason that was passed to `close`."""
        return self._inner.close_reason

    def close(self, reason: object = None) -> None:
        """Remove the channel's handlers and middleware on this side, and end its readers.

        The remote peer is not affected, except that a wsrpc producer of items is stopped. Using the channel afterwards
        raises `ChannelClosed`; `Peer.of` with the same name returns a new channel. Calling `close` again has no effect.
        """
        self._run(self._inner.close, reason)

    @overload
    def items(self) -> Stream[Any]: ...

    @overload
    def items(self, *, returns: TypeForm[T]) -> Stream[T]: ...

    def items(self, *, returns: Any = UNSET) -> Stream[Any]:
        """Read the items that the remote peer produces, like ``for await (... of channel)`` in JavaScript.

        The first read asks the remote peer to begin. The remote peer's handler of the event ``start`` on this channel
        produces the items. After the last item, the channel stays open, and you can call `items` again. If you write
        both sides, use `stream` instead. It has flow control, stops the producer when you leave the loop, and raises
        the producer's errors. If you leave a loop early and read again, and the remote peer is not wsrpc, the first
        item may be one that the earlier producer had already sent, because items on a named channel do not say which
        loop they belong to.

        ``for item in channel`` does the same, without ``returns``.

        Args:
            returns: the type that each item is checked against and converted to.

        Raises:
            ChannelClosed: the channel was closed.
            RuntimeError: the items are already being read.
            TypeError: ``returns`` is not a type that wsrpc can convert values to.
        """
        return Stream(self._run(self._inner.items, returns=returns), self._portal, at_once=1)

    def __iter__(self) -> Stream[Any]:
        return self.items()


class AnonymousChannel(Registrar, EventReader):
    """Channel without a name, opened by one request. Both sides can send, read and register handlers on it.

    The caller gets the channel from ``open_channel``. On the other side, the handler of the request can have a
    parameter that is annotated with this class. wsrpc then passes the channel to the handler, whose body is the
    conversation. A handler without such a parameter can create a channel with `Context.channel` and return it. The
    channel ends when either side ends it, when a handler whose body is the conversation returns, or when the session
    ends.

    Messages that arrive before this side registers a handler or starts a reader on the channel are kept, for at most
    `Limits.unread` seconds and up to `Limits.stream_queue` bytes. Beyond these limits, the channel is aborted. But if
    this side has sent something on the channel, the kept events are dropped instead, and counted in `Peer.ignored`.

    Sending on a channel from `Context.channel` raises `ChannelNotReady` until the response that opens the channel has
    been sent. After the channel has ended, sending raises `ChannelClosed` with the reason for the end.

    ``with channel`` ends the channel at the end of the block. ``for item in channel`` reads the items, like `items`.
    """

    __slots__ = ()

    @property
    def id(self) -> int:
        """The id of the request that opened the channel. Messages on the channel contain this id."""
        value: int = self._inner.id
        return value

    @property
    def closed(self) -> bool:
        """Whether the channel has ended."""
        result: bool = self._inner.closed
        return result

    @property
    def close_reason(self) -> Any:
        """The reason for the end of the channel.

        This is the argument of `close` or `abort` on the side that ended the channel. If that argument is an error from
        the remote peer, it becomes a `RemoteError`. If the session ended, the reason is a `ConnectionLost`. After a
        normal end, it is None.
        """
        return self._inner.close_reason

    def close(self, reason: object = None) -> None:
        """End the channel on this side. Requests that this side has sent on it fail with `ChannelClosed`.

        The remote peer gets an abort when it next sends something on the channel. If the remote peer is producing
        items, it gets the abort immediately, because a producer that waits for flow-control credit would never send
        anything. Calling `close` again has no effect.
        """
        self._settle(partial(self._inner.close, reason))

    def abort(self, reason: object = None) -> None:
        """End the channel on both sides, and send ``reason``: an `RpcError`, a string or any other value.

        For an exception that is not an `RpcError`, only the text is sent. On both sides, requests that were sent on the
        channel fail with `ChannelClosed`. On the remote peer, the handler whose body is the conversation is cancelled.
        On this side, such a handler runs in a thread, and continues to its end. Calling `abort` again has no effect.
        """
        self._settle(partial(self._inner.abort, reason))

    def wait_closed(self) -> None:
        """Wait until the channel has ended, and handlers have received the messages that arrived before the end."""
        self._run(self._inner.wait_closed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._settle(partial(self._inner.__aexit__, kind, error, traceback))

    @overload
    def items(self) -> Stream[Any]: ...

    @overload
    def items(self, *, returns: TypeForm[T]) -> Stream[T]: ...

    def items(self, *, returns: Any = UNSET) -> Stream[Any]:
        """Read the items that the remote peer produces, like ``for await (... of channel)`` in JavaScript.

        After the last item, the channel stays open. ``for item in channel`` does the same, without ``returns``.

        Args:
            returns: the type that each item is checked against and converted to.

        Raises:
            ChannelClosed: the channel has ended.
            RuntimeError: the items are already being read.
        """
        return Stream(self._run(self._inner.items, returns=returns), self._portal, at_once=1)

    def __iter__(self) -> Stream[Any]:
        return self.items()

    def emit(self, event: str, /, *args: Any, **unsupported: Never) -> None:
        """Send an event on the channel.

        Returns when the message is accepted for sending, not when it is delivered. While more than `Limits.high_water`
        bytes are unsent, calls wait, and they continue in the order in which they began. The message is encoded after
        the wait.

        Raises:
            ChannelClosed: the channel has ended, for example because its session ended.
            ChannelNotReady: the response that opens the channel has not been sent yet.
            MessageTooBig: the message is larger than the remote peer accepts, or larger than `Limits.sent_message`;
                nothing is sent.
            TypeError, ValueError, RecursionError: an argument cannot be encoded; nothing is sent.
        """
        self._run(self._inner.emit, event, *args, **unsupported)

    def emit_nowait(self, event: str, /, *args: Any, **unsupported: Never) -> None:
        """Send an event without waiting.

        Raises:
            QueueFull: too many bytes are unsent (`Limits.hard_cap`); nothing is sent.
            ChannelClosed, ChannelNotReady, MessageTooBig, TypeError, ValueError, RecursionError: as for `emit`.
        """
        self._run(self._inner.emit_nowait, event, *args, **unsupported)

    def emitter(self, contract: TypeForm[T], /) -> T:
        """Return an object whose methods emit the events of a contract on the channel; see `Peer.emitter`.

        Raises:
            TypeError: the contract is not valid. The error message names the method and explains the problem.
        """
        made: T = make_emitter(contract, self)
        return made

    @overload
    def request(
        self,
        event: str,
        /,
        *args: Any,
        timeout: float | UnsetType | None = UNSET,
        send: Iterable[Any] | None = None,
        **unsupported: Never,
    ) -> Any: ...

    @overload
    def request(
        self,
        event: str,
        /,
        *args: Any,
        returns: TypeForm[T],
        timeout: float | UnsetType | None = UNSET,
        send: Iterable[Any] | None = None,
        **unsupported: Never,
    ) -> T: ...

    def request(
        self,
        event: str,
        /,
        *args: Any,
        returns: Any = UNSET,
        timeout: float | UnsetType | None = UNSET,
        send: Iterable[Any] | None = None,
        **unsupported: Any,
    ) -> Any:
        """Send a request on the channel, and return its response. The arguments mean the same as for `Peer.request`.

        Ctrl-C cancels the handler on the remote peer, and then raises KeyboardInterrupt.

        Raises:
            ChannelClosed: the channel has ended, for example because its session ended.
            ChannelNotReady: the response that opens the channel has not been sent yet.
            WsrpcError: as for `Peer.request`.
        """
        run = self._run if send is not None else self._ask
        return run(
            self._inner.request, event, *args, returns=returns, timeout=timeout, send=upload(send), **unsupported
        )

    def open_channel(
        self, event: str, /, *args: Any, timeout: float | UnsetType | None = UNSET, **unsupported: Any
    ) -> AnonymousChannel:
        """Send a request that opens another anonymous channel, and return that channel.

        The channel stays open until either side ends it, or the session ends. To end it, use ``with``, or call its
        `abort`. ``timeout`` is the maximum time in seconds until the channel is open. Ctrl-C cancels the handler on the
        remote peer, and then raises KeyboardInterrupt.

        Raises:
            BadResult: the response is not a channel.
            WsrpcError: as for `request`.
        """
        return AnonymousChannel(
            self._run(self._inner.open_channel, event, *args, timeout=timeout, **unsupported), self._portal
        )


class Peer(Registrar, RawRegistrar, RawCaller):
    """The local end of the client's connections. `Client.peer` returns it, and lifecycle handlers get it."""

    __slots__ = ()

    @property
    def id(self) -> str:
        """The peer's name in logs."""
        value: str = self._inner.id
        return value

    @property
    def state(self) -> PeerState:
        """A mapping for your application's data; see `Key`."""
        value: PeerState = self._inner.state
        return value

    @property
    def principal(self) -> object:
        """The user, as `on_handshake` has set it."""
        value: object = self._inner.principal
        return value

    @property
    def ignored(self) -> Counter[str]:
        """The numbers of ignored messages, by kind; see `wsrpc.Peer`."""
        value: Counter[str] = self._inner.ignored
        return value

    @property
    def connected(self) -> bool:
        """Whether there is a connection over which messages can be sent."""
        result: bool = self._inner.connected
        return result

    @property
    def detached(self) -> bool:
        """Whether the session is kept without a connection.

        The session continues when another connection resumes it.
        """
        result: bool = self._inner.detached
        return result

    @property
    def info(self) -> ConnectionInfo:
        """Data from the opening handshake, such as the path, the headers and the remote address.

        After a connection has ended, its data stays available for `close` handlers, except for ``underlying``.

        Raises:
            ConnectionLost: there has been no connection yet.
        """
        result: ConnectionInfo = self._inner.info
        return result

    @property
    def pending(self) -> int:
        """Number of requests that this side has sent and that have no response yet."""
        result: int = self._inner.pending
        return result

    @property
    def active(self) -> int:
        """Number of handlers that are running for the remote peer, including those of streams and conversations."""
        result: int = self._inner.active
        return result

    @property
    def channels(self) -> int:
        """Number of open anonymous channels, including those of streams, whichever side opened them."""
        result: int = self._inner.channels
        return result

    def stats(self) -> PeerStats:
        """Return a snapshot of the peer's counters, for monitoring."""
        result: PeerStats = self._inner.stats()
        return result

    @property
    def limits(self) -> Limits:
        """The limits of the connection."""
        result: Limits = self._inner.limits
        return result

    @property
    def dropped(self) -> int:
        """Number of broadcasts that were not sent to this peer because it reads too slowly.

        See the option ``slow`` of `Server`.
        """
        result: int = self._inner.dropped
        return result

    @overload
    def get(self, key: Key[T], default: None = None) -> T | None: ...

    @overload
    def get(self, key: Key[T], default: T) -> T: ...

    @overload
    def get(self, key: str, default: Any = None) -> Any: ...

    def get(self, key: Any, default: Any = None) -> Any:
        """Return ``state.get(key, default)``, like the method ``get`` in ws-wrapper."""
        return self._inner.get(key, default)

    @overload
    def set(self, key: Key[T], value: T) -> None: ...

    @overload
    def set(self, key: str, value: Any) -> None: ...

    def set(self, key: Any, value: Any) -> None:
        """Set ``state[key] = value``, like the method ``set`` in ws-wrapper."""
        self._inner.set(key, value)

    def of(self, name: str, *, ordered: bool = False) -> Channel:
        """Return the named channel of this peer.

        Args:
            ordered: whether the handlers that you register on the channel after this call run one at a time.
        """
        return Channel(self._apply(self._inner.of, name, ordered=ordered), self._portal)

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Close the connection, and return when it has ended.

        Messages that were accepted for sending are sent first, then the Close frame. From the call on, no message that
        arrives is handled, and no handler starts.

        Args:
            code: the close code. With None, the Close frame has no code, and the remote peer sees 1005.
            reason: the close reason, at most 123 bytes in UTF-8.

        Raises:
            ValueError: ``code`` is not allowed in a Close frame, ``reason`` has more than 123 bytes, or ``reason`` is
                given without a code.
        """
        self._run(self._inner.close, code, reason)

    def wait_closed(self) -> None:
        """Wait until there is no connection.

        `close` handlers may be called later, because they wait for events that have arrived.
        """
        self._run(self._inner.wait_closed)


class Client(Declarer, RawRegistrar, RawCaller, ClientRoot):
    """Client that connects to a server, and connects again after a drop.

    Register handlers first; they stay registered for all connections. Then use ``with client:``, which connects, and
    closes the client at the end of the block. You can also call `connect` and `close` yourself. While there is no
    connection, messages wait for the next one by default, up to `Limits.offline` messages.

    Args:
        url: a ``ws://`` or ``wss://`` URL. The URL, ``headers`` and ``auth`` may be functions, called for each attempt
            to connect.
        headers: headers of the opening handshake.
        auth: a token, which is sent as ``Authorization: Bearer <token>``.
        subprotocols: subprotocols to offer to the server, in order of preference.
        ssl: the TLS context for ``wss://``. The default context verifies certificates, like a browser.
        proxy: the URL of a proxy; True for the proxy that the environment specifies; None for no proxy.
        compression: whether to offer permessage-deflate to the server, which may accept or decline it.
        unix: the path of a Unix socket to connect to, instead of the URL's host and port; see `wsrpc.dial`.
        dial: the function that opens a connection, for example the function of an adapter. The default is `wsrpc.dial`.
        limits: limits of the connection, and of the queue for messages that wait for a connection.
        reconnect: the delays between attempts, and when to stop. With None, `connect` makes one attempt, and the client
            does not connect again after a drop.
        offline: what to do with messages while there is no connection. With ``"queue"``, they wait for the next
            connection, within `Limits.offline`. With ``"fail"``, sending immediately raises `ConnectionLost`. The
            ``offline`` argument of a method such as `emit` overrides this option.
        connect_timeout: the maximum time that `connect` takes, in seconds, for all attempts and for the `open`
            handlers. None for no limit.
        codec: the codec that encodes and decodes messages. The default is ``JsonCodec(enc_hook=enc_hook)``.
        dec_hook: function that converts decoded values to types that msgspec does not support; see `DecHook`.
        enc_hook: function that converts values that msgspec cannot encode into other values; see `EncHook`.
        lax: whether to convert leniently, for example numeric strings to numbers. This applies to the arguments of
            handlers and to ``returns=``.
        expose_errors: whether to send the text of unexpected exceptions to the remote peer, or a function that decides
            this for each exception.
        extensions: whether to ask the server if it also uses wsrpc. If it does, the connection has flow control and
            binary messages. Asking takes one message, which plain ws-wrapper servers ignore. With False, the client
            sends only messages that ws-wrapper defines.
        log_payloads: whether to log each message as one line of limited length, at DEBUG level. Instead of True, you
            can pass a function ``redact(direction, event, args)``. The function returns the text or value that the log
            shows instead of the list ``args``. ``direction`` is ``"in"`` or ``"out"``. ``event`` is the name of the
            event or request (``"channel:name"`` on a named channel). For a response, ``event`` is the name of the
            request, and ``args`` has one item. For messages of an anonymous channel, ``event`` is the name of the
            request that opened the channel.
        profile: ``"go"`` if the server uses ws-server-wrapper-go, the Go implementation of the protocol. Such a server
            closes the connection when it receives certain messages that other servers ignore. The client raises an
            exception instead of sending such a message. Outbound messages can be at most 32 KiB, unless
            `Limits.sent_message` is set. Raw messages, extensions and other codecs are not available. See the guide
            "Talk to Go programs". ``"ws-wrapper-3"`` if plain peers use ws-wrapper 3 or older, which have no streams or
            other anonymous channels: their requests for one are rejected with the code ``wsrpc.no_channels``, instead
            of being resolved with ``undefined``.

    Raises:
        TypeError, ValueError: an option, or the URL, is not valid.
    """

    def __init__(
        self,
        url: PerAttempt[str] | None = None,
        *,
        headers: PerAttempt[Mapping[str, str]] | None = None,
        auth: PerAttempt[str] | None = None,
        subprotocols: Sequence[str] | None = None,
        ssl: ssl_module.SSLContext | None = None,
        proxy: str | bool | None = True,
        compression: bool = False,
        unix: StrPath | None = None,
        dial: Dial = dial,
        reconnect: Reconnect | None = DEFAULT_RECONNECT,
        offline: Offline = "queue",
        connect_timeout: float | None = 30.0,
        limits: Limits | None = None,
        codec: Codec | None = None,
        dec_hook: DecHook | None = None,
        enc_hook: EncHook | None = None,
        lax: bool = False,
        expose_errors: bool | Callable[[BaseException], bool] = False,
        extensions: bool = True,
        log_payloads: bool | Redact = False,
        profile: Profile | None = None,
    ) -> None:
        inner = AsyncClient(
            per_attempt(url),
            headers=per_attempt(headers),
            auth=per_attempt(auth),
            subprotocols=subprotocols,
            ssl=ssl,
            proxy=proxy,
            compression=compression,
            unix=unix,
            dial=dial,
            reconnect=reconnect,
            offline=offline,
            connect_timeout=connect_timeout,
            limits=limits,
            codec=codec,
            dec_hook=dec_hook,
            enc_hook=enc_hook,
            lax=lax,
            expose_errors=expose_errors,
            extensions=extensions,
            log_payloads=log_payloads,
            profile=profile,
        )
        super().__init__(inner, client_portal(inner))

    @property
    def peer(self) -> Peer:
        """The client's peer, which stays the same for all connections."""
        return Peer(self._inner.peer, self._portal)

    @property
    def state(self) -> ClientState:
        """The state of the client; see `ClientState`."""
        result: ClientState = self._inner.state
        return result

    @property
    def connected(self) -> bool:
        """Whether there is a connection over which messages can be sent.

        Also true while the `open` handlers are running. False as soon as sending a message has failed, even if `state`
        is still ``"connected"`` or ``"opening"``. The state changes when the end of the connection is reported, at most
        `Limits.close_timeout` seconds later.
        """
        result: bool = self._inner.connected
        return result

    @overload
    def get(self, key: Key[T], default: None = None) -> T | None: ...

    @overload
    def get(self, key: Key[T], default: T) -> T: ...

    @overload
    def get(self, key: str, default: Any = None) -> Any: ...

    def get(self, key: Any, default: Any = None) -> Any:
        """Return ``peer.state.get(key, default)``, like the method ``get`` in ws-wrapper."""
        return self._inner.get(key, default)

    @overload
    def set(self, key: Key[T], value: T) -> None: ...

    @overload
    def set(self, key: str, value: Any) -> None: ...

    def set(self, key: Any, value: Any) -> None:
        """Set ``peer.state[key] = value``, like the method ``set`` in ws-wrapper."""
        self._inner.set(key, value)

    def of(self, name: str, *, ordered: bool = False) -> Channel:
        """Return a named channel; see `Peer.of`."""
        return Channel(self._apply(self._inner.of, name, ordered=ordered), self._portal)

    @overload
    def on_reconnect(self, function: Callable[[], T], /) -> Callable[[], T]: ...

    @overload
    def on_reconnect(self, function: Callable[[ReconnectInfo], T], /) -> Callable[[ReconnectInfo], T]: ...

    @overload
    def on_reconnect(self, function: F, /) -> F: ...

    @no_parentheses("@client.on_reconnect")
    def on_reconnect(self, function: Any, /) -> Any:
        """Call ``function(info)`` in a thread on each connection except the first. Works as a decorator.

        ``info`` is a `ReconnectInfo`. The function may also take no argument. If ``info.resumed`` is true, the session
        has resumed, and messages do not wait for the functions. If ``info.resumed`` is false, use the function to renew
        subscriptions.

        In a new session, the functions run one after another, after the `open` handlers. Messages that the functions
        send are sent first. Messages that were queued while the client was offline are sent when the functions have
        returned, or after `Limits.open_handlers` seconds. Run anything that takes longer in another thread. If the
        session ends, a function that is running continues to its end, and the remaining functions are not called.
        Exceptions are logged.

        Raises:
            TypeError: ``function`` is not a function, or requires more than one argument.
        """
        check_plain(function, "a function of on_reconnect")
        self._apply(self._inner.on_reconnect, in_a_thread(function))
        return function

    def __enter__(self) -> Self:
        self._enter()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def connect(self) -> None:
        """Connect, and return when the connection is open and the `open` and `on_reconnect` handlers have finished.

        Failed attempts are repeated until ``connect_timeout`` is reached. An attempt also counts as failed if its
        session ends before the `open` handlers have finished.

        Ctrl-C stops dialing, unless another thread is waiting for the connection. After a drop, the client continues to
        dial even if this call is interrupted or reaches ``connect_timeout``.

        Raises:
            ConnectFailed: ``connect_timeout`` was reached, ``Reconnect(stop=)`` ended the attempts, or, with
                ``reconnect=None``, the only attempt failed.
            HandshakeRejected, ssl.SSLError, ValueError: the server refused the connection, TLS failed, or the URL is
                not valid; another attempt would fail in the same way.
            ConnectionLost: `close` was called; or the connection ended while its `open` handlers were running, and the
                client does not dial again.
        """
        self._portal.open()
        self._run(self._inner.connect)

    def wait_connected(self) -> None:
        """Wait until there is a connection, and its `open` and `on_reconnect` handlers have finished.

        While the client is ``"idle"``, this method waits until `connect` is called.

        Raises:
            ConnectionLost: there will be no connection, because the client was closed or does not dial again.
            ConnectFailed, HandshakeRejected, ssl.SSLError, ValueError: as for `connect`. If one of these is raised
                after a drop, the client has stopped reconnecting because of it.
        """
        self._run(self._inner.wait_connected)

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Close the connection, and do not dial again.

        Messages that were accepted for sending are sent first, then the Close frame. Handlers run in threads, which
        cannot be stopped, so a handler that is still running continues to its end. This method waits at most
        `Limits.close_timeout` seconds for handlers of events, and does not wait for request handlers, whose results are
        dropped.

        This method has no ``drain`` option. To let request handlers finish, first wait until the client is connected
        and both ``client.peer.active`` and ``client.peer.channels`` are 0. The section "Shut a client down without
        losing its work" of the guide "Start and stop a server" shows how.

        Args:
            code: the close code. With None, the Close frame has no code, and the remote peer sees 1005.
            reason: the close reason, at most 123 bytes in UTF-8.

        Raises:
            ValueError: ``code`` is not allowed in a Close frame, ``reason`` has more than 123 bytes, or ``reason`` is
                given without a code.
        """
        self._close(partial(self._inner.close, code, reason))


class ClusterPeer(Caller):
    """Peer with an address, connected to any process of the cluster. `Cluster.peer` returns it.

    It has the methods of `Peer` that send messages. Each method looks up the process to which the peer is connected at
    that moment. If the peer is connected to this process, the message is sent directly. Otherwise, the message is sent
    through the other process. The peer's handlers run in the same way in both cases. You cannot read from a
    `ClusterPeer`, because a peer sends messages only to the server to which the peer is connected. Register handlers on
    that server.

    The methods raise the same exceptions as those of `Peer`, and also:

    - `PeerNotFound`: no process has a peer with this address. Nothing was sent.
    - `EngineLost`: the peer may be connected to another process, and the engine cannot be reached. Nothing was sent.
    - `ConnectionLost` with ``outcome="unknown"``: during the call, the peer's process ended or could not be reached for
      5 seconds.

    `emit` returns when the event is accepted for sending to the other process. Events that one process sends to one
    peer arrive in order. An event is lost if the peer leaves before the event arrives. If a peer reads too slowly, its
    connection is closed with 4408 when `Limits.hard_cap` bytes are queued for the peer.
    """

    __slots__ = ()

    @property
    def address(self) -> str:
        """The peer's address, as `Handshake.address` has set it."""
        value: str = self._inner.address
        return value

    def of(self, name: str) -> ClusterPeerChannel:
        """Return a named channel of the peer.

        Raises:
            TypeError, ValueError: ``name`` is not a valid channel name.
        """
        return ClusterPeerChannel(self._inner.of(name), self._portal)


class ClusterPeerChannel(Caller):
    """Named channel of a `ClusterPeer`. `ClusterPeer.of` returns it."""

    __slots__ = ()

    @property
    def address(self) -> str:
        """The peer's address."""
        value: str = self._inner.address
        return value

    @property
    def name(self) -> str:
        """The channel's name."""
        result: str = self._inner.name
        return result


class ClusterView(Delegate):
    """The peers and the processes of a cluster."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The name of the application, which is the same in all processes of the cluster."""
        result: str = self._inner.name
        return result

    @property
    def connected(self) -> bool:
        """Whether the engine can be reached. If not, this process cannot reach other processes."""
        result: bool = self._inner.connected
        return result

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the known processes of the cluster, this process first.

        Each process gets a generated name when it joins. A process is removed if no message arrives from it for 5
        seconds.
        """
        result: tuple[str, ...] = self._inner.nodes
        return result

    def locate(self, address: str) -> str | None:
        """Return the name of the process to which the peer with this address is connected.

        Returns None if no such peer is known. The address is looked up in a table of this process; nothing is sent.
        """
        result: str | None = self._inner.locate(address)
        return result

    def peer(self, address: str) -> ClusterPeer:
        """Return the peer with this address. It may be connected to any process, or to none.

        Raises:
            TypeError, ValueError: ``address`` is not a valid address.
        """
        return ClusterPeer(self._inner.peer(address), self._portal)

    def stats(self) -> ClusterStats | None:
        """Return a snapshot of this process's counters, or None while this process is not part of the cluster."""
        result: ClusterStats | None = self._inner.stats()
        return result


class ClusterEmitter(Delegate):
    """`emit` to a room from a program without a server."""

    __slots__ = ()

    def emit(self, event: str, /, *args: Any, skip: SkipAddressed = None, **unsupported: Never) -> EmitReport:
        """Emit an event to every member of the room. The returned report names the processes that have members.

        Returns when the event is accepted for sending to these processes. ``report.missed`` names the processes that
        could not be reached. If this call is interrupted, some processes may not get the event.

        Args:
            skip: one or several members to which the event is not sent. Get the objects from `ClusterClient.peer`.

        Raises:
            EngineLost: the engine cannot be reached. Nothing was sent.
            ReservedEvent, TypeError, ValueError: the event name or an argument cannot be sent. Nothing was sent.
        """
        result: EmitReport = self._run(self._inner.emit, event, *args, skip=inner_of(skip), **unsupported)
        return result

    def emitter(self, contract: TypeForm[T], /, *, skip: SkipAddressed = None) -> T:
        """Return an object with the methods of a contract. Each method emits the event of the same name.

        Each method is declared to return None. Arguments are sent in the same way as by `ClusterPeer.proxy`.

        Args:
            skip: one or several members that do not get the events, as for `emit`.

        Raises:
            TypeError: the contract is not valid. The error message names the method and explains the problem.
        """
        made: T = make_emitter(contract, self, skip=kept(skip))
        return made


class ClusterRoom(ClusterEmitter):
    """Room of a cluster, for a program without a server. `ClusterClient.room` returns it."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The name of the room."""
        result: str = self._inner.name
        return result

    def of(self, name: str) -> ClusterRoomChannel:
        """Return a named channel of this room. The channel emits to all members.

        Raises:
            TypeError, ValueError: ``name`` is not a valid channel name.
        """
        return ClusterRoomChannel(self._inner.of(name), self._portal)

    def send_raw(self, data: str | bytes, *, skip: SkipAddressed = None) -> EmitReport:
        """Send a raw WebSocket message (text or binary), outside the wsrpc protocol, to every member; see `emit`.

        Raises:
            EngineLost: the engine cannot be reached. Nothing was sent.
            TypeError: ``data`` is neither a string nor bytes.
        """
        result: EmitReport = self._run(self._inner.send_raw, data, skip=inner_of(skip))
        return result

    def members(self) -> Members:
        """Return the members in all processes.

        Each process has 1.5 seconds to respond. `Members.missing` names the processes that do not respond in this time.

        Raises:
            EngineLost: the engine cannot be reached.
        """
        result: Members = self._run(self._inner.members)
        return result


class ClusterRoomChannel(ClusterEmitter):
    """Named channel of a `ClusterRoom`. `ClusterRoom.of` returns it."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The channel's name."""
        result: str = self._inner.name
        return result


class ClusterClient(ClusterView, ClusterRoot):
    """Client that can call the peers of a cluster, and emit events to its rooms.

    For programs without a server, such as scripts and cron jobs:

    ``with ClusterClient(RedisEngine(url), name="shop") as shop: shop.room("lobby").emit("news", "...")``

    Entering the block waits until the engine is reached and the processes of the cluster are known. Leaving the block
    waits until all sent messages are written. You cannot use the same object in a second block.

    Args:
        engine: the same engine as in the servers' `Cluster`.
        name: the same name as in the servers' `Cluster`.
        limits: the limits for messages between this program and the servers. `Limits.timeout` is the default timeout of
            requests.
        codec: as for `Client`.
        enc_hook: as for `Client`.
        dec_hook: as for `Client`.
        lax: as for `Client`.
        connect_timeout: the maximum time to reach the engine, in seconds. None for no limit.

    Raises:
        TypeError, ValueError: an argument is not valid.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        name: str = "wsrpc",
        limits: Limits | None = None,
        codec: Codec | None = None,
        enc_hook: EncHook | None = None,
        dec_hook: DecHook | None = None,
        lax: bool = False,
        connect_timeout: float | None = 5.0,
    ) -> None:
        inner = AsyncClusterClient(
            engine,
            name=name,
            limits=limits,
            codec=codec,
            enc_hook=enc_hook,
            dec_hook=dec_hook,
            lax=lax,
            connect_timeout=connect_timeout,
        )
        super().__init__(inner, cluster_portal(inner))

    def __enter__(self) -> Self:
        """Join the cluster.

        Raises:
            EngineLost: the engine was not reached within ``connect_timeout``.
            RuntimeError: the object was entered before.
        """
        self._enter()
        return self

    def __exit__(self, *_: object) -> None:
        self._close(partial(self._inner.__aexit__, None, None, None))

    def room(self, name: str) -> ClusterRoom:
        """Return the room with this name, which emits to its members in all processes.

        Raises:
            TypeError, ValueError: ``name`` is not a valid room name.
        """
        return ClusterRoom(self._inner.room(name), self._portal)


injections[Peer] = Injection(lambda invocation: own_form(invocation.peer))
injections[AnonymousChannel] = Injection(
    lambda invocation: own_form(channel_of(invocation)), conversation=True, blocking=True
)
FORMS.update({AsyncAnonymousChannel: AnonymousChannel, AsyncPeer: Peer, AsyncStream: Stream})
