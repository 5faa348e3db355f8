"""Functions as users pass them: their name, their place in the code, and what runs when they are called."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from ...errors import short


def layers_of(function: Any) -> list[Any]:
    """Return the callable and all callables that it wraps, the outermost first.

    Annotations belong to the innermost callable: annotations that are text are evaluated in its module.
    """
    layers: list[Any] = []
    while len(layers) < 100:  # an object may claim to wrap itself
        layers.append(function)
        if isinstance(function, functools.partial):
            function = typing.cast(Any, function).func
        elif isinstance(function, types.MethodType):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif isinstance(function, type):
            makers = [getattr(function, name) for name in ("__init__", "__new__")]
            function = next((maker for maker in makers if isinstance(maker, types.FunctionType)), None)
        elif not isinstance(function, types.FunctionType) and hasattr(type(function).__call__, "__code__"):
            function = type(function).__call__
        else:
            break
        if function is None:
            break
    return layers


def without_partials(function: Any) -> Any:
    """Return the function that a partial calls in the end. Anything else is returned unchanged."""
    while isinstance(function, functools.partial):
        function = typing.cast(Any, function).func
    return function


def why_unbound(function: Any, first: str | None) -> str:
    """Return why a method cannot be called without its object, and what to do. An empty text for other functions.

    Args:
        first: the name of the parameter that would get the first argument.
    """
    innermost = layers_of(function)[-1]
    cls, name = f".{getattr(innermost, '__qualname__', '')}".split(".")[-2:]
    if first not in ("self", "cls") or cls in ("", "<locals>") or not inspect.isfunction(innermost):
        return ""
    return f"a method needs its object: register {cls}(...).{name} of an object, or make {cls} a wsrpc.Service"


def body_of(function: Any) -> Any:
    """Return the function that runs when the handler is called. It may be a coroutine function."""
    function = without_partials(function)
    if inspect.isroutine(function) or inspect.iscoroutinefunction(function):
        return function
    # An object runs the __call__ of its class. A class runs the __call__ of its metaclass, which makes an instance. It
    # does not matter whether the __call__ of the instance is a coroutine function.
    return typing.cast(Any, type(function)).__call__


def is_generator(body: Any) -> bool:
    return inspect.isasyncgenfunction(body) or inspect.isgeneratorfunction(body)


def full_name(function: Any) -> str:
    function = without_partials(function)
    named = function
    if not isinstance(getattr(function, "__qualname__", None), str):
        named = typing.cast(Any, type(function))
    module = getattr(named, "__module__", None)
    return f"{module}.{named.__qualname__}" if module else str(named.__qualname__)


def place_of(layers: list[Any], name: str) -> str:
    for layer in reversed(layers):
        code = getattr(layer, "__code__", None)
        # Generated functions (a dataclass's __init__) come from "<string>", which does not help the reader.
        if isinstance(code, types.CodeType) and not code.co_filename.startswith("<"):
            return f"{code.co_filename}:{code.co_firstlineno}"
    return name


def is_async(function: object) -> bool:
    """Return whether a function is an ``async def``, or an object whose ``__call__`` is one."""
    return any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))


def is_generator_function(function: object) -> bool:
    """Return whether a function is a plain ``def`` with a ``yield``, or an object whose ``__call__`` is one."""
    return any(map(inspect.isgeneratorfunction, (function, type(function).__call__)))


def name_of(function: Callable[..., Any]) -> str:
    """Return the name of a function for the log, without its module."""
    name: str = getattr(function, "__qualname__", "") or short(function)
    return name


def location(function: Any) -> str:
    """Return ``file:line`` of a callable, or its name if its place is unknown."""
    return place_of(layers_of(function), full_name(function))
