"""`VirtualTimeLoop`: an event loop in which waiting takes no time."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable
from typing import Any

OTHER_THREAD_TIMEOUT = 10.0
"""Seconds after which a wait that only a thread which the event loop does not know could end has failed."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Event loop in which waiting takes no time: when nothing is left to do, its time jumps to the next timer.

    A test of a timeout of an hour takes a millisecond, and no test depends on how fast the machine is. Whatever asks
    the event loop for the time follows: `asyncio.sleep`, `asyncio.timeout`, and all limits of wsrpc::

        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(main())

    Time begins at 0. It passes as usual while something outside of the event loop may still answer: while a socket or a
    pipe is open, such as a subprocess's, or a function runs in a thread of wsrpc or of ``run_in_executor``. The event
    loop does not know of other threads, and does not change ``time.time()`` and ``time.monotonic()``.

    It never jumps while a task always has something to do, as in a loop of ``asyncio.sleep(0)``.

    Raises:
        RuntimeError: from `run_until_complete`, which names the tasks that wait: no timer is set, nothing outside may
            answer, and no other thread has called in 10 s. Connections with pings always have a timer, so limit what
            may never end with `asyncio.timeout`, which costs no time.
    """

    def __init__(self) -> None:
        self._waits = _Waits()
        super().__init__(self._waits)

    def time(self) -> float:
        """Return the time of this event loop, in seconds."""
        return self._waits.now

    @property
    def waited(self) -> float:
        """The seconds for which time has passed as usual."""
        return self._waits.waited

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run a function in a thread. Until it has returned, time passes as usual."""
        future: asyncio.Future[Any] = super().run_in_executor(executor, func, *args)
        self._waits.in_threads += 1
        future.add_done_callback(self._has_returned)
        return future

    async def shutdown_default_executor(self, *args: Any, **options: Any) -> None:
        """Wait for the threads of ``run_in_executor``. Time passes as usual: from Python 3.12 on, a timer limits it."""
        self._waits.in_threads += 1
        try:
            await super().shutdown_default_executor(*args, **options)
        finally:
            self._waits.in_threads -= 1

    def _has_returned(self, _: object) -> None:
        self._waits.in_threads -= 1


class _Waits(selectors.DefaultSelector):
    """Selector that notes the time instead of waiting, if nothing but the event loop's own pipe could become ready."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.waited = 0.0
        self.in_threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        alone = not self.in_threads and len(self.get_map()) <= 1
        if alone and timeout is not None:
            ready = super().select(0)
            if not ready:
                self.now += timeout
            return ready
        stuck = asyncio.all_tasks() if alone else ()
        began = time.monotonic()
        ready = super().select(OTHER_THREAD_TIMEOUT if stuck else timeout)
        if stuck and not ready:
            raise RuntimeError(f"nothing is left that could end these waits: {', '.join(map(repr, stuck))}")
        passed = time.monotonic() - began
        self.now += passed
        self.waited += passed
        return ready
