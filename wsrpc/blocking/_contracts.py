"""Contracts for programs without an event loop: blocking proxies, emitters and implementations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from .._api.proxy import TypedCaller
from .._api.proxy import make_emitter as make_async_emitter
from .._api.proxy import make_proxy as make_async_proxy
from .._handlers.contract import Contract, Kind, Member, read_contract
from ._delegate import blocking_form, upload
from ._handlers import marked
from ._loop import Portal

__all__ = ["implement", "make_emitter", "make_proxy"]


class BlockingProxy(TypedCaller):
    """Base class of blocking proxies. Each method calls that of an asynchronous proxy in the loop's thread, and waits.

    Args:
        proxy: the asynchronous proxy.
    """

    __slots__ = ("_wsrpc_portal", "_wsrpc_proxy")

    _wsrpc_blocking = True

    def __init__(self, contract: type[Any], proxy: Any, portal: Portal) -> None:
        super().__init__(contract, proxy)
        self._wsrpc_proxy = proxy
        self._wsrpc_portal = portal
        for name, inner in read_contract(contract, "proxy()").channels.items():
            setattr(self, name, _class_of(inner)(inner, getattr(proxy, name), portal))

    def _wsrpc_with(self, changes: dict[str, Any]) -> BlockingProxy:
        proxy = self._wsrpc_proxy._wsrpc_with(changes)
        return type(self)(self._wsrpc_contract, proxy, self._wsrpc_portal)

    def __repr__(self) -> str:
        return f"<blocking {repr(self._wsrpc_proxy)[1:]}"


_classes: WeakKeyDictionary[type[Any], type[BlockingProxy]] = WeakKeyDictionary()


def _class_of(contract: Any) -> type[BlockingProxy]:
    made = _classes.get(contract)
    if made is None:
        read = read_contract(contract, "proxy()")
        methods: dict[str, Any] = {member.name: _method(member) for member in read.members}
        made = type(f"{contract.__qualname__}Proxy", (BlockingProxy,), {"__slots__": tuple(read.channels), **methods})
        _classes[contract] = made
    return made


def _method(member: Member) -> Callable[..., Any]:
    name = member.name
    source = None if member.source is None else member.source.name
    signature = member.call_signature

    def request(self: Any, /, *args: Any, **named: Any) -> Any:
        proxy = self._wsrpc_proxy
        return self._wsrpc_portal.run(
            partial(getattr(proxy, name), *args, **named), stepped=proxy._wsrpc_given.retry is None
        )

    def other(self: Any, /, *args: Any, **named: Any) -> Any:
        proxy = self._wsrpc_proxy
        if source is not None:
            given = signature.bind(proxy, *args, **named)
            given.arguments[source] = upload(given.arguments[source])
            args, named = given.args[1:], given.kwargs
        call = partial(getattr(proxy, name), *args, **named)
        if member.kind in (Kind.STREAM, Kind.EXCHANGE):
            return blocking_form(call(), self._wsrpc_portal)
        return blocking_form(self._wsrpc_portal.run(call), self._wsrpc_portal)

    made = request if member.kind is Kind.REQUEST else other
    made.__name__, made.__qualname__ = name, member.function.__qualname__
    made.__doc__, made.__module__ = member.function.__doc__, member.function.__module__
    made.__signature__ = signature  # type: ignore[attr-defined]
    return made


def make_proxy(contract: Any, caller: Any, portal: Portal) -> Any:
    """Return a proxy; see `Caller.proxy`.

    Args:
        caller: the asynchronous caller.
    """
    proxy = portal.apply(partial(make_async_proxy, contract, caller, blocking=True))
    return _class_of(contract)(contract, proxy, portal)


def make_emitter(contract: Any, caller: Any, *, takes_offline: bool = False, **options: Any) -> Any:
    """Return an emitter; see `Caller.emitter`."""
    return make_async_emitter(contract, caller, takes_offline=takes_offline, blocking=True, **options)


def implement(inner: Any, portal: Portal, contract: Any, implementation: object) -> None:
    """Register the methods of an object, each of which runs in a thread; see `Registrar.implement`.

    Raises:
        TypeError: a method is an ``async def``, or does not fit the contract.
    """
    read = read_contract(contract, "implement()")
    portal.apply(partial(inner.implement, contract, _threaded(read, implementation, portal)))


def _threaded(read: Contract, implementation: object, portal: Portal) -> object:
    """Return an object with the methods of ``implementation`` that a contract declares, as handlers."""
    if isinstance(implementation, type):
        return implementation  # is refused
    methods: dict[str, Any] = {
        member.name: staticmethod(marked(getattr(implementation, member.name), portal))
        for member in read.members
        if hasattr(implementation, member.name)
    }
    for name, inner in read.channels.items():
        if hasattr(implementation, name):
            methods[name] = _threaded(read_contract(inner, read.name), getattr(implementation, name), portal)
    cls = type(implementation)
    return type(cls.__name__, (), {"__qualname__": cls.__qualname__, "__module__": cls.__module__, **methods})()
