"""The states of a peer, and the handlers that are told about them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from enum import Enum
from typing import Any

from ._context import CURRENT, Context
from ._registry import Registry
from ._scheduler import Scheduler, Timer

__all__ = [
    "TRANSITIONS",
    "Opening",
    "State",
    "Unfinished",
    "acting_in",
    "call_handler",
    "finish_all",
    "fire",
    "move",
]


class State(Enum):
    """What a peer can be."""

    DISCONNECTED = "disconnected"
    OPENING = "opening"
    """Connected; `open` handlers run, and what arrives meanwhile is held back."""
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
    registries: tuple[Registry, ...], names: tuple[str, ...], args: tuple[object, ...], raised: Raised
) -> list[Unfinished]:
    """Call the handlers of a lifecycle event and of its alias; return those that have more to do.

    Each registry may have one of each, and all are called, the server's first: a server's bookkeeping must not be
    bypassed because a peer has a handler of its own.
    """
    unfinished: list[Unfinished] = []
    for name in names:
        for registry in registries:
            taken = registry.take_lifecycle(name)
            if taken is None:
                continue
            unfinished += call_handler(name, taken.function, args[: taken.accepted], raised)
    return unfinished


def call_handler(event: str, handler: Callable[..., Any], args: tuple[object, ...], raised: Raised) -> list[Unfinished]:
    """Call one handler; the list is empty if that was all, else what is to be awaited."""
    label = getattr(handler, "__qualname__", repr(handler))
    try:
        result = handler(*args)
    except Exception as exc:
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
            except Exception as exc:
                raised(name, label, exc)
            unfinished.pop(0)
    finally:
        abandon(unfinished)


def abandon(unfinished: list[Unfinished]) -> None:
    """Close coroutines that nobody will await any more, before Python complains about them."""
    for _, _, awaitable in unfinished:
        if inspect.iscoroutine(awaitable):
            awaitable.close()
    unfinished.clear()


@contextmanager
def acting_in(ctx: Context) -> Generator[None, None, None]:
    """Make ``ctx`` the current context."""
    token = CURRENT.set(ctx)
    try:
        yield
    finally:
        CURRENT.reset(token)


class Opening:
    """The time during which `open` handlers run; ``done`` is called once, when they are finished or overdue."""

    def __init__(
        self,
        unfinished: list[Unfinished],
        *,
        loop: Scheduler,
        patience: float,
        done: Callable[[], None],
        overdue: Callable[[str], None],
        raised: Raised,
    ) -> None:
        self._unfinished = unfinished
        self._done = done
        self._overdue = overdue
        self._over: asyncio.Future[None] = loop.create_future()
        self._timer: Timer = loop.call_at(loop.time() + patience, self._late)
        self._task = loop.spawn(finish_all(unfinished, raised))
        self._task.add_done_callback(self._finished)

    @property
    def task(self) -> asyncio.Task[None]:
        return self._task

    def connection_lost(self, *, user_closed: bool) -> None:
        """The connection is gone: stop the handlers and let whoever waits go on.

        Where this side closed it, a handler may be the one that did, so they are left to finish.
        """
        self._timer.cancel()
        if not user_closed:
            self._task.cancel("the connection ended")
        self._end()

    async def wait(self) -> None:
        await asyncio.shield(self._over)

    def _finished(self, task: asyncio.Task[None]) -> None:
        abandon(self._unfinished)  # if it was cancelled before its first step
        if not self._over.done():
            self._timer.cancel()
            self._end()
            self._done()

    def _late(self) -> None:
        if not self._over.done():
            self._overdue(", ".join(label for _, label, _ in self._unfinished))
            self._end()
            self._done()

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)
