"""Threads for functions that may block: handlers, and the sources of uploads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

Job = tuple[Future[Any], Callable[[], Any]]
"""A function to run in a thread, and the future that gets its result."""

P = ParamSpec("P")
T = TypeVar("T")


class Workers(ThreadPoolExecutor):
    """Executor whose threads are daemons: a function that blocks without end does not keep the program from ending.

    It starts a thread for each function that finds none idle. `Limits.running` bounds how many handlers run. (It is a
    ThreadPoolExecutor because an event loop takes nothing else as its default executor.)
    """

    def __init__(self, name: str) -> None:
        super().__init__(1)
        self._name = name
        self._guard = threading.Lock()
        self._idle: list[Worker] = []
        """The idle threads. The thread that became idle last gets the next function."""
        self._ended = False

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        with self._guard:
            if self._ended:
                raise RuntimeError("the client was closed")
            worker = self._idle.pop() if self._idle else Worker(f"{self._name} worker", self._is_idle)
            worker.jobs.put((future, partial(function, *args, **kwargs)))
        return future

    def _is_idle(self, worker: Worker) -> None:
        with self._guard:
            if self._ended:
                worker.jobs.put(None)
            else:
                self._idle.append(worker)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End each thread when its function has returned. Wait only for idle threads."""
        with self._guard:
            self._ended = True
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.jobs.put(None)
        for worker in idle:
            worker.join()


class Worker(threading.Thread):
    """Thread that runs one function after another, from its construction on.

    Args:
        is_idle: is called with this object when a function has returned.
    """

    def __init__(self, name: str, is_idle: Callable[[Worker], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._is_idle = is_idle
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()
        """At most two functions: the next may be added while the last returns its result. None ends the thread."""
        self.start()

    def run(self) -> None:
        while (job := self.jobs.get()) is not None:
            self._do(*job)
            del job  # otherwise it would live until the next function

    def _do(self, future: Future[Any], function: Callable[[], Any]) -> None:
        error = result = None
        runs = future.set_running_or_notify_cancel()
        if runs:
            try:
                result = function()
            except BaseException as exc:
                error = exc
        # The thread becomes idle before the result is known, so that code which acts on the result can use the thread.
        self._is_idle(self)
        if error is not None:
            future.set_exception(without_exit(error))
        elif runs:
            future.set_result(result)


def without_exit(error: BaseException) -> BaseException:
    """Return what a function has raised in a thread: a RuntimeError for SystemExit and KeyboardInterrupt.

    An event loop takes these two for the end of the program, and stops. But ``sys.exit()`` in a thread does not end the
    program.
    """
    if not isinstance(error, (SystemExit, KeyboardInterrupt)):
        return error
    made = RuntimeError(f"{error!r} was raised in a thread of wsrpc.blocking, where it does not end the program")
    made.__cause__ = error
    return made
