"""`Threads`: the threads in which functions that may block run. `ThreadLimit`: how many of them calls may use."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import lru_cache, partial
from queue import Empty, SimpleQueue
from typing import Any

from .scheduler import Timers

IDLE = 5.0
"""Seconds after which an idle thread ends. So bursts of calls that follow each other closely use the same threads."""


def outcome_of(function: Callable[..., object], *args: Any) -> tuple[Any, BaseException | None]:
    """Call a function in a thread, and return what it returns and what it raises.

    (A future does not accept StopIteration, and complains of an exception that nobody retrieves.)
    """
    try:
        return function(*args), None
    except (SystemExit, KeyboardInterrupt) as exc:
        # An event loop takes these two for the end of the program, and stops.
        made = RuntimeError(f"{exc!r} was raised in a thread of wsrpc, where it does not end the program")
        made.__cause__ = exc
        return None, made
    except BaseException as exc:
        return None, exc


def when_over(call: asyncio.Future[Any] | None, then: Callable[[], object]) -> None:
    """Call ``then`` once a call in a thread is over. That of a cancelled handler goes on."""
    if call is None or call.done():
        then()
    else:
        call.add_done_callback(lambda _: then())


def start_without_context(start: Callable[..., object], *args: Any) -> None:
    """Call a function that starts a thread for many users. Free-threaded Python would give it the caller's context.

    The thread would keep all that this refers to, such as the peer of a call.
    """
    contextvars.Context().run(start, *args)


class ThreadLimit:
    """Counts the threads that calls use. A call that would exceed the limit waits, first come, first served.

    Args:
        most: number of threads.
        reached: describes for errors who uses the threads.
        loop: the event loop in which the calls wait.
    """

    def __init__(self, most: int, reached: str, loop: asyncio.AbstractEventLoop) -> None:
        self.reached = f"{most} {reached} (Limits.threads)"
        self.reported = False  # whether it was logged that a call waits, since a thread was free
        self._free, self._loop = most, loop
        self._line: dict[asyncio.Future[None], None] = {}

    def acquire_now(self) -> bool:
        """Count one more thread. Return False if there is none."""
        free = self._free > 0
        self._free -= free
        return free

    async def acquire(self, timers: Timers, until: float, late: Callable[[asyncio.Future[None]], None]) -> None:
        """Count one more thread, when there is one. Cancelling is safe.

        Args:
            until: the time of ``timers`` at which ``late`` is called if the call still waits. It may set the exception
                of the future.
        """
        if self.acquire_now():
            return
        waiting: asyncio.Future[None] = self._loop.create_future()
        self._line[waiting] = None
        timer = timers.call_at(until, partial(late, waiting))
        try:
            await waiting
        except BaseException:
            if waiting not in self._line:  # it has just got a thread
                self.release()
            raise
        finally:
            timer.cancel()
            self._line.pop(waiting, None)

    def release(self) -> None:
        """Count one thread less, or pass it to the call that has waited longest."""
        for waiting in self._line:
            if not waiting.done():
                del self._line[waiting]
                waiting.set_result(None)
                return
        self._free += 1
        self.reported = False


def thread_limits(most: int, whose: str, loop: asyncio.AbstractEventLoop) -> tuple[ThreadLimit, ThreadLimit]:
    """Return a limit for calls, and one of the same size for streams."""
    return ThreadLimit(most, f"handlers {whose} threads", loop), ThreadLimit(most, f"streams {whose} threads", loop)


class Worker(threading.Thread):
    """Thread that runs functions for one user after another. Each user has it alone, until `release`.

    It is a daemon: a function that blocks without end does not keep the program from ending.

    Args:
        idle: where the thread is found while nobody has it. It ends when nobody has taken it for `IDLE` seconds.
    """

    def __init__(self, idle: dict[Worker, None]) -> None:
        super().__init__(name="wsrpc worker", daemon=True)
        self._jobs = SimpleQueue[tuple[Future[Any], Callable[[], Any]]]()
        self._idle = idle
        self._context: contextvars.Context | None = None  # that of the functions; None while it is idle
        self.last: asyncio.Future[Any] | None = None  # that of the last `call`
        self.on_release = ExitStack()  # called when the thread is released, and its functions have returned
        start_without_context(self.start)

    def run(self) -> None:
        while True:
            try:
                future, function = self._jobs.get(timeout=IDLE)
            except Empty:
                if self._idle.pop(self, self) is None:  # it was there, so nobody can take it any more
                    return
                continue
            try:
                future.set_result(function())
            except BaseException as exc:
                future.set_exception(exc)
            del future, function  # otherwise they would live until the next function

    def submit(self, function: Callable[..., object], *args: Any, **named: Any) -> Future[Any]:
        """Call a function after the functions before it."""
        future = Future[Any]()
        future.set_running_or_notify_cancel()
        self._jobs.put((future, partial(function, *args, **named)))
        return future

    def call(self, function: Callable[..., object], *args: Any) -> asyncio.Future[Any]:
        """Submit a function in the context of the first call. Return a future of its `outcome_of`."""
        self._context = self._context or contextvars.copy_context()
        executor: Any = self  # asyncio only submits to it
        last = asyncio.get_running_loop().run_in_executor(executor, outcome_of, self._context.run, function, *args)
        self.last = last
        return last

    async def do(self, function: Callable[..., object], *args: Any) -> Any:
        """Call a function as `call` does, and return its result. Cancelling only stops the waiting."""
        result, error = await asyncio.shield(self.call(function, *args))
        if error is not None:
            raise error
        return result

    def release(self) -> asyncio.Future[Any] | None:
        """Give the thread back once its functions have returned, and return the future of the last one.

        Python cannot stop a thread: that of a cancelled handler runs on, and counts until its function has returned.
        """
        last, self.last, self._context, releases = self.last, None, None, self.on_release.pop_all()
        when_over(last, releases.close)
        self.submit(self._idle.setdefault, self)
        return last


class Threads(ThreadPoolExecutor):
    """The threads of a server or a client. A function that finds none idle gets a new one; see `ThreadLimit`.

    It is also the executor of a blocking client's event loop. (It is a ThreadPoolExecutor because an event loop takes
    nothing else.)

    Args:
        most: number of threads that calls of handlers in one event loop may use together, and the same for streams.
    """

    def __init__(self, most: int = sys.maxsize) -> None:
        super().__init__(1)
        # Returns the limits of an event loop. A thread cannot report to a closed event loop that it is free.
        self.limits: Any = lru_cache(1)(partial(thread_limits, most, "of all connections use"))
        self._idle: dict[Worker, None] = {}  # single operations of a dict need no lock

    def acquire(self) -> Worker:
        """Return the thread that became idle last, or a new one.

        Raises:
            RuntimeError: the system has no more threads.
        """
        with suppress(KeyError):
            while True:
                worker, _ = self._idle.popitem()
                if worker.is_alive():  # a forked process has none of the threads
                    return worker
        return Worker(self._idle)

    def submit(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        worker = self.acquire()
        future = worker.submit(function, *args, **named)
        worker.release()
        return future


SHARED = Threads()
"""The threads of functions that no limit counts."""
