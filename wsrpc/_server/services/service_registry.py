"""`ServiceRegistry`: the service classes of a server. It creates their objects for each connection."""

from __future__ import annotations

import asyncio
import inspect
import logging
import typing
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from ..._base.closing import CloseCode
from ..._base.logs import PeerLog
from ..._base.names import RESERVED_EVENTS, check_channel
from ..._core.api.peer import Peer
from ..._core.handlers.accepted import accepted
from ..._core.handlers.callables import is_async, name_of
from ..._core.handlers.implementation import Methods, methods_of
from ..._core.handlers.introspection import Injection, read_signature
from ..._core.handlers.lifecycle import ends_the_task
from ..._core.handlers.registry import Registry
from ..._net.serving.handshake_checks import Acceptance
from ..._raw.raw_connection import RawConnection, link_of
from ..._raw.raw_serving import RawFunction, RawServing
from ..._values.caching import memoized
from ..._values.convert import DecHook, converter
from ...errors import ProtocolError
from ...transport import Transport
from ..drain import CLOSING
from ..peers import ServedPeer, refuse, refuse_because, served_peer
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
    """Return what is read from a class when it is added: its events and style. An object of a subclass has the same."""
    check_callbacks(cls, methods := exposed(cls))
    style = style_of(cls)
    form: dict[str, Any] = {event: (method.mark, is_async(method.function)) for event, method in methods.items()}
    return form if style is None else {**form, style: True}


def _both(marked: Methods, implementing: Methods) -> Methods:
    """Return the methods of a class that `method` marks, and those that implement its contract."""
    for event, method in implementing.items():
        if event in marked and marked[event].function is not method.function:
            names = f"{method.function.__qualname__} and {marked[event].function.__qualname__}"
            raise ValueError(f"{names} are both for the event {event!r}")
    own = {method.function for method in implementing.values()}
    return {**{event: method for event, method in marked.items() if method.function not in own}, **implementing}


class ServiceServing(RawServing):
    """Serves each connection with a new object, by the method that is its ``style``; see `STYLES`."""

    def __init__(self, entry: ServiceClass, style: str, dec_hook: DecHook | None) -> None:
        super().__init__(getattr(entry.cls, style))
        self._entry = entry
        self._serve_by = {"serve": _serve, "on_json": self._pass_json, "on_message": _pass_messages}[style]
        self._type: Any = _json_type(self.function, dec_hook) if style == "on_json" else None
        """The type of the values for ``on_json``."""
        self._services_by_connection: dict[RawConnection, BaseService] = {}

    async def prepare(self, connection: RawConnection) -> RawFunction:
        return partial(self._serve, await self._entry.create(connection))

    async def _serve(self, service: Any, connection: RawConnection) -> None:
        self._services_by_connection[connection] = service
        await finished(service.on_open())
        await self._serve_by(service, connection)

    async def _pass_json(self, service: Any, connection: RawConnection) -> None:
        link = link_of(connection)
        while not link.closed_here:
            try:
                value = await connection.receive_json(returns=self._type)
            except ProtocolError as exc:
                await link.fail(CloseCode.INVALID_DATA, str(exc.__cause__ or exc))
                return
            await finished(service.on_json(value))

    async def ended(self, connection: RawConnection, log: PeerLog) -> None:
        service = self._services_by_connection.pop(connection, None)
        if service is not None and connection.ended is not None:
            try:
                await finished(service.on_close(connection.ended))
            except BaseException as exc:
                if ends_the_task(exc):
                    raise
                log(logging.ERROR, "%s.on_close failed", type(service).__qualname__, exc_info=exc)


async def _serve(service: Any, connection: RawConnection) -> None:
    await service.serve(connection)


async def _pass_messages(service: Any, connection: RawConnection) -> None:
    while not link_of(connection).closed_here:
        await finished(service.on_message(await connection.receive()))


def _json_type(function: Any, dec_hook: DecHook | None) -> Any:
    """Return the type of the values for a method ``on_json``.

    Raises:
        TypeError: values cannot be converted to it.
    """
    facts = read_signature(function, "method")
    if len(facts.parameters) < 2:
        raise facts.refusal(None, "it is called with (self, value)")
    value = facts.parameters[1]
    try:
        converter(value.type, dec_hook=dec_hook)
    except TypeError as exc:
        raise facts.refusal(value.name, str(exc)) from exc
    return value.type


class ServiceRegistry:
    """Registers service classes, and creates their objects for each connection."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.raw: RawServing | None = None
        """Serves all connections without the protocol."""
        self.entries: list[ServiceClass] = []
        """Classes whose objects have a peer."""

    # ------------------------------------------------------------ registering

    def serve_raw(self, function: Any) -> None:
        """Serve all connections with a function; see `Server.serve_raw`."""
        if not is_async(function):
            raise TypeError(f"serve_raw takes an async function of the connection, got {function!r}")
        self._check_not_raw()
        self._set_raw(RawServing(function))

    def _set_raw(self, serving: RawServing) -> None:
        if self.entries:
            names = f"{name_of(serving.function)} serves every connection, and {self.entries[0].cls.__qualname__}"
            raise ValueError(f"{names} serves them already: use another Server")
        self._registry.set_only(serving.function)
        self.raw = serving

    def _check_not_raw(self) -> None:
        if self.raw is not None:
            raise ValueError(f"{name_of(self.raw.function)} serves every connection of this server: use another Server")

    def add(self, service: Any, factory: Callable[..., Any] | None, channel: str | None, contract: Any) -> None:
        """Add a class; see `Server.add_service`."""
        cls = service if isinstance(service, type) else _returned(service)
        if not (isinstance(cls, type) and issubclass(cls, BaseService)):
            raise TypeError(f"add_service takes a subclass of wsrpc.Service, or a factory of one; got {cls!r}")
        make = service if factory is None else factory
        style = style_of(cls)
        argument = "peer" if style is None else "connection"
        entry = ServiceClass(cls, channel, make, accepted("add_service", (argument,), make))
        self._check_not_raw()
        methods = exposed(cls)
        if contract is not None:
            methods = _both(methods, methods_of(cls, contract, channel))
        check_callbacks(cls, methods)
        if style is None:
            self._add_methods(entry, methods)
            return
        if methods:
            names = ", ".join(function.__qualname__ for _, function, *_ in methods.values())
            raise TypeError(
                f"{cls.__qualname__}.{style} gets every message, so no method can be a handler: {names}. Leave out "
                f"{style}, or put the handlers into another class, for another Server"
            )
        if channel is not None:
            raise ValueError(f"{cls.__qualname__}.{style} gets every message, so it has no channel")
        if style == "serve" and not inspect.iscoroutinefunction(getattr(cls, style)):
            raise TypeError(f"{cls.__qualname__}.serve must be async: it reads until the connection ends")
        self._set_raw(ServiceServing(entry, style, self._registry.dec_hook))

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

    # ------------------------------------------------------------ a connection

    async def attach(self, served: ServedPeer, transport: Transport, acceptance: Acceptance) -> None:
        """Create the service objects for a peer before the peer is bound to ``transport``.

        Raises:
            ConnectionLost: a factory failed or refused, or ``acceptance`` was closed; ``transport`` is closed.
        """
        served.core.host.connection_expected(transport.info)
        making = asyncio.timeout(served.peer.limits.open_timeout)
        try:
            with acceptance.deciding(making):
                async with making:
                    for entry in self.entries:
                        served.services.append(await entry.create(served.peer))
        except BaseException as exc:
            if ends_the_task(exc):
                transport.abort()
                raise
            if acceptance.closed and making.expired():
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
