"""Registering handlers: the methods that server, client, peer, channel and router have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from msgspec import UNSET, UnsetType

from .._base.misuse import check_flag, no_parentheses
from .._base.names import ChannelRef, F, OnChannel, check_event, check_name
from .registry import Middleware, Registry

__all__ = ["RawRegistrar", "Registrar", "Router", "RouterChannel", "include"]

M = TypeVar("M", bound=Middleware)

_MISSING: Any = object()


class Registrar(OnChannel):
    """`on`, `once` and `use`, for one channel of one registry."""

    __slots__ = ()

    _registry: Registry

    @overload
    def on(
        self,
        event: str,
        /,
        *,
        lax: bool | None = None,
        thread: bool = False,
        ordered: bool = False,
        timeout: float | UnsetType | None = UNSET,
    ) -> Callable[[F], F]: ...

    @overload
    def on(
        self,
        event: str,
        handler: F,
        /,
        *,
        lax: bool | None = None,
        thread: bool = False,
        ordered: bool = False,
        timeout: float | UnsetType | None = UNSET,
    ) -> F: ...

    @overload
    def on(self, event: str, handler: None, /) -> None: ...

    def on(
        self,
        event: Any = _MISSING,
        handler: Any = _MISSING,
        /,
        *,
        lax: bool | None = None,
        thread: bool = False,
        ordered: bool = False,
        timeout: float | UnsetType | None = UNSET,
    ) -> Any:
        """Register the handler of an event, as a decorator or by a call; None removes it.

        The last registration wins; replacing a handler from another place in the code logs a warning.
        On the main channel the names open, connect, close, disconnect, error and message report on the
        connection; several registries may each have one of those, and all run.

        Args:
            lax: let msgspec convert leniently (numeric strings to numbers, ...).
            thread: run a plain function in a thread instead of inline in the event loop.
            ordered: run it one call after another, in arrival order, instead of overlapping.
            timeout: seconds that an ``async def`` may run once it was called; None for no limit. The default is
                `Limits.handler`. Then it is cancelled, a line in the log says so, and the caller gets `HandlerTimeout`
                at once; the handler counts against `Limits.running` until it has ended. Not for plain functions,
                threads, streams, uploads and conversations.

        Raises:
            TypeError: for a signature that cannot work; the text names the parameter.
            ValueError: ``timeout`` is not more than 0, the event is a method of a `Service`, or the channel is wsrpc's
                own.
        """
        _check_event("on", event)
        return self._register(event, handler, once=False, lax=lax, thread=thread, ordered=ordered, timeout=timeout)

    @overload
    def once(
        self, event: str, /, *, lax: bool | None = None, thread: bool = False, timeout: float | UnsetType | None = UNSET
    ) -> Callable[[F], F]: ...

    @overload
    def once(
        self,
        event: str,
        handler: F,
        /,
        *,
        lax: bool | None = None,
        thread: bool = False,
        timeout: float | UnsetType | None = UNSET,
    ) -> F: ...

    @overload
    def once(self, event: str, handler: None, /) -> None: ...

    def once(
        self,
        event: Any = _MISSING,
        handler: Any = _MISSING,
        /,
        *,
        lax: bool | None = None,
        thread: bool = False,
        timeout: float | UnsetType | None = UNSET,
    ) -> Any:
        """Like `on`, for the next such event only; it goes before one registered with `on`.

        The registration ends when the function is called. An event or request that ends before that leaves it to the
        next one: its arguments do not fit, middleware refuses it, there are too many channels, or it is cancelled.
        While one call waits to be called, in middleware for instance, another one does not get the handler.
        """
        _check_event("once", event)
        return self._register(event, handler, once=True, lax=lax, thread=thread, timeout=timeout)

    def _register(self, event: str, handler: Any, **options: Any) -> Any:
        self._check_open()
        if handler is not _MISSING:
            self._registry.add(self._channel_name, event, handler, **options)
            return handler

        def decorate(function: F) -> F:
            _check_decorated(event, function)
            self._registry.add(self._channel_name, event, function, **options)
            return function

        return decorate

    @no_parentheses("@server.use")
    def use(self, middleware: M, /) -> M:
        """Run ``middleware(ctx, call_next)`` around the handlers; works as a decorator.

        On a server, client, peer or router it sees every inbound event and request, on a channel those of
        that channel. ``await call_next(ctx)`` runs what is inside and returns its result; raising instead
        rejects. ``ctx.args`` may be assigned.
        """
        self._check_open()
        self._registry.use(self._channel_name, middleware)
        return middleware


class RawRegistrar:
    """`on_raw`, for server, client and peer."""

    __slots__ = ()

    _registry: Registry

    @no_parentheses("@server.on_raw")
    def on_raw(self, function: F, /) -> F:
        """Call ``function(peer, message)`` with each message that is not protocol; works as a decorator.

        ``message`` is str or bytes. The function may be async: then it runs for one message of a peer after another,
        and those that wait are bounded as events are, by `Limits.waiting`. Middleware sees these messages with an empty
        ``ctx.event``. What it raises goes to the log, and to `error` handlers. As what two wsrpc peers say is in binary
        messages where neither takes raw ones, this has to be registered before they connect.

        Raises:
            TypeError: it is no function of these two.
            ValueError: a service takes every message.
        """
        self._registry.add_raw(function)
        return function


class Router(Registrar):
    """Registrations to be included by a `Server` or `Client`, so that an application can be several modules.

    Everything is registered before it is included; later registrations are refused.
    """

    __slots__ = ("_calls", "_channel_name", "_included", "_registry")

    def __init__(self, *, lax: bool = False) -> None:
        # Introspected here, so that mistakes show where they are made; done again, with the hooks of
        # whoever includes it, from the recorded calls.
        self._registry = Registry(dec_hook=_any_type, lax=lax)
        self._channel_name = None
        self._calls: list[Callable[[Registry, ChannelRef], None]] = []
        self._included = False

    def of(self, name: str, *, ordered: bool = False) -> RouterChannel:
        """Register on a named channel. ``ordered`` as in `Peer.of`."""
        check_name("a channel's name", name)
        check_flag("ordered", ordered)
        if ordered:
            self._check_open()
            self._calls.append(lambda registry, main: registry.order(name))
        return RouterChannel(self, name)

    def _register(self, event: str, handler: Any, **options: Any) -> Any:
        return self._record(None, event, handler, options)

    def _record(self, channel: ChannelRef, event: str, handler: Any, options: dict[str, Any]) -> Any:
        self._check_open()

        def register(function: Any) -> Any:
            self._registry.add(channel, event, function, **options)
            chosen: dict[str, Any] = {
                **options,
                "lax": self._registry.lax if options.get("lax") is None else options["lax"],
            }
            self._calls.append(lambda registry, main: registry.add(channel or main, event, function, **chosen))
            return function

        def decorate(function: Any) -> Any:
            _check_decorated(event, function)
            return register(function)

        return decorate if handler is _MISSING else register(handler)

    @no_parentheses("@router.use")
    def use(self, middleware: M, /) -> M:
        """Middleware that goes with the router: of the channel it is included under, or of everything."""
        self._check_open()
        self._registry.use(None, middleware)
        self._calls.append(lambda registry, main: registry.use(main, middleware))
        return middleware

    def _use_on(self, channel: str | int, middleware: M) -> M:
        self._check_open()
        self._registry.use(channel, middleware)
        self._calls.append(lambda registry, main: registry.use(channel, middleware))
        return middleware

    def _check_open(self) -> None:
        if self._included:
            raise RuntimeError(
                "this router is included already: register before include(), later handlers would be lost"
            )

    def _include_in(self, registry: Registry, channel: str | None) -> None:
        if channel is not None:
            check_name("a channel's name", channel)
            if self._registry.named:
                names = ", ".join(sorted(map(repr, self._registry.named)))
                raise ValueError(f"a router with channels of its own ({names}) cannot be included under a channel")
        self._included = True
        for call in self._calls:
            call(registry, channel)


class RouterChannel(Registrar):
    """A named channel of a router."""

    __slots__ = ("_channel_name", "_registry", "_router")

    def __init__(self, router: Router, name: str) -> None:
        self._router = router
        self._registry = router._registry
        self._channel_name = name

    def _register(self, event: str, handler: Any, **options: Any) -> Any:
        return self._router._record(self._channel_name, event, handler, options)

    @no_parentheses("@channel.use")
    def use(self, middleware: M, /) -> M:
        assert self._channel_name is not None
        return self._router._use_on(self._channel_name, middleware)


def include(router: Router, registry: Registry, channel: str | None) -> None:
    """Take over the registrations of ``router``.

    Raises:
        TypeError: it is no router.
    """
    given: Any = router
    if not isinstance(given, Router):
        raise TypeError(f"include() takes a wsrpc.Router, got {given!r}")
    given._include_in(registry, channel)


def _check_event(method: str, event: Any) -> None:
    if event is _MISSING or callable(event):
        got = "no name" if event is _MISSING else repr(event)
        raise TypeError(f'the event\'s name comes first: @server.{method}("add"), not @server.{method}; got {got}')
    check_event(event)


def _check_decorated(event: str, function: Any) -> None:
    if function is None:  # by a call, which is no mistake, it would remove the handler
        raise TypeError(f"the decorator of {event!r} got None, not a function: on({event!r}, None) removes a handler")


def _any_type(_type: type[Any], _value: Any) -> Any:  # pragma: no cover - only its presence matters
    raise NotImplementedError
