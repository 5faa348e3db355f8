"""Clear errors for misuse of public calls, such as options of a wrong type or `with` in place of `async with`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Never, TypeVar, cast

__all__ = ["check_flag", "check_function", "check_number", "no_parentheses", "refusing", "shown_as"]

F = TypeVar("F", bound=Callable[..., Any])


def check_flag(name: str, given: Any) -> None:
    """Refuse an option that is not True or False: ``"no"`` would count as true.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(given, bool):
        raise TypeError(f"{name}= is True or False, got {given!r}")


def check_function(name: str, given: Any) -> None:
    """Refuse an option that is not a function or None.

    Raises:
        TypeError: it is neither.
    """
    if given is not None and not callable(given):
        raise TypeError(f"{name}= is a function, or None; got {given!r}")


def check_number(text: str, given: Any, least: int) -> None:
    """Refuse an option that is not a number, or less than ``least``; ``text`` says what is expected.

    Raises:
        TypeError, ValueError: with ``text`` and the value.
    """
    if not isinstance(given, (int, float)) or isinstance(given, bool):
        raise TypeError(f"{text}; got {given!r}")
    if not given >= least:
        raise ValueError(f"{text}; got {given!r}")


def no_parentheses(usage: str) -> Callable[[F], F]:
    """Decorator for methods that are decorators without options. Empty parentheses raise a clear error."""

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
    """Decorator for a coroutine function that a public method calls.

    With the name of the method, Python's warning that a coroutine was never awaited names what the user has called.
    """

    def decorate(function: F) -> F:
        function.__qualname__ = name
        return function

    return decorate


def refusing(text: str) -> Any:
    """Return a method that raises `TypeError`, for a statement in which the object cannot be used."""

    def refuse(self: object, *_: object) -> Never:
        raise TypeError(text)

    return refuse
