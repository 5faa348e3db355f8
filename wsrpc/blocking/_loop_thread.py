"""`LoopThread`: an event loop in a thread of its own. `CallBridge`: starts the thread, and carries calls to it."""

from __future__ import annotations

import _thread
import asyncio
import atexit
import inspect
import os
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import lru_cache
from math import inf
from threading import get_ident
from typing import Any

from .._base.threads import SHARED
from ._loop_call import LoopCall

Closing = Callable[[], Coroutine[Any, Any, None]]
"""Closes an asynchronous client."""
AT_EXIT = 2.0
"""Seconds that the end of the program waits until its open clients are closed."""
RUNNING: set[LoopThread] = set()
"""The threads that run. In a forked child, also those of its parent."""


@atexit.register
def close_all() -> None:
    """Close the clients that are still open when the program ends. Otherwise, remote peers would wait for it."""
    until = time.monotonic() + AT_EXIT
    running = [thread for thread in [*RUNNING] if thread.pid == os.getpid()]
    for thread in running:
        thread.end(wait=False)
    for thread in running:
        thread.over.wait(until)


@lru_cache(1)
def close_all_in_child(pid: int) -> None:
    """Let `close_all` run at the end of this process, too, if `multiprocessing` has started it.

    Such a process runs no function of `atexit` (until Python 3.12), or none from before the fork (since 3.13).
    """
    if (util := sys.modules.get("multiprocessing.util")) is not None:
        util.Finalize(None, close_all, exitpriority=-1)


class LoopEnded(Exception):
    """The event loop of a `LoopThread` accepts no more calls."""


class Flag:
    """Event that an interrupted `wait` does not break. (A `threading.Event` may stay locked then: 3.11, observed.)"""

    def __init__(self) -> None:
        self.is_set = False
        self._unset = _thread.allocate_lock()
        self._unset.acquire()

    def set(self) -> None:
        """Wake all waiting threads. Call this once, in a thread that no signal interrupts."""
        self.is_set = True
        self._unset.release()

    def wait(self, until: float = inf) -> None:
        """Wait until the flag is set. An interrupted thread may delay other waiting threads for a short time.

        Args:
            until: the time of `time.monotonic` at which the waiting ends in any case.
        """
        while not self.is_set and (left := until - time.monotonic()) > 0:
            if self._unset.acquire(True, min(left, 1)):
                self._unset.release()


