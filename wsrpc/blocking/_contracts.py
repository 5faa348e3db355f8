"""Contracts for programs without an event loop: blocking proxies, emitters and implementations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .._api.proxy import Calling, Proxy, typed
from .._handlers.contract import Contract, Kind, Member, read_contract
from .._protocol.messages import RequestOptions
from ._delegate import blocking_form, upload
from ._handlers import marked
from ._loop import Portal


class BlockingProxy(Proxy):
    """Base class of blocking proxies. Each method runs that of a `Proxy` in the loop's thread, and waits."""

    __slots__ = ("_wsrpc_portal",)

    _wsrpc_blocking = True

    def __init__(self, contract: type[Any], caller: Calling, given: RequestOptions, portal: Portal) -> None:
        self._wsrpc_portal = portal
        super().__init__(contract, caller, given)

    @classmethod
    def _wsrpc_method(cls, number: int, member: Member) -> Callable[..., Any]:
        call = super()._wsrpc_method(number, member)

        def called(self: BlockingProxy, /, *args: Any, **named: Any) -> Any:
            portal, run = self._wsrpc_portal, partial(call, self, *args, **named)
            if member.kind in (Kind.STREAM, Kind.EXCHANGE):
                return blocking_form(run(), portal)
            stepped = member.kind is Kind.REQUEST and self._wsrpc_given.retry is None
            return blocking_form(portal.run(run, stepped=stepped), portal)

        return called

    def _wsrpc_new(self, contract: type[Any], caller: Calling, given: RequestOptions) -> Proxy:
        return typed(BlockingProxy, contract, caller, given, self._wsrpc_portal)

    def _wsrpc_source(self, items: Any) -> Any:
        return upload(items)

    def __repr__(self) -> str:
        return f"<blocking {super().__repr__()[1:]}"


def make_proxy(contract: Any, caller: Calling, portal: Portal) -> Any:
    """Return a proxy; see `Caller.proxy`.

    Args:
        caller: the asynchronous caller.
    """
    return portal.apply(partial(typed, BlockingProxy, contract, caller, RequestOptions(), portal))


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
