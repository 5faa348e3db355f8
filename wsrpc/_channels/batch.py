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

    The code of ``source`` may send something, which removes from ``values`` the items before. No further items are
    taken then, because there may be no more room for them, and what ``source`` sends next must not overtake them.

    What ``source`` raises is raised here. ``values`` then has the items before.
    """
    count = 0
    for value in islice(source, n):
        values.append(value)
        count += 1
        if len(values) < count:
            return True
    return count == n


def take_async(source: AsyncGenerator[Any, None], values: list[Any], n: int) -> tuple[Step, Any] | None:
    """Append the next ``n`` items of ``source`` to ``values``, as far as they come without waiting.

    Fewer if ``source`` sends something; see `take`.

    Returns:
        The step that waits, and what it waits for, for `finish`. None if no step waits.

    Raises:
        StopAsyncIteration: it has ended.
        Exception: whatever ``source`` raises. ``values`` then has the items before.
    """
    advance = source.__anext__
    for count in range(1, n + 1):
        step: Any = advance()
        try:
            waits_for = step.send(None)
        except StopIteration as exc:  # how a coroutine returns
            values.append(exc.value)
            if len(values) < count:
                return None
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
