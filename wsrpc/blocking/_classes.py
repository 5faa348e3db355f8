"""The blocking classes. Do not edit: ``scripts/make_blocking.py`` makes them of the asynchronous ones."""

from __future__ import annotations

import ssl as ssl_module
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import attrgetter, methodcaller
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never, Self, TypeAlias, TypeVar, overload

from msgspec import UNSET, UnsetType

from .._base.misuse import no_parentheses
from .._base.names import F, Offline, Profile, Redact, StrPath
from .._base.state import Key, PeerState
from .._channels.anonymous import AnonymousChannel as AsyncAnonymousChannel
from .._client.backoff import DEFAULT_RECONNECT, Reconnect
from .._client.client import Client as AsyncClient
from .._client.states import ClientState
from .._cluster.cluster import ClusterClient as AsyncClusterClient
from .._conversion.convert import DecHook, EncHook
from .._handlers.introspection import injectable
from .._peer.peer import Peer as AsyncPeer
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
        """Read the events of one name: ``for text in client.events("said", returns=str)``.

        Reading begins at this call, so no event between the call and the loop is missed. A reader only observes: a
        handler of that name still runs, and each of several readers gets every event. Requests are not read.

        Reading goes on until you leave it: with ``close()``, at the end of ``with``, or when nothing refers to the
        stream any more. On a client it goes on over reconnects, and ends at `Client.close`. On a server's peer it
        raises `ConnectionLost` when the connection ends. See `Stream` for what else it raises.

        Args:
            returns: the type of the value. A tuple type of fixed length, such as ``tuple[str, int]``, takes all
                arguments; any other type takes exactly one. An event that does not fit is dropped with a warning, and
                counted in ``peer.ignored["wrong arguments"]``. Without ``returns``, the value is the argument if there
                is one, a tuple if there are several, and None if there is none.
            keep: which unread events wait. ``"all"``: all of them, up to `Limits.stream_queue` bytes. Beyond that,
                reading ends with `StreamOverflow` after the events that wait. ``"newest"``: only the latest event.
                `Limits.unread_bytes` bounds the unread events of all readers together, and ends the reader that would
                exceed it in the same way.

        Raises:
            ReservedEvent: the event is a lifecycle event of the main channel, such as open: register a handler instead.
            ChannelClosed: the channel was closed.
            TypeError, ValueError: ``returns`` is not a type that can be converted to, or ``keep`` is another value.
        """
        return Stream(self._run(self._inner.events, event, returns=returns, keep=keep), self._portal)

    @overload
    def wait_for(self, event: str, /, *, timeout: float | None = None) -> Any: ...

    @overload
    def wait_for(self, event: str, /, *, returns: TypeForm[T], timeout: float | None = None) -> T: ...

    def wait_for(self, event: str, /, *, returns: Any = UNSET, timeout: float | None = None) -> Any:
        """Return the value of the next event of one name: ``client.wait_for("ready", timeout=5)``.

        To send something and then read the event that answers it, call `events` first: it reads from that call on.

        Args:
            returns: the type of the value, as for `events`. An event that does not fit is dropped.
            timeout: seconds from the call on. None, the default, waits without a limit.

        Raises:
            RequestTimeout: no such event came in time. It is a `TimeoutError`.
            ConnectionLost: the client was closed, or the connection of a server's peer ended.
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

        Returns when the message is accepted for sending, not when it is delivered. While the connection is above its
        high-water mark, calls wait in order, before their messages are encoded. With ``offline="fail"`` they also wait
        while the `open` handlers run.

        Args:
            offline: ``"queue"`` or ``"fail"``, for when there is no connection.

        Raises:
            ConnectionLost: ``outcome="not_sent"``, there is no connection, and the event may not wait for one.
            QueueFull: the offline queue is full.
            ReservedEvent: the event is a lifecycle event of the main channel, such as open.
            MessageTooBig: the other side has announced that it accepts less at once; nothing is sent.
            ChannelClosed: the channel was closed.
            TypeError, ValueError: an argument cannot be encoded; nothing is sent.
        """
        self._run(self._inner.emit, event, *args, offline=offline, **unsupported)

    def emit_nowait(self, event: str, /, *args: Any, offline: Offline | None = None, **unsupported: Never) -> None:
        """Send an event at once.

        With ``offline="fail"`` and while the `open` handlers run, the event is sent after them, or not at all.

        Raises:
            QueueFull: too many bytes are unsent (`Limits.hard_cap`), or the offline queue is full; nothing is sent.
            ConnectionLost, ReservedEvent, MessageTooBig, ChannelClosed, TypeError, ValueError: as for `emit`.
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
        """Send a request and return its answer.

        Args:
            returns: the type to check and convert the answer to. Without it, the answer is returned as it was decoded.
            timeout: seconds until the answer, with the time that the request waits to be sent; None for no limit. The
                default is `Limits.timeout`. With ``send``, seconds until the handler is ready for the first item, and
                again, after the last item, until its answer; the items in between have no timeout.
            send: an iterable of items for the handler, whose parameter is annotated ``AsyncIterator[...]``. It is read
                in a thread, and items are sent no faster than the handler reads them. A generator is closed at the end,
                also if the handler stops reading before. An error of the iterable is raised here, and ends the handler.
            retry: when to send the request again if it did not run; see `Retry`. ``timeout`` is for all attempts and
                the waits between them. The error of the last attempt is raised.
            idempotent: running twice does no harm. So ``retry`` also sends the request again if it may have run when
                its connection ended, or if it reached its handler's time limit.
            offline: ``"queue"`` or ``"fail"``, for when there is no connection.

        Ctrl-C cancels the handler on the other side, too, before KeyboardInterrupt is raised.

        Raises:
            RemoteError: the other side rejected the request; its subclasses say how.
            RequestTimeout: no answer came in time; the other side was told to stop. With ``retry``, ``__cause__`` is
                the error of the attempt before.
            ConnectionLost: the connection ended first; ``outcome`` says whether the request may have run.
            BadResult: the answer does not fit ``returns``.
            UnexpectedChannel: the answer is a channel.
            ChannelClosed: the channel was closed; or, with ``send``, the other side ended the upload without an error.
            MessageTooBig: the other side has announced that it accepts less at once; nothing was sent.
            TooManyRequests, QueueFull, ReservedEvent, TypeError, ValueError: refused on this side; nothing was sent.
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
        """Send a request whose answer is a channel, for a conversation with its handler, and return the channel.

        The channel stays open until either side ends it, or the connection ends: use ``with``, or abort it. ``timeout``
        and ``offline`` are those of `request`, until the channel is open. Ctrl-C cancels the handler on the other side,
        too, before KeyboardInterrupt is raised.

        Raises:
            BadResult: the answer is not a channel.
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

        Nothing is sent until the block is entered or the first item is read. See `Stream` for how it ends and what it
        raises.

        Args:
            returns: the type to check and convert each item to.
            timeout: seconds until the stream is open; items have no timeout. The default is `Limits.timeout`.
            send: items for the handler; see `request`. The stream raises an error of this iterable.
            offline: ``"queue"`` or ``"fail"``, for when there is no connection as the stream is opened.

        Raises:
            TypeError: ``returns`` is not a type that can be converted to.
        """
        return Stream(
            self._inner.stream(
                event, *args, returns=returns, timeout=timeout, send=upload(send), offline=offline, **unsupported
            ),
            self._portal,
        )

    def proxy(self, contract: TypeForm[T], /) -> T:
        """Return an object with the methods of a contract, each of which calls the event of its name.

        The contract is a `typing.Protocol`. A method sends what `request`, `stream` or `open_channel` would send, and
        returns the same, with the result converted to the type that the contract declares:

        - ``def say(self, text: str) -> int`` is a request.
        - ``def history(self, since: int) -> Stream[Line]`` is a stream.
        - A parameter ``Iterable[...]`` takes the items of an upload, which ``send=`` takes elsewhere.
        - ``def talk(self) -> AnonymousChannel`` opens a channel.
        - An attribute that is annotated with another contract is the named channel of that name.

        Arguments travel by place. Optional ones at the end that are omitted are not sent, so the handler's defaults
        hold; one that is omitted before another that is given is sent with the contract's default. `with_options`
        returns a proxy with a timeout and other options. Errors have a note with the name of the method.

        Raises:
            TypeError: the contract cannot work; the text names the method and says why.
        """
        made: T = make_proxy(contract, self._inner, self._portal)
        return made

    def emitter(self, contract: TypeForm[T], /) -> T:
        """Return an object with the methods of a contract, each of which emits the event of its name.

        Each is declared to return None. Arguments travel as for `proxy`.

        Raises:
            TypeError: the contract cannot work; the text names the method and says why.
        """
        made: T = make_emitter(contract, self, takes_offline=True)
        return made


