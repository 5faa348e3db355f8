"""A server's services: their classes, and the objects of each connection."""

from __future__ import annotations

import asyncio
import inspect
import logging
import typing
from collections.abc import Callable, Coroutine
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from .._base.closing import CloseCode, CloseInfo
from .._base.names import RESERVED_EVENTS, check_name
from .._handlers.compiled import compile_handler
from .._handlers.introspection import Injection
from .._handlers.lifecycle import Unfinished, ends_the_task
from .._handlers.registry import Registry, accepted
from .._peer.peer import Peer, core_of
from .._raw.connection import RawConnection
from .._raw.serving import RawServing, refusal_of
from ..errors import ConnectionLost, RpcError
from ..transport import Transport
from .draining import CLOSING
from .entrance import Gate
from .services import STYLES, Service, exposed, style_of

__all__ = ["Hosting"]


class Entry(NamedTuple):
    """A class, its channel, and what makes an object of it, which takes that many arguments."""

    cls: type[Service]
    channel: str | None
    make: Callable[..., Any]
    takes: int

    async def create(self, owner: Peer | RawConnection) -> Service:
        made = self.make(*(owner,)[: self.takes])
        if inspect.isawaitable(made):
            made = await made
        if not isinstance(made, self.cls):
            raise TypeError(f"the factory of {self.cls.__qualname__} made {made!r}")
        others: object = getattr(made, "peer", None) or getattr(made, "connection", None)
        if others is not None and others is not owner:
            raise TypeError(f"the factory of {self.cls.__qualname__} made what {others!r} has: make one for each")
        return made


class Hosting:
    """Registers services, and makes their objects."""

    def __init__(self, registry: Registry, raw: RawServing) -> None:
        self._registry = registry
        self._raw = raw
        self.entries: list[Entry] = []
        """Those whose objects have a peer."""
        self._alone: type[Service] | None = None
        """The one that has the whole connection."""
        self._serving: dict[RawConnection, Service] = {}

    # ------------------------------------------------------------ registering

    def add(self, service: Any, factory: Callable[..., Any] | None, channel: str | None) -> None:
        """See `Server.add_service`."""
        cls = service if isinstance(service, type) else _returned(service)
        if not (isinstance(cls, type) and issubclass(cls, Service)) or cls is Service:
            raise TypeError(f"add_service takes a subclass of wsrpc.Service, or a function that makes one; got {cls!r}")
        make = service if factory is None else factory
        style = style_of(cls)
        entry = Entry(
            cls, channel, make, accepted("add_service", ("connection" if style == "serve" else "peer",), make)
        )
        if self._raw.function is not None and self._alone is None:
            raise ValueError(f"this server's connections go to {self._raw.function!r} already, whole")
        if self._alone is not None or (style is not None and self.entries):
            other = self._alone or self.entries[0].cls
            raise ValueError(
                f"{cls.__qualname__} and {other.__qualname__} cannot both have the connection: one of them "
                "takes every message"
            )
        methods = exposed(cls)
        if style is None:
            if not methods and cls.on_open is Service.on_open and cls.on_close is Service.on_close:
                raise TypeError(
                    f"{cls.__qualname__} does nothing: put @wsrpc.method on its handlers, or give it "
                    f"{', '.join(STYLES)}, on_open or on_close"
                )
            self._add_methods(entry, methods)
            return
        if methods:
            names = ", ".join(function.__qualname__ for _, function in methods.values())
            raise TypeError(
                f"{cls.__qualname__}.{style} takes every message, so that no method can be a handler: {names}"
            )
        if channel is not None:
            raise ValueError(f"{cls.__qualname__}.{style} takes every message: it has no channel")
        if style == "serve":
            if not inspect.iscoroutinefunction(getattr(cls, "serve", None)):
                raise TypeError(f"{cls.__qualname__}.serve is to be async: it reads until the connection is over")
            self._add_serving(entry)
        else:
            self._add_raw(entry, style)
        self._alone = cls

    def _add_methods(self, entry: Entry, methods: dict[str, Any]) -> None:
        channel = entry.channel
        if channel is not None:
            check_name("a channel's name", channel)
        taken = (
            {}
            if channel is not None and channel not in self._registry.named
            else self._registry.scope(channel).handlers
        )
        for event, (_, function) in methods.items():
            if channel is None and event in RESERVED_EVENTS:
                raise ValueError(
                    f"{function.__qualname__}: {event!r} never travels on the main channel: name it otherwise, "
                    f'@wsrpc.method("...")'
                )
            if event in taken:
                raise ValueError(f"{function.__qualname__}: {event!r} has a handler already, {taken[event]!r}")
        instance = _service_at(len(self.entries))
        for function in (function for _, function in methods.values()):
            compile_handler(
                function, dec_hook=self._registry.dec_hook, instance=instance
            )  # all are good, or none is added
        for event, (mark, function) in methods.items():
            self._registry.add(channel, event, function, instance=instance, **mark.options)
        self.entries.append(entry)

    def _add_raw(self, entry: Entry, style: str) -> None:
        if self._registry.takes_raw:
            raise ValueError(f"{entry.cls.__qualname__}.{style} takes every message, and there is an on_raw function")
        function: Callable[..., Any] = getattr(entry.cls, style)
        is_async = inspect.iscoroutinefunction(function)
        if style == "on_json":
            handler = compile_handler(
                function,
                dec_hook=self._registry.dec_hook,
                lax=self._registry.lax,
                ordered=is_async,
                instance=_service_at(0),
            )
            self._registry.set_raw(handler)
        elif is_async:

            async def received(peer: Any, message: str | bytes) -> None:
                await peer._services.objects[0].on_message(message)

            self._registry.add_raw(received)
        else:

            def called(peer: Any, message: str | bytes) -> Any:
                return peer._services.objects[0].on_message(message)

            self._registry.add_raw(called)
        self._registry.raw_only = "json" if style == "on_json" else "message"
        self.entries.append(entry)

    def _add_serving(self, entry: Entry) -> None:
        async def serve(connection: RawConnection) -> None:
            service: Any = await entry.create(connection)
            service.connection = connection
            self._serving[connection] = service
            await _finished(service.on_open())
            await service.serve(connection)

        async def ended(connection: RawConnection) -> None:
            service = self._serving.pop(connection, None)
            if service is not None and connection.ended is not None:
                try:
                    await _finished(service.on_close(connection.ended))
                except BaseException as exc:
                    if ends_the_task(exc):
                        raise
                    connection._log(logging.ERROR, "%s.on_close failed", type(service).__qualname__, exc_info=exc)

        self._raw.use(serve)
        self._raw.on_end = ended

    def channel_of(self, service: Service) -> str | None:
        """The channel of the entry that ``service`` was made by; None for the main one."""
        peer: Peer | None = getattr(service, "peer", None)
        services: Any = None if peer is None else peer._services
        made: list[Service] = [] if services is None else services.objects
        return next((entry.channel for entry, each in zip(self.entries, made, strict=False) if each is service), None)

    # ------------------------------------------------------------ a connection

    async def attach(self, peer: Peer, transport: Transport, gate: Gate) -> None:
        """Make the objects for ``peer``, which is about to be bound to ``transport``; until ``gate`` closes.

        Raises:
            ConnectionLost: a factory refuses, or the server closes; ``transport`` is closed.
        """
        core_of(peer).info = transport.info  # factories may look at it
        core_of(peer).log.remote = transport.info.remote
        objects: list[Service] = []
        peer._services = Objects(peer, objects)
        making = asyncio.timeout(peer.limits.open_handlers)
        try:
            with gate.deciding(making):
                async with making:
                    for entry in self.entries:
                        made = await entry.create(peer)
                        made.peer = peer
                        objects.append(made)
        except BaseException as exc:
            if ends_the_task(exc):
                transport.abort()
                raise
            code, reason = refusal_of(exc)
            name = self.entries[len(objects)].cls.__qualname__
            if gate.closed and making.expired():
                code, reason = CloseCode.SERVICE_RESTART, CLOSING
            elif isinstance(exc, RpcError):
                core_of(peer).log(logging.INFO, "the factory of %s refuses: %s", name, exc)
            else:
                core_of(peer).log(logging.ERROR, "the factory of %s failed", name, exc_info=exc)
            await transport.close(code, reason)
            raise ConnectionLost(code, reason, "not_sent") from exc


