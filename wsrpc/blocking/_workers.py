"""Threads for handlers and for the sources of uploads, all of which may block."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

__all__ = ["Workers"]

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
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._guard = threading.Lock()
        self._all: set[threading.Thread] = set()
        self._idle: set[threading.Thread] = set()
        self._free = 0
        """Number of idle threads, without those for which a job waits already."""
        self._ended = False

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        with self._guard:
            if self._ended:
                raise RuntimeError("the client was closed")
            self._jobs.put(partial(_run, future, partial(function, *args, **kwargs)))
            if self._free:
                self._free -= 1
            else:
                thread = threading.Thread(target=self._work, name=f"{self._name} worker", daemon=True)
                self._all.add(thread)
                thread.start()
        return future

    def _work(self) -> None:
        this = threading.current_thread()
        while (job := self._jobs.get()) is not None:
            with self._guard:
                self._idle.discard(this)
            job()
            del job  # or it would live until the next one comes
            with self._guard:
                self._idle.add(this)
                self._free += 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads, each when its function has returned. Wait only for those that are idle."""
        with self._guard:
            self._ended = True
            for _ in self._all:
                self._jobs.put(None)
            idle = [*self._idle]
        for thread in idle:
            thread.join()


def _run(future: Future[Any], function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except BaseException as exc:
        future.set_exception(exc)
    else:
        future.set_result(result)
