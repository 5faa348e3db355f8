"""Telling the handlers of `open`, `close`, `error` and `message`, which report on the connection."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from .._base.logs import PeerLog
from .._base.scheduler import Scheduler
from .._protocol.messages import Inbound
from .context import CURRENT, Invocation, in_context
from .lifecycle import Closers, Unfinished, call_handler, finish_all, fire
from .registry import Registry

__all__ = ["Reporter"]


class Reporter:
    """Calls the lifecycle handlers of one peer, and keeps the tasks in which those that are coroutines go on.

    What they raise goes to the log. ``registries`` are asked in that order.
    """

    __slots__ = ("_log", "_loop", "_peer", "registries", "running")

    def __init__(self, peer: Any, registries: tuple[Registry, ...], loop: Scheduler, log: PeerLog) -> None:
        self._peer = peer  # for contexts, which name its class
        self.registries = registries
        self._loop = loop
        self._log = log
        self.running: dict[asyncio.Task[None], Invocation | None] = {}
        """Tasks beside the handlers of requests and events, each with the handler that began it."""

    def tell(self, event: str, argument: object, alias: str | None = None) -> None:
        """Call the handlers of a lifecycle event with the peer and ``argument``."""
        names = (event,) if alias is None else (event, alias)
        context = self.context(event)
        self._finish(fire(self.registries, names, (self._peer, argument), self.failed, context), context)

    def call(self, event: str, function: Callable[..., Any], /, *args: object) -> None:
        """Call a user's function, sync or async, as such a handler."""
        context = self.context(event)
        self._finish(call_handler(event, function, args, self.failed, context), context)

    def context(self, event: str) -> contextvars.Context:
        """A context of its own for the handlers of a lifecycle event."""
        return in_context(Invocation(self._peer, Inbound(a=[event])))

    def failed(self, event: str, name: str, exc: BaseException) -> None:
        """A handler has raised ``exc``."""
        self._log(logging.ERROR, "the handler of %r, %s, failed", event, name, exc_info=exc)

    def _finish(self, unfinished: list[Unfinished], context: contextvars.Context) -> None:
        if unfinished:
            context.run(self.spawn, finish_all(unfinished, self.failed))

    # ------------------------------------------------------------ what goes on in the background

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run ``coroutine`` in a task that is waited for before the peer's owner is done."""
        self.keep(self._loop.spawn(coroutine))

    def keep(self, task: asyncio.Task[None]) -> None:
        """The same for a task that is there."""
        if not task.done():
            self.running[task] = CURRENT.get(None)
            task.add_done_callback(lambda task: self.running.pop(task, None))

    def tasks(self, closers: Closers) -> set[asyncio.Task[None]]:
        """Those that run, besides those of ``closers``."""
        return {task for task, ctx in self.running.items() if not closers.cover(task, ctx)}
