"""`Peer` and channels for programs without an event loop. Each method calls the asynchronous one of the same name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

from .._base.names import UNTYPED, F
from .._base.retry import Retry
from .._base.state import PeerState
from .._core.api.caller import AnonymousChannel as AsyncAnonymousChannel
from .._core.api.caller import user_channel_of
from .._core.api.channel import Channel as AsyncChannel
from .._core.api.options import CallOptions, EventOptions
from .._core.api.peer import Peer as AsyncPeer
from .._core.api.proxy import Proxy, make_emitter, typed
from .._core.api.stream import Stream as AsyncStream
from .._core.handlers.contract import Contract, Member, read_contract
from .._core.handlers.introspection import Injection, Kind, injections
from .._core.handlers.method import BlockingOnOptions
from .._core.inboxes.event_inboxes import Keep
from .._core.wire.messages import RequestOptions
from ..limits import Limits
from ..stats import PeerStats
from ..transport import ConnectionInfo
from ._blocking_stream import Stream
from ._delegate import FORMS, Delegate, SameAttribute, blocking_form, own_form, upload
from ._handlers import MISSING, marked, register
from ._loop_thread import CallBridge

if TYPE_CHECKING:
    from typing_extensions import TypeForm, TypeVar

    T = TypeVar("T", default=Any)


class BlockingProxy(Proxy):
    """Base class of blocking proxies. Each method runs that of a `Proxy` in the loop's thread, and waits."""

    __slots__ = ("_wsrpc_bridge",)

    _wsrpc_blocking = True

    def __init__(self, contract: type[Any], caller: Any, options: RequestOptions, bridge: CallBridge) -> None:
        self._wsrpc_bridge = bridge
        super().__init__(contract, caller, options)

    @classmethod
    def _wsrpc_method(cls, number: int, member: Member) -> Callable[..., Any]:
        call = super()._wsrpc_method(number, member)

        def called(self: BlockingProxy, /, *args: Any, **named: Any) -> Any:
            bridge, run = self._wsrpc_bridge, partial(call, self, *args, **named)
            if member.kind in (Kind.STREAM, Kind.EXCHANGE):
                return blocking_form(run(), bridge)
            stepped = member.kind is Kind.REQUEST and self._wsrpc_common.retry is None
            return blocking_form(bridge.run(run, stepped=stepped), bridge)

        return called

    def _wsrpc_new(self, contract: type[Any], caller: Any, common: RequestOptions) -> Proxy:
        return typed(BlockingProxy, contract, caller, common, self._wsrpc_bridge)

    def _wsrpc_source(self, items: Any) -> Any:
        return upload(items)

    def __repr__(self) -> str:
        return f"<blocking {super().__repr__()[1:]}"


def make_proxy(contract: Any, caller: Any, bridge: CallBridge) -> Any:
    """Return a proxy; see `Caller.proxy`.

    Args:
        caller: the asynchronous caller.
    """
    return bridge.apply(partial(typed, BlockingProxy, contract, caller, RequestOptions(), bridge))


def implement(inner: Any, bridge: CallBridge, contract: Any, implementation: object) -> None:
    """Register the methods of an object, each of which runs in a thread; see `Registrar.implement`.

    Raises:
        TypeError: a method is an ``async def``, or does not fit the contract.
    """
    read = read_contract(contract, "implement()")
    bridge.apply(partial(inner.implement, contract, _threaded(read, implementation, bridge)))


def _threaded(read: Contract, implementation: object, bridge: CallBridge) -> object:
    """Return an object with the methods of ``implementation`` that a contract declares, as handlers."""
    if isinstance(implementation, type):
        return implementation  # is refused
    methods: dict[str, Any] = {
        member.name: staticmethod(marked(getattr(implementation, member.name), bridge))
        for member in read.members
        if hasattr(implementation, member.name)
    }
    for name, inner in read.channels.items():
        if hasattr(implementation, name):
            methods[name] = _threaded(read_contract(inner, read.name), getattr(implementation, name), bridge)
    cls = type(implementation)
    return type(cls.__name__, (), {"__qualname__": cls.__qualname__, "__module__": cls.__module__, **methods})()