class ReadingCaller(Caller, EventReader):
    """The methods of `Caller`, with `events` and `wait_for`. Its sender is a `ReadingSender`."""

    __slots__ = ()


class RawCaller(ReadingCaller):
    """The methods of `ReadingCaller`, with `send_raw` and `send_raw_nowait`."""

    __slots__ = ()

    def send_raw(self, message: str | bytes, *, offline: Offline | None = None) -> None:
        """Send a raw message, str as text and bytes as binary, in order with all other messages.

        It waits as `emit` does, until the connection has room, or for a connection, with the same ``offline=``. The
        other side's `on_raw` function gets it. A message that looks like one of the protocol is taken for one.

        Raises:
            ConnectionLost: ``outcome="not_sent"``, there is no connection or the other side drains, and the message may
                not wait for another connection.
            QueueFull: too much waits for a connection already.
            MessageTooBig: the other side has announced that it accepts less.
            TypeError: the message is neither str nor bytes.
            ValueError: the message is binary, but binary messages are MessagePack, or may be. They are between two
                wsrpc peers unless one of them had an `on_raw` function when they connected. A client without such a
                function cannot send binary ones before the two have negotiated. With ``extensions=False`` they never
                negotiate, and binary messages are always free. With ``profile="go"`` all raw messages are refused.
        """
        self._run(self._inner.send_raw, message, offline=offline)

    def send_raw_nowait(self, message: str | bytes, *, offline: Offline | None = None) -> None:
        """Send a raw message at once.

        Raises:
            QueueFull: too many bytes are unsent (`Limits.hard_cap`), or the offline queue is full; nothing is sent.
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
        """Register the handler of an event, as a decorator or by a call; None removes the handler. The handler is a
        plain function, and runs in a thread.

        The last registration wins. Replacing a handler from another place in the code logs a warning. On the main
        channel the names open, connect, close, disconnect, error and message are lifecycle events: they report on the
        connection. A server and its peers may each have a handler for one of those, and all of them run.

        Args:
            lax: let msgspec convert leniently (numeric strings to numbers, ...).
            ordered: run one call after another, in the order of arrival, instead of overlapping.
            hidden: leave the handler out of every description of this side, such as `wsrpc.schema.describe`. It can
                still be called.

        Raises:
            TypeError: the function is an ``async def``, or cannot be a handler; the text names the parameter and says
                what to do.
            ValueError: the event is a method of a `Service`, or the channel is wsrpc's own.
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
        """Register a handler for the next such event only. It comes before a handler registered with `on`.

        The registration ends when the function is called. An event or request that ends before that leaves the handler
        to the next one: if its arguments do not fit, there are too many channels, or it is cancelled.
        """
        convert = partial(blocking_form, portal=self._portal)
        return register(self._inner, self._portal, "once", event, handler, convert, lax=lax, hidden=hidden)

    def implement(self, contract: TypeForm[Any], implementation: object, /) -> None:
        """Register the methods of an object as the handlers of the events of a contract.

        The contract is a `typing.Protocol`, as for `Caller.proxy`. A ``def`` implements a request of the contract, and
        a generator one that returns a `Stream`. Methods may have further parameters that are injected, such as a
        `Peer`. Options of a handler are given with `method` on the method that implements it.

        Raises:
            TypeError: a method is missing, or its signature does not fit the contract; the text names both signatures.
                Nothing is registered.
            ValueError: an event is a method of a `Service`, or the channel is wsrpc's own.
        """
        implement(self._inner, self._portal, contract, implementation)


