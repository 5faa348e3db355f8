"""Tenacity's strategies as options of `Reconnect` and `Retry`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

from tenacity.asyncio.retry import async_retry_base
from tenacity.retry import retry_base
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from .misuse import check_number

Condition = retry_base | Callable[[BaseException], bool]
"""Decides whether to go on: one of tenacity's retry objects, or a plain function of the exception."""


class _Options(Protocol):
    @property
    def wait(self) -> wait_base | None: ...

    @property
    def stop(self) -> stop_base | None: ...

    @property
    def retry(self) -> Condition | None: ...


def check_strategies(options: _Options, *seconds: str) -> None:
    """Refuse fields that are not strategies. ``seconds`` names the fields that are durations.

    Raises:
        TypeError, ValueError: the text says what was expected and what came.
    """
    owner = type(options).__name__
    for name in seconds:
        check_number(f"{owner}({name}=) is a number of seconds, 0 or more", getattr(options, name), 0)
    for name, kind, such in (("wait", wait_base, "wait_fixed(5)"), ("stop", stop_base, "stop_after_attempt(10)")):
        given = getattr(options, name)
        if given is not None and not isinstance(given, kind):
            raise TypeError(f"{owner}({name}=) takes an object of tenacity, such as {such}; got {given!r}")
    condition: Any = options.retry
    if condition is None or (isinstance(condition, retry_base) and not isinstance(condition, async_retry_base)):
        return
    # A class is callable, too; its instances count as true, and so does the coroutine of an `async def`.
    waits = isinstance(condition, (type, async_retry_base)) or inspect.iscoroutinefunction(condition)
    if waits or not callable(condition):
        raise TypeError(
            f"{owner}(retry=) takes a plain function of the exception, or one of tenacity's retry objects that are not "
            f"async; got {condition!r}"
        )