class EventReader(Delegate):
    """`events` and `wait_for`."""

    __slots__ = ()

    def events(self, event: str, /, *, returns: TypeForm[T] = UNTYPED, keep: Keep = "all") -> Stream[T]:
        """Read the events with the given name, from this call on; see `wsrpc.Peer.events`."""
        return Stream(self._call(self._inner.events, event, returns=returns, keep=keep), self._bridge)

    def wait_for(self, event: str, /, *, returns: TypeForm[T] = UNTYPED, timeout: float | None = None) -> T:
        """Return the value of the next event with the given name; see `wsrpc.Peer.wait_for`.

        To send something and then read the event that the remote peer sends in response, call `events` first.
        """
        value: T = self._await(self._inner.wait_for, event, returns=returns, timeout=timeout)
        return value


class Caller(Delegate):
    """`emit`, `request` and the other methods that send."""

    __slots__ = ()

    def emit(self, event: str, /, *args: Any, **options: Unpack[EventOptions]) -> None:
        """Send an event; see `wsrpc.Peer.emit`."""
        self._await(self._inner.emit, event, *args, **options)

    def emit_nowait(self, event: str, /, *args: Any, **options: Unpack[EventOptions]) -> None:
        """Send an event without waiting until there is room for it; see `wsrpc.Peer.emit_nowait`."""
        self._call(self._inner.emit_nowait, event, *args, **options)

    def request(
        self,
        event: str,
        /,
        *args: Any,
        returns: TypeForm[T] = UNTYPED,
        send: Iterable[Any] | None = None,
        retry: Retry | None = None,
        idempotent: bool = False,
        **options: Unpack[CallOptions],
    ) -> T:
        """Send a request, and return its response; see `wsrpc.Peer.request`.

        Ctrl-C cancels the handler on the remote peer, and then raises KeyboardInterrupt. The iterable ``send`` is read
        in a thread.
        """
        others = {"returns": returns, "send": upload(send), "retry": retry, "idempotent": idempotent}
        call = partial(self._inner.request, event, *args, **others, **options)
        answer: T = self._bridge.run(call, stepped=send is None and retry is None)
        return answer

    def open_channel(
        self,
        event: str,
        /,
        *args: Any,
        **options: Unpack[CallOptions],
    ) -> AnonymousChannel:
        """Send a request that opens an anonymous channel, and return the channel; see `wsrpc.Peer.open_channel`.

        To end the channel, use ``with``, or call its ``abort()``.
        """
        opened = self._await(self._inner.open_channel, event, *args, **options)
        return AnonymousChannel(opened, self._bridge)

    def stream(
        self,
        event: str,
        /,
        *args: Any,
        returns: TypeForm[T] = UNTYPED,
        send: Iterable[Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Stream[T]:
        """Request a stream, when you enter its block or read its first item; see `wsrpc.Peer.stream`.

        The iterable ``send`` is read in a thread.
        """
        others = {"returns": returns, "send": upload(send)}
        return Stream(self._inner.stream(event, *args, **others, **options), self._bridge)

    def proxy(self, contract: TypeForm[T], /) -> T:
        """Return an object whose methods send the requests of a contract; see `wsrpc.Peer.proxy`.

        In a contract for a blocking client, requests are declared with ``def``, and the items of an upload with
        ``Iterable[...]``. `Stream` and `AnonymousChannel` are those of `wsrpc.blocking`.
        """
        made: T = make_proxy(contract, self._inner, self._bridge)
        return made

    def emitter(self, contract: TypeForm[T], /) -> T:
        """Return an object whose methods emit the events of a contract; see `wsrpc.Peer.emitter`."""
        made: T = make_emitter(contract, self, accepts_offline=True, blocking=True)
        return made


class Registrar(Delegate):
    """`on`, `once` and `implement`."""

    __slots__ = ()

    @overload
    def on(self, event: str, /, **options: Unpack[BlockingOnOptions]) -> Callable[[F], F]: ...

    @overload
    def on(self, event: str, handler: F, /, **options: Unpack[BlockingOnOptions]) -> F: ...

    @overload
    def on(self, event: str, handler: None, /) -> None: ...

    def on(self, event: Any = MISSING, handler: Any = MISSING, /, **options: Unpack[BlockingOnOptions]) -> Any:
        """Register the handler of an event: a plain function, which runs in a thread; see `wsrpc.Peer.on`.

        Raises:
            TypeError: the function is an ``async def``, or cannot be a handler.
            ValueError: as for `wsrpc.Peer.on`.
        """
        return register(self._inner, self._bridge, "on", event, handler, **options)

    @overload
    def once(self, event: str, /, **options: Unpack[BlockingOnOptions]) -> Callable[[F], F]: ...

    @overload
    def once(self, event: str, handler: F, /, **options: Unpack[BlockingOnOptions]) -> F: ...

    @overload
    def once(self, event: str, handler: None, /) -> None: ...

    def once(self, event: Any = MISSING, handler: Any = MISSING, /, **options: Unpack[BlockingOnOptions]) -> Any:
        """Register a handler for only the next event or request with the given name; see `on`."""
        return register(self._inner, self._bridge, "once", event, handler, **options)

    def implement(self, contract: TypeForm[Any], implementation: object, /) -> None:
        """Register the methods of an object, which run in threads, for a contract; see `wsrpc.Peer.implement`.

        A ``def`` implements a request of the contract, and a generator a method that returns a `Stream`.
        """
        implement(self._inner, self._bridge, contract, implementation)


class ItemReader(Delegate):
    """`items`, and iteration over them."""

    __slots__ = ()

    def items(self, *, returns: TypeForm[T] = UNTYPED) -> Stream[T]:
        """Read the items that the remote peer produces; see `wsrpc.AnonymousChannel.items`."""
        return Stream(self._call(self._inner.items, returns=returns), self._bridge, at_once=1)

    def __iter__(self) -> Stream[Any]:
        return self.items()


class Channel(Registrar, Caller, EventReader, ItemReader):
    """Named channel of one peer, with its own event names; see `wsrpc.Channel`. `Peer.of` returns it.

    ``for item in channel`` reads the items, like `items`.
    """

    __slots__ = ()

    _inner: AsyncChannel

    name: SameAttribute[str] = SameAttribute()
    """The name of the channel."""
    closed: SameAttribute[bool] = SameAttribute()
    """Whether `close` was called."""
    close_reason: SameAttribute[Any] = SameAttribute()
    """The reason that was passed to `close`."""

    def close(self, reason: object = None) -> None:
        """Remove the channel's handlers on this side, and end its readers; see `wsrpc.Channel.close`."""
        self._call(self._inner.close, reason)

    def declare(self, contract: TypeForm[Any], /, *, requests: bool = False) -> None:
        """Declare which events this side emits; see `wsrpc.Channel.declare`."""
        self._apply(self._inner.declare, contract, requests=requests)


class AnonymousChannel(Registrar, Caller, EventReader, ItemReader):
    """Channel without a name, opened by one request; see `wsrpc.AnonymousChannel`.

    The caller gets the channel from ``open_channel``. On the other side, wsrpc passes it to a handler that has a
    parameter annotated with this class. The handler runs in a thread, and continues to its end even if the channel
    ends before that.

    ``with channel`` ends the channel at the end of the block. ``for item in channel`` reads the items, like `items`.
    """

    __slots__ = ()

    _inner: AsyncAnonymousChannel

    id: SameAttribute[int] = SameAttribute()
    """The id of the request that opened the channel. Messages on the channel contain this id."""
    closed: SameAttribute[bool] = SameAttribute()
    """Whether the channel has ended."""
    close_reason: SameAttribute[Any] = SameAttribute()
    """The reason for the end of the channel; see `wsrpc.AnonymousChannel.close_reason`."""

    def close(self, reason: object = None) -> None:
        """End the channel on this side; see `wsrpc.AnonymousChannel.close`."""
        self._bridge.finish(partial(self._inner.close, reason))

    def abort(self, reason: object = None) -> None:
        """End the channel on both sides, and send the reason; see `wsrpc.AnonymousChannel.abort`."""
        self._bridge.finish(partial(self._inner.abort, reason))

    def wait_closed(self) -> None:
        """Wait until the channel has ended, and handlers have received the messages that arrived before the end."""
        self._await(self._inner.wait_closed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._bridge.finish(partial(self._inner.__aexit__, kind, error, traceback))


class Endpoint(Registrar, Caller, EventReader):
    """The methods that a peer and a client have in common."""

    __slots__ = ()

    _inner: Any

    connected: SameAttribute[bool] = SameAttribute()
    """Whether there is a connection over which messages can be sent."""

    def of(self, name: str, *, ordered: bool = False) -> Channel:
        """Return a named channel; see `wsrpc.Peer.of`.

        Args:
            ordered: whether the handlers that you register on the channel after this call run one at a time.
        """
        return Channel(self._apply(self._inner.of, name, ordered=ordered), self._bridge)


class Peer(Endpoint):
    """The local end of the client's connections. `Client.peer` returns it, and lifecycle handlers get it."""

    __slots__ = ()

    _inner: AsyncPeer

    id: SameAttribute[str] = SameAttribute()
    """The peer's name in logs."""
    state: SameAttribute[PeerState] = SameAttribute()
    """A mapping for your application's data; see `Key`."""
    principal: SameAttribute[object] = SameAttribute()
    """The user, as `on_handshake` has set it."""
    program: SameAttribute[str | None] = SameAttribute()
    """What the remote peer says of its program; see `wsrpc.Peer.program`."""
    contract: SameAttribute[str | None] = SameAttribute()
    """What the remote peer handles and emits; see `wsrpc.Peer.contract`."""
    ignored: SameAttribute[Counter[str]] = SameAttribute()
    """The numbers of ignored messages, by kind; see `wsrpc.Peer`."""
    detached: SameAttribute[bool] = SameAttribute()
    """Whether the session is kept without a connection, until another one resumes it."""
    info: SameAttribute[ConnectionInfo] = SameAttribute()
    """Data from the opening handshake, such as the remote address; see `wsrpc.Peer.info`."""
    pending: SameAttribute[int] = SameAttribute()
    """Number of requests that this side has sent and that have no response yet."""
    active: SameAttribute[int] = SameAttribute()
    """Number of handlers that are running for the remote peer, including those of streams and conversations."""
    anonymous_channels: SameAttribute[int] = SameAttribute()
    """Number of open anonymous channels, including those of streams, whichever side opened them."""
    limits: SameAttribute[Limits] = SameAttribute()
    """The limits of the connection."""
    skipped_broadcasts: SameAttribute[int] = SameAttribute()
    """Number of broadcasts that were not sent to this peer; see `wsrpc.Peer.skipped_broadcasts`."""

    def stats(self) -> PeerStats:
        """Return a snapshot of the peer's counters, for monitoring."""
        return self._inner.stats()

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Close the connection, and return when it has ended; see `wsrpc.Peer.close`."""
        self._await(self._inner.close, code, reason)

    def wait_closed(self) -> None:
        """Wait until there is no connection; see `wsrpc.Peer.wait_closed`."""
        self._await(self._inner.wait_closed)


FORMS.update({AsyncAnonymousChannel: AnonymousChannel, AsyncPeer: Peer, AsyncStream: Stream})


injections[Peer] = Injection(lambda invocation: own_form(invocation.peer))
injections[AnonymousChannel] = Injection(
    lambda invocation: own_form(user_channel_of(invocation)), conversation=True, blocking=True
)