class Declarer(Registrar):
    """The methods of `Registrar`, and `declare`, for servers, clients, routers and their channels."""

    __slots__ = ()

    def declare(self, contract: TypeForm[Any], /) -> None:
        """Say which events this side emits here, for descriptions of it.

        The contract is the one of which `emitter` makes an emitter. `wsrpc.schema.describe`, TypeScript declarations
        and generated Python clients then have its events.

        Raises:
            TypeError: the contract cannot work; or this is a channel of a server's peer, which has no description.
        """
        self._apply(self._inner.declare, contract)


class RawRegistrar(Delegate):
    """The method `on_raw`, for server, client and peer."""

    __slots__ = ()

    @no_parentheses("@server.on_raw")
    def on_raw(self, function: F, /) -> F:
        """Call ``function(peer, message)`` with each message that is not protocol; works as a decorator.

        ``message`` is str or bytes. It runs in a thread, for one message of a peer after another, and messages that
        wait are bounded as events are, by `Limits.waiting`. Exceptions go to the log and to `error` handlers. Register
        the function before peers connect, because two wsrpc peers speak in binary messages if neither of them takes raw
        messages.

        Raises:
            TypeError: it is not a function of these two.
            ValueError: a service takes every message.
        """
        check_plain(function, "a function of on_raw")
        convert = partial(blocking_form, portal=self._portal)
        self._apply(self._inner.on_raw, in_a_thread(function, convert))
        return function


