"""`Service`: handlers as methods of an object, one for each connection."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from msgspec import UNSET, UnsetType

from .._base.closing import CloseInfo
from .._base.names import F, check_event, check_timeout
from .._handlers.registry import check_options
from .._peer.peer import Peer
from .._raw.connection import RawConnection

if TYPE_CHECKING:
    from .channel import ServerChannel
    from .server import Server

__all__ = ["STYLES", "Exposed", "Service", "exposed", "method", "style_of"]

MARK = "_wsrpc_method"

STYLES = ("serve", "on_json", "on_message")
"""Ways to have the whole connection, without protocol; where there are several, the first one counts."""


class Service:
    """A class whose objects each serve one connection; `Server.add_service` registers it.

    Its methods with `method` are handlers. Or it has one of ``async def serve(self, connection)``, ``on_json(self,
    value)`` and ``on_message(self, message)``, of which the first counts: then there is no protocol, and every message
    goes there. (``serve`` gets the `RawConnection`; the other two have a `Peer`, for its rooms, `Peer.send_raw` and the
    like, and one message after another where they are async.)

    ``peer``, or ``connection`` with ``serve``, is there when the factory is done.
    """

    peer: Peer
    connection: RawConnection

    @property
    def server(self) -> Server:
        """The server that it was added to.

        Raises:
            RuntimeError: before the factory is done, as in ``__init__``.
        """
        owner: Peer | RawConnection | None = getattr(self, "peer", None) or getattr(self, "connection", None)
        if owner is None:
            name = type(self).__qualname__
            raise RuntimeError(f"{name} has no server before its factory is done: take the peer, and use peer.server")
        return owner.server

    @property
    def channel(self) -> Server | ServerChannel:
        """The channel under which it was added, for all peers: ``await self.channel.emit("said", text)`` broadcasts.

        It is the server itself where ``add_service`` was not told of any channel.
        """
        server = self.server
        name = server._hosting.channel_of(self)
        return server if name is None else server.of(name)

    def on_open(self) -> Awaitable[None] | None:
        """Override it, sync or async: the connection is there. What arrives waits for it, as for `open` handlers.

        Raising closes the connection, with 1011, and the log has the traceback; with 1008 and its text for an
        `RpcError`. Nothing that had arrived is looked at then.
        """
        return None

    def on_close(self, info: CloseInfo) -> Awaitable[None] | None:
        """Override it, sync or async: the connection is over. Called once where `on_open` was, after that has ended,
        even if it raised."""
        return None


class Exposed(NamedTuple):
    """What `method` was told."""

    name: str | None
    options: dict[str, Any]


@overload
def method(function: F, /) -> F: ...


@overload
def method(
    name: str | None = None,
    /,
    *,
    lax: bool | None = None,
    thread: bool = False,
    ordered: bool = False,
    timeout: float | UnsetType | None = UNSET,
) -> Callable[[F], F]: ...


def method(
    name: Any = None,
    /,
    *,
    lax: bool | None = None,
    thread: bool = False,
    ordered: bool = False,
    timeout: float | UnsetType | None = UNSET,
) -> Any:
    """Decorator: this method of a `Service` is a handler, of the event that is called like it or ``name``.

    Options are those of `Server.on`. A subclass that overrides the method need not say so again.

    Raises:
        TypeError: it is no plain method.
    """
    if name is not None and not isinstance(name, str):
        return method()(name)
    if name is not None:
        check_event(name)

    check_options(lax, thread, ordered)
    check_timeout(timeout, more_than_0=True)
    options = {"lax": lax, "thread": thread, "ordered": ordered, "timeout": timeout}

    def mark(function: F) -> F:
        given: Any = function
        if not inspect.isfunction(given):
            raise TypeError(f"@wsrpc.method is for plain methods, which take self; got {function!r}")
        setattr(function, MARK, Exposed(name, options))
        return function

    return mark


def exposed(cls: type[Service]) -> dict[str, tuple[Exposed, Callable[..., Any]]]:
    """The handlers of a class, by event.

    Raises:
        TypeError: one is no plain method any more.
        ValueError: two are for one event.
    """
    marks: dict[str, Exposed] = {}
    for base in reversed(cls.__mro__):
        for attribute, value in vars(base).items():
            if inspect.isfunction(value) and isinstance(mark := getattr(value, MARK, None), Exposed):
                marks[attribute] = mark
    found: dict[str, tuple[Exposed, Callable[..., Any]]] = {}
    for attribute, mark in marks.items():
        function = inspect.getattr_static(cls, attribute)
        if not inspect.isfunction(function):
            raise TypeError(f"{cls.__qualname__}.{attribute} is a handler in a base class, and here {function!r}")
        event = mark.name or attribute
        if event in found:
            other = found[event][1].__qualname__
            raise ValueError(f"{function.__qualname__} and {other} are both for the event {event!r}")
        found[event] = (mark, function)
    return found


def style_of(cls: type[Service]) -> str | None:
    """In which way objects of the class have the whole connection; None if they speak the protocol."""
    return next((style for style in STYLES if callable(getattr(cls, style, None))), None)
