"""Sources: the iterables that can be streamed, and how their items are read, one or several at once.

A handler returns a source, or a caller passes one as ``send=``.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import types
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Iterator, Sized
from itertools import islice
from typing import Any

from ..._base.names import Source
from ..handlers.introspection import injections

BURST = 64
"""Number of items that are made and sent without a pause."""
ENVELOPE = 32
"""Bytes that the message around an item takes, at least, if the item is sent by itself."""

Measure = Callable[[Any], Sized]

Step = Any
"""What the ``__anext__`` of an async generator returns, after its first ``send``."""

ReadResult = bool | tuple[Step, Any]
"""False if the source has ended. If a step waits, the step and what it waits for, for `complete_step`. Else True."""

ReadItems = Callable[[list[Any], int, int, Measure], ReadResult]
"""`read_items` or `read_items_async` of one source."""


async def iterate(source: Source) -> AsyncGenerator[Any]:
    """Iterate over the items of either kind of iterable."""
    if isinstance(source, AsyncIterable):
        async for value in source:
            yield value
    else:
        for value in source:
            yield value


async def iterate_in_thread(source: Iterable[Any]) -> AsyncGenerator[Any]:
    """Iterate over an iterator that may block. Each item is made in a thread."""
    loop = asyncio.get_running_loop()
    iterator = iter(source)
    close = getattr(iterator, "close", None)
    context = contextvars.copy_context()
    lock = threading.Lock()
    making = exited = False
    nothing = object()

    def make() -> Any:
        nonlocal making
        try:
            return next(iterator, nothing)
        finally:
            with lock:
                making = False
                is_last = exited
            if is_last and close is not None:
                close()

    try:
        while True:
            making = True
            # A cancellation does not reach the thread. The thread closes the iterator when it has made the item,
            # because the loop may have ended by then.
            value = await asyncio.shield(loop.run_in_executor(None, context.run, make))
            if value is nothing:
                return
            yield value
    finally:
        with lock:
            exited = True
            is_made = not making
        if is_made and close is not None:
            # The iterator is closed even if the task is cancelled before a thread has started to close it.
            await asyncio.shield(loop.run_in_executor(None, context.run, close))


def as_source(value: Any, *, thread: bool = False) -> Source | None:
    """Return ``value`` if it is an async iterable or an iterator, such as a generator. Return None otherwise."""
    if type(value) in injections:  # a channel is itself the answer, so its items are not streamed
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


# ---------------------------------------------------------------- several items at once


def read_items(source: Iterator[Any], values: list[Any], n: int, room: int, measure: Measure) -> ReadResult:
    """Append up to ``n`` items of ``source`` to ``values``.

    Reading stops

    - when the items, each in its own message, would fill ``room`` bytes. So all items but the last one have room, and
      the source never makes an item while the item before waits for credit.
    - after an item that ``measure`` cannot encode, because the size of the item is then unknown. The item is sent by
      itself before the source continues, so that an error of the item is found at once.
    - when ``source`` itself has sent a message while it made an item. This item must leave before the next message of
      ``source``. Sending has removed all items from ``values``, so an empty ``values`` shows that this has happened,
      and ``values`` must not be empty at the start.

    An exception of ``source`` is raised here. ``values`` then has the items before the exception.

    Args:
        measure: encodes an item.
    """
    count, last = len(values), len(values) + n
    for value in islice(source, n):
        count += 1
        values.append(value)
        if count == last:
            return True
        try:
            room -= len(measure(value)) + ENVELOPE
        except Exception:  # the item is sent by itself, and raises its error there if it cannot be encoded at all
            return True
        if room <= 0 or len(values) < count:
            return True
    return False


def read_items_async(
    source: AsyncGenerator[Any, None], values: list[Any], n: int, room: int, measure: Measure
) -> ReadResult:
    """Append up to ``n`` items of ``source`` to ``values``, until an item has to be waited for. See `read_items`."""
    advance = source.__anext__
    count = len(values)
    while True:
        step: Any = advance()
        try:
            waits_for = step.send(None)
        except StopIteration as exc:  # how a coroutine returns
            value = exc.value
        except StopAsyncIteration:
            return False
        else:
            return step, waits_for
        values.append(value)
        n -= 1
        if n == 0:
            return True
        count += 1
        try:
            room -= len(measure(value)) + ENVELOPE
        except Exception:  # as in `read_items`
            return True
        if room <= 0 or len(values) < count:
            return True


@types.coroutine
def complete_step(step: Step, waits_for: Any, error: BaseException | None = None) -> Generator[Any, Any, Any]:
    """Await the rest of a step that has started, and return its item.

    Args:
        waits_for: what the step waits for.
        error: raised where the step waits, instead of waiting.
    """
    try:
        if error is not None:
            waits_for = step.throw(error)
        while True:
            try:
                sent = yield waits_for
            except BaseException as exc:
                waits_for = step.throw(exc)
            else:
                waits_for = step.send(sent)
    except StopIteration as exc:
        return exc.value
