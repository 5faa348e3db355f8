"""`method`: the mark that makes a method a handler, with the name of its event and its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, overload

from msgspec import UNSET, Struct, UnsetType

from ..._base.misuse import check_flag
from ..._base.names import F, check_event, check_timeout

MARK = "_wsrpc_method"
"""Attribute of a function that `method` has decorated."""


class HandlerOptions(Struct, frozen=True, kw_only=True):
    """Options of a handler; see `Server.on`.

    Raises:
        TypeError: an option has a wrong type.
        ValueError: ``timeout`` is not more than 0.
    """

    thread: bool = False
    ordered: bool = False
    timeout: float | UnsetType | None = UNSET
    """UNSET: `Limits.handler_timeout` applies."""
    hidden: bool = False

    def __post_init__(self) -> None:
        check_flag("thread", self.thread)
        check_flag("ordered", self.ordered)
        check_flag("hidden", self.hidden)
        check_timeout(self.timeout, more_than_0=True)


DEFAULTS = HandlerOptions()


class Exposed(NamedTuple):
    """The arguments of `method`."""

    name: str | None = None
    options: HandlerOptions = DEFAULTS


@overload
def method(function: F, /) -> F: ...


@overload
def method(
    name: str | None = None,
    /,
    *,
    thread: bool = False,
    ordered: bool = False,
    timeout: float | UnsetType | None = UNSET,
    hidden: bool = False,
) -> Callable[[F], F]: ...


def method(
    name: Any = None,
    /,
    *,
    thread: bool = False,
    ordered: bool = False,
    timeout: float | UnsetType | None = UNSET,
    hidden: bool = False,
) -> Any:
    """Make a method of a `Service` the handler of an event. Works as a decorator.

    The name of the event is ``name`` or, by default, the name of the method. The options are those of `Server.on`. A
    subclass that overrides the method need not decorate it again.

    On a method of a contract, ``name`` is the name of the event, and options are not allowed. On a method that
    implements a contract, the options apply to the handler.

    Raises:
        TypeError: the decorated object is not a plain method, or an option has a wrong type.
        ValueError: ``timeout`` is not more than 0, or ``name`` is not a valid name of an event.
    """
    if name is not None and not isinstance(name, str):
        return method()(name)
    if name is not None:
        check_event(name)

    options = HandlerOptions(thread=thread, ordered=ordered, timeout=timeout, hidden=hidden)

    def mark(function: F) -> F:
        decorated: Any = function
        if not inspect.isfunction(decorated):
            raise TypeError(f"@wsrpc.method decorates plain methods, which take self; got {function!r}")
        setattr(function, MARK, Exposed(name, options))
        return function

    return mark


def mark_of(function: object) -> Exposed | None:
    """Return the arguments of `method` for a function that it has decorated, or for a wrapper of such a function."""
    mark = getattr(function, MARK, None)
    return mark if isinstance(mark, Exposed) else None


def mark_in(cls: type[Any], attribute: str) -> Exposed | None:
    """Return the mark of a method of a class, or of the method that it overrides."""
    marks = (mark_of(vars(base).get(attribute)) for base in cls.__mro__)
    return next((mark for mark in marks if mark is not None), None)
