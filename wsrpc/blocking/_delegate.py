"""`Delegate`: base class of the blocking classes. A delegate stands for an asynchronous object in the loop's thread."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterable, Awaitable, Callable, Generator, Iterable
from functools import partial
from typing import Any, Generic, Never, TypeVar
from weakref import WeakKeyDictionary

from .._core.api.context import current_peer
from .._core.api.peer import Peer as AsyncPeer
from .._core.channels.source import iterate_in_thread
from .._core.peer.requester import check_source
from ._loop_thread import CallBridge

T = TypeVar("T")


FORMS: dict[Any, Callable[[Any, CallBridge], Any]] = {}
"""Blocking classes, by the asynchronous ones. `_blocking_peer` fills it."""

BRIDGES: WeakKeyDictionary[AsyncPeer, weakref.ref[CallBridge]] = WeakKeyDictionary()
"""The bridges of clients, by peer."""


def blocking_form(value: Any, bridge: CallBridge) -> Any:
    """Return the blocking form of a result or of a handler's argument. Most values are returned unchanged."""
    form = FORMS.get(value.__class__)
    return value if form is None else form(value, bridge)


def own_form(value: Any) -> Any:
    """Return the blocking form of a peer or a channel, for a handler's argument.

    Raises:
        TypeError: the handler is that of an asynchronous client or server.
    """
    peer = current_peer()
    bridge = BRIDGES[peer]() if peer in BRIDGES else None
    if bridge is None:
        raise TypeError("only the handlers of a blocking client get objects of wsrpc.blocking: annotate those of wsrpc")
    return blocking_form(value, bridge)


class Delegate:
    """Base class of the blocking classes. Their methods call those of ``_inner`` in the loop's thread, and wait.

    Two objects that stand for the same one are equal.
    """

    __slots__ = ("__weakref__", "_bridge", "_inner")

    def __init__(self, inner: Any, bridge: CallBridge) -> None:
        self._inner = inner
        self._bridge = bridge

    def _await(self, method: Callable[..., Awaitable[T]], /, *args: Any, **options: Any) -> T:
        """Call and await a method of ``_inner`` in the loop's thread, and return the result."""
        result: T = self._bridge.run(partial(method, *args, **options))
        return result

    def _call(self, method: Callable[..., T], /, *args: Any, **options: Any) -> T:
        """Call a plain method of ``_inner`` in the loop's thread."""
        result: T = self._bridge.run(partial(method, *args, **options))
        return result

    def _apply(self, method: Callable[..., T], /, *args: Any, **options: Any) -> T:
        """Call a plain method of ``_inner``, in the loop's thread if that has started."""
        result: T = self._bridge.apply(partial(method, *args, **options))
        return result

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


class SameAttribute(Generic[T]):
    """Attribute of a `Delegate` with the value of the same attribute of ``_inner``."""

    def __set_name__(self, owner: type[Delegate], name: str) -> None:
        self._name = name

    def __get__(self, delegate: Delegate, owner: type[Delegate]) -> T:
        value: T = getattr(delegate._inner, self._name)  # pyright: ignore[reportPrivateUsage]
        return value


def inner_of(value: Any) -> Any:
    """Return the asynchronous object of a delegate, or a list of them for several. Return other values unchanged."""
    if isinstance(value, Delegate):
        return value._inner  # pyright: ignore[reportPrivateUsage]
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [inner_of(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
    return value


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
