"""A server's raw connections: each handed to the user's function, whole."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from .._base.closing import CloseCode
from .._base.logs import LogBudget, logger
from .._base.scheduler import spawn_later
from .._handlers.lifecycle import Closers, ends_the_task
from ..errors import RpcError
from ..stats import PeerStats, Tally
from .connection import RawConnection

__all__ = ["RawConnections", "RawFunction", "RawServing", "refusal_of"]

RawFunction = Callable[[RawConnection], Awaitable[Any]]


def refusal_of(exc: BaseException) -> tuple[int, str]:
    """The code and the reason with which a connection is closed because of what a user's code raised."""
    if isinstance(exc, RpcError):
        return CloseCode.POLICY_VIOLATION, exc.message.encode(errors="replace")[:123].decode(errors="ignore")
    return CloseCode.INTERNAL_ERROR, "internal error"


class RawServing:
    """What serves raw connections: a user's ``function``, which has each of them whole."""

    def __init__(self) -> None:
        self.function: RawFunction | None = None
        self.on_end: Callable[[RawConnection], Awaitable[None]] | None = None
        """Awaited after a connection's end."""

    def use(self, function: Any) -> None:
        """Serve with ``function`` from now on.

        Raises:
            TypeError: this is no async function.
            ValueError: there is one already.
        """
        given: Any = function
        if not callable(given) or not any(map(inspect.iscoroutinefunction, (given, type(given).__call__))):
            raise TypeError(f"serve_raw takes an async function of the connection, got {function!r}")
        if self.function is not None:
            raise ValueError(f"this server's connections go to {self.function!r} already, whole")
        self.function = function


class RawConnections:
    """The raw connections of one run of a server. Each has its function in a task of its own, then it is closed."""

    def __init__(self, tally: Tally, budget: LogBudget) -> None:
        self._tally = tally
        self._budget = budget
        self._running: dict[RawConnection, asyncio.Task[None]] = {}

    @property
    def all(self) -> tuple[RawConnection, ...]:
        """Those whose function runs, in the order in which they came."""
        return tuple(self._running)

    def stats(self) -> Iterator[PeerStats]:
        """Of each of them."""
        return (connection._stats() for connection in self._running)

    def begin(self, connection: RawConnection, serving: RawServing) -> None:
        """Begin to serve a connection."""
        self._tally.accepted += 1
        connection._log.on_error = self._tally.failed
        connection._log.budget = self._budget
        self._running[connection] = spawn_later(self._run(serving, connection))
        connection._start()
        log = connection._log
        log(logging.INFO, "raw peer %s connected from %s, path %s", log.id, log.place, connection.info.path)

    async def _run(self, serving: RawServing, connection: RawConnection) -> None:
        assert serving.function is not None
        code, reason = 1000, ""
        try:
            await serving.function(connection)
        except BaseException as exc:
            if ends_the_task(exc):
                code, reason = CloseCode.SERVICE_RESTART, "the server is closing"
                raise
            # That its connection is over, or cannot be used any more, a function may well let through.
            if not (connection.closed and isinstance(exc, ConnectionError)):
                code, reason = refusal_of(exc)
                failed = not isinstance(exc, RpcError)
                level = logging.ERROR if failed else logging.INFO
                connection._log(level, "serving a raw connection failed: %s", exc, exc_info=exc if failed else None)
        finally:
            try:
                await connection._finish(code, reason)
                if serving.on_end is not None:
                    await serving.on_end(connection)
            finally:
                self._running.pop(connection, None)
                ended = connection.ended
                self._tally.left(connection._stats(), CloseCode.ABNORMAL if ended is None else ended.code)
                if ended is not None:
                    log = connection._log
                    said = "raw peer %s at %s disconnected: %d %s"
                    log(logging.INFO, said, log.id, log.place, ended.code, ended.reason)

    def clear(self) -> None:
        """Forget all connections, because their event loop has ended."""
        self._running.clear()

    async def close(self, code: int, reason: str) -> None:
        """Close every connection; their functions go on."""
        await asyncio.gather(*(connection.close(code, reason) for connection in self.all))

    async def wait_done(self, closers: Closers) -> None:
        """Wait for the functions, besides those that wait for a close themselves. Cancelling is safe."""
        while tasks := self._tasks(closers):
            await closers.wait_besides(tasks, None)

    async def join(self, patience: float, closers: Closers) -> None:
        """The same, for ``patience`` seconds; then they are cancelled."""
        try:
            async with asyncio.timeout(patience):
                await self.wait_done(closers)
        except TimeoutError:
            late = self._tasks(closers)
            for task in late:
                task.cancel()
            if stubborn := await closers.wait_besides(late, patience):
                logger.warning("%d raw functions do not end although they were cancelled", len(stubborn))

    def _tasks(self, closers: Closers) -> set[asyncio.Task[None]]:
        return {task for task in self._running.values() if not task.done() and not closers.cover(task, None)}
