"""`RawConnections`: the raw connections of a server. Each connection runs the user's function."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

from .._base.closing import CloseCode, counted
from .._base.expiry import Expiry
from .._base.logs import LogBudget, PeerLog, logger
from .._base.scheduler import Scheduler, spawn_later
from .._core.handlers.lifecycle import Closers, ends_the_task
from ..errors import RpcError, parts_of, ungrouped
from ..limits import Limits
from ..stats import ServerTotals
from ..transport import Receiver, Transport
from .raw_connection import RawConnection, link_of
from .raw_link import RawLink

RawFunction = Callable[[RawConnection], Awaitable[Any]]
"""A user's function that serves a connection."""


def refusal_of(exc: BaseException) -> tuple[int, str]:
    """Return the close code and reason for an exception of user code."""
    if isinstance(refusal := ungrouped(exc), RpcError):
        return CloseCode.POLICY_VIOLATION, refusal.message
    return CloseCode.INTERNAL_ERROR, "internal error"


class RawServing:
    """Serves each connection of a server without the protocol, by a call of ``function``."""

    def __init__(self, function: Any) -> None:
        self.function = function

    async def prepare(self, connection: RawConnection) -> RawFunction:
        """Return the function that serves a new connection. Raise an exception to refuse the connection."""
        function: RawFunction = self.function
        return function

    async def ended(self, connection: RawConnection, log: PeerLog) -> None:
        """Called when a connection has ended and its function has returned."""


class RawConnections:
    """The raw connections of a server. Each runs its function in a task, and is closed when the function returns.

    Args:
        enter: a function that adds a new connection to the receivers of `Server.emit`.
        leave_rooms: a function that removes a connection from all rooms.
    """

    def __init__(
        self,
        totals: ServerTotals,
        budget: LogBudget,
        enter: Callable[[RawConnection], None],
        leave_rooms: Callable[[RawConnection], None],
    ) -> None:
        self._totals = totals
        self._budget = budget
        self._enter = enter
        self._leave_rooms = leave_rooms
        self._running: dict[RawConnection, asyncio.Task[None]] = {}
        """The connections, each with the task of its function."""

    @property
    def all(self) -> tuple[RawConnection, ...]:
        """The connections whose function runs, oldest first."""
        return tuple(self._running)

    def links(self) -> Iterator[RawLink]:
        """The inside of each connection."""
        return map(link_of, self._running)

    def start(
        self,
        transport: Transport,
        limits: Limits,
        loop: Scheduler,
        serving: RawServing,
        make: Callable[[RawLink], RawConnection],
        expires: float | None,
    ) -> RawConnection:
        """Start to serve a connection, which ``make`` creates from its inside. Close it when it ``expires``."""
        log = PeerLog(transport.info.remote, self._totals.failed, self._budget)
        link = RawLink(transport, log, limits, loop, lambda: self._leave_rooms(connection))
        connection = make(link)
        self._totals.connection_opened()
        expiry = None if expires is None else Expiry(loop, expires, link.expire)
        self._running[connection] = spawn_later(self._run(serving, connection, link, expiry))
        transport.start(cast("Receiver", link))  # pyright takes its bound callables for methods
        log(logging.INFO, "raw peer %s connected from %s, path %s", log.id, log.place, transport.info.path)
        return connection

    async def _run(self, serving: RawServing, connection: RawConnection, link: RawLink, expiry: Expiry | None) -> None:
        code, reason, failed = 1000, "", False
        try:
            function = await serving.prepare(connection)
            self._enter(connection)
            if link.closed:
                link.leave_rooms()  # it has ended meanwhile, and no other code removes it
            await function(connection)
        except BaseException as exc:
            if ends_the_task(exc):
                code, reason = CloseCode.SERVICE_RESTART, "the server is closing"
                raise
            # A function need not catch the errors of a connection that has ended or was closed.
            if not (link.closed and all(isinstance(each, ConnectionError) for each in parts_of(exc))):
                code, reason = refusal_of(exc)
                failed, refused = True, isinstance(ungrouped(exc), RpcError)
                level, shown = (logging.INFO, None) if refused else (logging.ERROR, exc)
                link.log(level, "serving a raw connection failed: %s", ungrouped(exc), exc_info=shown)
        finally:
            try:
                await link.finish(code, reason, failed=failed)
                await serving.ended(connection, link.log)
            finally:
                if expiry is not None:
                    expiry.cancel()
                self._running.pop(connection, None)
                ended, log = link.ended, link.log
                last = link.stats()
                messages = (last.messages_in or 0, last.messages_out or 0)
                size = (last.bytes_in or 0, last.bytes_out or 0)
                code = CloseCode.ABNORMAL if ended is None else ended.code
                code = counted(code, ours=code == link.closed_with[0])
                self._totals.connection_closed(code, messages, size, last.skipped_broadcasts)
                if ended is not None:
                    said = "raw peer %s at %s disconnected: %d %s"
                    log(logging.INFO, said, log.id, log.place, ended.code, ended.reason)

    def clear(self) -> None:
        """Remove all connections, because their event loop was closed."""
        for connection in self._running:
            link_of(connection).leave_rooms()
        self._running.clear()

    async def close(self, code: int, reason: str) -> None:
        """Close every connection. The functions continue."""
        await asyncio.gather(*(connection.close(code, reason) for connection in self._running))

    async def wait_done(self, closers: Closers) -> None:
        """Wait until all functions have returned, except those of ``closers``. Cancelling is safe."""
        while tasks := self._tasks(closers):
            await closers.wait_for_others(tasks, None)

    async def join(self, patience: float, closers: Closers) -> None:
        """Wait as `wait_done` does, for ``patience`` seconds. Then cancel the functions that still run."""
        try:
            async with asyncio.timeout(patience):
                await self.wait_done(closers)
        except TimeoutError:
            late = self._tasks(closers)
            for task in late:
                task.cancel()
            if stubborn := await closers.wait_for_others(late, patience):
                logger.warning("%d raw functions do not end although they were cancelled", len(stubborn))

    def unfinished(self, closers: Closers) -> int:
        """Return the number of functions for which `wait_done` waits."""
        return len(self._tasks(closers))

    def _tasks(self, closers: Closers) -> set[asyncio.Task[None]]:
        return {task for task in self._running.values() if not task.done() and not closers.cover(task, None)}
