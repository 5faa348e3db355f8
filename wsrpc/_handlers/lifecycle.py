"""The states of a peer, and the handlers that are told about them."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from enum import Enum
from functools import partial
from typing import Any

from .._base.scheduler import Scheduler, Timer
from .context import CURRENT, Invocation
from .registry import Registry

__all__ = [
    "TRANSITIONS",
    "Closers",
    "Opening",
    "Stage",
    "State",
    "Unfinished",
    "abandon",
    "call_handler",
    "finish_all",
    "fire",
    "move",
    "name_of",
]


class State(Enum):
    """What a peer can be."""

    DISCONNECTED = "disconnected"
    OPENING = "opening"
    """Connected; `open` and `on_reconnect` handlers run, and what arrives meanwhile is held back."""
    OPEN = "open"
    CLOSING = "closing"
    """A Close frame is on its way, ours or one that answers a violation."""


TRANSITIONS: dict[State, frozenset[State]] = {
    State.DISCONNECTED: frozenset({State.OPENING}),
    State.OPENING: frozenset({State.OPEN, State.CLOSING, State.DISCONNECTED}),
    State.OPEN: frozenset({State.CLOSING, State.DISCONNECTED}),
    State.CLOSING: frozenset({State.DISCONNECTED}),
}


def move(current: State, new: State) -> State:
    """``new``, if one may go there from ``current``."""
    if new not in TRANSITIONS[current]:
        raise AssertionError(f"a peer cannot go from {current.value} to {new.value}")
    return new


Unfinished = tuple[str, str, Awaitable[Any]]
"""Event, handler's name and what its call returned."""

Raised = Callable[[str, str, BaseException], None]


def fire(
    registries: tuple[Registry, ...],
    names: tuple[str, ...],
    args: tuple[object, ...],
    raised: Raised,
    context: contextvars.Context,
) -> list[Unfinished]:
    """Call the handlers of a lifecycle event and of its alias, in ``context``; return those that have more to do.

    Each registry may have one of each, and all are called, the server's first: a server's bookkeeping must not be
    bypassed because a peer has a handler of its own.
    """
    unfinished: list[Unfinished] = []
    for name in names:
        for registry in registries:
            taken = registry.take_lifecycle(name)
            if taken is not None:
                unfinished += call_handler(name, taken.function, args[: taken.accepted], raised, context)
    return unfinished


def name_of(handler: Callable[..., Any]) -> str:
    """What the log calls a handler."""
    name: str = getattr(handler, "__qualname__", repr(handler))
    return name


def call_handler(
    event: str,
    handler: Callable[..., Any],
    args: tuple[object, ...],
    raised: Raised,
    context: contextvars.Context,
) -> list[Unfinished]:
    """Call one handler; the list is empty if that was all, else what is to be awaited."""
    label = name_of(handler)
    try:
        result = context.run(handler, *args)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:
        raised(event, label, exc)
        return []
    return [(event, label, result)] if inspect.isawaitable(result) else []


async def finish_all(unfinished: list[Unfinished], raised: Raised) -> None:
    """Await what `fire` returned, one after another."""
    try:
        while unfinished:
            name, label, awaitable = unfinished[0]
            try:
                await awaitable
            except BaseException as exc:
                if ends_the_task(exc):
                    raise
                raised(name, label, exc)
            unfinished.pop(0)
    finally:
        abandon(unfinished)