class Channel(Declarer, ReadingCaller):
    """One named channel of one peer. `Peer.of` returns it. It has the same methods as the peer.

    A channel is only a name on messages, so nothing is sent when it is opened or closed.
    """

    __slots__ = ()

    @property
    def name(self) -> str:
        """The channel's name."""
        result: str = self._inner.name
        return result

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        result: bool = self._inner.closed
        return result

    @property
    def close_reason(self) -> Any:
        """The reason that `close` was called with."""
        return self._inner.close_reason

    def close(self, reason: object = None) -> None:
        """Remove the channel's handlers and middleware on this side, and end its readers. Local, idempotent.

        Using it afterwards raises `ChannelClosed`; `Peer.of` with the same name makes a new one.
        """
        self._run(self._inner.close, reason)

    @overload
    def items(self) -> Stream[Any]: ...

    @overload
    def items(self, *, returns: TypeForm[T]) -> Stream[T]: ...

    def items(self, *, returns: Any = UNSET) -> Stream[Any]:
        """Read the items that the other side produces here, as ``for await (... of channel)`` does in JavaScript.

        The first read asks the other side to begin: its handler for the event ``start`` on this channel produces. The
        channel stays after the last item, and may be read again. If both sides are yours, use `Caller.stream` instead:
        it has flow control, ends the producer when you leave, and raises the producer's errors.

        ``for item in channel`` does the same, without ``returns``.

        Args:
            returns: the type to check and convert each item to.

        Raises:
            ChannelClosed: the channel was closed.
            RuntimeError: the items are being read already.
            TypeError: ``returns`` is not a type that can be converted to.
        """
        return Stream(self._run(self._inner.items, returns=returns), self._portal, at_once=1)

    def __iter__(self) -> Stream[Any]:
        return self.items()


