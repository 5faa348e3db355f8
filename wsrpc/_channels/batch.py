"""Steps of a source that are taken one right after the other, so that their items can be sent together."""

from __future__ import annotations

import types
from collections.abc import AsyncGenerator, Generator, Iterator
from itertools import islice
from typing import Any

__all__ = ["Step", "finish", "take", "take_async"]

Step = Any
"""What the ``__anext__`` of an async generator returns, after its first ``send``."""


def take(source: Iterator[Any], values: list[Any], n: int) -> bool:
    """Append the next ``n`` items of ``source`` to ``values``. Return False if it has ended.

    The code of ``source`` may empty ``values`` meanwhile, because what it sends leaves after the items before. So they
    are counted here, and not by the length of ``values``.

    What ``source`` raises is raised here. ``values`` then has the items before.
    """
    count = 0
    for value in islice(source, n):
        values.append(value)
        count += 1
    return count == n


def take_async(source: AsyncGenerator[Any, None], values: list[Any], n: int) -> tuple[Step, Any] | None:
    """Append the next ``n`` items of ``source`` to ``values``, as far as they come without waiting.

    Returns:
        The step that waits, and what it waits for, for `finish`. None if no step waits.

    Raises:
        StopAsyncIteration: it has ended.
        Exception: whatever ``source`` raises. ``values`` then has the items before.
    """
    advance = source.__anext__
    for _ in range(n):
        step: Any = advance()
        try:
            waits_for = step.send(None)
        except StopIteration as exc:  # how a coroutine returns
            values.append(exc.value)
        else:
            return step, waits_for
    return None


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
