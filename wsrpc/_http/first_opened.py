"""`first_opened`: dials in one way, and then in another one, until a connection is open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ..errors import named
from ..transport import Transport

T = TypeVar("T", bound=Transport)


async def first_opened(
    first: Callable[[], Awaitable[T]],
    second: Callable[[], Awaitable[T]],
    patience: float | None,
    may_follow: Callable[[BaseException], bool] = lambda error: False,
    is_final: Callable[[BaseException], bool] = lambda error: False,
) -> tuple[T, BaseException | None]:
    """Return the connection that opens first, and the exception of ``first``, if it has failed. Cancelling is safe.

    Args:
        patience: the seconds after which ``second`` is called, too, if ``first`` is not done. None: not before.
        may_follow: a function that says whether ``second`` is called after an exception of ``first``.
        is_final: a function that says whether the other connection will not open, either, after an exception.

    Raises:
        Exception: that of ``first``, if no connection has opened, or a final one.
    """
    tasks = [asyncio.ensure_future(first())]
    opened: asyncio.Future[T] | None = None
    try:
        await asyncio.wait(tasks, timeout=patience)
        if not tasks[0].done() or ((failure := tasks[0].exception()) is not None and may_follow(failure)):
            tasks.append(asyncio.ensure_future(second()))
        waiting = set(tasks)
        while waiting and opened is None:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            opened = next((task for task in tasks if task in done and task.exception() is None), None)
            failures = [exc for task in done if (exc := task.exception()) is not None]
            if opened is None and (final := next(filter(is_final, failures), None)) is not None:
                raise final
        failure = tasks[0].exception() if tasks[0].done() else None
        if opened is not None:
            return opened.result(), failure
        assert failure is not None
        for text in (named(task.exception() or failure) for task in tasks[1:]):
            if text != named(failure):
                failure.add_note(f"then: {text}")
        raise failure
    finally:
        for task in tasks:
            if task is not opened:
                task.add_done_callback(_drop)
                task.cancel()


def _drop(task: asyncio.Future[Any]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().abort()
