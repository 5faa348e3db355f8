"""Task factories that applications set: each runs a task's first step at another time, or within another coroutine."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

import pytest

Task = asyncio.Task[Any]


def wraps(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any) -> Task:
    """Await the coroutine within another one, as tracing does."""

    async def wrapped() -> Any:
        return await coroutine

    return asyncio.Task(wrapped(), loop=loop, **options)


def delays(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any) -> Task:
    """Begin a turn of the event loop later."""

    async def delayed() -> Any:
        try:
            await asyncio.sleep(0)
        except BaseException:
            coroutine.close()
            raise
        return await coroutine

    return asyncio.Task(delayed(), loop=loop, **options)


FACTORIES = [pytest.param(each, id=getattr(each, "__name__", "default")) for each in (None, wraps, delays)]
if sys.version_info >= (3, 12):
    FACTORIES.append(pytest.param(asyncio.eager_task_factory, id="eager"))
