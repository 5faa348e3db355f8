"""Dialing until there is a connection: the attempts, the waits between them, and the task that makes them."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from .._base.scheduler import spawn_later
from .._transports.dial import Dialer
from ..errors import ConnectFailed, ConnectionLost, named
from ..transport import Transport
from .backoff import Schedule
from .states import Input

__all__ = ["NOT_CONNECTED", "OPENING", "Dialing"]

NOT_CONNECTED = "no connection"
OPENING = "the `open` handlers have not finished"


class Owner(Protocol):
    """What dialing tells its client."""

    def _move(self, happened: Input, /) -> None: ...

    def _failed(self, what: str, delay: float, /) -> None: ...

    def _dialed(self, transport: Transport, attempts: int, /) -> None: ...

    def _stopped(self, failure: Exception, /) -> None: ...


class Dialing:
    """At most one series of attempts at a time.

    ``timeout`` is for the first connection, in seconds: for all attempts, and for its `open` handlers. A connection
    that ends before these are done counts as a failed attempt. When it is over the client gives up; each `connect` has
    a bound of its own besides, for what is not the first connection.
    """

    def __init__(self, dialer: Dialer, schedule: Schedule, timeout: float | None, owner: Owner) -> None:
        self._dialer = dialer
        self._schedule = schedule
        self._timeout = timeout
        self._owner = owner
        self._task: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._wake: Callable[[], object] = _nothing
        self.first = False
        """Whether it is for the first connection, which has not been open yet."""
        self.deadline: float | None = None
        """When the time for that is over, by the event loop's clock."""
        self._attempts = 0
        self._last: Exception | None = None
        """Since the last success: attempts that were made, and how the last one failed."""

    def begin(self, delay: float | None, context: contextvars.Context) -> None:
        """Dial at once for the first connection; or after ``delay`` seconds, because one dropped."""
        if delay is None:
            self.first = True
            self._attempts, self._last = 0, None
            self.deadline = None if self._timeout is None else asyncio.get_running_loop().time() + self._timeout
        self._task = spawn_later(self._run(delay), context)

    def opened(self) -> None:
        """There is a connection, and its `open` handlers are done."""
        self.first, self.deadline = False, None
        self._attempts, self._last = 0, None

    def dropped(self, error: ConnectionLost) -> None:
        """The connection that came of the last attempt has ended."""
        self._last = error

    def failure(self, why: str = NOT_CONNECTED) -> ConnectFailed:
        """What to raise when the time is over."""
        late = TimeoutError(f"{why} within connect_timeout={self._timeout} s")
        failed = ConnectFailed(self._attempts, self._last or late)
        failed.__cause__ = self._last or late
        return failed

    def stop(self) -> set[asyncio.Task[None]]:
        """Stop it; returns the tasks that take another moment to end."""
        self.first, self.deadline = False, None
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        return {task for task in self._ending if task is not asyncio.current_task()}

    def forget(self) -> None:
        """What was going on ended with its event loop."""
        self.first, self.deadline = False, None
        self._task = None
        self._ending.clear()

    def hurry(self) -> None:
        """End the wait between two attempts."""
        self._wake()

    async def _run(self, delay: float | None) -> None:
        try:
            transport, attempts = await self._dial(delay)
        except Exception as exc:
            self._owner._stopped(exc)
            return
        self._owner._dialed(transport, attempts)

    async def _dial(self, delay: float | None) -> tuple[Transport, int]:
        limit = asyncio.timeout_at(self.deadline)
        try:
            async with limit:
                while True:
                    if delay is not None:
                        await self._pause(delay)
                        self._owner._move(Input.AGAIN)
                    self._attempts += 1
                    try:
                        return await self._dialer(), self._attempts
                    except Exception as exc:
                        self._last = exc
                        delay = self._schedule.failed(exc)
                        if delay is None and not self._schedule.stopped:
                            raise
                        if delay is None:
                            raise ConnectFailed(self._attempts, exc) from exc
                        what = f"could not connect: {named(exc)}"
                    self._owner._move(Input.FAILED)
                    self._owner._failed(what, delay)
        except TimeoutError:
            if not limit.expired():
                raise  # of an attempt, after which there is to be no other
            failure = self.failure()
            raise failure from failure.__cause__

    async def _pause(self, seconds: float) -> None:
        alarm = asyncio.Event()
        self._wake = alarm.set
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await alarm.wait()
        finally:
            self._wake = _nothing


def _nothing() -> None:
    """Nobody waits."""