@injectable(methodcaller("channel"), own_form, conversation=True, blocking=True)
class AnonymousChannel(Registrar, EventReader):
    """Channel without a name that one request opened. Both sides emit, request, register handlers and read on it.

    The caller gets it from ``open_channel``. The handler of that request either has a parameter annotated with this
    class, and its body is the conversation; or it makes a channel with `Context.channel` and returns it. The channel is
    over when either side aborts it, when the connection ends, or when the conversation's body returns.

    Messages that arrive before the first handler is registered or the first reader reads are kept, for `Limits.unread`
    seconds and up to `Limits.stream_queue` bytes. After that the channel is aborted. If this side has sent something on
    it, the events are dropped instead, and counted in `Peer.ignored`. Sending raises `ChannelNotReady` before a
    handler's channel is delivered, and `ChannelClosed` with the reason after the end.

    ``with channel`` ends it when the block is left. ``for item in channel`` reads the items of ws-wrapper's iterator
    protocol.
    """

    __slots__ = ()

    @property
    def id(self) -> int:
        """The id of the request that opened it, which is the channel's name on the wire."""
        value: int = self._inner.id
        return value

    @property
    def closed(self) -> bool:
        """Whether the channel is over."""
        result: bool = self._inner.closed
        return result

    @property
    def close_reason(self) -> Any:
        """Why it is over: the argument of `close` or `abort` on either side (errors of the remote peer as
        `RemoteError`), a `ConnectionLost`, or None after a good end.
        """
        return self._inner.close_reason

    def close(self, reason: object = None) -> None:
        """End the channel on this side. Local and idempotent. Requests that this side made on it fail: `ChannelClosed`.

        The remote peer learns of it by an abort when it next sends something on the channel. A producer that waits for
        credit would never send anything, so it gets an abort at once.
        """
        self._settle(partial(self._inner.close, reason))

    def abort(self, reason: object = None) -> None:
        """End the channel on both sides. ``reason`` is sent: an `RpcError`, text or any value. Idempotent.

        Of another exception only the text is sent. On either side requests that were made on the channel fail with
        `ChannelClosed`, and the handler whose body is the conversation is cancelled.
        """
        self._settle(partial(self._inner.abort, reason))

    def wait_closed(self) -> None:
        """Wait until the channel is over and handlers have got the messages before its end."""
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
        """Read the items of ws-wrapper's iterator protocol; at their end the channel stays open, as in JavaScript.

        ``for item in channel`` does the same, without ``returns``.

        Raises:
            ChannelClosed: the channel is over.
            RuntimeError: the items are being read already.
        """
        return Stream(self._run(self._inner.items, returns=returns), self._portal, at_once=1)

    def __iter__(self) -> Stream[Any]:
        return self.items()

    def emit(self, event: str, /, *args: Any, **unsupported: Never) -> None:
        """Send an event on the channel. An event has no answer.

        Returns when the message is accepted for sending, not when it is delivered. While the connection is above its
        high-water mark, the message waits for its turn before it is encoded.

        Raises:
            ChannelClosed, ChannelNotReady: the channel is over, or not delivered yet; it is over with its connection.
            MessageTooBig: the remote peer has said that it takes less at once; nothing is sent.
            TypeError, ValueError: if an argument cannot be encoded; nothing is sent.
        """
        self._run(self._inner.emit, event, *args, **unsupported)

    def emit_nowait(self, event: str, /, *args: Any, **unsupported: Never) -> None:
        """Like `emit`, but at once.

        Raises:
            QueueFull: at the hard cap of unsent bytes; nothing is sent.
            ChannelClosed, ChannelNotReady, MessageTooBig, TypeError, ValueError: as for `emit`.
        """
        self._run(self._inner.emit_nowait, event, *args, **unsupported)

    def emitter(self, contract: TypeForm[T], /) -> T:
        """Return an object whose methods emit the events of a contract on the channel; see `Caller.emitter`.

        Raises:
            TypeError: the contract cannot work; the text names the method and says why.
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
        """Send a request on the channel and return its answer. The options are those of `Peer.request`.

        Ctrl-C cancels the handler on the other side, too, before KeyboardInterrupt is raised.

        Raises:
            ChannelClosed, ChannelNotReady: the channel is over, or not delivered yet; it is over with its connection.
            WsrpcError: as for `Peer.request`.
        """
        run = self._run if send is not None else self._ask
        return run(
            self._inner.request, event, *args, returns=returns, timeout=timeout, send=upload(send), **unsupported
        )

    def open_channel(
        self, event: str, /, *args: Any, timeout: float | UnsetType | None = UNSET, **unsupported: Any
    ) -> AnonymousChannel:
        """Send a request whose answer is a channel, for a conversation with its handler, and return the channel.

        The channel stays open until either side ends it, or the connection ends: ``with`` it, or abort it. ``timeout``
        as in `request`, until the channel is open. Ctrl-C cancels the handler on the other side, too, before
        KeyboardInterrupt is raised.

        Raises:
            BadResult: the answer is not a channel.
            WsrpcError: as for `request`.
        """
        return AnonymousChannel(
            self._run(self._inner.open_channel, event, *args, timeout=timeout, **unsupported), self._portal
        )


@injectable(attrgetter("peer"), own_form)
class Peer(Registrar, RawRegistrar, RawCaller):
    """The client's end of its connections. `Client.peer` returns it, and lifecycle handlers get it."""

    __slots__ = ()

    @property
    def id(self) -> str:
        """The peer's name in logs."""
        value: str = self._inner.id
        return value

    @property
    def state(self) -> PeerState:
        """A mapping for the application; see `Key`."""
        value: PeerState = self._inner.state
        return value

    @property
    def principal(self) -> object:
        """The user, as `on_handshake` has set it."""
        value: object = self._inner.principal
        return value

    @property
    def ignored(self) -> Counter[str]:
        """Messages that the protocol says to ignore and the like, counted by kind; see `wsrpc.Peer`."""
        value: Counter[str] = self._inner.ignored
        return value

    @property
    def connected(self) -> bool:
        """Whether there is a connection over which messages can be sent."""
        result: bool = self._inner.connected
        return result

    @property
    def detached(self) -> bool:
        """Whether there is no connection, but the session is kept: it goes on when another connection resumes it."""
        result: bool = self._inner.detached
        return result

    @property
    def info(self) -> ConnectionInfo:
        """Facts from the opening handshake: path, headers, remote address and so on.

        After the end of the connection, the info of the last one is still here, without ``underlying``. So `close`
        handlers can say who left.

        Raises:
            ConnectionLost: there has been no connection yet.
        """
        result: ConnectionInfo = self._inner.info
        return result

    @property
    def pending(self) -> int:
        """Number of requests that this side has sent and that are not answered yet."""
        result: int = self._inner.pending
        return result

    @property
    def active(self) -> int:
        """Number of handlers that run for the remote peer, with those of streams and conversations."""
        result: int = self._inner.active
        return result

    @property
    def channels(self) -> int:
        """Number of anonymous channels that are open, with those of streams, whichever side opened them."""
        result: int = self._inner.channels
        return result

    def stats(self) -> PeerStats:
        """Return a snapshot of the peer's counters, for operators."""
        result: PeerStats = self._inner.stats()
        return result

    @property
    def limits(self) -> Limits:
        """The limits of the connection."""
        result: Limits = self._inner.limits
        return result

    @property
    def dropped(self) -> int:
        """Number of broadcasts that were not sent because this peer reads too slowly. See `Server` for the policies."""
        result: int = self._inner.dropped
        return result

    @overload
    def get(self, key: Key[T], default: None = None) -> T | None: ...

    @overload
    def get(self, key: Key[T], default: T) -> T: ...

    @overload
    def get(self, key: str, default: Any = None) -> Any: ...

    def get(self, key: Any, default: Any = None) -> Any:
        """Return ``state.get(key, default)``. ws-wrapper has this method."""
        return self._inner.get(key, default)

    @overload
    def set(self, key: Key[T], value: T) -> None: ...

    @overload
    def set(self, key: str, value: Any) -> None: ...

    def set(self, key: Any, value: Any) -> None:
        """Set ``state[key] = value``. ws-wrapper has this method."""
        self._inner.set(key, value)

    def of(self, name: str, *, ordered: bool = False) -> Channel:
        """Return the named channel of this peer.

        Args:
            ordered: handlers that are registered on it from now on run one after another.
        """
        return Channel(self._apply(self._inner.of, name, ordered=ordered), self._portal)

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Close the connection, and return when it has ended.

        Messages that were accepted for sending are written first, then the Close frame.

        Args:
            code: the close code. With None, the Close frame has no code, and the remote peer sees 1005.

        Raises:
            ValueError: the code may not be sent, or the reason has more than 123 bytes, or comes without a code.
        """
        self._run(self._inner.close, code, reason)

    def wait_closed(self) -> None:
        """Wait until there is no connection."""
        self._run(self._inner.wait_closed)


class Client(Declarer, RawRegistrar, RawCaller, ClientRoot):
    """End of a connection that this side dials, and dials again when it drops.

    Register handlers first. Then ``with client:`` dials, or call `connect` and `close`. Handlers stay registered for
    all connections. What is sent without a connection waits for the next one, within `Limits.offline`.

    Args:
        url: ``ws://`` or ``wss://``. The URL, ``headers`` and ``auth`` may be functions, called for each attempt.
        headers: of the opening handshake.
        auth: a token, sent as ``Authorization: Bearer <token>``.
        subprotocols: offered to the server, best first.
        ssl: the TLS context for ``wss://``. The default one verifies as browsers do.
        proxy: a proxy's URL, True for the proxy that the environment names, None for no proxy.
        compression: offer permessage-deflate to the server, which may accept it.
        unix: the path of a Unix socket to connect to, in place of the URL's host and port; see `wsrpc.dial`.
        dial: the function that opens a connection, such as that of an adapter. The default is `wsrpc.dial`.
        limits: bounds of the connection, and of the queue while there is none.
        reconnect: the delays between attempts, and when to stop. With None, `connect` makes one attempt, and a drop
            ends the client.
        offline: whether calls without a connection wait for one (``"queue"``), within `Limits.offline`, or raise
            `ConnectionLost` at once (``"fail"``). Each call has an ``offline=`` of its own, too.
        connect_timeout: the most seconds that `connect` takes, for all attempts and for the `open` handlers. None for
            no limit.
        codec: the encoding; the default is JSON with ``enc_hook``.
        dec_hook: msgspec's hook that makes values of types that it does not know.
        enc_hook: msgspec's hook that encodes values of such types.
        lax: convert leniently, both the arguments of handlers and ``returns=``.
        expose_errors: send the text of unexpected exceptions to the remote peer; or a function that decides for each
            exception.
        extensions: find out whether the server is wsrpc, too, for flow control and binary messages. This takes one
            message, which plain ws-wrapper peers ignore. With False, only ws-wrapper's own messages are sent.
        log_payloads: write each message into the log, as one bounded line at DEBUG. A function ``redact(direction,
            event, args)`` returns what the log shows in place of ``args``, a list. ``direction`` is ``"in"`` or
            ``"out"``. ``event`` is the name of the event or request (``"channel:name"`` on a named channel), also for
            its answer, which is a list of one, and for messages of the anonymous channel that it opened.
        profile: ``"go"`` if the server is ws-server-wrapper-go, which closes the connection where others ignore a
            message. Such messages are refused here, before they are sent. Messages have at most 32 KiB, unless
            `Limits.sent_message` says otherwise, and there are no raw messages, no extensions and no other codec. See
            docs/how-to/go.md.

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
        """The peer. It stays the same for all connections."""
        return Peer(self._inner.peer, self._portal)

    @property
    def state(self) -> ClientState:
        """``"idle"``, ``"connecting"``, ``"waiting"`` (between two attempts), ``"opening"`` (`open` and then
        `on_reconnect` handlers run), ``"connected"``, ``"detached"`` and ``"resuming"`` (between two attempts and
        during one, while the session is kept), ``"closing"``, or ``"closed"`` (by `close`, or it gave up).
        """
        result: ClientState = self._inner.state
        return result

    @property
    def connected(self) -> bool:
        """Whether there is a connection over which messages can be sent, also while it opens.

        False as soon as the connection has refused a message, while `state` is still ``"connected"`` or ``"opening"``:
        it changes when the end of the connection is reported. That takes at most `Limits.close_timeout`.
        """
        result: bool = self._inner.connected
        return result

    def of(self, name: str, *, ordered: bool = False) -> Channel:
        """Return a named channel; see `Peer.of`."""
        return Channel(self._apply(self._inner.of, name, ordered=ordered), self._portal)

    @no_parentheses("@client.on_reconnect")
    def on_reconnect(self, function: F, /) -> F:
        """Call ``function(info)`` in a thread on each connection but the first; works as a decorator.

        ``info`` is a `ReconnectInfo`. A function may also take no argument. If ``info.resumed``, the session goes on,
        and nothing waits for the functions. If not, subscribe again here: the functions run one after another, after
        the `open` handlers, and what they send leaves before messages that waited for the connection. Those messages
        wait until the functions return, at most `Limits.open_handlers` seconds, so start long work in a thread of its
        own. The functions are cancelled if the connection ends. Exceptions go to the log.

        Raises:
            TypeError: it is not a function, or needs more arguments.
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
        """Dial, and return when the connection is open and the `open` and `on_reconnect` handlers are done.

        Attempts that fail are repeated until ``connect_timeout``. An attempt has failed, too, if its session ends
        before the `open` handlers are done. Ctrl-C stops dialing, unless another thread waits for the connection. A
        client that dials again after a drop goes on when this is interrupted or takes too long.

        Raises:
            ConnectFailed: it took longer than ``connect_timeout``, or ``Reconnect(stop=)`` ended it, or the one attempt
                of ``reconnect=None`` failed.
            HandshakeRejected, ssl.SSLError, ValueError: the server refuses, TLS fails or the URL is not valid, in a way
                that another attempt would not change.
            ConnectionLost: `close` was called, or the connection ended while its `open` handlers ran, and the client
                does not dial again.
        """
        self._portal.open()
        self._run(self._inner.connect)

    def wait_connected(self) -> None:
        """Wait until there is a connection, and its `open` and `on_reconnect` handlers are done.

        While the client is ``"idle"``, this waits for a call of `connect`.

        Raises:
            ConnectionLost: there will be no connection, because the client was closed, or does not dial again.
            ConnectFailed, HandshakeRejected, ssl.SSLError, ValueError: as for `connect`, also after a drop.
        """
        self._run(self._inner.wait_connected)

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Close the connection and do not dial again. What was accepted is written before the Close frame.

        With None as code the Close frame has no code, and the remote peer gets 1005.

        Request handlers that still run are cancelled, as at any end of a connection. Handlers of events have
        `Limits.close_timeout` seconds to finish.

        There is no ``drain=``. To let request handlers finish, wait until ``client.peer.active`` and
        ``client.peer.channels`` are 0 and the client is connected, then close. See "Shut a client down without losing
        its work" in the guide "Start and stop a server".

        Raises:
            ValueError: the code may not be sent, or the reason has more than 123 bytes or comes without a code.
        """
        self._close(partial(self._inner.close, code, reason))