class Objects:
    """The services of one connection."""

    __slots__ = ("_begun", "_opening", "_peer", "objects")

    def __init__(self, peer: Peer, objects: list[Service]) -> None:
        self._peer = peer
        self.objects = objects
        # Of the present connection:
        self._begun: list[Service] = []
        self._opening: asyncio.Task[Any] | None = None

    def opened(self) -> list[Unfinished]:
        """The connection is there; returns what is to be awaited."""
        self._begun, self._opening = [], None
        asked = [type(each) for each in self.objects if type(each).on_open is not Service.on_open]
        if not asked:
            self._begun = self.objects
            return []
        return [("open", ", ".join(f"{cls.__qualname__}.on_open" for cls in asked), self._open())]

    async def _open(self) -> None:
        self._opening = asyncio.current_task()
        begun = self._begun
        for service in self.objects:
            begun.append(service)
            try:
                await _finished(service.on_open())
            except BaseException as exc:
                if ends_the_task(exc):
                    raise
                if not isinstance(exc, RpcError) and self._peer.connected:
                    core_of(self._peer).reporter.failed("open", f"{type(service).__qualname__}.on_open", exc)
                core_of(self._peer).refuse(*refusal_of(exc))
                return

    def ended(self, info: CloseInfo, /) -> Coroutine[Any, Any, None]:
        """The connection is over."""
        return self._close(info, self._begun, self._opening)  # of this one: the peer may be bound again meanwhile

    async def _close(self, info: CloseInfo, begun: list[Service], opening: asyncio.Task[Any] | None) -> None:
        if opening is not None and not opening.done():
            await asyncio.wait({opening})
        for service in reversed(begun):
            try:
                await _finished(service.on_close(info))
            except BaseException as exc:
                if ends_the_task(exc):
                    raise
                core_of(self._peer).reporter.failed("close", f"{type(service).__qualname__}.on_close", exc)


def _service_at(index: int) -> Injection:
    """How a handler that is a method finds its service. (In C, since this runs in each call.)"""
    return Injection((attrgetter("peer._services.objects"), itemgetter(index)))


async def _finished(result: Any) -> None:
    if inspect.isawaitable(result):
        await result


def _returned(function: Any) -> Any:
    """The class that a factory is annotated with."""
    if not callable(function):
        return function
    try:
        cls = typing.get_type_hints(function).get("return")
    except Exception:  # whatever an annotation raises: it does not say which class
        cls = None
    if cls is None:
        raise TypeError(
            f"add_service: which class does {function!r} make? Annotate what it returns, with a "
            "class of its module, or add_service(Class, factory)"
        )
    return cls