def ends_the_task(exc: BaseException) -> bool:
    """Whether what a user's code has let through is no failure of its own: this task is cancelled, or all ends.

    A CancelledError may also be that of something else that it has waited for.
    """
    if isinstance(exc, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and bool(task.cancelling())
    return isinstance(exc, (KeyboardInterrupt, SystemExit, GeneratorExit))


def abandon(unfinished: list[Unfinished]) -> None:
    """Close coroutines that nobody will await any more, before Python complains about them."""
    for _, _, awaitable in unfinished:
        if inspect.iscoroutine(awaitable):
            awaitable.close()
    unfinished.clear()


class Closers:
    """The tasks that wait for a close. Nothing waits for them: a handler may be one, and ends by the close."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any] | None] = set()
        self._contexts: set[Invocation | None] = set()
        self._added: asyncio.Future[None] | None = None

    def add_current(self) -> None:
        """The current task is one from now on, with the handler that started it; `wait_besides` looks again."""
        self._tasks.add(asyncio.current_task())
        # asyncio.wait_for, for one, may put a task between the handler and its close.
        self._contexts.add(CURRENT.get(None))
        if self._added is not None and not self._added.done():
            self._added.set_result(None)

    def cover(self, task: asyncio.Task[Any], ctx: Invocation | None) -> bool:
        """Whether ``task``, which handles ``ctx``, waits for a close."""
        return task in self._tasks or (ctx is not None and ctx in self._contexts)

    async def wait_besides(self, tasks: set[asyncio.Task[Any]], timeout: float | None) -> set[asyncio.Task[Any]]:
        """Wait for ``tasks``, until one more closer comes, or ``timeout`` seconds; returns those that are late."""
        if self._added is None or self._added.done():
            self._added = asyncio.get_running_loop().create_future()  # one for all that wait
        everything = asyncio.ensure_future(asyncio.wait(tasks, timeout=timeout))
        try:
            either: set[asyncio.Future[Any]] = {everything, self._added}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return everything.result()[1] if everything.done() else set()
        finally:
            everything.cancel()


Stage = tuple[contextvars.Context, list[Unfinished]]
"""Handlers that have more to do, and the context in which they do it."""


class Opening:
    """The time during which `open` handlers run, and after them `on_reconnect` handlers.

    Each of these two stages lasts at most ``patience`` seconds; a handler that takes longer runs on, and ``overdue`` is
    called with the event and the handlers' names. ``done`` is called once, at the end of the last stage.

    Args:
        first: the first stage.
        then: gives the second stage when the first one is over; None if there is none.
        keep: called with each stage's task, in the stage's context.
    """

    task: asyncio.Task[None]
    """Runs the handlers of the present stage."""

    def __init__(
        self,
        first: Stage,
        then: Callable[[], Stage | None],
        *,
        loop: Scheduler,
        patience: float,
        keep: Callable[[asyncio.Task[None]], None],
        done: Callable[[], None],
        overdue: Callable[[str, str], None],
        raised: Raised,
    ) -> None:
        self._stage = first
        self._then: Callable[[], Stage | None] | None = then
        self._loop = loop
        self._patience = patience
        self._keep = keep
        self._done = done
        self._overdue = overdue
        self._raised = raised
        self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []
        self._timer: Timer | None = None
        self._over: asyncio.Future[None] = loop.create_future()

    def start(self) -> None:
        """Run the present stage's handlers.

        Call it when the peer knows of this object: where a task's first step runs at once, a handler may end the
        connection in it.
        """
        context, unfinished = self._stage
        self._timer = self._loop.call_at(self._loop.time() + self._patience, self._late)
        self.task = task = context.run(self._loop.spawn, finish_all(unfinished, self._raised))
        self._tasks.append(task)
        context.run(self._keep, task)
        task.add_done_callback(partial(self._finished, unfinished))
        if self._stopped:
            self._stop()

    def connection_lost(self, *, user_closed: bool) -> None:
        """The connection is gone: stop the handlers and let whoever waits go on.

        Where this side closed it, a handler may be the one that did, so they are left to finish.
        """
        if not user_closed:
            self._stop()
        self._end()

    def _stop(self) -> None:
        self._stopped = True
        for task in self._tasks:
            task.cancel("the connection ended")

    async def wait(self) -> None:
        await asyncio.shield(self._over)

    def _finished(self, unfinished: list[Unfinished], task: asyncio.Task[None]) -> None:
        abandon(unfinished)  # if it was cancelled before its first step
        if unfinished is self._stage[1]:  # else that stage was overdue
            self._go_on()

    def _late(self) -> None:
        _, unfinished = self._stage
        if unfinished and not self._over.done():
            self._overdue(unfinished[0][0], ", ".join(label for _, label, _ in unfinished))
            self._go_on()

    def _go_on(self) -> None:
        """The present stage is over."""
        if self._over.done():
            return
        then, self._then = self._then, None
        stage = None if then is None else then()
        if stage is None:
            self._end()
            self._done()
            return
        if self._timer is not None:
            self._timer.cancel()
        self._stage = stage
        self.start()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._over.done():
            self._over.set_result(None)