class ClusterPeer(Caller):
    """The peer with an address, wherever in the cluster it is connected. `Cluster.peer` returns it.

    It has the methods of a `Peer` that send. Each call looks up where the peer is connected at that moment: a peer that
    is connected to this process is called directly, any other one through its process. The peer's handlers cannot tell
    which. (To read what a peer sends, register handlers on the servers: a peer sends to the one that it is connected
    to.)

    Calls raise, besides what those of a `Peer` raise:

    - `PeerNotFound`: no process has a peer of that address. Nothing was sent.
    - `EngineLost`: it may be in another process, and the engine cannot be reached. Nothing was sent.
    - `ConnectionLost`: with ``outcome="unknown"`` if the process of the peer ended, or could not be reached for 5
      seconds, while the call ran.

    `emit` returns when the event is accepted for sending to the other process. Events of one process to one peer come
    in order; an event is lost if its peer leaves before it comes. A peer that reads too slowly is closed with 4408 once
    `Limits.hard_cap` bytes wait for it in its process.
    """

    __slots__ = ()

    @property
    def address(self) -> str:
        """The peer's address, as `Handshake.address` has set it."""
        value: str = self._inner.address
        return value

    def of(self, name: str) -> ClusterPeerChannel:
        """Return the named channel ``name`` of the peer.

        Raises:
            TypeError, ValueError: ``name`` cannot name a channel.
        """
        return ClusterPeerChannel(self._inner.of(name), self._portal)


