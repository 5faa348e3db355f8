"""Clear errors for misuse of public calls: options of a wrong type, `with` in place of `async with`, and so on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Never, TypeVar, cast

__all__ = ["check_flag", "check_function", "no_parentheses", "refusing", "shown_as"]

F = TypeVar("F", bound=Callable[..., Any])


def check_flag(name: str, given: Any) -> None:
    """Refuse what is neither True nor False: ``"no"`` would count as true.

    Raises:
        TypeError: says so.
    """
    if not isinstance(given, bool):
        raise TypeError(f"{name}= is True or False, got {given!r}")


def check_function(name: str, given: Any) -> None:
    """Refuse what is neither a function nor None.

    Raises:
        TypeError: says so.
    """
    if given is not None and not callable(given):
        raise TypeError(f"{name}= is a function, or None; got {given!r}")


def no_parentheses(usage: str) -> Callable[[F], F]:
    """Decorator for methods that are decorators without options, and are easily written with parentheses."""

    def decorate(method: F) -> F:
        @functools.wraps(method)
        def checked(self: Any, /, *args: Any, **options: Any) -> Any:
            if not args and not options:
                name = method.__name__
                raise TypeError(f"{name}() got no function: write {usage} without parentheses, or {name}(function)")
            return method(self, *args, **options)

        return cast("F", checked)

    return decorate


def shown_as(name: str) -> Callable[[F], F]:
    """Decorator for a coroutine function that a public method calls: Python's warning that a coroutine was never
    awaited names what the user has called."""

    def decorate(function: F) -> F:
        function.__qualname__ = name
        return function

    return decorate


def refusing(text: str) -> Any:
    """A method that raises `TypeError`, for a statement that the object cannot be used in."""

    def refuse(self: object, *_: object) -> Never:
        raise TypeError(text)

    return refuse
