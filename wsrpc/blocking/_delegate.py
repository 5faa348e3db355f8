"""`Delegate`: base class of the blocking classes, each of which stands for an object in the loop's thread."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterable, Callable, Generator, Iterable
from functools import partial
from typing import Any, Never, TypeVar
from weakref import WeakKeyDictionary

from .._api.context import current_peer
from .._api.peer import Peer as AsyncPeer
from .._channels.channel_requests import check_source
from .._channels.source import iterate_in_thread
from .._client.client import Client as AsyncClient
from .._client.client import core_of
from .._cluster.cluster import ClusterClient as AsyncClusterClient
from .._handlers.introspection import is_async
from ..errors import ConnectionLost, EngineLost
from ._handlers import in_a_thread
from ._loop import Portal, Texts

__all__ = [
    "FORMS",
    "ClientRoot",
    "ClusterRoot",
    "Delegate",
    "blocking_form",
    "client_portal",
    "cluster_portal",
    "inner_of",
    "own_form",
    "per_attempt",
    "upload",
]

T = TypeVar("T")


FORMS: dict[Any, Callable[[Any, Portal], Any]] = {}
"""Blocking classes, by the asynchronous ones. `_classes` fills it."""


def blocking_form(value: Any, portal: Portal) -> Any:
    """Return the blocking form of a result or of an argument of a handler. Most values have none."""
    form = FORMS.get(value.__class__)
    return value if form is None else form(value, portal)


class Delegate:
    """Base class of the blocking classes. Their methods call those of ``_inner`` in the loop's thread, and wait.

    Two objects that stand for the same one are equal.
    """

    __slots__ = ("__weakref__", "_inner", "_portal")

    def __init__(self, inner: Any, portal: Portal) -> None:
        self._inner = inner
        self._portal = portal

    def _run(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        """Call a method of ``_inner`` in the loop's thread, await what it may return, and return the result."""
        return self._portal.run(partial(function, *args, **options))

    def _ask(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        """Make a single request: do what `_run` does, a little faster."""
        return self._portal.run(partial(function, *args, **options), stepped=True)

    def _apply(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        """Call a plain method of ``_inner``, in the loop's thread if that has started."""
        return self._portal.apply(partial(function, *args, **options))

    def _settle(self, function: Callable[[], Any]) -> None:
        """End something in the loop's thread. Nothing is left to end after the end of the thread."""
        self._portal.settle(function)

    @property
    def _channel_name(self) -> Any:
        return self._inner._channel_name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Delegate) and type(other) is type(self) and other._inner is self._inner

    def __hash__(self) -> int:
        return hash(id(self._inner))

    def __reduce__(self) -> Never:
        raise TypeError(f"{self!r} cannot be copied or sent to another process: make a client there")

    def __repr__(self) -> str:
        return f"<blocking {repr(self._inner)[1:]}"


def inner_of(given: Any) -> Any:
    """Return what a blocking object stands for, or a list of that for several. Anything else is returned unchanged."""
    if isinstance(given, Delegate):
        return given._inner  # pyright: ignore[reportPrivateUsage]
    if isinstance(given, Iterable) and not isinstance(given, str):
        return [inner_of(each) for each in given]  # pyright: ignore[reportUnknownVariableType]
    return given


def upload(send: Any) -> Any:
    """Return ``send=`` for the asynchronous client: items that are made in a thread, because making them may block.

    Raises:
        TypeError: it has no items, or gives them asynchronously.
    """
    if send is None:
        return None
    check_source(send)
    if isinstance(send, AsyncIterable):
        raise TypeError(
            f"send= of a blocking client takes an iterable, which a thread iterates over; got {send!r}, which only an "
            "event loop can read: use wsrpc.Client for it"
        )
    return iterate_in_thread(_items(send))


def _items(source: Iterable[T]) -> Generator[T]:
    yield from source  # so that iter(source) is called in the thread, too, and a generator is closed with this one


def per_attempt(given: Any) -> Any:
    """Return an option of `Client` that may be a function for each attempt. A plain function runs in a thread."""
    return in_a_thread(given) if callable(given) and not is_async(given) else given


# ---------------------------------------------------------------- clients


class Root(Delegate):
    """Base class of what users make themselves, and close."""

    def __init__(self, inner: Any, portal: Portal) -> None:
        super().__init__(inner, portal)
        weakref.finalize(self, portal.abandon)

    def _enter(self) -> None:
        self._portal.open()
        try:
            self._run(self._inner.__aenter__)
        except BaseException:
            self._portal.close_soon()
            raise

    def _close(self, closing: Callable[[], Any]) -> None:
        self._portal.check()
        try:
            self._portal.settle(closing)
        except (TypeError, ValueError):  # nothing was closed
            raise
        except BaseException:
            self._portal.close_soon()
            raise
        self._portal.close()


class ClientRoot(Root):
    """Base class of `Client`."""


class ClusterRoot(Root):
    """Base class of `ClusterClient`."""


_portals: WeakKeyDictionary[AsyncPeer, weakref.ref[Portal]] = WeakKeyDictionary()
"""The portals of clients, by their peers."""


def client_portal(client: AsyncClient) -> Portal:
    """Return the way to a client, whose calls raise ConnectionLost after `close`."""

    def over() -> Exception:
        return ConnectionLost(1000, "the client was closed", "not_sent")

    # Calls that come before `connect` belong to the loop of this thread, too.
    portal = Portal(Texts("Client", "Client"), client.close, over, first=core_of(client).enter_loop)
    _portals[client.peer] = weakref.ref(portal)  # it refers to the peer, which must not keep it alive
    return portal


def own_form(value: Any) -> Any:
    """Return the blocking form of a peer or a channel, for the argument of a handler that wants that.

    Raises:
        TypeError: the handler is that of an asynchronous client or server.
    """
    peer = current_peer()
    portal = _portals[peer]() if peer in _portals else None
    if portal is None:
        raise TypeError("only the handlers of a blocking client get objects of wsrpc.blocking: annotate those of wsrpc")
    return blocking_form(value, portal)


def cluster_portal(client: AsyncClusterClient) -> Portal:
    """Return the way to a client of a cluster, whose calls raise EngineLost outside of its block."""

    def over() -> Exception:
        return EngineLost("the ClusterClient is used outside of its block: use `with`")

    closing = partial(client.__aexit__, None, None, None)
    return Portal(Texts("ClusterClient", "ClusterClient"), closing, over, opens_first=True, steps=False)