class ClusterPeerChannel(Caller):
    """A named channel of a `ClusterPeer`."""

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
        """The name of the application, which all its processes share."""
        result: str = self._inner.name
        return result

    @property
    def connected(self) -> bool:
        """Whether the engine can be reached. If not, this process works alone."""
        result: bool = self._inner.connected
        return result

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the processes of the cluster that are known here, this one first. Each is made up when the
        process joins. A process that was not heard of for 5 seconds is gone.
        """
        result: tuple[str, ...] = self._inner.nodes
        return result

    def locate(self, address: str) -> str | None:
        """Return the name of the process to which the peer with this address is connected, as far as is known here.

        It only looks into a table. None: there is no such peer.
        """
        result: str | None = self._inner.locate(address)
        return result

    def peer(self, address: str) -> ClusterPeer:
        """Return the peer with this address, wherever it is connected, and whether it is connected or not.

        Raises:
            TypeError, ValueError: ``address`` cannot be an address.
        """
        return ClusterPeer(self._inner.peer(address), self._portal)

    def stats(self) -> ClusterStats | None:
        """Return a snapshot of this process's part in the cluster; None while it has none."""
        result: ClusterStats | None = self._inner.stats()
        return result


class ClusterEmitter(Delegate):
    """`emit` to a room from a program without a server."""

    __slots__ = ()

    def emit(self, event: str, /, *args: Any, skip: SkipAddressed = None, **unsupported: Never) -> EmitReport:
        """Emit an event to every member of the room. Its report names the processes that have members.

        It returns when the event is accepted for sending to them; ``report.missed`` names those that cannot be reached
        now.

        Args:
            skip: a member that does not get the event, as `ClusterClient.peer` returns it, or several.

        Raises:
            EngineLost: the engine cannot be reached; nothing was sent.
            ReservedEvent, TypeError, ValueError: the name or an argument cannot be sent; nothing was sent.
        """
        result: EmitReport = self._run(self._inner.emit, event, *args, skip=inner_of(skip), **unsupported)
        return result

    def emitter(self, contract: TypeForm[T], /, *, skip: SkipAddressed = None) -> T:
        """Return an object with the methods of a contract, each of which emits the event of its name.

        Each is declared to return None; see `Caller.proxy` for how arguments travel.

        Args:
            skip: a member that gets none of the events, or several of them, as for `emit`.

        Raises:
            TypeError: the contract cannot work; the text names the method and says why.
        """
        made: T = make_emitter(contract, self, skip=kept(skip))
        return made


