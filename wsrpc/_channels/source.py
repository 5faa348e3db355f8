"""Iterables that can be streamed: handlers return them and ``send=`` takes them."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Any

from .._base.names import Source
from .._handlers.introspection import injections

BURST = 64
"""Number of items that are made and sent without a pause."""


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
    close = getattr(iterator, "close", None)
    context = contextvars.copy_context()
    lock = threading.Lock()
    making = left = False
    nothing = object()

    def make() -> Any:
        nonlocal making
        try:
            return next(iterator, nothing)
        finally:
            with lock:
                making = False
                is_last = left
            if is_last and close is not None:
                close()

    try:
        while True:
            making = True
            # A cancellation does not reach the thread. That thread closes the iterator when it has made the item:
            # the loop may have ended by then.
            value = await asyncio.shield(loop.run_in_executor(None, context.run, make))
            if value is nothing:
                return
            yield value
    finally:
        with lock:
            left = True
            is_made = not making
        if is_made and close is not None:
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