class LoopThread:
    """Event loop in a daemon thread, from its first call to `end`.

    KeyboardInterrupt may come anywhere in a caller. So each step that a caller makes can be made again, by the next
    caller, and what must not be left half done happens in threads that no signal interrupts.

    Args:
        name: of the thread.
        closing: closes the asynchronous client. The loop ends only when that is closed.
        first: is called in the loop's thread before anything else.
    """

    def __init__(self, name: str, closing: Closing, first: Callable[[], object] | None = None) -> None:
        self._closing = closing
        self._first = first
        self._calls: deque[LoopCall] = deque()
        """Calls that the loop has not started yet."""
        self._waiting: set[LoopCall] = set()
        """Calls whose coroutine waits."""
        self._woken = False
        """Whether the loop will start the calls in ``_calls`` soon, so that no other call need wake it."""
        self.ended = False
        """Whether calls are refused."""
        self._drained = False
        """Whether waiting calls are failed instead of started."""
        self.pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop
        """The event loop. The attribute exists when ``_ready`` is set."""
        self._stop = asyncio.Event()
        self._started = _thread.allocate_lock()
        """Lock that the thread which starts the loop's thread acquires. It is never released."""
        self._ready = Flag()
        # Not `Thread.is_alive`: if `Thread.join` is interrupted, that is False while the thread runs (3.11, observed).
        self.over = Flag()
        """Set when the loop has ended and the client is closed."""
        self._thread = threading.Thread(target=self._run, name=f"{name} loop", daemon=True)
        self._ident: int | None = None

    @property
    def is_current(self) -> bool:
        """Whether this is the loop's own thread."""
        return self._ident == get_ident()

    def run(self, function: Callable[[], Any], *, written: bool = False, stepped: bool = False) -> Any:
        """Call a function in the loop's thread, await the coroutine that it may return, and return the result.

        Ctrl-C cancels the coroutine, and KeyboardInterrupt is raised when it has ended.

        Args:
            written: wait until what it sends is written, too.
            stepped: the coroutine needs no task.

        Raises:
            LoopEnded: the loop has ended, or ends before the coroutine does.
        """
        call = LoopCall(function, self._waiting, written=written, stepped=stepped)
        error: BaseException | None = None
        try:
            try:
                self._submit(call)
                while not call.wait(1):  # a signal at the start of the wait does not end it, with 3.14 often
                    self._call_in_loop(self._start_all)  # an interrupted caller may not have woken the loop
            except LoopEnded:
                raise
            except BaseException:  # KeyboardInterrupt, or the exception of another signal handler
                self._interrupt(call)
                raise
            error = call.pop_error()
            if isinstance(error, asyncio.CancelledError) and self.ended:
                raise LoopEnded
            if error is not None:
                raise error
            return call.result
        finally:
            del call, error  # the error's traceback refers to this frame

    def end(self, *, wait: bool) -> None:
        """Refuse further calls, close the client, and end the loop. Idempotent.

        Args:
            wait: until the thread has ended.
        """
        self.ended = True
        self._call_in_loop(self._stop.set)
        if wait:
            self.over.wait()
            if self._thread.ident is not None:
                self._thread.join()

    # There is no lock between the threads. The loop's thread would wake at once, and then wait for the lock.

    def _submit(self, call: LoopCall) -> None:
        if self.ended:
            raise LoopEnded
        self._calls.append(call)
        if self._drained and self._withdraw(call):
            raise LoopEnded
        if not self._woken:
            self._woken = True
            self._call_in_loop(self._start_all)

    def _call_in_loop(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function in the loop's thread. Start the thread if it has not started."""
        if not self._started.locked():
            _thread.start_new_thread(self._start, ())
        self._ready.wait()
        with suppress(RuntimeError):  # the loop is closed, and all calls were failed before
            self._loop.call_soon_threadsafe(function, *args)

    def _start(self) -> None:
        # In a thread, because after a KeyboardInterrupt within `Thread.start` it is unknown whether the thread runs.
        if self._started.acquire(False):
            try:
                self._thread.start()
            except RuntimeError:  # the system has no more threads: the loop runs in this one
                self._run()

    def _interrupt(self, call: LoopCall) -> None:
        self._withdraw(call)  # also if the system has no thread for the loop
        self._call_in_loop(self._interrupted, call)
        if not call.over:  # else the lock was acquired already, or no thread waits for it
            # The loop may have ended before the interrupt. Nothing runs any more after its thread has ended.
            while not call.wait(1) and not self.over.is_set:
                pass

    def _withdraw(self, call: LoopCall) -> bool:
        """Remove a call from the queue. Return False if the call was not there."""
        try:
            self._calls.remove(call)
        except ValueError:
            return False
        return True

    # ------------------------------------------------------------ in the loop's thread

    def _run(self) -> None:
        self._ident = get_ident()
        try:
            with asyncio.Runner() as runner:
                self._loop = loop = runner.get_loop()
                loop.set_default_executor(SHARED)
                if self._first is not None:
                    loop.call_soon(self._first)
                self._ready.set()
                RUNNING.add(self)
                close_all_in_child(self.pid)
                self._run_to_end(loop.create_task(self._serve()))
        finally:
            self.over.set()
            RUNNING.discard(self)

    def _run_to_end(self, serving: asyncio.Task[None]) -> None:
        while not serving.done():
            try:
                self._loop.run_until_complete(serving)
            except (SystemExit, KeyboardInterrupt) as exc:
                # A function that the loop calls, such as a hook of `log_payloads=`, cannot end the program from this
                # thread. It must not end the loop, either: callers would wait forever.
                message = "a function that the client calls in its event loop wanted to end the program"
                self._loop.call_exception_handler({"message": message, "exception": exc})

    async def _serve(self) -> None:
        await self._stop.wait()
        await self._closing()  # calls in progress fail as they do in the asynchronous client
        self._drained = True
        self._start_all()
        if tasks := [task for call in [*self._waiting] if (task := call.cancel()) is not None]:
            await asyncio.wait(tasks)
        await self._closing()  # one of them may have connected meanwhile

    def _start_all(self) -> None:
        """Start the calls in the queue. At the end, fail them."""
        self._woken = False  # before the queue is read: a caller that adds a call after that wakes the loop again
        for _ in range(len(self._calls)):
            try:
                call = self._calls.popleft()
            except IndexError:  # at the end, callers withdraw their calls
                return
            if self._drained:
                call.fail(asyncio.CancelledError())
            else:
                call.start(self._loop)

    def _interrupted(self, call: LoopCall) -> None:
        # Its caller may have been interrupted before it was in the queue, or before the loop was woken for it.
        self._withdraw(call)
        call.interrupt()
        self._start_all()


class CallBridge:
    """Carries the calls of a blocking client to the asynchronous client in its `LoopThread`.

    The thread starts with the first call that needs it, and ends with `close`. So a client can be made before a fork,
    and used after it.

    Args:
        name: of the class whose calls it carries.
        asynchronous: the class to use in an event loop, for error texts.
        closing: closes the asynchronous client.
        over: makes the error of a call after `close`.
        first: is called in the loop's thread before anything else.
        opens_first: no call is possible before `open`.
        steps: requests of the client need no task.
    """

    def __init__(
        self,
        name: str,
        asynchronous: str,
        closing: Closing,
        over: Callable[[], Exception],
        *,
        first: Callable[[], object] | None = None,
        opens_first: bool = False,
        steps: bool = True,
    ) -> None:
        self._name = f"wsrpc.blocking.{name}"
        self._asynchronous = asynchronous
        self._closing = closing
        self._first = first
        self._over = over
        self._guard = threading.Lock()
        self._thread: LoopThread | None = None
        self._closed = opens_first
        self._steps = steps

    def run(self, function: Callable[[], Any], *, stepped: bool = False) -> Any:
        """Call a function in the loop's thread, await the coroutine that it may return, and return the result.

        Args:
            stepped: the coroutine is that of a single request or event, which needs no task.

        Raises:
            RuntimeError: an event loop runs in this thread, or the process has forked since the loop's thread started.
            Exception: what ``over`` makes, if the client was closed.
        """
        thread = self._thread
        self._check_caller(thread)
        if thread is None or thread.ended:
            thread = self._start()
        try:
            return thread.run(function, stepped=stepped and self._steps)
        except LoopEnded:
            raise self._over() from None

    def apply(self, function: Callable[[], Any]) -> Any:
        """Call a plain function, in the loop's thread if there is one, otherwise in this thread."""
        thread = self._thread
        return function() if thread is None or thread.ended else self.run(function)

    def finish(self, function: Callable[[], Any]) -> None:
        """Call a function that ends something, such as a stream.

        Nothing is left to end once the loop's thread has ended. In a forked child, what there is belongs to the parent.
        """
        thread = self._thread
        if thread is not None and not self.forked:
            self._check_caller(thread)
            with suppress(LoopEnded):
                thread.run(function, written=True)

    @property
    def forked(self) -> bool:
        """Whether this is a forked child, and the loop's thread runs in the parent process."""
        thread = self._thread
        return thread is not None and not thread.over.is_set and thread.pid != os.getpid()

    def wait_over(self) -> None:
        """Wait until the loop has ended, if it was started."""
        if self._thread is not None:
            self._thread.over.wait()

    def open(self) -> None:
        """Allow calls again after `close`."""
        self.check()
        with self._guard:
            self._closed = False

    def check(self) -> None:
        """Refuse a call in a thread that must not wait.

        Raises:
            RuntimeError: as for `run`.
        """
        self._check_caller(self._thread)

    def close(self) -> None:
        """End the loop's thread, and wait for its end. From now on, calls raise the exception from ``over``."""
        self._end(wait=True)

    def close_soon(self) -> None:
        """Close the client and end the loop's thread, without waiting for it."""
        self._end(wait=False)

    def _end(self, *, wait: bool) -> None:
        with self._guard:
            thread = self._thread
            self._closed = True
        if thread is not None:
            thread.end(wait=wait)

    def abandon(self) -> None:
        """Close the client, because nothing refers to it any more."""
        thread = self._thread
        if thread is not None and not thread.ended and thread.pid == os.getpid():
            self.close_soon()  # first, because the warning may be an error
            warnings.warn(
                f"a {self._name} was not closed: use `with`, or call close()",
                ResourceWarning,
                stacklevel=2,
            )

    def _start(self) -> LoopThread:
        """Start and return a new thread. The last thread must have ended: a client cannot be in two event loops."""
        if not inspect.isbuiltin(_thread.start_new_thread):  # the loop would run, and block, in the caller's thread
            why = "and gevent or eventlet has replaced the threads of this process by greenlets"
            raise RuntimeError(f"{self._name} needs a thread, {why}: do not patch threads, or use another process")
        while True:
            with self._guard:
                if self._closed:
                    raise self._over()
                thread = self._thread
                if thread is None or thread.over.is_set:
                    thread = self._thread = LoopThread(self._name, self._closing, self._first)
            if not thread.ended:
                return thread
            thread.end(wait=True)

    def _check_caller(self, thread: LoopThread | None) -> None:
        name = self._name
        if thread is not None and thread.over.is_set:
            thread = None  # another thread may have its id
        if self.forked:
            raise RuntimeError(
                f"this {name} was in use when the process forked, and its thread exists only in the parent: "
                "make another one in each child"
            )
        if thread is not None and thread.is_current:
            raise RuntimeError(
                f"this was called by a function that the {name} calls in the thread of its own event loop, which "
                "cannot wait for itself: only handlers may use the client"
            )
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise RuntimeError(
            f"{name} would block the event loop that runs in this thread: use {self._asynchronous} here, "
            "and `await` its calls"
        )
