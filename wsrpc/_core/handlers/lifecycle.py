"""Calls the handlers of lifecycle events (`open`, `close`, `error`, `message`) and of hooks such as `on_detach`."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, TypeVar
from weakref import ref

from ..._base.logs import PeerLog
from ..._base.scheduler import Scheduler
from ..session.peer_owner import Unfinished
from ..wire.messages import WireMessage
from .callables import name_of
from .invocation import CURRENT, Invocation
from .layers import close_unawaited
from .registry import Registry

NAMES = {"open": ("open", "connect"), "close": ("close", "disconnect")}
"""The names under which handlers of a lifecycle event may be registered, if there are several."""

Notification = tuple[str, Callable[[], asyncio.Future[None] | None]]
"""The name of a lifecycle event, and the function that calls its handlers. The function returns a future that is done
when the handlers have finished, or None if they have finished already."""

Raised = Callable[[str, str, BaseException], None]

F = TypeVar("F", bound=asyncio.Future[Any])


def ends_the_task(exc: BaseException) -> bool:
    """Whether an exception from user code ends the task, because the task is cancelled or the program ends.

    A CancelledError may also be from a future that the code has awaited. It is then an ordinary failure.
    """
    if isinstance(exc, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and bool(task.cancelling())
    return isinstance(exc, (KeyboardInterrupt, SystemExit, GeneratorExit))


class Stage:
    """Handlers that are called together, in one context. A stage keeps the handlers that have not finished yet.

    Args:
        invocation: the current invocation of the handlers.
        raised: called with the event, the name of a handler and the exception that it has raised.
        unfinished: handlers that were called already.
    """

    __slots__ = ("_raised", "context", "unfinished")

    def __init__(self, invocation: Invocation, raised: Raised, unfinished: Iterable[Unfinished] = ()) -> None:
        self.context = contextvars.copy_context()
        self.context.run(CURRENT.set, invocation)
        self._raised = raised
        self.unfinished = list(unfinished)

    def fire(self, registries: tuple[Registry, ...], event: str, args: tuple[object, ...]) -> None:
        """Call the handlers of a lifecycle event, those of its own name first.

        Each registry may have one handler of each name. All of them are called, the server's first: a peer's own
        handler must not bypass the bookkeeping of its server.

        The functions of a hook of that name are called one after another, the first function now. If a function takes
        time, the functions after it are called in `complete`.
        """
        for name in NAMES.get(event, (event,)):
            for registry in registries:
                taken = registry.pop_lifecycle(name) if registry.lifecycle else None
                if taken is not None:
                    self.call(name, taken.function, args[: taken.accepted])
                for hook in registry.hooks.get(name, ()):
                    given = args[: hook.accepted]
                    if self.unfinished:
                        self.unfinished.append((name, name_of(hook.function), attempted(hook.function, *given)))
                    else:
                        self.call(name, hook.function, given)

    def call(self, event: str, handler: Callable[..., Any], args: tuple[object, ...]) -> None:
        """Call one handler."""
        label = name_of(handler)
        try:
            result = self.context.run(handler, *args)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            self._raised(event, label, exc)
        else:
            if inspect.isawaitable(result):
                self.unfinished.append((event, label, result))

    async def complete(self) -> None:
        """Await the handlers that are not finished, one after another."""
        try:
            while self.unfinished:
                event, label, awaitable = self.unfinished[0]
                try:
                    await awaitable
                except BaseException as exc:
                    if ends_the_task(exc):
                        raise
                    self._raised(event, label, exc)
                self.unfinished.pop(0)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the coroutines that nobody will await any more, so that Python does not warn about them."""
        for _, _, awaitable in self.unfinished:
            close_unawaited(awaitable)
        self.unfinished.clear()


