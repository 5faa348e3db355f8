"""Registry of handlers by channel and event, with the middleware of each channel."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol
from weakref import WeakSet

from msgspec import Struct

from ..._base.logs import logger
from ..._base.misuse import check_function
from ..._base.names import RESERVED_EVENTS, ChannelRef, check_event
from ..._values.caching import memoized
from ..._values.convert import DecHook, converter
from ...errors import short
from .accepted import LifecycleHandler, accepted, wants_value
from .callables import is_generator_function, location, name_of
from .compiled import Handler
from .contract import Member, placed_members
from .implementation import implementing
from .introspection import Injection
from .invocation import Invocation
from .layers import Middleware, Route
from .method import DEFAULTS, HandlerOptions


class Located(Protocol):
    """A registered function, with its place in the code."""

    @property
    def where(self) -> str: ...


NO_HOOKS: Mapping[str, tuple[LifecycleHandler, ...]] = {}


@memoized
def _converter(returns: Any, dec_hook: DecHook | None) -> Callable[[Any], Any]:
    return converter(returns, dec_hook=dec_hook)


class Scope:
    """The handlers and the middleware of one channel."""

    __slots__ = ("__weakref__", "handlers", "middleware", "once", "ordered")

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self.once: dict[str, Handler] = {}
        self.middleware: list[Middleware] = []
        self.ordered = False


class Routes(Struct):
    """The routes that have been made: on the main channel by event, on other channels by channel and event."""

    main: dict[str, Route]
    named: dict[tuple[ChannelRef, str], Route]

    def clear(self) -> None:
        """Drop all routes."""
        self.main.clear()
        self.named.clear()


class Registry:
    """The handlers and the middleware of a server or client for all its peers, of one peer, or of one channel.

    A peer's registry inherits from the registry of its server, and a channel's registry from that of its peer.
    Middleware runs in this order. A peer without handlers of its own shares the `Routes` of its server.

    ``observed`` is true while there is a `message` handler. ``layered`` is true while there is middleware.
    """

    __slots__ = (
        "__weakref__",
        "_base",
        "_heirs",
        "_of_channel",
        "dec_hook",
        "declared",
        "fallback",
        "hints",
        "hooks",
        "keeper",
        "layered",
        "lifecycle",
        "observed",
        "only",
        "outgoing",
        "passing_on",
        "reserved",
        "routes",
        "scopes",
        "time_limit",
        "version",
    )

    def __init__(self, *, dec_hook: DecHook | None = None, declares: bool = True) -> None:
        check_function("dec_hook", dec_hook)
        self.dec_hook = dec_hook
        self.scopes: dict[ChannelRef, Scope] = {}
        """The scopes of all channels on which anything was registered, and of channels that `scope` has returned."""
        self.declared: dict[ChannelRef, dict[str, Member]] | None = {} if declares else None
        """The declared events and requests that this side sends. None for a server's peer, which declares none."""
        self.reserved: set[ChannelRef] = set()
        """Channels that wsrpc itself uses."""
        self.hints: dict[str, str] = {}
        """What an error adds for a channel that wsrpc uses only once the user has asked for it."""
        self.fallback: Handler | None = None
        """Gets the messages that have no other handler."""
        self.routes = Routes({}, {})
        """Cleared after each change of the handlers or their layers."""
        self.version = 0
        """Number of changes of the handlers, their layers and what is declared."""
        self.time_limit: float | None = None
        """Seconds for handlers that have no limit of their own; see `Limits.handler_timeout`."""
        self._base: Registry | None = None
        self._heirs: WeakSet[Registry] | None = None
        """The registries that inherit from this one, but have routes of their own."""
        self._of_channel = False
        self.layered = False
        self.observed = False
        self.only: str | None = None
        """The name of the function that serves the raw connections of a server, which has no peers. None if it has."""
        self.lifecycle: dict[tuple[str, bool], LifecycleHandler] = {}
        """Handlers of lifecycle events, by the event and whether they were registered with `once`."""
        self.hooks = NO_HOOKS
        """The functions of `on_detach`, `on_resume` and `on_reconnect`, by the name of that method."""
        self.keeper: Callable[[Handler, ChannelRef, str], None] | None = None
        """Lets calls of a handler have keys, by replacing its ``call``. None without a server or client."""
        self.outgoing: list[Any] = []
        """The functions of `use_outgoing`, each an `OutgoingFunction`. It is one list for a server and its peers."""
        self.passing_on: list[Any] = []
        """Functions of adapters that run around the calls that a server passes on to its peers for other nodes."""

    def empty_copy(self) -> Registry:
        """Return a registry without handlers that converts types in the same way."""
        copy = Registry(dec_hook=self.dec_hook, declares=False)
        copy.keeper = self.keeper
        return copy

    def inherit(self, base: Registry, time_limit: float | None) -> None:
        """Inherit from ``base``: its handlers get messages that have none here. Its layers run around all handlers.

        All registries that inherit from ``base`` have the same ``time_limit``.
        """
        base.time_limit = self.time_limit = time_limit
        self.outgoing = base.outgoing
        self.keeper = self.keeper or base.keeper
        self._base = base
        if self.scopes:
            base._adopt(self)
        else:
            self.routes = base.routes

    def for_channel(self) -> Registry:
        """Return a registry for one anonymous channel. The layers of this registry run around its handlers, too."""
        channel = self.empty_copy()
        channel._base, channel._of_channel, channel.time_limit = self, True, self.time_limit
        self._adopt(channel)
        return channel

    def _adopt(self, heir: Registry) -> None:
        self._have_routes()
        if self._heirs is None:
            self._heirs = WeakSet()
        self._heirs.add(heir)

    def _have_routes(self) -> None:
        """Stop sharing the routes of the base registry."""
        base = self._base
        if base is not None and self.routes is base.routes:
            self.routes = Routes({}, {})
            base._adopt(self)

    def changed(self) -> None:
        """Drop the routes, because the handlers or their layers have changed."""
        self.version += 1
        self._have_routes()
        self.routes.clear()
        for heir in self._heirs or ():
            heir.changed()

    def lineage(self) -> list[Registry]:
        """Return the registries whose layers run around the handlers of this registry, the outermost first."""
        return [*(() if self._base is None else self._base.lineage()), self]

    def converter(self, returns: Any) -> Callable[[Any], Any]:
        """Return the function that converts an answer to the type ``returns``.

        Raises:
            TypeError: values cannot be converted to ``returns``.
        """
        try:
            return _converter(returns, self.dec_hook)
        except TypeError as exc:
            raise TypeError(f"returns= is a type that a response can have, got {short(returns)}: {exc}") from exc

    def scope(self, channel: ChannelRef) -> Scope:
        """Return the scope of ``channel``. Make the scope if it does not exist."""
        scope = self.scopes.get(channel)
        if scope is None:
            scope = self.scopes[channel] = Scope()
        return scope

    def order(self, channel: str | int) -> None:
        """Make handlers that are registered on ``channel`` from now on run one after another."""
        self.scope(channel).ordered = True

    def offer(
        self,
        channel: str,
        why: str,
        handlers: Mapping[str, Callable[..., Any]],
        *,
        ordered: bool = False,
        hidden: bool = False,
    ) -> None:
        """Register handlers of wsrpc itself on a channel. From now on, handlers of users are refused there.

        ``why`` describes the use of the channel, for the error text.

        Raises:
            ValueError: the user has handlers on that channel.
        """
        scope = self.scope(channel)
        if channel not in self.reserved and (theirs := [*scope.handlers, *scope.once]):
            raise ValueError(f"{why} on channel {channel!r}, where you have handlers of {theirs}")
        if ordered:
            self.order(channel)
        self.reserved.discard(channel)  # if wsrpc has handlers there already
        for event, function in handlers.items():
            self.add(channel, event, function, HandlerOptions(hidden=hidden))
        self.reserved.add(channel)

    def respect(self, other: Registry) -> None:
        """Refuse handlers on the reserved channels of ``other``."""
        self.reserved = other.reserved

    def remove_scope(self, channel: str | int) -> None:
        """Remove the handlers and the middleware of ``channel``."""
        if channel in self.reserved:
            self.scope(channel).middleware.clear()
        else:
            self.scopes.pop(channel, None)
        self._update_layered()

    def _update_layered(self) -> None:
        self.layered = any(scope.middleware for scope in self.scopes.values())
        self.changed()

    def has(self, channel: ChannelRef, event: str) -> bool:
        """Whether ``event`` has a handler on ``channel``."""
        scope = self.scopes.get(channel)
        return scope is not None and (event in scope.handlers or event in scope.once)

    def pop_handler(self, channel: ChannelRef, event: str) -> tuple[Handler | None, bool]:
        """Return the handler for ``event``, and whether the next message has the same handler.

        A handler that was registered with `once` is removed.
        """
        # A channel has only the handlers of its own registry.
        registries = (self,) if self._base is None or self._of_channel else (self, self._base)
        for registry in registries:
            scope = registry.scopes.get(channel)
            if scope is None:
                continue
            if (once := scope.once.pop(event, None)) is not None:
                return once, False
            if (handler := scope.handlers.get(event)) is not None:
                return handler, True
        return next((each.fallback for each in registries if each.fallback is not None), None), False

    def add(
        self,
        channel: ChannelRef,
        event: str,
        function: Callable[..., Any] | None,
        options: HandlerOptions = DEFAULTS,
        *,
        once: bool = False,
        instance: Injection | None = None,
        member: Member | None = None,
    ) -> None:
        """Register ``function`` in place of the present handler. None removes the handler. Arguments as in `Handler`.

        Raises:
            TypeError: the function cannot be a handler. The text names the parameter.
            ValueError: wsrpc itself uses the channel, or a service handles the event.
        """
        check_event(event)
        self._check_not_reserved(channel, event)
        if channel is None and event in RESERVED_EVENTS:
            self._check_called(f"the handler of {event!r}")
            if options != DEFAULTS:
                raise TypeError(
                    f"{event!r} reports on the connection: thread=, ordered=, timeout=, hidden=, keep=, "
                    "deprecated= and rate= do not apply"
                )
            self._add_lifecycle(event, function, once)
            return
        present = self.scopes.get(channel)
        if function is None:
            if present is not None:
                (present.once if once else present.handlers).pop(event, None)
                self.changed()
            return
        self._check_called(f"the handler of {event!r}")
        handler = self._make(channel, event, function, options, once=once, instance=instance, member=member)
        scope = self.scope(channel)
        table = scope.once if once else scope.handlers
        _warn_of_replacement(event if channel is None else f"{channel}:{event}", table.get(event), handler)
        if handler.keep is not None:
            self._keep(handler, channel, event)
        if handler.deprecated is not None:
            _count_deprecated(handler, handler.deprecated)
        table[event] = handler
        self.changed()

    def _keep(self, handler: Handler, channel: ChannelRef, event: str) -> None:
        if self._of_channel:
            raise TypeError(f"keep= does not apply to {event!r}, because an anonymous channel ends with its session")
        if self.keeper is None:
            raise TypeError(f"keep= for {event!r}: only a Server or a Client keeps results, and this is neither")
        self.keeper(handler, channel, event)

    def _make(
        self,
        channel: ChannelRef,
        event: str,
        function: Callable[..., Any],
        options: HandlerOptions,
        *,
        once: bool = False,
        instance: Injection | None = None,
        member: Member | None = None,
    ) -> Handler:
        """Make the handler that is to be registered. Arguments and exceptions as for `add`."""
        self._check_not_reserved(channel, event)
        scope = self.scopes.get(channel)
        lane = scope if scope is not None and scope.ordered else None
        handler = Handler(function, options, dec_hook=self.dec_hook, lane=lane, instance=instance, member=member)
        old = None if scope is None else (scope.once if once else scope.handlers).get(event)
        if old is not None and old.is_method:
            raise ValueError(f"{event!r} is a method of a service, {old.name}: take another name for {function!r}")
        return handler

    def set_only(self, function: Callable[..., Any]) -> None:
        """Let ``function`` serve the connections, without peers. From now on, all that peers would call is refused.

        Raises:
            ValueError: some is registered already.
        """
        events = [event for scope in self.scopes.values() for event in (*scope.handlers, *scope.once)]
        events += [*(event for event, _ in self.lifecycle), *self.hooks]
        events += ["middleware" for scope in self.scopes.values() if scope.middleware]
        if events:
            raise ValueError(f"{name_of(function)} gets every message, so nothing would call the handlers of {events}")
        self.only = name_of(function)

    def _check_called(self, what: str) -> None:
        if self.only is not None:
            raise ValueError(f"{self.only} gets every message, so {what} would never be called")

    def _check_not_reserved(self, channel: ChannelRef, event: str) -> None:
        if channel in self.reserved:
            raise ValueError(f"channel {channel!r} is used by wsrpc itself: take another one for {event!r}")

    def implement(self, channel: ChannelRef, contract: Any, implementation: object) -> None:
        """Register the methods of an object as the handlers of a contract; see `Registrar.implement`.

        Raises:
            TypeError, ValueError: ``implementation`` does not implement the contract, or a handler cannot work. Nothing
                is registered.
        """
        found = implementing(contract, implementation, channel)
        for at, member, method in found:  # all methods are checked before any is registered
            self._make(at, member.event, method.function, method.mark.options, member=member)
        for at, member, method in found:
            self.add(at, member.event, method.function, method.mark.options, member=member)

    def declare(self, channel: ChannelRef, contract: Any, *, requests: bool) -> None:
        """Record the members of a contract as events and requests that this side sends; see `Declarer.declare`.

        Raises:
            TypeError: the contract cannot work, or this is the registry of a server's peer.
        """
        if self.declared is None:
            raise TypeError("what is declared on one peer of a server is in no description: declare it on the server")
        for at, member in placed_members(contract, channel, requests=requests):
            self._check_not_reserved(at, member.event)
            events = self.declared.setdefault(at, {})
            known = events.get(member.event)
            if known is not None and known.function is not member.function:
                where = member.event if at is None else f"{at}:{member.event}"
                logger.warning("what %r emits is declared again: %s in place of %s", where, member.shown, known.shown)
            events[member.event] = member
            self.version += 1

    def fall_back_to(self, handler: Handler) -> None:
        """Pass the messages that have no other handler to ``handler``."""
        handler.is_fallback = True
        self.fallback = handler
        self.changed()

    def use(self, channel: ChannelRef, middleware: Middleware) -> None:
        """Run ``middleware`` around the handlers of ``channel``, or around all handlers if ``channel`` is None."""
        if inspect.isasyncgenfunction(middleware):
            raise TypeError(f"middleware with a `yield` is a plain `def`, and {middleware!r} is an `async def`")
        if is_generator_function(middleware):
            if accepted("use", ("ctx",), middleware, may_yield=True) < 1:
                raise TypeError(f"middleware with a `yield` is a function of (ctx), {middleware!r} does not take it")
        elif accepted("use", ("ctx", "call_next"), middleware) < 2:
            raise TypeError(f"middleware is an async function of (ctx, call_next), {middleware!r} does not take both")
        self._check_called(repr(middleware))
        self.scope(channel).middleware.append(middleware)
        self._update_layered()

    # Handlers of lifecycle events are called with positional arguments that are not converted.

    def _add_lifecycle(self, event: str, function: Callable[..., Any] | None, once: bool) -> None:
        if function is None:
            self.lifecycle.pop((event, once), None)
        else:
            count = accepted(f"on({event!r})", RESERVED_EVENTS[event], function)
            if count and wants_value(function):
                names = ", ".join(RESERVED_EVENTS[event])
                raise TypeError(
                    f"on({event!r}): {event!r} is a lifecycle event on the main channel, and its handler is called "
                    f"with ({names}): for an event of your own, use another name or a named channel"
                )
            handler = LifecycleHandler(function, count, location(function))
            _warn_of_replacement(event, self.lifecycle.get((event, once)), handler)
            self.lifecycle[event, once] = handler
        self._update_observed()

    def add_hook(self, name: str, arguments: tuple[str, ...], function: Callable[..., Any]) -> None:
        """Add ``function`` to the functions of a hook, which are called in order.

        Args:
            name: the method with which the user registers the function.

        Raises:
            TypeError: ``function`` accepts neither these arguments nor only the first of them.
            ValueError: nothing would call the function.
        """
        self._check_called(f"a function of {name}")
        hook = LifecycleHandler(function, accepted(name, arguments, function), location(function))
        self.hooks = {**self.hooks, name: (*self.hooks.get(name, ()), hook)}

    def pop_lifecycle(self, event: str) -> LifecycleHandler | None:
        """Return the handler for a lifecycle event, and remove it if it was registered with `once`."""
        taken = self.lifecycle.pop((event, True), None)
        if taken is None:
            return self.lifecycle.get((event, False))
        self._update_observed()
        return taken

    def _update_observed(self) -> None:
        self.observed = any(event == "message" for event, _ in self.lifecycle)


def _count_deprecated(handler: Handler, why: str) -> None:
    """Count the calls of ``handler``, whose event is deprecated, and warn each peer that calls it."""
    call, in_thread = handler.call, handler.thread

    def call_and_count(invocation: Invocation, a: list[Any]) -> Any:
        dispatcher = invocation.dispatcher
        if in_thread:
            dispatcher.loop.call_soon(partial(dispatcher.count_deprecated, invocation, why))
        else:
            dispatcher.count_deprecated(invocation, why)
        return call(invocation, a)

    handler.call = call_and_count


def _warn_of_replacement(event: str, old: Located | None, new: Located) -> None:
    if old is not None and old.where != new.where:
        logger.warning("the handler of %r from %s is replaced by the one from %s", event, old.where, new.where)
