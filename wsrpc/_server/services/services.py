"""`BaseService`: handlers as methods of an object, one object for each connection."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable
from typing import Any

from ..._base.closing import CloseInfo
from ..._core.api.peer import Peer
from ..._core.handlers.accepted import accepted
from ..._core.handlers.implementation import Method, Methods
from ..._core.handlers.lifecycle import ends_the_task
from ..._core.handlers.method import Exposed, mark_of
from ..._core.peer.peer_session import PeerSession
from ..._core.session.peer_owner import Unfinished
from ..._raw.raw_connection import RawConnection
from ..._raw.raw_serving import refusal_of
from ...errors import RpcError, ungrouped

CHANNEL = "_wsrpc_channel"
"""Attribute of a service: the name of the channel under which its class was added."""

STYLES = ("serve", "on_json", "on_message")
"""Methods that get every message of a connection, without the protocol. If a class has several, the first is called."""

CALLED_WITH = {
    "serve": ("connection",),
    "on_json": ("value",),
    "on_message": ("message",),
    "on_open": (),
    "on_close": ("info",),
}
"""Arguments of the methods that wsrpc calls itself."""
NOT_CALLED = {
    "on_connect": "Server.on_handshake decides before a connection is accepted, and on_open is called after that",
    "on_handshake": "use Server.on_handshake, which decides for all connections of the server",
    "on_disconnect": "on_close(self, info) is called at the end",
}
"""Methods of services in other libraries, and what to use instead."""


class BaseService:
    """Base class of `Service`, without the attributes for the server. Users subclass `Service`."""

    peer: Peer
    connection: RawConnection

    def on_open(self) -> Awaitable[None] | None:
        """Override this method, plain or async, to run code when the connection opens.

        While the method is running, new messages wait, as for ``open`` handlers. (Those of raw connections wait without
        a limit of time.) If the method raises an exception, the
        connection is closed, and the waiting messages are ignored. For an `RpcError`, the close code is 1008, and the
        reason is the text of the error. For any other exception, the close code is 1011, and the traceback is logged.
        """
        return None

    def on_close(self, info: CloseInfo) -> Awaitable[None] | None:
        """Override this method, plain or async, to run code when the session has ended.

        The messages that had arrived were handled before, if ``on_message`` or ``on_json``, or methods with
        ``ordered=True``, handle them one at a time.

        If `on_open` was called, `on_close` is called once, after `on_open` has ended, even if `on_open` raised an
        exception.
        """
        return None


def owner_of(service: BaseService) -> Peer | RawConnection | None:
    """Return the peer or connection that a service serves; None before `attach`."""
    return getattr(service, "peer", None) or getattr(service, "connection", None)


def attach(service: BaseService, owner: Peer | RawConnection, channel: str | None) -> None:
    """Set the peer or connection of a new service, and its channel.

    Raises:
        TypeError: the object serves another peer or connection already.
    """
    other = owner_of(service)
    if other is not None and other is not owner:
        raise TypeError(
            f"the factory of {type(service).__qualname__} returned an object that serves {other!r}: make a new one for "
            "each connection"
        )
    if isinstance(owner, Peer):
        service.peer = owner
    else:
        service.connection = owner
    if CHANNEL not in vars(service):  # two factories may return the same object for one peer
        setattr(service, CHANNEL, channel)


def exposed(cls: type[BaseService]) -> Methods:
    """Return the handlers of a class, by event.

    Raises:
        TypeError: a subclass replaced a handler by something other than a method.
        ValueError: two handlers have the same event.
    """
    marks: dict[str, Exposed] = {}
    for base in reversed(cls.__mro__):
        for attribute, value in vars(base).items():
            if (mark := mark_of(value)) is not None:
                marks[attribute] = mark
    found: Methods = {}
    for attribute, mark in marks.items():
        function = inspect.getattr_static(cls, attribute)
        if not inspect.isfunction(function):
            raise TypeError(f"{cls.__qualname__}.{attribute} is a handler in a base class, and here {function!r}")
        event = mark.name or attribute
        if event in found:
            other = found[event].function.__qualname__
            raise ValueError(f"{function.__qualname__} and {other} are both for the event {event!r}")
        found[event] = Method(mark, function, attribute)
    return found


def check_callbacks(cls: type[BaseService], methods: Methods) -> None:
    """Check the methods that wsrpc calls itself. ``methods`` are the handlers of the class.

    Raises:
        TypeError: a method has other arguments or a ``yield``, or wsrpc would never call it.
    """
    handlers = {method.function for method in methods.values()}
    for name, instead in NOT_CALLED.items():
        function = getattr(cls, name, None)
        if callable(function) and function not in handlers:
            raise TypeError(f"{cls.__qualname__}.{name} would never be called: {instead}")
    for name, arguments in CALLED_WITH.items():
        function, arguments = inspect.getattr_static(cls, name, None), ("self", *arguments)
        if inspect.isfunction(function) and accepted(f"{cls.__qualname__}.{name}", arguments, function) < len(
            arguments
        ):
            called, takes = ", ".join(arguments), inspect.signature(function)
            raise TypeError(f"{cls.__qualname__}.{name} is called with ({called}), but takes {takes}")


def style_of(cls: type[BaseService]) -> str | None:
    """Return the name of the method that gets every message. None if the class uses the protocol."""
    return next((style for style in STYLES if callable(getattr(cls, style, None))), None)


class OpenedServices:
    """Calls `Service.on_open` and `Service.on_close` for one connection of a peer."""

    __slots__ = ("_core", "_ended", "_objects", "_opening", "_started")

    def __init__(self, core: PeerSession, objects: list[BaseService]) -> None:
        self._core = core
        self._objects = objects
        self._started: list[BaseService] = []
        """The services whose `Service.on_open` was called."""
        self._opening: asyncio.Task[Any] | None = None
        self._ended = False
        """Whether the connection has ended. No `Service.on_open` is called after that."""

    def start(self) -> list[Unfinished]:
        """Return the coroutine that calls `Service.on_open`, if any of the services has this method."""
        classes = [type(each) for each in self._objects if type(each).on_open is not BaseService.on_open]
        if not classes:
            self._started = self._objects
            return []
        return [("open", ", ".join(f"{cls.__qualname__}.on_open" for cls in classes), self._open())]

    async def _open(self) -> None:
        self._opening = asyncio.current_task()
        for service in self._objects:
            if self._ended:
                return
            self._started.append(service)
            try:
                await finished(service.on_open())
            except BaseException as exc:
                if ends_the_task(exc):
                    raise
                if not isinstance(ungrouped(exc), RpcError) and (self._core.session.state.accepts_messages):
                    self._core.host.reporter.failed("open", f"{type(service).__qualname__}.on_open", exc)
                self._core.refuse(*refusal_of(exc))
                return

    async def end(self, info: CloseInfo, /) -> None:
        """Call `Service.on_close` of each service for which `Service.on_open` was called, the last one first."""
        self._ended = True
        if self._opening is not None and not self._opening.done():
            await asyncio.wait({self._opening})
        for service in reversed(self._started):
            try:
                await finished(service.on_close(info))
            except BaseException as exc:
                if ends_the_task(exc):
                    raise
                self._core.host.reporter.failed("close", f"{type(service).__qualname__}.on_close", exc)


async def finished(result: Any) -> None:
    """Await ``result``, the result of a user's function, if the function was async."""
    if inspect.isawaitable(result):
        await result
