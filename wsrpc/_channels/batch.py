"""Steps of a source that are taken one right after the other, so that their items can be sent together."""

from __future__ import annotations

import types
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from itertools import islice
from typing import Any

__all__ = ["Measure", "Step", "finish", "take", "take_async"]

Measure = Callable[[Any], bytes]
ENVELOPE = 32
"""Bytes that an item takes beside its own, if it is sent by itself: at least what the message around it takes."""

Step = Any
"""What the ``__anext__`` of an async generator returns, after its first ``send``."""


def take(source: Iterator[Any], values: list[Any], n: int, room: int, measure: Measure) -> bool:
    """Append up to ``n`` items of ``source`` to ``values``. Return False if it has ended.

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
    count = before = len(values)
    for value in islice(source, n):
        count += 1
        values.append(value)
        try:
            room -= len(measure(value)) + ENVELOPE
        except Exception:  # the item is sent by itself then, and raises its error there if it cannot be encoded at all
            return True
        if room <= 0 or len(values) < count:
            return True
    return count - before == n


def take_async(
    source: AsyncGenerator[Any, None], values: list[Any], n: int, room: int, measure: Measure
) -> bool | tuple[Step, Any]:
    """Append up to ``n`` items of ``source`` to ``values``, as far as they come without waiting. See `take`.

    Returns:
        False if it has ended. If a step waits: the step and what it waits for, for `finish`. Else True.

    What ``source`` raises is raised here. ``values`` then has the items before.
    """
    advance = source.__anext__
    for count in range(len(values) + 1, len(values) + n + 1):
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
        try:
            room -= len(measure(value)) + ENVELOPE
        except Exception:  # as in `take`
            return True
        if room <= 0 or len(values) < count:
            return True
    return True


@types.coroutine
def finish(step: Step, waits_for: Any, error: BaseException | None = None) -> Generator[Any, Any, Any]:
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
