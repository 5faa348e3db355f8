"""Handlers of a blocking client: plain functions, each of which runs in a thread."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal

from .._base.names import RESERVED_EVENTS
from .._handlers.introspection import is_async, location

__all__ = ["MISSING", "check_plain", "in_a_thread", "register"]

MISSING: Any = object()
"""The default of an argument that was not given."""


def check_plain(function: Any, what: str) -> None:
    """Refuse a function that only an event loop can run.

    Raises:
        TypeError: it is an ``async def``.
    """
    if is_async(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{what} of a blocking client is a plain function, which runs in a thread; got the `async def` "
            f"{function!r} ({location(function)}): make it a `def`, or use wsrpc.Client"
        )


def in_a_thread(function: Callable[..., Any], convert: Callable[[Any], Any] = lambda value: value) -> Any:
    """Return a coroutine function that calls a plain one in a thread, in the same context.

    Args:
        convert: is applied to each argument.
    """

    @functools.wraps(function)
    async def called(*args: Any) -> Any:
        context, given = contextvars.copy_context(), [*map(convert, args)]
        work = asyncio.get_running_loop().run_in_executor(None, context.run, _call, function, given)
        result, error = await work
        if error is not None:
            raise error
        return result

    return called


def _call(function: Callable[..., Any], args: list[Any]) -> tuple[Any, BaseException | None]:
    # A future must not get the exception itself: it refuses StopIteration.
    try:
        return function(*args), None
    except BaseException as exc:
        return None, exc


def register(
    apply: Callable[..., Any],
    inner: Any,
    method: Literal["on", "once"],
    event: Any,
    handler: Any,
    convert: Callable[[Any], Any],
    **options: Any,
) -> Any:
    """Register a handler by a call, or return a decorator that does.

    Args:
        apply: calls a method of ``inner`` where that is safe.
        inner: the asynchronous object.
        convert: replaces the arguments of lifecycle handlers by their blocking forms.
    """
    add: Callable[..., Any] = getattr(inner, method)
    if event is MISSING or callable(event):
        return add(*(() if event is MISSING else (event,)))  # raises
    if handler is None:
        return apply(add, event, None)
    reports = inner._channel_name is None and event in RESERVED_EVENTS

    def decorate(function: Any) -> Any:
        if function is None:
            return add(event)(None)  # raises
        check_plain(function, "a handler")
        if reports:
            apply(add, event, in_a_thread(function, convert), **options)
        else:
            apply(add, event, function, thread=True, **options)
        return function

    return decorate if handler is MISSING else decorate(handler)
