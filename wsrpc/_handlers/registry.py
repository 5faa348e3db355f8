"""Who handles what: (channel, event) → handler, and the middleware of each channel."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence, Set
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, NamedTuple, Protocol
from weakref import ref

from msgspec import UNSET, UnsetType

from .._base.introspection import location
from .._base.misuse import check_flag, check_function
from .._base.names import RAW, RESERVED_EVENTS, ChannelRef, check_event
from .._conversion.convert import DecHook
from .compiled import ArgumentsRefused, Handler, compile_handler
from .context import Context

__all__ = [
    "CallNext",
    "HandlerContext",
    "LifecycleHandler",
    "Middleware",
    "Registry",
    "Scope",
    "accepted",
    "check_options",
]

logger = logging.getLogger("wsrpc")

CallNext = Callable[[Context], Awaitable[Any]]
Middleware = Callable[[Context, CallNext], Awaitable[Any]]
HandlerContext = Callable[[Context], AbstractAsyncContextManager[Any]]


class Located(Protocol):
    """Something that is registered at a place in the code."""

    @property
    def where(self) -> str: ...


class LifecycleHandler(NamedTuple):
    """A handler of `open`, `close` and the like, called with as many of the event's arguments as it ``accepted``."""

    function: Callable[..., Any]
    accepted: int
    where: str


class Scope:
    """The handlers of one channel."""

    __slots__ = ("__weakref__", "handlers", "middleware", "once", "ordered")

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self.once: dict[str, Handler] = {}
        self.middleware: list[Middleware] = []
        self.ordered = False


class Registry:
    """All scopes of a peer, or of a server for its peers.

    Flags spare the fast path from looking: ``used`` once there is any handler, ``observed`` while there is one
    of `message`, ``layered`` once there is anything to run around handlers. ``takes_raw``: what is no protocol message
    has a handler, too; ``raw_only``: everything goes to that, decoded if it is JSON.
    """

    __slots__ = (
        "_lifecycle",
        "_lifecycle_once",
        "dec_hook",
        "handler_context",
        "lax",
        "layered",
        "main",
        "named",
        "observed",
        "raw_only",
        "taken",
        "takes_raw",
        "used",
    )

    def __init__(self, *, dec_hook: DecHook | None = None, lax: bool = False) -> None:
        check_function("dec_hook", dec_hook)
        check_flag("lax", lax)
        self.dec_hook = dec_hook
        self.lax = lax
        self.main = Scope()
        self.named: dict[str | int, Scope] = {}
        self.taken: Set[ChannelRef] = frozenset()
        """Channels whose handlers are wsrpc's own."""
        self.used = False
        self.layered = False
        self.observed = False
        self.takes_raw = False
        self.raw_only: Literal["json", "message"] | None = None
        self.handler_context: HandlerContext | None = None
        self._lifecycle: dict[str, LifecycleHandler] = {}
        self._lifecycle_once: dict[str, LifecycleHandler] = {}

    def scope(self, channel: ChannelRef) -> Scope:
        """The scope of ``channel`` (None: the main one), made if it is not there."""
        if channel is None:
            return self.main
        found = self.named.get(channel)
        if found is None:
            found = self.named[channel] = Scope()
        return found

    def order(self, channel: str | int) -> None:
        """Let handlers that are registered on ``channel`` from now on run one after another."""
        self.scope(channel).ordered = True

    def remove_scope(self, channel: str | int) -> None:
        if channel in self.taken:  # the handlers there are wsrpc's own
            self.scope(channel).middleware.clear()
        else:
            self.named.pop(channel, None)
        self._look_for_layers()

    def _look_for_layers(self) -> None:
        scopes = (self.main, *self.named.values())
        self.layered = self.handler_context is not None or any(scope.middleware for scope in scopes)

    def has(self, channel: ChannelRef, event: str) -> bool:
        """Whether ``event`` has a handler."""
        scope = self.main if channel is None else self.named.get(channel)
        return scope is not None and (event in scope.handlers or event in scope.once)

    def take(self, channel: ChannelRef, event: str) -> Handler | None:
        """The handler for ``event``.

        One registered with `once` is nobody else's until it is called, which removes it, or its call ends without that:
        then ``handler.taken`` is to be set to False.
        """
        scope = self.main if channel is None else self.named.get(channel)
        if scope is None:
            return None
        if scope.once and (handler := scope.once.get(event)) is not None and not handler.taken:
            handler.taken = True
            return handler
        return scope.handlers.get(event)

    def add(
        self,
        channel: ChannelRef,
        event: str,
        function: Callable[..., Any] | None,
        *,
        once: bool = False,
        lax: bool | None = None,
        thread: bool = False,
        ordered: bool = False,
        timeout: float | UnsetType | None = UNSET,
        instance: str | None = None,
    ) -> None:
        """Register ``function``, replacing what was there; None removes. ``instance`` as for `compile_handler`.

        Raises:
            TypeError: if the function's signature cannot serve as a handler; the text names the parameter.
            ValueError: the channel is taken, the event is a service's, or ``timeout`` is not a time.
        """
        check_event(event)
        check_options(lax, thread, ordered)
        if channel in self.taken:
            raise ValueError(f"channel {channel!r} is where wsrpc itself serves clients: take another for {event!r}")
        if channel is None and event in RESERVED_EVENTS:
            if lax is not None or thread or ordered or timeout is not UNSET:
                text = f"{event!r} reports on the connection: lax=, thread=, ordered= and timeout= do not apply"
                raise TypeError(text)
            self._add_lifecycle(event, function, once)
            return
        if function is None:
            scope = self.main if channel is None else self.named.get(channel)
            if scope is not None:
                (scope.once if once else scope.handlers).pop(event, None)
            return
        handler = compile_handler(
            function,
            dec_hook=self.dec_hook,
            lax=self.lax if lax is None else lax,
            thread=thread,
            ordered=ordered,
            timeout=timeout,
            instance=instance,
        )
        scope = self.scope(channel)
        table = scope.once if once else scope.handlers
        old = table.get(event)
        if old is not None and old.is_method:
            raise ValueError(f"{event!r} is a method of a service, {old.name}: take another name for {function!r}")
        if old is None or not old.taken:
            _warn_of_replacement(event if channel is None else f"{channel}:{event}", old, handler)
        if scope.ordered:
            handler.put_in_lane(scope)
        if once:
            _remove_when_called(handler, event, scope)
        table[event] = handler
        self.used = True

    def add_raw(self, function: Callable[..., Any]) -> None:
        """Register what is called with the peer and each message that is not protocol; async functions in turn.

        Raises:
            TypeError: it is no function of both.
            ValueError: a service takes every message.
        """
        if self.raw_only is not None:
            raise ValueError(f"a service's on_{self.raw_only} takes every message: there is none left for {function!r}")
        if accepted("on_raw", ("peer", "message"), function) < 2:  # the first one alone would be the peer
            raise TypeError(f"on_raw takes a function of the peer and the message, got {function!r}")
        is_async = any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))

        def called(ctx: Context, message: Any) -> Any:
            result = function(ctx.peer, message)
            return result if inspect.isawaitable(result) else None

        async def awaited(ctx: Context, message: Any) -> None:
            await function(ctx.peer, message)

        handler = compile_handler(awaited if is_async else called, ordered=is_async)
        handler.name, handler.where = getattr(function, "__qualname__", repr(function)), location(function)
        self.set_raw(handler)

    def set_raw(self, handler: Handler) -> None:
        """Let ``handler`` have each message that is not protocol."""
        handlers = self.scope(RAW).handlers
        _warn_of_replacement("raw messages", handlers.get(""), handler)
        handlers[""] = handler
        self.takes_raw = self.used = True

    def use(self, channel: ChannelRef, middleware: Middleware) -> None:
        if accepted("use", ("ctx", "call_next"), middleware) < 2:
            raise TypeError(f"middleware is an async function of (ctx, call_next), {middleware!r} does not take both")
        self.scope(channel).middleware.append(middleware)
        self.layered = True

    def set_handler_context(self, handler_context: HandlerContext | None) -> None:
        if handler_context is not None and not callable(handler_context):
            raise TypeError(f"handler_context= is a function of the context, got {handler_context!r}")
        self.handler_context = handler_context
        self._look_for_layers()

    # Lifecycle events tell about the connection. They are called with positional arguments, not converted.

    def _add_lifecycle(self, event: str, function: Callable[..., Any] | None, once: bool) -> None:
        table = self._lifecycle_once if once else self._lifecycle
        if function is None:
            table.pop(event, None)
        else:
            handler = LifecycleHandler(
                function, accepted(f"on({event!r})", RESERVED_EVENTS[event], function), location(function)
            )
            _warn_of_replacement(event, table.get(event), handler)
            table[event] = handler
        self._look_for_observers()

    def take_lifecycle(self, event: str) -> LifecycleHandler | None:
        """The handler for a lifecycle event; one registered with `once` is removed by this."""
        taken = self._lifecycle_once.pop(event, None)
        if taken is None:
            return self._lifecycle.get(event)
        self._look_for_observers()
        return taken

    def _look_for_observers(self) -> None:
        self.observed = "message" in self._lifecycle or "message" in self._lifecycle_once


