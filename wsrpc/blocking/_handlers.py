"""Handlers of a blocking client: plain functions, each of which runs in a thread."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any, Literal, get_args, get_origin

from msgspec.structs import replace

from .._base.names import RESERVED_EVENTS
from .._base.threads import SHARED
from .._core.api.caller import AnonymousChannel as AsyncAnonymousChannel
from .._core.api.peer import Peer as AsyncPeer
from .._core.api.stream import Stream as AsyncStream
from .._core.channels.source import iterate_in_thread
from .._core.handlers.callables import is_async, location
from .._core.handlers.introspection import read_signature, signature_of
from .._core.handlers.method import MARK, Exposed, mark_of
from ._blocking_stream import Stream
from ._delegate import blocking_form
from ._loop_thread import CallBridge

MISSING: Any = object()
"""The default of an argument that was not passed."""


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


# ---------------------------------------------------------------- functions that an event loop calls


def in_a_thread(function: Callable[..., Any], convert: Callable[[Any], Any] = lambda value: value) -> Any:
    """Return a coroutine function that calls a plain one in a thread, in the same context.

    Args:
        convert: is applied to each argument.
    """

    @functools.wraps(function)
    async def called(*args: Any, **named: Any) -> Any:
        call = partial(function, *map(convert, args), **{name: convert(value) for name, value in named.items()})
        worker = SHARED.acquire()
        try:
            return await worker.do(call)
        finally:
            worker.release()

    return called


def _generates_in_a_thread(function: Callable[..., Any], convert: Callable[[Any], Any]) -> Any:
    """Return an async generator function that runs a generator function in a thread."""

    @functools.wraps(function)
    async def called(*args: Any, **named: Any) -> AsyncGenerator[Any]:
        items = function(*map(convert, args), **{name: convert(value) for name, value in named.items()})
        async with aclosing(iterate_in_thread(items)) as source:
            async for item in source:
                yield item

    return called


# ---------------------------------------------------------------- handlers


_INSTEAD: list[tuple[Any, str]] = [
    (AsyncPeer, "wsrpc.blocking.Peer"),
    (AsyncAnonymousChannel, "wsrpc.blocking.AnonymousChannel"),
    (AsyncIterator, "collections.abc.Iterator[...]"),
]
"""Annotations that a handler in a thread cannot have, and what to use instead."""


def threaded(function: Callable[..., Any], bridge: CallBridge) -> tuple[Any, bool]:
    """Return the function to register for a plain handler, and whether it is registered with ``thread=True``.

    A handler with a channel is registered as a coroutine function, because the event loop keeps the channel meanwhile.

    Raises:
        TypeError: it cannot be a handler, or a parameter is for an event loop.
    """
    read = read_signature(function)
    for p in read.parameters:
        for asynchronous, wanted in _INSTEAD:
            if asynchronous is (AsyncIterator if p.source == "stream" else p.type):
                raise TypeError(
                    f"handler {read.name} ({read.where}), parameter {p.name!r}: it would get an object that only an "
                    f"event loop can use, and the handlers of a blocking client run in threads: annotate it {wanted}"
                )
    items = {p.name: p.type for p in read.parameters if (get_origin(p.type) or p.type) is Iterator}
    if not items and not any(p.injection is not None and p.injection.conversation for p in read.parameters):
        return function, True

    def convert(value: Any) -> Any:
        cls: Any = AsyncStream  # whose items may be of any type
        return Stream[Any](value, bridge) if isinstance(value, cls) else value

    made = (_generates_in_a_thread if inspect.isgeneratorfunction(function) else in_a_thread)(function, convert)
    signature = signature_of(function)
    made.__signature__ = signature.replace(
        parameters=[
            p.replace(annotation=_read_in_loop(items[p.name])) if p.name in items else p
            for p in signature.parameters.values()
        ]
    )
    return made, False


def _read_in_loop(annotation: Any) -> Any:
    item: Any = (*get_args(annotation), Any)[0]
    return AsyncIterator[item]


def marked(function: Callable[..., Any], bridge: CallBridge) -> Any:
    """Return the function that implements a member of a contract for a plain method."""
    check_plain(function, "a method that implements a contract")
    made, thread = threaded(function, bridge)
    mark = mark_of(getattr(function, "__func__", function)) or Exposed()

    if made is function:
        # A bound method cannot be marked, and an object that others use should not be.
        @functools.wraps(function)
        def made(*args: Any, **named: Any) -> Any:
            return function(*args, **named)

    setattr(made, MARK, Exposed(mark.name, replace(mark.options, thread=thread)))
    return made


def register(
    inner: Any,
    bridge: CallBridge,
    method: Literal["on", "once"],
    event: Any,
    handler: Any,
    **options: Any,
) -> Any:
    """Register a handler by a call, or return a decorator that does.

    Args:
        inner: the asynchronous object.
    """
    add: Callable[..., Any] = getattr(inner, method)
    if event is MISSING or callable(event):
        return add(*(() if event is MISSING else (event,)))  # raises
    if handler is None:
        return bridge.apply(partial(add, event, None))
    reports = inner._channel_name is None and event in RESERVED_EVENTS

    def decorate(function: Any) -> Any:
        if function is None:
            return add(event)(None)  # raises
        check_plain(function, "a handler")
        convert = partial(blocking_form, bridge=bridge)
        made, thread = (in_a_thread(function, convert), False) if reports else threaded(function, bridge)
        bridge.apply(partial(add, event, made, thread=thread, **options))
        return function

    return decorate if handler is MISSING else decorate(handler)
