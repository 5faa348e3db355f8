"""A server's raw connections, each of which runs the user's function."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple, cast

from .._base.closing import CloseCode
from .._base.expiry import Expiry
from .._base.logs import LogBudget, PeerLog, logger
from .._base.scheduler import Scheduler, spawn_later
from .._handlers.introspection import is_async
from .._handlers.lifecycle import Closers, ends_the_task
from .._handlers.registry import Registry
from ..errors import RpcError
from ..limits import Limits
from ..stats import PeerStats, Tally
from ..transport import Receiver, Transport
from .connection import RawConnection
from .link import RawLink

__all__ = ["RawConnections", "RawFunction", "RawServing", "refusal_of"]

RawFunction = Callable[[RawConnection], Awaitable[Any]]
"""A user's function that serves a connection."""

Enter = Callable[[RawConnection], None]
"""Makes a new connection a member of the rooms that it begins in."""

Prepare = Callable[[RawConnection], Awaitable[RawFunction]]
"""Returns what serves a connection, or refuses the connection by raising an exception."""


def refusal_of(exc: BaseException) -> tuple[int, str]:
    """Return the close code and reason for an exception of user code."""
    if isinstance(exc, RpcError):
        return CloseCode.POLICY_VIOLATION, exc.message.encode(errors="replace")[:123].decode(errors="ignore")
    return CloseCode.INTERNAL_ERROR, "internal error"


class RawServing:
    """The function that serves all connections of a server without the protocol, if there is one."""

    def __init__(self, registry: Registry, enter: Enter, leave: Callable[[RawConnection], None]) -> None:
        self._registry = registry
        self.enter = enter
        self.leave = leave
        self.function: RawFunction | None = None
        self.prepare: Prepare | None = None
        """Awaited before a connection enters its rooms; the function that it returns serves this connection."""
        self.on_end: Callable[[RawConnection, PeerLog], Awaitable[None]] | None = None
        """Awaited when a connection has ended and its function has returned."""

    def use(
        self,
        function: Any,
        prepare: Prepare | None = None,
        on_end: Callable[[RawConnection, PeerLog], Awaitable[None]] | None = None,
    ) -> None:
        """Serve with ``function`` from now on, or with the functions that ``prepare`` returns.

        Raises:
            TypeError: ``function`` is not an async function.
            ValueError: there is one already, or there are handlers, which nothing would call.
        """
        if not is_async(function):
            raise TypeError(f"serve_raw takes an async function of the connection, got {function!r}")
        if self.function is not None:
            raise ValueError(f"{self.function!r} serves every connection of this server already")
        self._registry.give_all_to(function, "connection")
        self.function, self.prepare, self.on_end = function, prepare, on_end


class RunningFunction(NamedTuple):
    """The inside of a connection, and the task in which its function runs."""

    link: RawLink
    task: asyncio.Task[None]


class RawConnections:
    """The raw connections of a server. Each runs its function in a task of its own, and is closed after that."""

    def __init__(self, tally: Tally, budget: LogBudget) -> None:
        self._tally = tally
        self._budget = budget
        self._running: dict[RawConnection, RunningFunction] = {}

    @property
    def all(self) -> tuple[RawConnection, ...]:
        """Connections whose function runs, in the order in which they came."""
        return tuple(self._running)

    def stats(self) -> Iterator[PeerStats]:
        """The stats of each connection."""
        return (running.link.stats() for running in self._running.values())

    def begin(
        self,
        transport: Transport,
        limits: Limits,
        loop: Scheduler,
        serving: RawServing,
        make: Callable[[RawLink], RawConnection],
        expires: float | None,
    ) -> RawConnection:
        """Begin to serve a connection, which ``make`` builds around its inside, and close it when it ``expires``."""
        log = PeerLog(secrets.token_hex(8), transport.info.remote, self._tally.failed, self._budget)
        link = RawLink(transport, log, limits, loop, lambda: serving.leave(connection))
        connection = make(link)
        self._tally.came()
        expiry = None if expires is None else Expiry(loop, expires, link.expire)
        self._running[connection] = RunningFunction(link, spawn_later(self._run(serving, connection, link, expiry)))
        transport.start(cast("Receiver", link))  # pyright takes its bound callables for methods
        log(logging.INFO, "raw peer %s connected from %s, path %s", log.id, log.place, transport.info.path)
        return connection

    async def _run(self, serving: RawServing, connection: RawConnection, link: RawLink, expiry: Expiry | None) -> None:
        function = serving.function
        assert function is not None
        code, reason = 1000, ""
        try:
            if serving.prepare is not None:
                function = await serving.prepare(connection)
            serving.enter(connection)
            if link.closed:
                link.forget()  # it has ended meanwhile, and nothing else removes it
            await function(connection)
        except BaseException as exc:
            if ends_the_task(exc):
                code, reason = CloseCode.SERVICE_RESTART, "the server is closing"
                raise
            # A function need not catch errors which say that its connection has ended, or cannot be used any more.
            if not (link.closed and isinstance(exc, ConnectionError)):
                code, reason = refusal_of(exc)
                failed = not isinstance(exc, RpcError)
                level = logging.ERROR if failed else logging.INFO
                link.log(level, "serving a raw connection failed: %s", exc, exc_info=exc if failed else None)
        finally:
            try:
                await link.finish(code, reason)
                if serving.on_end is not None:
                    await serving.on_end(connection, link.log)
            finally:
                if expiry is not None:
                    expiry.cancel()
                self._running.pop(connection, None)
                ended, log = link.ended, link.log
                last = link.stats()
                messages = (last.messages_in or 0, last.messages_out or 0)
                size = (last.bytes_in or 0, last.bytes_out or 0)
                self._tally.left(CloseCode.ABNORMAL if ended is None else ended.code, messages, size, last.dropped)
                if ended is not None:
                    said = "raw peer %s at %s disconnected: %d %s"
                    log(logging.INFO, said, log.id, log.place, ended.code, ended.reason)

    def clear(self) -> None:
        """Forget all connections, because their event loop was closed."""
        for running in self._running.values():
            running.link.forget()
        self._running.clear()

    async def close(self, code: int, reason: str) -> None:
        """Close every connection. Their functions go on."""
        await asyncio.gather(*(connection.close(code, reason) for connection in self._running))

    async def wait_done(self, closers: Closers) -> None:
        """Wait until all functions have returned, besides those of ``closers``. Cancelling is safe."""
        while tasks := self._tasks(closers):
            await closers.wait_besides(tasks, None)

    async def join(self, patience: float, closers: Closers) -> None:
        """Wait as `wait_done` does, for ``patience`` seconds; then cancel the functions that still run."""
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
        tasks = (running.task for running in self._running.values())
        return {task for task in tasks if not task.done() and not closers.cover(task, None)}
