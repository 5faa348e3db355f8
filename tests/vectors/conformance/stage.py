"""What everything that a recorded program does has in common: its log, its tasks, and what it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from wsrpc import AnonymousChannel, ChannelClosed

from .values import MISUSE, misuse, observed


class Stage:
    """``outcomes`` collects what the program sees."""

    def __init__(self) -> None:
        self.outcomes: list[dict[str, Any]] = []
        self.errors_with_props = False
        self.anonymous: dict[str, AnonymousChannel] = {}
        """Those that a request opened or a handler made, by the recording's name."""
        self._gates: dict[str, asyncio.Semaphore] = {}
        self._deferred: dict[str, asyncio.Future[Any]] = {}
        """The latest of each name; handlers that nobody settles wait for the others."""
        self._futures: list[asyncio.Future[Any]] = []
        self._waiting: dict[str, asyncio.Task[Any]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._over = False

    def log(self, kind: str, **fields: Any) -> None:
        if not self._over:
            self.outcomes.append({"type": kind, **fields})

    def gate(self, name: str) -> asyncio.Semaphore:
        return self._gates.setdefault(name, asyncio.Semaphore(0))

    def deferred(self, ref: str) -> asyncio.Future[Any]:
        future = self._deferred[ref] = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        return future

    def do(self, operation: dict[str, Any]) -> None:
        """Do what the recorded program did; what it causes shows when the event loop has run."""
        fields = {key: value for key, value in operation.items() if key != "op"}
        try:
            getattr(self, f"_do_{operation['op']}")(**fields)
        except MISUSE as exc:
            self.log("threw", op=operation["op"], error=misuse(exc))

    async def perform(self, operation: dict[str, Any]) -> None:
        """An operation inside a handler; it has taken effect before the handler goes on."""
        self.do(operation)
        await asyncio.sleep(0)

    def know(self, ref: str, channel: AnonymousChannel) -> None:
        """Remember an anonymous channel, and tell of its end."""
        self.anonymous[ref] = channel
        self.spawn(self._tell_end(ref, channel))

    async def _tell_end(self, ref: str, channel: AnonymousChannel) -> None:
        await channel.wait_closed()
        self.log("channel_closed", channel=ref, reason=observed(channel.close_reason))

    # ------------------------------------------------------------ tasks

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        return task

    def await_result(
        self, ref: str, coroutine: Coroutine[Any, Any, Any], on_misuse: Callable[[Exception], None] | None = None
    ) -> asyncio.Task[Any]:
        """Tell how ``coroutine`` ends: it is what JavaScript has a promise for."""
        task = self._waiting[ref] = self.spawn(coroutine)
        task.add_done_callback(partial(self._settled, ref, on_misuse))
        return task

    def _settled(self, ref: str, on_misuse: Callable[[Exception], None] | None, task: asyncio.Task[Any]) -> None:
        try:
            value = task.result()
        except (asyncio.CancelledError, Exception) as exc:
            if on_misuse is not None and isinstance(exc, MISUSE):
                on_misuse(exc)
            else:
                self.log("rejected", ref=ref, error=observed(exc))
        else:
            if isinstance(value, AnonymousChannel):
                self.know(ref, value)
                value = {"$channel": ref}
            self.log("resolved", ref=ref, value=observed(value))

    def log_pending(self) -> None:
        """Say what is still open, as the recordings do at their end."""
        for ref, task in self._waiting.items():
            if not task.done():
                self.log("pending", ref=ref)

    async def leave(self) -> None:
        """Leave nothing running."""
        self._over = True
        for future in self._futures:
            future.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def was_refused(error: Exception, closed: bool) -> bool:
    """Whether a request was refused here; on a channel that ends later it fails by the same class.

    ``closed``: whether it was closed when it was asked.
    """
    return closed or not isinstance(error, ChannelClosed)
