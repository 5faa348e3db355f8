"""Sources: the iterables that can be streamed, and how their items are read, one or several at once.

A handler returns a source, or a caller passes one as ``send=``.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Iterator, Sized
from itertools import islice
from typing import Any, NamedTuple, cast

from ..._base.logs import logger
from ..._base.names import Source
from ..._base.threads import SHARED, Worker, outcome_of
from ..._values.type_survey import unsent
from ...errors import parts_of
from ..handlers.introspection import injections
from ..handlers.layers import PLAIN
from ..wire.codecs import FROZEN

BURST = 64
"""Number of items that are made and sent without a pause."""
ENVELOPE = 32
"""Bytes that the message around an item takes, at least, if the item is sent by itself."""

Measure = Callable[[Any], Sized]
Copy = Callable[[Any], Any]
ReadInThread = Callable[[Iterator[Any]], AsyncGenerator[Any]]

_NO_MORE = object()  # what an iterator gives that has ended


class StartedStep(NamedTuple):
    """Coroutine that has run up to its first wait, such as the ``__anext__`` of a generator whose item takes time.

    It may have sent something, so it is either awaited or completed with an error.
    """

    step: Any
    waits_for: Any

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from cast("Generator[Any, Any, Any]", self.complete()))

    @types.coroutine
    def complete(self, error: BaseException | None = None) -> Generator[Any, Any, Any]:
        """Await the rest of the step, and return its result.

        Args:
            error: raised where the step waits, instead of waiting.
        """
        step, waits_for = self
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


class Batch:
    """Items of one source that were read together, and are not sent yet. `fill_batch` fills it again and again."""

    __slots__ = ("ended", "sent_early", "step", "values")

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.step: StartedStep | None = None
        """The step that makes the next item, if that item has to be waited for."""
        self.ended = False
        """Whether the source has no more items."""
        self.sent_early = False
        """Whether the code of the source has sent a message while the items were read. The items left before it."""


FillBatch = Callable[[Batch, int, int, Measure, Copy | None], None]
"""`fill_batch` or `fill_batch_async` of one source."""


async def iterate(source: Source) -> AsyncGenerator[Any]:
    """Iterate over the items of either kind of iterable."""
    if isinstance(source, AsyncIterable):
        async for value in source:
            yield value
    else:
        for value in source:
            yield value


def close_and_log(iterator: Iterator[Any]) -> None:
    """Close an iterator for which nobody waits, and log what it raises."""
    _, error = outcome_of(getattr(iterator, "close", lambda: None))
    if error is not None:
        logger.error("closing %r failed, after its reader had left", iterator, exc_info=error)


async def iterate_in_thread(source: Iterable[Any], worker: Worker | None = None) -> AsyncGenerator[Any]:
    """Iterate over an iterator that may block. All its code runs in one thread and one context.

    Args:
        worker: the thread. None: one that no limit counts.
    """
    thread = worker or SHARED.acquire()
    iterator: Any = iter(source)
    try:
        while (value := await thread.do(next, iterator, _NO_MORE)) is not _NO_MORE:
            yield value
    finally:
        try:
            if thread.last is not None and not thread.last.done():
                thread.call(close_and_log, iterator)  # once the item is made: a cancellation does not reach the thread
            elif hasattr(iterator, "close"):
                await thread.do(iterator.close)
        finally:
            if worker is None:
                thread.release()


def as_source(value: Any, read: ReadInThread | None = None) -> Source | None:
    """Return ``value`` if it is an async iterable or an iterator, such as a generator. Return None otherwise.

    Args:
        read: makes the source of an iterator that may block.

    Raises:
        TypeError: the value is a result of which a part would not be sent.
    """
    if type(value) in PLAIN or type(value) in injections:  # a channel is itself the answer, and not its items
        return None
    if hasattr(value, "__aiter__"):
        source: AsyncIterable[Any] = value
        return source
    if hasattr(value, "__next__"):
        iterator: Iterator[Any] = value
        return iterator if read is None else read(iterator)
    if hasattr(value, "__attrs_attrs__") and (why := unsent(type(value))):
        raise TypeError(why)
    return None


async def close_source(source: Any) -> None:
    """Close a generator, so that its ``finally`` runs now and not when it is collected."""
    if isinstance(sys.exception(), GeneratorExit) and getattr(source, "ag_running", False):
        return  # thrown away with its event loop; until Python 3.13, the step that was awaited still counts as running
    try:
        if hasattr(source, "aclose"):
            await source.aclose()
        elif inspect.isgenerator(source):
            source.close()
    except BaseExceptionGroup as exc:
        if parts_of(exc):
            raise
        # A task group around the `yield` has put the GeneratorExit of this call into a group.


# ---------------------------------------------------------------- several items at once


def fill_batch(source: Iterator[Any], batch: Batch, n: int, room: int, measure: Measure, copy: Copy | None) -> None:
    """Add up to ``n`` items of ``source`` to ``batch``.

    Reading stops

    - when the items, each in its own message, would fill ``room`` bytes. So all items but the last one have room, and
      the source never makes an item while the item before waits for credit.
    - after an item that cannot be copied or measured. The item is sent by itself before the source continues, so that
      an error of the item is found at once.
    - when ``source`` itself has sent a message while it made an item. This item must leave before the next message of
      ``source``.

    An exception of ``source`` is raised here. ``batch`` then has the items before the exception.

    Args:
        measure: encodes an item.
        copy: copies an item, because the source may yield one object several times, and change it in between. None if
            only items of a type in `FROZEN` can be sent together.
    """
    values = batch.values
    for value in islice(source, n):
        values.append(value)
        n -= 1
        if n == 0:
            return
        try:
            if value.__class__ not in FROZEN:
                if copy is None:
                    return
                values[-1] = value = copy(value)
            room -= len(measure(value)) + ENVELOPE
        except Exception:  # the item is sent by itself, and raises its error there if it cannot be encoded at all
            return
        if room <= 0 or batch.sent_early:
            return
    batch.ended = True


def fill_batch_async(
    source: AsyncGenerator[Any, None], batch: Batch, n: int, room: int, measure: Measure, copy: Copy | None
) -> None:
    """Add up to ``n`` items of ``source`` to ``batch``, until an item has to be waited for. See `fill_batch`."""
    advance, values = source.__anext__, batch.values
    while True:
        step: Any = advance()
        try:
            waits_for = step.send(None)
        except StopIteration as exc:  # how a coroutine returns
            value = exc.value
        except StopAsyncIteration:
            batch.ended = True
            return
        else:
            batch.step = StartedStep(step, waits_for)
            return
        values.append(value)
        n -= 1
        if n == 0:
            return
        try:
            if value.__class__ not in FROZEN:
                if copy is None:
                    return
                values[-1] = value = copy(value)
            room -= len(measure(value)) + ENVELOPE
        except Exception:  # as in `fill_batch`
            return
        if room <= 0 or batch.sent_early:
            return
