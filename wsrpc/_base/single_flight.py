"""`SingleFlight`: several callers that want the same thing at the same time share one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """The calls that are being made, by what they are for.

    Args:
        spawn: runs a call in a task.
    """

    def __init__(self, spawn: Callable[[Coroutine[Any, Any, T]], asyncio.Task[T]]) -> None:
        self._spawn = spawn
        self._flights: dict[Hashable, tuple[asyncio.Task[T], set[object]]] = {}
        """Each with its callers."""

    async def do(self, name: Hashable, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Make a call, or wait for the one that others have begun. Cancelling the last caller cancels the call."""
        caller = object()
        if (flight := self._flights.get(name)) is None:
            flight = self._flights[name] = self._spawn(call()), set()
        task, callers = flight
        callers.add(caller)
        try:
            return await asyncio.shield(task)
        finally:
            callers.remove(caller)
            if self._flights.get(name) is flight and (task.done() or not callers):
                del self._flights[name]
                task.cancel()  # has no effect on a task that is done
