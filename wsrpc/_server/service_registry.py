"""`ServiceRegistry`: the service classes of a server. It creates their objects for each connection."""

from __future__ import annotations

import asyncio
import inspect
import logging
import typing
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from .._base.closing import CloseCode
from .._base.logs import PeerLog
from .._base.misuse import check_no_yield
from .._base.names import RESERVED_EVENTS, check_channel
from .._core.api.peer import Peer
from .._core.handlers.compiled import Handler
from .._core.handlers.implementation import Methods, methods_of
from .._core.handlers.introspection import Injection, is_async
from .._core.handlers.lifecycle import ends_the_task
from .._core.handlers.method import HandlerOptions
from .._core.handlers.registry import Registry, accepted, raw_handler
from .._net.handshake_checks import Door
from .._raw.raw_connection import RawConnection
from .._raw.raw_serving import RawFunction, RawServing
from .._values.caching import memoized
from ..transport import Transport
from .peers import ServedPeer, refuse, refuse_because, served_peer
from .server_core import CLOSING
from .services import STYLES, BaseService, attach, check_callbacks, exposed, finished, style_of


class ServiceClass(NamedTuple):
    """Service class, with its channel and its factory. The factory has ``argument_count`` arguments."""

    cls: type[BaseService]
    channel: str | None
    factory: Callable[..., Any]
    argument_count: int

    async def create(self, owner: Peer | RawConnection) -> BaseService:
        """Create the object that serves ``owner``.

        Raises:
            TypeError: the factory returned something else, or an object that serves another connection.
        """
        made = self.factory(*(owner,)[: self.argument_count])
        if inspect.isawaitable(made):
            made = await made
        if not isinstance(made, self.cls):
            raise TypeError(f"the factory of {self.cls.__qualname__} returned {made!r}")
        known, form = _form(self.cls), _form(type(made))
        if form is not known and (other := [each for each in known | form if known.get(each) != form.get(each)]):
            raise TypeError(
                f"the factory of {self.cls.__qualname__} returned a {type(made).__qualname__}, which adds handlers, or "
                f"changes options or whether a method is async: {', '.join(other)}. Pass that class to add_service"
            )
        attach(made, owner, self.channel)
        return made


@memoized  # in a cache with a bound, as classes may be made at run time
def _form(cls: Any) -> dict[str, Any]:
    """Return what is read from a class when it is added, by event or by style. An object of a subclass has the same."""
    check_callbacks(cls, methods := exposed(cls))
    style = style_of(cls)
    form: dict[str, Any] = {event: (method.mark, is_async(method.function)) for event, method in methods.items()}
    return form if style is None else {**form, style: is_async(getattr(cls, style))}


def _both(marked: Methods, implementing: Methods) -> Methods:
    """Return the methods of a class that `method` marks, and those that implement its contract."""
    for event, method in implementing.items():
        if event in marked and marked[event].function is not method.function:
            names = f"{method.function.__qualname__} and {marked[event].function.__qualname__}"
            raise ValueError(f"{names} are both for the event {event!r}")
    own = {method.function for method in implementing.values()}
    return {**{event: method for event, method in marked.items() if method.function not in own}, **implementing}


class ServiceServing(RawServing):
    """Serves each connection by the method ``serve`` of a new object."""

    def __init__(self, entry: ServiceClass, function: Any) -> None:
        super().__init__(function)
        self._entry = entry
        self._opened: dict[RawConnection, BaseService] = {}

    async def prepare(self, connection: RawConnection) -> RawFunction:
        return partial(self._serve, await self._entry.create(connection))

    async def _serve(self, service: Any, connection: RawConnection) -> None:
        self._opened[connection] = service
        await finished(service.on_open())
        await service.serve(connection)

    async def ended(self, connection: RawConnection, log: PeerLog) -> None:
        service = self._opened.pop(connection, None)
        if service is not None and connection.ended is not None:
            try:
                await finished(service.on_close(connection.ended))
            except BaseException as exc:
                if ends_the_task(exc):
                    raise
                log(logging.ERROR, "%s.on_close failed", type(service).__qualname__, exc_info=exc)