async def attempted(function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
    """Call a user's function, sync or async, and return its result.

    Raises:
        Exception: the function has failed, also if it has raised something else.
        BaseException: the task is cancelled, or the program ends.
    """
    try:
        value = function(*args, **options)
        return await value if inspect.isawaitable(value) else value
    except BaseException as exc:
        if isinstance(exc, Exception) or ends_the_task(exc):
            raise
        # Only something inside the function was cancelled, for example. It would end the task of the caller.
        raise RuntimeError(f"{name_of(function)} raised {exc!r}") from exc


class Closers:
    """The tasks that wait for a close, for example the task of a handler that closes the connection.

    The close waits for all other handlers. It does not wait for these tasks, which wait for the close.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any] | None] = set()
        self._invocations: set[Invocation | None] = set()
        self._added: asyncio.Future[None] | None = None

    def add_current(self) -> None:
        """Add the current task and the handler that started it, and end the wait of `wait_for_others`."""
        self._tasks.add(asyncio.current_task())
        # There may be a task between the handler and its close: asyncio.wait_for makes one.
        self._invocations.add(CURRENT.get(None))
        if self._added is not None and not self._added.done():
            self._added.set_result(None)

    def cover(self, task: asyncio.Task[Any], invocation: Invocation | None) -> bool:
        """Return whether ``task``, which runs the handler of ``invocation``, waits for a close."""
        return task in self._tasks or (invocation is not None and invocation in self._invocations)

    async def wait_for_others(self, tasks: set[F], timeout: float | None) -> set[F]:
        """Wait until ``tasks`` have ended, another task is added here, or ``timeout`` seconds have passed.

        Return the tasks that still run after ``timeout``; an empty set in the other cases.
        """
        if self._added is None or self._added.done():
            self._added = asyncio.get_running_loop().create_future()  # shared by all calls that wait
        everything = asyncio.ensure_future(asyncio.wait(tasks, timeout=timeout))
        try:
            either: set[asyncio.Future[Any]] = {everything, self._added}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return everything.result()[1] if everything.done() else set()
        finally:
            everything.cancel()


class Reporter:
    """Calls the lifecycle handlers of one peer, and keeps the tasks of handlers that are coroutines.

    Exceptions of handlers are logged. Handlers are called in the order of ``registries``.

    With these handlers, applications record which users are present. So the notifications of one session, from its
    first drop to its `close` handlers, are made in order: each waits until the earlier handlers have finished.
    """

    __slots__ = ("log", "loop", "notifications", "peer", "registries", "running")

    def __init__(self, peer: Any, registries: tuple[Registry, ...], loop: Scheduler, log: PeerLog) -> None:
        self.peer: Callable[[], Any] = ref(peer)
        """Returns the object that users hold, which refers to this object."""
        self.registries = registries
        self.loop = loop
        self.log = log
        self.running: dict[asyncio.Task[None], Invocation | None] = {}
        """Tasks besides those of requests and events, each with the handler that started it."""
        self.notifications: tuple[Notification, ...] = ()
        """The notifications whose handlers have not finished, the present one first."""

    def notify(self, event: str, argument: object) -> asyncio.Task[None] | None:
        """Call the handlers of a lifecycle event with the peer and ``argument``. Return the task of those not done."""
        if not [registry for registry in self.registries if registry.lifecycle]:
            return None  # most peers have no such handlers
        return self._fire(event, (self.peer(), argument))

    def _fire(self, event: str, args: tuple[object, ...]) -> asyncio.Task[None] | None:
        stage = self._stage(event)
        stage.fire(self.registries, event, args)
        return self._complete(stage)

    def call(self, event: str, function: Callable[..., Any], /, *args: object) -> asyncio.Task[None] | None:
        """Call a user's function, sync or async, as a lifecycle handler. Return its task if it takes time."""
        stage = self._stage(event)
        stage.call(event, function, args)
        return self._complete(stage)

    def notify_hooks(self, name: str, args: tuple[object, ...], opening: asyncio.Future[None] | None = None) -> None:
        """Call the functions of a hook after the notifications before. If ``opening`` is passed, wait for it, too."""
        if opening is not None and not self.notifications:
            self.notify_in_order("open", lambda: opening)
        self.notify_in_order(name, lambda: self._fire(name, args))

    def _stage(self, event: str) -> Stage:
        return Stage(Invocation(self.peer(), WireMessage(a=[event])), self.failed)

    def _complete(self, stage: Stage) -> asyncio.Task[None] | None:
        if not stage.unfinished:
            return None
        task = stage.context.run(self.spawn, stage.complete())
        task.add_done_callback(lambda _: stage.abandon())  # if it is cancelled before its first step
        return task

    def failed(self, event: str, name: str, exc: BaseException) -> None:
        """Log that a handler raised ``exc``."""
        self.log(logging.ERROR, "the handler of %r, %s, failed", event, name, exc_info=exc)

    # ------------------------------------------------------------ notifications in order

    def notify_in_order(self, what: str, notify: Callable[[], asyncio.Future[None] | None]) -> None:
        """Call ``notify`` when the handlers of all notifications before have finished.

        If a session drops again before its resume was notified, neither the resume nor the drop is notified. Otherwise
        more and more notifications could wait for a client with a bad connection. The notification of a resume waits
        for the client's `open` handlers, so it may not be in the list yet.
        """
        before = self.notifications
        if what == "on_detach" and len(before) > 1:
            self.notifications = before if before[-1][0] == "on_detach" else before[:-1]
            return
        self.notifications = (*before, (what, notify))
        if not before:
            self._start_notification()

    def notify_now(self) -> None:
        """Make all waiting notifications now."""
        waiting, self.notifications = self.notifications[1:], ()
        for _, notify in waiting:
            notify()

    def _start_notification(self) -> None:
        notification = self.notifications[0]
        unfinished = notification[1]()
        if unfinished is None:
            self._notification_over(notification)
        else:
            patience: float = self.peer().limits.open_timeout
            overdue = self.loop.call_at(
                self.loop.time() + patience, partial(self._notification_overdue, notification, patience)
            )
            unfinished.add_done_callback(lambda _: overdue.cancel())
            unfinished.add_done_callback(lambda _: self._notification_over(notification))

    def _notification_overdue(self, notification: Notification, patience: float) -> None:
        if len(self.notifications) > 1 and self.notifications[0] is notification:
            text = (
                "the handlers of %r have not finished within Limits.open_timeout=%g s, so others are called meanwhile"
            )
            self.log(logging.WARNING, text, notification[0], patience)
        self._notification_over(notification)

    def _notification_over(self, notification: Notification) -> None:
        if self.notifications and self.notifications[0] is notification:  # else it was overdue, or `notify_now` ran
            self.notifications = self.notifications[1:]
            if self.notifications:
                self._start_notification()

    # ------------------------------------------------------------ tasks

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``coroutine`` in a task that the owner of the peer waits for before it ends."""
        task = self.loop.spawn(coroutine)
        self.keep(task)
        return task

    def keep(self, task: asyncio.Task[None]) -> None:
        """Make the owner of the peer wait for ``task`` before it ends."""
        if not task.done():
            self.running[task] = CURRENT.get(None)
            task.add_done_callback(lambda task: self.running.pop(task, None))

    def tasks(self, closers: Closers) -> set[asyncio.Task[None]]:
        """Return the running tasks that do not wait for a close."""
        return {task for task, started_by in self.running.items() if not closers.cover(task, started_by)}
