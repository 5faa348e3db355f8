"""Functions that are called by place: which of their arguments they accept."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_origin

from ..._base.misuse import check_no_yield
from .callables import why_unbound
from .introspection import of_framework

_OF_JSON = frozenset({"str", "int", "float", "bool", "bytes", "list", "dict", "tuple", "set"})
"""Names of types that arguments have."""


class LifecycleHandler(NamedTuple):
    """A handler of a lifecycle event. It is called with the first ``accepted`` arguments of the event."""

    function: Callable[..., Any]
    accepted: int
    where: str


def wants_value(function: Callable[..., Any]) -> bool:
    """Return whether the first parameter has a type of JSON. A lifecycle handler gets its peer first."""
    try:
        first = next(iter(inspect.signature(function).parameters.values()), None)
    except ValueError:  # a builtin without a signature
        return False
    annotation = None if first is None else first.annotation
    name = annotation if isinstance(annotation, str) else getattr(get_origin(annotation) or annotation, "__name__", "")
    return name.partition("[")[0] in _OF_JSON


def accepted(what: str, names: Sequence[str], function: Callable[..., Any], *, may_yield: bool = False) -> int:
    """Return how many of the arguments ``names`` the ``function`` accepts: all, or only the first arguments.

    Raises:
        TypeError: ``function`` is not a function, needs more arguments, has a parameter for a web framework, or has a
            ``yield``.
    """
    if not callable(function):
        raise TypeError(f"{what} takes a function of ({', '.join(names)}), got {function!r}")
    if not may_yield:
        check_no_yield(what, function)
    try:
        signature = inspect.signature(function)
    except ValueError:  # a builtin without a signature
        return len(names)
    if "self" not in names and (why := why_unbound(function, next(iter(signature.parameters), None))):
        raise TypeError(f"{what} takes a function, got {function!r}: {why}")
    for count in range(len(names), -1, -1):
        try:
            signature.bind(*names[:count])
        except TypeError:
            continue
        for parameter in signature.parameters.values():
            if text := of_framework(parameter.default):
                raise TypeError(f"{what}, parameter {parameter.name!r} of {function!r}: {text}")
        return count
    expected = ", ".join(names)
    raise TypeError(f"{what}: the function is called with ({expected}), but {function!r} takes {signature}")