class ServiceRegistry:
    """Registers service classes, and creates their objects for each connection."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.raw: RawServing | None = None
        """Serves all connections without the protocol."""
        self.entries: list[ServiceClass] = []
        """Classes whose objects have a peer."""
        self._exclusive: type[BaseService] | None = None
        """The class whose objects get every message of a connection. None if there is no such class."""

    # ------------------------------------------------------------ registering

    def serve_raw(self, function: Any) -> None:
        """Serve all connections with a function; see `Server.serve_raw`."""
        if self.entries:
            name = self.entries[0].cls.__qualname__
            raise ValueError(f"serve_raw serves every connection, and {name} serves them already: use another Server")
        if not is_async(function):
            raise TypeError(f"serve_raw takes an async function of the connection, got {function!r}")
        self._set_raw(RawServing(function))

    def _set_raw(self, serving: RawServing) -> None:
        if self.raw is not None:
            raise ValueError(f"{self.raw.function!r} serves every connection of this server already")
        self._registry.set_only_handler(serving.function, "connection")
        self.raw = serving

    def add(self, service: Any, factory: Callable[..., Any] | None, channel: str | None, contract: Any) -> None:
        """Add a class; see `Server.add_service`."""
        cls = service if isinstance(service, type) else _returned(service)
        if not (isinstance(cls, type) and issubclass(cls, BaseService)):
            raise TypeError(f"add_service takes a subclass of wsrpc.Service, or a factory of one; got {cls!r}")
        make = service if factory is None else factory
        style = style_of(cls)
        argument = "connection" if style == "serve" else "peer"
        entry = ServiceClass(cls, channel, make, accepted("add_service", (argument,), make))
        self._check_exclusive(cls, style)
        methods = exposed(cls)
        if contract is not None:
            methods = _both(methods, methods_of(cls, contract, channel))
        check_callbacks(cls, methods)
        if style is None:
            self._add_methods(entry, methods)
            return
        if methods:
            names = ", ".join(function.__qualname__ for _, function, *_ in methods.values())
            raise TypeError(f"{cls.__qualname__}.{style} gets every message, so no method can be a handler: {names}")
        if channel is not None:
            raise ValueError(f"{cls.__qualname__}.{style} gets every message, so it has no channel")
        if style == "serve":
            function = getattr(cls, "serve", None)
            if not inspect.iscoroutinefunction(function):
                raise TypeError(f"{cls.__qualname__}.serve must be async: it reads until the connection ends")
            self._set_raw(ServiceServing(entry, function))
        else:
            self._add_raw(entry, style)
        self._exclusive = cls

    def _check_exclusive(self, cls: type[BaseService], style: str | None) -> None:
        """Refuse a class if it, or what was registered before, has to get every message of a connection."""
        if self.raw is not None and self._exclusive is None:
            raise ValueError(f"{self.raw.function!r} serves every connection of this server already")
        if self._exclusive is not None or (style is not None and self.entries):
            other = self._exclusive or self.entries[0].cls
            raise ValueError(
                f"{cls.__qualname__} and {other.__qualname__} cannot serve the same connections: one of them gets "
                "every message"
            )

    def _add_methods(self, entry: ServiceClass, methods: Methods) -> None:
        cls, channel = entry.cls, entry.channel
        if not methods and cls.on_open is BaseService.on_open and cls.on_close is BaseService.on_close:
            raise TypeError(
                f"{cls.__qualname__} does nothing: put @wsrpc.method on its handlers, add it with implements=, or give "
                f"it {', '.join(STYLES)}, on_open or on_close"
            )
        if channel is not None:
            check_channel(channel)
        taken = self._registry.scopes[channel].handlers if channel in self._registry.scopes else {}
        for event, (_, function, *_) in methods.items():
            if channel is None and event in RESERVED_EVENTS:
                raise ValueError(
                    f"{function.__qualname__}: {event!r} is reserved on the main channel: choose another name, "
                    f'@wsrpc.method("...")'
                )
            if event in taken:
                raise ValueError(f"{function.__qualname__}: {event!r} has a handler already, {taken[event]!r}")
        for registry in (self._registry.empty_copy(), self._registry):  # all are tried before the first is added
            for event, (mark, function, attribute, member) in methods.items():
                instance = _method_at(len(self.entries), attribute)
                registry.add(channel, event, function, mark.options, instance=instance, member=member)
        self.entries.append(entry)

    def _add_raw(self, entry: ServiceClass, style: str) -> None:
        if self._registry.handles_raw:
            raise ValueError(
                f"{entry.cls.__qualname__}.{style} gets every message, but the server has an on_raw function"
            )
        function: Callable[..., Any] = getattr(entry.cls, style)
        if style == "on_json":
            options = HandlerOptions(ordered=is_async(function))
            handler = Handler(function, options, dec_hook=self._registry.dec_hook, instance=_method_at(0, style))
            wire = [parameter for parameter in handler.facts.parameters if parameter.source == "wire"]
            if handler.most == 1 or sum(parameter.required for parameter in wire) > 1:
                takes = inspect.signature(function)
                raise TypeError(f"{function.__qualname__} is called with (self, value), but takes {takes}")
            check_no_yield(function.__qualname__, function)
            self._registry.set_only_handler(function, "json")
        else:

            def on_message(peer: Any, message: str | bytes) -> Any:
                return _services_of(peer)[0].on_message(message)

            handler = raw_handler(function, on_message)
            self._registry.set_only_handler(function, "message")
        self._registry.set_raw(handler)
        self.entries.append(entry)

    # ------------------------------------------------------------ a connection

    async def attach(self, served: ServedPeer, transport: Transport, door: Door) -> None:
        """Create the service objects for a peer before the peer is bound to ``transport``.

        Raises:
            ConnectionLost: a factory failed or refused, or ``door`` was closed; ``transport`` is closed.
        """
        served.core.expect(transport.info)
        making = asyncio.timeout(served.peer.limits.open_timeout)
        try:
            with door.deciding(making):
                async with making:
                    for entry in self.entries:
                        served.services.append(await entry.create(served.peer))
        except BaseException as exc:
            if ends_the_task(exc):
                transport.abort()
                raise
            if door.closed and making.expired():
                raise await refuse(transport, CloseCode.SERVICE_RESTART, CLOSING) from exc
            name = self.entries[len(served.services)].cls.__qualname__
            raise await refuse_because(served, transport, f"the factory of {name}", exc) from exc


def _services_of(peer: Peer) -> list[Any]:
    served = served_peer(peer)
    assert served is not None
    return served.services


def _method_at(number: int, attribute: str) -> Injection:
    """Return how a handler finds the bound method that it calls: ``number`` is that of its object among the peer's."""
    return Injection(lambda invocation: getattr(_services_of(invocation.peer)[number], attribute))


def _returned(function: Any) -> Any:
    """Return the class that a factory is annotated with."""
    if not callable(function):
        return function
    try:
        cls = typing.get_type_hints(function).get("return")
    except Exception:  # evaluating an annotation may raise any exception
        cls = None
    if cls is None:
        raise TypeError(
            f"add_service: which class does {function!r} make? Annotate what it returns with a class of its module, or "
            "call add_service(Class, factory)"
        )
    return cls
