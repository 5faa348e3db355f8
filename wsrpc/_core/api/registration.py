"""Registration of handlers: the methods that server, client, peer, channel and router share."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from ..._base.misuse import check_flag, no_parentheses
from ..._base.names import ChannelRef, F, OnChannel, check_channel, check_event
from ..handlers.compiled import Handler
from ..handlers.layers import Middleware as AnyMiddleware
from ..handlers.method import DEFAULTS, HandlerOptions, OnOptions, handler_options
from ..handlers.registry import Registry

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from .context import Middleware


class RecordingRegistry(Registry):
    """The registry of a router: it remembers each registration, to repeat it in the registry that includes the router.

    Functions are introspected when they are recorded, so that mistakes show where they are made. They are introspected
    again when the router is included, with the hooks of that registry. This one accepts any type.
    """

    __slots__ = ("_included", "_recorded")

    def __init__(self) -> None:
        super().__init__(dec_hook=_any_type)
        self.keeper = _keep_nothing
        self._recorded: list[tuple[str, ChannelRef, tuple[Any, ...], dict[str, Any]]] = []
        self._included = False

    def _record(self, name: str, channel: ChannelRef, *args: Any, **options: Any) -> None:
        """Call the method ``name`` of `Registry`, and remember the call."""
        if self._included:
            raise RuntimeError(
                "this router is included already: register before include(), later handlers would be lost"
            )
        getattr(super(), name)(channel, *args, **options)
        self._recorded.append((name, channel, args, options))

    def order(self, channel: str | int) -> None:
        self._record("order", channel)

    def add(
        self,
        channel: ChannelRef,
        event: str,
        function: Callable[..., Any] | None,
        options: HandlerOptions = DEFAULTS,
        **more: Any,
    ) -> None:
        self._record("add", channel, event, function, options, **more)

    def declare(self, channel: ChannelRef, contract: Any, *, requests: bool) -> None:
        self._record("declare", channel, contract, requests=requests)

    def use(self, channel: ChannelRef, middleware: AnyMiddleware) -> None:
        self._record("use", channel, middleware)

    def include_in(self, registry: Registry, channel: str | None) -> None:
        """Repeat the registrations in ``registry``, those of the main channel on ``channel``.

        Raises:
            ValueError: this has named channels, which cannot be included under a channel.
        """
        named = sorted(repr(name) for name in self.scopes if name is not None)
        if channel is not None and named:
            names = ", ".join(named)
            raise ValueError(f"a router with channels of its own ({names}) cannot be included under a channel")
        self._included = True
        for name, own, args, more in self._recorded:
            at = channel if own is None else own
            getattr(registry, name)(at, *args, **more)


def _keep_nothing(_handler: Handler, _channel: ChannelRef, _event: str) -> None:
    """The registry that includes the router keeps results."""


def _any_type(_type: type[Any], _value: Any) -> Any:  # pragma: no cover - only its presence matters
    raise NotImplementedError


M = TypeVar("M", bound="Middleware")

_MISSING: Any = object()


class Registrar(OnChannel):
    """The methods `on`, `once` and `use`, for one channel of one registry."""

    __slots__ = ()

    _registry: Registry

    @overload
    def on(self, event: str, /, **options: Unpack[OnOptions]) -> Callable[[F], F]: ...

    @overload
    def on(self, event: str, handler: F, /, **options: Unpack[OnOptions]) -> F: ...

    @overload
    def on(self, event: str, handler: None, /) -> None: ...

    def on(self, event: Any = _MISSING, handler: Any = _MISSING, /, **options: Unpack[OnOptions]) -> Any:
        """Register the handler of an event, either as a decorator or with a direct call. Passing None removes the
        handler.

        A new handler replaces the old one. If the two were registered at different places in the code, a warning is
        logged. On the main channel, open, connect, close, disconnect, error and message are lifecycle events, which
        report what happens to the connection. A server and its peers can each have a handler for the same lifecycle
        event; all of these handlers run.

        Args:
            thread: whether to run a plain function in a thread instead of the event loop.
            ordered: whether the handler handles the messages of each peer one at a time, in the order of arrival,
                instead of concurrently. If a caller with a key cancels or leaves, the next call with a key waits for
                its handler, too, at a client also in later sessions.
            timeout: the maximum time in seconds that an ``async def`` handler may run after it was called. None for no
                limit. The default is `Limits.handler_timeout`. A handler that takes longer is cancelled and logged, and
                the caller immediately gets `HandlerTimeout`. The handler counts against `Limits.running` until it has
                ended. You cannot set a time limit for plain functions, handlers in threads, streams, uploads or
                conversations.
            hidden: whether to omit the handler from API descriptions, such as the result of `wsrpc.schema.describe`.
                Remote peers can still call the handler.
            keep: calls of this handler may have a key (``key=`` of `request` and `stream`). A call with a key runs
                once: the first call starts the handler, which then belongs to this side, and runs on if its caller
                cancels, leaves or loses the connection. Later calls with the same key and equal arguments get the same
                result or items. The result, which may be an error, or the items are kept for so many seconds after the
                end; see `Keep` for more options. Keys are private to the `Peer.principal` of the caller, or to the
                session of a caller without one. Only for an ``async def`` that returns a value, or that yields items.
            deprecated: what callers should use instead, in at most 200 characters. One call in an hour is logged here,
                and one there, if the peer is a wsrpc peer. Descriptions and generated clients say it, too.
            rate: the maximum number of calls, a `Rate` or a number per second, for each peer, or for each user of the
                first of the server's `Quotas` that applies. By URL, without quotas, it is for each principal, or else
                address. Others are refused as for `Limits.rate`, before middleware.

        Raises:
            TypeError: the function cannot be a handler. The error message names the parameter and says what to do.
            ValueError: ``timeout`` is not more than 0, the event is handled by a method of a `Service`, or the channel
                is reserved for wsrpc.
        """
        _check_event("on", event)
        return self._register(event, handler, handler_options(options), once=False)

    @overload
    def once(self, event: str, /, **options: Unpack[OnOptions]) -> Callable[[F], F]: ...

    @overload
    def once(self, event: str, handler: F, /, **options: Unpack[OnOptions]) -> F: ...

    @overload
    def once(self, event: str, handler: None, /) -> None: ...

    def once(self, event: Any = _MISSING, handler: Any = _MISSING, /, **options: Unpack[OnOptions]) -> Any:
        """Register a handler for only the next event or request with the given name.

        This handler takes precedence over a handler that is registered with `on`. The first message for it removes it,
        even if the handler does not run, for example because the arguments do not fit or middleware rejects the
        message.

        The options and exceptions are those of `on`.
        """
        _check_event("once", event)
        return self._register(event, handler, handler_options(options), once=True)

    def _register(self, event: str, handler: Any, options: HandlerOptions, *, once: bool) -> Any:
        self._check_open()
        if handler is not _MISSING:
            self._registry.add(self._channel_name, event, handler, options, once=once)
            return handler

        def decorate(function: F) -> F:
            _check_decorated(event, function)
            self._registry.add(self._channel_name, event, function, options, once=once)
            return function

        return decorate

    def implement(self, contract: TypeForm[Any], implementation: object, /) -> None:
        """Register the methods of an object as handlers for the events of a contract.

        The contract is a `typing.Protocol`, as for `Peer.proxy`. A plain ``def`` or an ``async def`` implements an
        ``async def`` of the contract, and an async generator implements a method that returns a `Stream`. A
        conversation is implemented by a method that has an ``AnonymousChannel`` parameter or returns an
        ``AnonymousChannel``. Methods may have additional parameters that are injected, such as a `Peer`. To set options
        of a handler, decorate the implementing method with `method`.

        Raises:
            TypeError: a method is missing, or its signature does not fit the contract. The error message shows both
                signatures. Nothing is registered.
            ValueError: an event is handled by a method of a `Service`, or the channel is reserved for wsrpc.
        """
        self._check_open()
        self._registry.implement(self._channel_name, contract, implementation)

    @no_parentheses("@server.use")
    def use(self, middleware: M, /) -> M:
        """Run ``middleware(ctx, call_next)`` around the handlers. Works as a decorator.

        Middleware of a server, client or peer runs around every inbound event and request. Middleware of a channel runs
        around the events and requests on that channel, and so does middleware of a router that is included with
        ``channel=``. ``await call_next(ctx)`` runs the next middleware
        or the handler, and returns the result. To reject the request instead, raise an exception. To change the
        arguments, set ``ctx.args``.

        A ``def`` function ``middleware(ctx)`` with one ``yield`` is also middleware. It only observes: it runs up to
        the ``yield`` before the handler and all other middleware, and continues when they have ended. If the call has
        failed, its exception is raised at the ``yield``. Plain handlers still run without a task.

        Raises:
            TypeError: ``middleware`` does not take these arguments.
        """
        self._check_open()
        self._registry.use(self._channel_name, middleware)
        return middleware


class Declarer(Registrar):
    """The methods of `Registrar`, and `declare`, for servers, clients, routers and their channels."""

    __slots__ = ()

    def declare(self, contract: TypeForm[Any], /, *, requests: bool = False) -> None:
        """Declare which events and requests this side sends, so that API descriptions include them.

        Pass the contract that you also pass to ``emitter()`` or ``proxy()``. `wsrpc.schema.describe`, TypeScript
        declarations and generated Python clients then include the methods of the contract.

        Args:
            requests: whether methods that return None are requests, too. By default, they are events.

        Raises:
            TypeError: the contract is not valid, or this object is a `Channel` of a server's peer.
        """
        self._check_open()
        self._registry.declare(self._channel_name, contract, requests=requests)


class Router(Declarer):
    """Collection of handlers and middleware that a `Server` or `Client` can include.

    Use routers to split an application into modules. Register everything before you include the router: later
    registrations raise RuntimeError.
    """

    __slots__ = ("_channel_name", "_registry")

    def __init__(self) -> None:
        self._registry = RecordingRegistry()
        self._channel_name = None

    def of(self, name: str, *, ordered: bool = False) -> RouterChannel:
        """Return a named channel of the router, on which you can register handlers.

        Args:
            ordered: as for `Peer.of`.
        """
        check_channel(name)
        check_flag("ordered", ordered)
        if ordered:
            self._registry.order(name)
        return RouterChannel(self._registry, name)


class RouterChannel(Declarer):
    """Named channel of a router. `Router.of` returns it."""

    __slots__ = ("_channel_name", "_registry")

    def __init__(self, registry: Registry, name: str) -> None:
        self._registry = registry
        self._channel_name = name


registry_of: Callable[[Registrar], Registry] = attrgetter("_registry")
"""The registry of a server, client, peer, channel or router. Public classes have no public name for it."""


def include(router: Router, registry: Registry, channel: str | None) -> None:
    """Repeat the registrations of ``router`` in ``registry``, on ``channel`` or on the main channel.

    Raises:
        TypeError: it is not a router.
        ValueError: ``channel`` cannot be a channel's name, or the router has channels of its own.
    """
    included: Any = router
    if not isinstance(included, Router):
        raise TypeError(f"include() takes a wsrpc.Router, got {included!r}")
    recorded = registry_of(included)
    assert isinstance(recorded, RecordingRegistry)
    if channel is not None:
        check_channel(channel)
    recorded.include_in(registry, channel)


def _check_event(method: str, event: Any) -> None:
    if event is _MISSING or callable(event):
        got = "no name" if event is _MISSING else repr(event)
        raise TypeError(f'the event\'s name comes first: @server.{method}("add"), not @server.{method}; got {got}')
    check_event(event)


def _check_decorated(event: str, function: Any) -> None:
    if function is None:  # on("event", None), a call, removes the handler
        raise TypeError(f"the decorator of {event!r} got None, not a function: on({event!r}, None) removes a handler")