class ClusterRoom(ClusterEmitter):
    """A room of a cluster, for a program without a server. `ClusterClient.room` returns it."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The room's name."""
        result: str = self._inner.name
        return result

    def of(self, name: str) -> ClusterRoomChannel:
        """Return the named channel ``name``, for emitting to all members.

        Raises:
            TypeError, ValueError: ``name`` cannot name a channel.
        """
        return ClusterRoomChannel(self._inner.of(name), self._portal)

    def send_raw(self, data: str | bytes, *, skip: SkipAddressed = None) -> EmitReport:
        """Send a WebSocket message, text or binary, without the protocol to every member; see `emit`.

        Raises:
            EngineLost: the engine cannot be reached; nothing was sent.
            TypeError: ``data`` is neither text nor bytes.
        """
        result: EmitReport = self._run(self._inner.send_raw, data, skip=inner_of(skip))
        return result

    def members(self) -> Members:
        """Return the members in all processes.

        Raises:
            EngineLost: the engine cannot be reached.
        """
        result: Members = self._run(self._inner.members)
        return result


class ClusterRoomChannel(ClusterEmitter):
    """A named channel of a `ClusterRoom`."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The channel's name."""
        result: str = self._inner.name
        return result


class ClusterClient(ClusterView, ClusterRoot):
    """Calls the peers of a cluster, and emits to its rooms, from a program that serves no peers: a script, a cron job.

    ``with ClusterClient(RedisEngine(url), name="shop") as shop: shop.room("lobby").emit("news", "...")``

    Entering the block returns when the engine is reached and the processes of the cluster are known. Leaving it waits
    until what was sent is written. An object can be entered once.

    Args:
        engine: the engine of the servers' `Cluster`.
        name: the name of the servers' `Cluster`.
        limits: bounds of the messages between this program and the servers, and ``timeout``, the default of requests.
        codec: as for `Client`.
        enc_hook: as for `Client`.
        dec_hook: as for `Client`.
        lax: as for `Client`.
        connect_timeout: seconds in which the engine has to be reached. None for no limit.

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
            EngineLost: the engine could not be reached in time.
            RuntimeError: the object was entered before.
        """
        self._enter()
        return self

    def __exit__(self, *_: object) -> None:
        self._close(partial(self._inner.__aexit__, None, None, None))

    def room(self, name: str) -> ClusterRoom:
        """Return the room with that name, to emit to its members in all processes.

        Raises:
            TypeError, ValueError: ``name`` cannot name a room.
        """
        return ClusterRoom(self._inner.room(name), self._portal)


FORMS.update({AsyncAnonymousChannel: AnonymousChannel, AsyncPeer: Peer, AsyncStream: Stream})
