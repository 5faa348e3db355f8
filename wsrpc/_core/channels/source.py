"""Iterables that can be streamed: which values are some, and how their items are taken, one or several at once.

Handlers return them and ``send=`` takes them.
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
"""Bytes that an item takes beside its own, if it is sent by itself: at least what the message around it takes."""

Measure = Callable[[Any], Sized]

Step = Any
"""What the ``__anext__`` of an async generator returns, after its first ``send``."""

Taken = bool | tuple[Step, Any]
"""False if the source has ended. If a step waits: the step and what it waits for, for `complete_step`. Else True."""

Take = Callable[[list[Any], int, int, Measure], Taken]
"""`take` or `take_async` of one source."""


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


# ---------------------------------------------------------------- several items at once


def take(source: Iterator[Any], values: list[Any], n: int, room: int, measure: Measure) -> Taken:
    """Append up to ``n`` items of ``source`` to ``values``.

    No more are taken

    - once the items fill ``room`` bytes, also if each is sent by itself. So all but the last one have room, and none
      waits for credit while the source is already making the next one.
    - after one that ``measure`` cannot encode, so that nothing says how large it is. If it cannot be sent at all, that
      is found before the source goes on.
    - if the code of ``source`` has sent something. That has removed from ``values`` what was in it, so there must be
      something from the start. What the code sends next must not overtake the items after.

    What ``source`` raises is raised here. ``values`` then has the items before.

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
        except Exception:  # the item is sent by itself then, and raises its error there if it cannot be encoded at all
            return True
        if room <= 0 or len(values) < count:
            return True
    return False


def take_async(source: AsyncGenerator[Any, None], values: list[Any], n: int, room: int, measure: Measure) -> Taken:
    """Append up to ``n`` items of ``source`` to ``values``, as far as they come without waiting. See `take`."""
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
        except Exception:  # as in `take`
            return True
        if room <= 0 or len(values) < count:
            return True


@types.coroutine
def complete_step(step: Step, waits_for: Any, error: BaseException | None = None) -> Generator[Any, Any, Any]:
    """Await the rest of a step that has begun, and return its item.

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
