"""Clear errors for misuse of public calls, such as an option of a wrong type, or `with` instead of `async with`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Never, TypeVar, cast

NOT_RUN: tuple[type, ...] = (Iterator, AsyncIterator, Future, functools.partial)
"""Types of objects whose work is done later, besides functions and awaitables."""

F = TypeVar("F", bound=Callable[..., Any])


def check_flag(name: str, value: Any) -> None:
    """Refuse an option that is not True or False. (``"no"`` would count as true.)

    Raises:
        TypeError: the option is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name}= is True or False, got {value!r}")


def check_function(name: str, value: Any) -> None:
    """Refuse an option that is neither a function nor None.

    Raises:
        TypeError: the option is neither.
    """
    if value is not None and not callable(value):
        raise TypeError(f"{name}= is a function, or None; got {value!r}")


def check_limits_change(name: str, present: Any, value: Any) -> None:
    """Refuse limits that differ in a value that cannot change during a connection.

    Raises:
        TypeError, ValueError: the value is not a `Limits`, or more than ``message_bytes`` differs.
    """
    if not isinstance(value, type(present)):
        raise TypeError(f"{name} is a wsrpc.Limits, got {value!r}")
    if value.replace(message_bytes=present.message_bytes) != present:
        raise ValueError(f"of {name} only message_bytes= may change while connected; on_handshake sets the others")


def check_no_yield(what: str, function: Any) -> None:
    """Refuse a function with a ``yield``. A call of such a function runs nothing, and its result counts as true.

    Raises:
        TypeError: ``function`` has a ``yield``.
    """
    for each in (function, type(function).__call__):
        if inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each):
            raise TypeError(f"{what} takes a function without a `yield`: calling {function!r} would run nothing of it")


def check_has_run(what: str, returned: Any) -> None:
    """Refuse the result of a function if the result has not run yet, because such an object counts as true.

    Raises:
        TypeError: the result is an awaitable or a function (an ``await`` or a call was forgotten), or an iterator.
    """
    if inspect.isawaitable(returned) or inspect.isroutine(returned) or isinstance(returned, NOT_RUN):
        if inspect.iscoroutine(returned):
            returned.close()
        raise TypeError(
            f"{what} returned {returned!r}, which has not run: was an `await` or a call forgotten, or is it async?"
        )


def check_number(text: str, value: Any, least: float) -> None:
    """Refuse an option that is not a number, or is less than ``least``.

    Raises:
        TypeError, ValueError: the option is not valid. The error message consists of ``text`` and the value.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{text}; got {value!r}")
    if not value >= least:
        raise ValueError(f"{text}; got {value!r}")


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
    """Decorator for a public method of a private class, or a coroutine function that a public method calls.

    The function gets the name of the method. So Python's warning about a coroutine that was never awaited, and its
    errors for missing arguments, name the method.
    """

    def decorate(function: F) -> F:
        function.__qualname__ = name
        return function

    return decorate


def refusing(text: str) -> Any:
    """Return a method that raises `TypeError`, for special methods of statements that the object does not support."""

    def refuse(self: object, *_: object) -> Never:
        raise TypeError(text)

    return refuse


def no_keywords(
    method: Callable[..., Any], event: str, unsupported: Mapping[str, object], accepted: Iterable[str] = ()
) -> TypeError:
    """Return the error for unknown keyword arguments of ``method``, which may be meant for the handler.

    Args:
        accepted: options of ``method`` that its signature does not name.
    """
    names = ", ".join(unsupported)
    parameters = inspect.signature(method).parameters.values()
    named = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    *others, last = [f"{each}=" for each in [*named, *accepted]] or ["none"]
    options = f"{', '.join(others)} and {last}" if others else last
    name = method.__name__
    return TypeError(
        f"{name}({event!r}) got {names} as keyword argument: arguments travel by position, without names, and "
        f"keywords are options of {name}() itself ({options})"
    )


async def refused(error: Exception) -> Never:
    """Raise ``error``. A refused call returns this coroutine, so that the error is raised where it is awaited."""
    raise error