def check_options(lax: bool | None, thread: bool, ordered: bool) -> None:
    """Refuse options of another kind.

    Raises:
        TypeError: says which.
    """
    if lax is not None:
        check_flag("lax", lax)
    check_flag("thread", thread)
    check_flag("ordered", ordered)


def _remove_when_called(handler: Handler, event: str, scope: Scope) -> None:
    """Let ``handler`` stay in ``scope.once`` until it is called with arguments that fit."""
    call = handler.call
    own, home = ref(handler), ref(scope)  # weak, because the scope refers to the handler, and the handler to this

    def call_once(ctx: Context, a: list[Any]) -> Any:
        handler, scope = own(), home()
        if scope is None or handler is None or scope.once.get(event) is not handler:
            return call(ctx, a)  # it was removed or replaced meanwhile
        del scope.once[event]  # before it runs, because it may register the next one
        try:
            return call(ctx, a)
        except ArgumentsRefused:
            scope.once.setdefault(event, handler)
            raise

    handler.call = call_once


def _warn_of_replacement(event: str, old: Located | None, new: Located) -> None:
    if old is not None and old.where != new.where:
        logger.warning("the handler of %r from %s is replaced by the one from %s", event, old.where, new.where)


def accepted(what: str, names: Sequence[str], function: Callable[..., Any]) -> int:
    """How many of the arguments, which are called ``names``, ``function`` takes: all, or fewer from the front.

    Raises:
        TypeError: it is no function, or needs more.
    """
    if not callable(function):
        raise TypeError(f"{what} takes a function of ({', '.join(names)}), got {function!r}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # a builtin without one
        return len(names)
    for count in range(len(names), -1, -1):
        try:
            signature.bind(*names[:count])
        except TypeError:
            continue
        return count
    expected = ", ".join(names)
    raise TypeError(f"{what}: the function is called with ({expected}), but {function!r} takes {signature}")
