"""`Scheduler`: the services of an event loop that the core needs."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

EAGER = sys.version_info >= (3, 12)
"""Whether a task can run the first step of its coroutine at once."""


def spawn_later(coroutine: Coroutine[Any, Any, T], context: contextvars.Context | None = None) -> asyncio.Task[T]:
    """Create a task whose first step runs in the next turn of the event loop.

    For tasks that the caller has to hold before they run: with `asyncio.eager_task_factory` the loop's own
    `create_task` takes the first step at once.
    """
    return asyncio.Task(coroutine, loop=asyncio.get_running_loop(), context=context)


class Timer(Protocol):
    """Call that `Scheduler.call_at` has scheduled."""

    def cancel(self) -> None: ...


class Timers(Protocol):
    """The time and the timers of an event loop."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer: ...


class Scheduler(Timers, Protocol):
    """The services of an event loop. `LoopScheduler` provides them."""

    def call_soon(self, callback: Callable[[], object], /) -> None:
        """Schedule ``callback`` for the next turn. May be called in any thread."""

    def create_future(self) -> asyncio.Future[Any]: ...

    def spawn(
        self, coroutine: Coroutine[Any, Any, None], /, context: contextvars.Context | None = None
    ) -> asyncio.Task[None]:
        """Run ``coroutine`` in a task, within ``context`` itself. None: within a copy of the present one.

        The task factory of the loop is not called. The task's first step runs within this call from Python 3.12 on,
        before that in the next turn.
        """
        ...


Spawn = Callable[..., asyncio.Task[None]]
"""`Scheduler.spawn`."""


def _spawn_in(loop: asyncio.AbstractEventLoop) -> Spawn:
    """Return `Scheduler.spawn` for ``loop``. A function, because a `partial` takes longer to pass keywords on."""
    # Not by the task factory of the loop: it may wrap the coroutine, although `Dispatcher` has begun to run it.
    make_task = asyncio.Task
    # Python's version is checked here, because a check for each task would slow down async requests measurably.
    if sys.version_info >= (3, 12):

        def spawn(
            coroutine: Coroutine[Any, Any, None], /, context: contextvars.Context | None = None
        ) -> asyncio.Task[None]:
            # The task runs its first step at once, so a coroutine that does not wait needs no turn of the event loop.
            return make_task(coroutine, loop=loop, context=context, eager_start=True)

    else:

        def spawn(
            coroutine: Coroutine[Any, Any, None], /, context: contextvars.Context | None = None
        ) -> asyncio.Task[None]:
            return make_task(coroutine, loop=loop, context=context)

    return spawn


class LoopScheduler:
    """The services of the running event loop.

    It is made without a loop, because clients and their handlers are made before one runs. `renew` binds it to the loop
    that runs now; the first use does the same.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        # `renew` sets these four attributes.
        self.time: Callable[[], float]
        self.call_at: Callable[[float, Callable[[], object]], Timer]
        self.create_future: Callable[[], asyncio.Future[Any]]
        self.spawn: Spawn

    def __getattr__(self, name: str) -> Any:
        """Bind this object to the running event loop on the first use."""
        if name not in ("time", "call_at", "create_future", "spawn"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        self.renew()
        return vars(self)[name]

    @property
    def is_elsewhere(self) -> bool:
        """Whether this object is bound to another event loop than the running one."""
        return self._loop is not None and self._loop is not asyncio.get_running_loop()

    @property
    def is_here(self) -> bool:
        """Whether its event loop runs in this thread."""
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    @property
    def is_running(self) -> bool:
        """Whether its event loop runs, in any thread."""
        return self._loop is not None and self._loop.is_running()

    @property
    def has_ended(self) -> bool:
        """Whether its event loop is closed."""
        return self._loop is not None and self._loop.is_closed()

    def renew(self) -> bool:
        """Bind this object to the running event loop. Return whether this is another event loop than before."""
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return False
        self._loop = loop
        # asyncio's method only calls this function, and each message reads the time.
        is_asyncio = getattr(loop.time, "__func__", None) is asyncio.BaseEventLoop.time
        self.time = time.monotonic if is_asyncio else loop.time
        # Otherwise a timer would refer to the handler that started it, even after it was cancelled.
        self.call_at = partial(loop.call_at, context=contextvars.copy_context())
        self.create_future = partial(asyncio.Future, loop=loop)
        self.spawn = _spawn_in(loop)
        return True

    def call_soon(self, callback: Callable[[], object]) -> None:
        loop = self._loop or asyncio.get_running_loop()
        if loop.is_closed():
            return  # everything that ran in it has ended, too
        (loop.call_soon if self.is_here else loop.call_soon_threadsafe)(callback)


class Tasks:
    """The running tasks of one object. (asyncio has only weak references to tasks.)"""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Run a coroutine in a task."""
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def wait(self) -> None:
        """Wait until the tasks have ended, even if they raise exceptions. Cancelling the wait cancels the tasks."""
        await asyncio.gather(*self._running, return_exceptions=True)

    def stop(self) -> None:
        """Cancel the tasks."""
        for task in self._running:
            task.cancel()

    async def cancel(self) -> None:
        """Cancel the tasks, and wait until they have ended."""
        self.stop()
        await self.wait()
