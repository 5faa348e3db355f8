"""`LoopCall`: one call from a thread into an event loop in another thread."""

from __future__ import annotations

import _thread
import asyncio
import contextvars
import sys
from collections.abc import Callable
from typing import Any

from .._core.api.caller import AnonymousChannel, core_of


class LoopCall:
    """One call that a thread waits for while it runs in the loop's thread.

    A lock is its only means of waiting: the caller acquires it, and the loop's thread releases it once.
    (`asyncio.run_coroutine_threadsafe` makes two futures and a condition, and takes a third longer.)

    Args:
        function: is called in the loop's thread. If it returns a coroutine, that is awaited there.
        waiting: holds the call while its coroutine waits.
        written: wait until what it sends is written, too, because the program may end next.
        stepped: the coroutine needs no task; see `_step`.
    """

    __slots__ = (
        "_awaited",
        "_cancels",
        "_context",
        "_coroutine",
        "_done",
        "_error",
        "_function",
        "_interrupted",
        "_started",
        "_stepped",
        "_task",
        "_waiting",
        "_written",
        "over",
        "result",
    )

    def __init__(
        self, function: Callable[[], Any], waiting: set[LoopCall], *, written: bool = False, stepped: bool = False
    ) -> None:
        self._function = function
        self._waiting = waiting
        self._stepped = stepped
        self._written = written
        # The call of a handler runs in the handler's context in the loop's thread, too.
        self._context = contextvars.copy_context()
        self._done = _thread.allocate_lock()
        self._done.acquire()
        self._started = self._interrupted = False
        self._task: asyncio.Task[None] | None = None
        self._coroutine: Any = None
        self._awaited: Any = None
        """The future that the coroutine waits for, if it has no task."""
        self._cancels = False
        """Whether the coroutine gets a CancelledError in its next step."""
        self.over = False
        self.result: Any = None
        self._error: BaseException | None = None

    def wait(self, seconds: float = -1) -> bool:
        """Wait until the call is over, and return whether it is over. Called in the caller's thread."""
        return self._done.acquire(True, seconds)

    def pop_error(self) -> BaseException | None:
        """Remove and return the error of the call. (Its traceback refers to this object.)"""
        error, self._error = self._error, None
        return error

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Call the function, and run the coroutine that it may return."""
        self._started = True
        try:
            result = self._context.run(self._function)
        except BaseException as exc:
            self.fail(exc)
            return
        if not asyncio.iscoroutine(result):
            self.result = result
            self._finished()
            return
        self._coroutine = result
        self._waiting.add(self)
        if self._stepped:
            self._context.run(self._step)
            return
        if sys.version_info >= (3, 12):
            self._task = asyncio.Task(self._finish(), loop=loop, context=self._context, eager_start=True)
        else:
            self._task = asyncio.Task(self._finish(), loop=loop, context=self._context)
        self._task.add_done_callback(self._cancelled_early)

    def _step(self, _: object = None) -> None:
        """Run the coroutine until it waits for a future, or ends: the fast path of requests.

        A task does the same, but takes its first step a turn of the loop later (before Python 3.12), and costs more.
        What this leaves out is all that code may ask of its task: `asyncio.current_task`, and what needs that, such as
        `asyncio.timeout`. A request asks for none of it.
        """
        try:
            if self._cancels:
                self._cancels = False
                awaited = self._coroutine.throw(asyncio.CancelledError())
            else:
                awaited = self._coroutine.send(None)
        except StopIteration as exc:
            self.result = exc.value
        except BaseException as exc:
            self._error = exc
        else:
            if awaited is None:  # a bare yield, as in `asyncio.sleep(0)`
                awaited = asyncio.get_running_loop().create_future()
                awaited.set_result(None)
            awaited.add_done_callback(self._step, context=self._context)
            self._awaited = awaited
            return
        self._finished()

    def _cancelled_early(self, task: asyncio.Task[None]) -> None:
        """End a call whose task was cancelled before its first step. After that, `_finish` catches everything."""
        if task.cancelled():
            self._coroutine.close()
            self.fail(asyncio.CancelledError())

    async def _finish(self) -> None:
        try:
            self.result = await self._coroutine
        except BaseException as exc:
            self._error = exc
        if self._interrupted:
            self._abort_channel()
        self._finished()

    def _abort_channel(self) -> None:
        """Abort the channel that the call has opened, because the caller was interrupted."""
        if isinstance(self.result, AnonymousChannel):
            core_of(self.result).abort(None)

    def _finished(self) -> None:
        if self._written:
            # Messages that were sent in this turn of the event loop are written at the end of the turn.
            asyncio.get_running_loop().call_soon(self._end)
        else:
            self._end()

    def interrupt(self) -> None:
        """Cancel the call, because its caller was interrupted."""
        self._interrupted = self._written = True
        if not self._started:
            self.fail(asyncio.CancelledError())
        self.cancel()
        if self.over:
            self._abort_channel()

    def cancel(self) -> asyncio.Task[None] | None:
        """Raise CancelledError where the coroutine waits. Return the task in which it ends."""
        if self._task is not None:
            self._task.cancel()
        elif self._awaited is not None:
            self._cancels = True
            self._awaited.cancel()
        return self._task

    def fail(self, error: BaseException) -> None:
        """End a call that has no task."""
        self._error = error
        self._end()

    def _end(self) -> None:
        self._waiting.discard(self)
        self.over = True
        self._done.release()
