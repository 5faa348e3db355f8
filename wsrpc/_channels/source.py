"""Iterables that can be streamed: handlers return them and ``send=`` takes them."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from functools import partial
from typing import Any

from .._base.names import Source
from .._handlers.introspection import injections


async def iterate(source: Source) -> AsyncGenerator[Any]:
    """Iterate over the items of either kind of iterable."""
    if isinstance(source, AsyncIterable):
        async for value in source:
            yield value
    else:
        for value in source:
            yield value


async def iterate_in_thread(source: Iterable[Any]) -> AsyncGenerator[Any]:
    """Iterate over the items of an iterator that may block: each is made in a thread."""
    loop = asyncio.get_running_loop()
    iterator = iter(source)
    context = contextvars.copy_context()
    nothing = object()
    making: asyncio.Future[Any] | None = None
    try:
        while True:
            making = loop.run_in_executor(None, context.run, partial(next, iterator, nothing))
            value = await asyncio.shield(making)
            if value is nothing:
                return
            yield value
    finally:
        close = getattr(iterator, "close", None)
        if close is not None and making is not None and not making.done():
            # It was cancelled, but the thread goes on. A generator can be closed when the thread is done.
            making.add_done_callback(lambda done: done.exception() or loop.run_in_executor(None, context.run, close))
        elif close is not None:
            # Even if the task is cancelled before a thread has begun with it.
            await asyncio.shield(loop.run_in_executor(None, context.run, close))


def as_source(value: Any, *, thread: bool = False) -> Source | None:
    """Return ``value`` if it can be streamed: if it is an async iterable or an iterator, such as a generator.

    Return None otherwise.
    """
    if type(value) in injections:  # it is a channel and the answer, so its items are not streamed
        return None
    if hasattr(value, "__aiter__"):
        source: AsyncIterable[Any] = value
        return source
    if hasattr(value, "__next__"):
        iterator: Iterable[Any] = value
        return iterate_in_thread(iterator) if thread else iterator
    return None


async def close_source(source: Any) -> None:
    """Close a generator, so that its ``finally`` runs now and not when it is collected."""
    if hasattr(source, "aclose"):
        await source.aclose()
    elif inspect.isgenerator(source):
        source.close()
