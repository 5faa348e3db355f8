"""Conversion of an event's arguments to the one value that its readers get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

import msgspec
from msgspec import UNSET

Keep: TypeAlias = Literal["all", "newest"]
"""Which unread events wait for a reader."""

Waits: TypeAlias = Keep | Literal["first"]
"""As `Keep`, or ``"first"`` for a reader that wants one event only."""

ToValue = Callable[[list[Any]], Any]
"""Makes the value of ``[event, *arguments]``. Raises `msgspec.ValidationError` if the arguments do not fit."""


def value_of(returns: Any, converter: Callable[[Any], Callable[[Any], Any]]) -> ToValue:
    """Return a function that converts an event's arguments to ``returns``. ``converter`` compiles a type.

    Raises:
        TypeError: ``returns`` is not a type that can be converted to.
    """
    if returns is UNSET:
        return _unconverted
    convert = converter(returns)
    return (lambda a: convert(a[1:])) if _is_fixed_tuple(returns) else (lambda a: convert(_only_one(a)))


def _unconverted(a: list[Any]) -> Any:
    # A tuple, so that several arguments differ from one argument that is a list.
    return a[1] if len(a) == 2 else tuple(a[1:]) or None


def _only_one(a: list[Any]) -> Any:
    if len(a) != 2:
        raise msgspec.ValidationError(f"expected 1 argument, got {len(a) - 1} (returns=tuple[...] takes several)")
    return a[1]


def _is_fixed_tuple(returns: Any) -> bool:
    """Return whether ``returns`` is a tuple type of fixed length."""
    while True:
        if get_origin(returns) is Annotated:
            returns = get_args(returns)[0]
        elif type(returns).__name__ == "TypeAliasType":  # Python 3.12's `type` statement
            returns = returns.__value__
        else:
            return get_origin(returns) is tuple and Ellipsis not in get_args(returns)


def check_keep(keep: Any) -> None:
    """Refuse a value that ``keep=`` does not take.

    Raises:
        ValueError: ``keep`` is neither ``"all"`` nor ``"newest"``.
    """
    if keep not in ("all", "newest"):
        raise ValueError(
            f'keep= is "all" (up to Limits.stream_queue_bytes bytes) or "newest" (one event), got {keep!r}'
        )
