"""Dialing until there is a connection: the attempts, the waits between them, and the task that makes them."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from ._backoff import Schedule
from ._client_state import Input
from ._dial import Dialer
from .errors import ConnectFailed
from .transport import Transport

__all__ = ["Dialing"]


class Owner(Protocol):
    """What dialing tells its client."""

    def _move(self, happened: Input, /) -> None: ...

    def _failed(self, what: str, delay: float, /) -> None: ...

    def _dialed(self, transport: Transport, attempts: int, /) -> None: ...

    def _stopped(self, failure: Exception, /) -> None: ...


class Dialing:
    """At most one series of attempts at a time. ``timeout`` is for the first connection, all attempts, in seconds."""

    def __init__(self, dialer: Dialer, schedule: Schedule, timeout: float | None, owner: Owner) -> None:
        self._dialer = dialer
        self._schedule = schedule
        self._timeout = timeout
        self._owner = owner
        self._task: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._wake: Callable[[], object] = _nothing
        self.first = True
        """Whether it is for the first connection, not because one dropped."""

    def begin(self, delay: float | None, context: contextvars.Context) -> None:
        """Dial at once for the first connection; or after ``delay`` seconds, because one dropped."""
        self.first = delay is None
        self._task = asyncio.get_running_loop().create_task(self._run(delay), context=context)

    def stop(self) -> set[asyncio.Task[None]]:
        """Stop it; returns the tasks that take another moment to end."""
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        return {task for task in self._ending if task is not asyncio.current_task()}

    def forget(self) -> None:
        """What was going on ended with its event loop."""
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
        attempts = 0
        last: Exception | None = None
        limit = asyncio.timeout(self._timeout if delay is None else None)
        try:
            async with limit:
                while True:
                    if delay is not None:
                        await self._pause(delay)
                        self._owner._move(Input.AGAIN)
                    attempts += 1
                    try:
                        return await self._dialer(), attempts
                    except Exception as exc:
                        last = exc
                        delay = self._schedule.failed(exc)
                        if delay is None and not self._schedule.stopped:
                            raise
                    if delay is None:
                        raise ConnectFailed(attempts, last) from last
                    self._owner._move(Input.FAILED)
                    self._owner._failed(f"could not connect: {type(last).__name__}: {last}", delay)
        except TimeoutError as exc:
            if not limit.expired():
                raise  # of an attempt, after which there is to be no other
            late = TimeoutError(f"no connection within connect_timeout={self._timeout} s")
            raise ConnectFailed(attempts, last or late) from last or exc

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
