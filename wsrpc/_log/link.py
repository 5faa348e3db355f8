"""`StoreLink`: how a server or client uses its store, which may not answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any, TypeVar

from .._base.logs import logger
from .._base.scheduler import spawn_later
from .._core.handlers.lifecycle import attempted
from ..errors import Overloaded, made_here
from .contract import LogGone, NewLog, Store, StoreFull, StoreLost
from .lease import ProcessLease
from .memory_store import MemoryStore

STORE_TIMEOUT = 10.0
"""Seconds for which a call waits for a store that does not answer. (What runs, and what reads it, waits longer.)"""
SILENT = 5.0
"""Seconds after which a store that does not answer is reported, if a caller gives up."""
RELEASE_TIMEOUT = 1.0
"""Seconds for which a process that ends waits until the store has ended its leases."""
RETRY = 0.2
"""Seconds between the first attempts to reach the store. Later, it is up to ten times as long."""

ANSWERS = LogGone, StoreFull
"""Errors that a store raises because it answers."""

PROBE = NewLog(id="probe", payer="probe", keep=1.0)
"""The log that is written to find out whether the store answers again. (A store that only reads helps nobody.)"""

T = TypeVar("T")


async def insist(call: Callable[[], Awaitable[T]], patience: float | None = None) -> T:
    """Call the store until it answers.

    Raises:
        StoreLost: it has not answered within ``patience`` seconds.
    """
    loop = asyncio.get_running_loop()
    began, limit = loop.time(), asyncio.timeout(patience)
    try:
        async with limit:
            while True:
                with suppress(StoreLost):
                    return await call()
                await asyncio.sleep(random.uniform(0.5, 1) * min(10 * RETRY, RETRY + loop.time() - began))
    except TimeoutError:
        if not limit.expired():
            raise
        raise StoreLost(f"the store has not answered within {patience:g} s") from None


class WatchedStore:
    """A store whose failures are reported. What the contract does not have, a user's own store may raise: `StoreLost`.

    Args:
        failed: gets each exception of the store.
    """

    def __init__(self, store: Store, failed: Callable[[Exception], None]) -> None:
        self._store = store
        self._failed = failed

    def __repr__(self) -> str:
        return repr(self._store)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return partial(self._ask, found) if callable(found) else found

    async def _ask(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        due = asyncio.get_running_loop().time() + SILENT + options.get("wait", 0.0)
        try:
            return await attempted(method, *args, **options)
        except asyncio.CancelledError:  # a caller has given up
            if asyncio.get_running_loop().time() > due:
                self._failed(StoreLost(f"no answer within {SILENT:g} s"))
            raise
        except Exception as exc:
            self._failed(exc)
            if isinstance(exc, (*ANSWERS, StoreLost)):
                raise
            raise StoreLost(str(exc)) from exc


class StoreLink:
    """The store of a server or client, and the tasks that use it.

    Args:
        store: None for a `MemoryStore`.

    Raises:
        TypeError: this is no store.
    """

    def __init__(self, store: Store | None) -> None:
        if store is not None and not callable(getattr(store, "acquire", None)):
            raise TypeError(f"store= is a MemoryStore, a SqliteStore or a RedisStore, got {store!r}")
        self.memory: MemoryStore | None = None
        """The store of this server or client alone, which answers at once. None if others may have the same store."""
        if store is None:
            store = self.memory = MemoryStore()
        self._given = store
        watched: Any = WatchedStore(self._given, self._failed)
        self.store: Store = watched if self.memory is None else self.memory
        self.tasks: set[asyncio.Task[Any]] = set()
        self.lease = ProcessLease(self.store, self.spawn)
        self.closed = False
        """Whether the server or client closes or was closed, so that no handler of a run begins."""
        self._outage: asyncio.Task[None] | None = None
        """Asks the store that does not answer until it does. None before the first outage."""
        self.failures = 0
        """How often the store has not answered. Afterwards, it may have other logs."""
        self._looking: asyncio.Task[None] | None = None
        """Lets the store look which processes have ended. None before the first time."""

    @property
    def is_shared(self) -> bool:
        """Whether other processes may have the same store."""
        return self.memory is None

    def spawn(self, coroutine: Coroutine[Any, Any, T], context: Context | None = None) -> asyncio.Task[T]:
        """Run a coroutine in a task, which is cancelled by `close`."""
        task = spawn_later(coroutine, context)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for the task gets it

    # ------------------------------------------------------------ a store that does not answer

    @property
    def answers(self) -> bool:
        """Whether the store answers, as far as this process has noticed."""
        return self._outage not in self.tasks

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call the store for a caller, who waits for a limited time.

        Raises:
            Overloaded: the store does not answer.
        """
        try:
            return await insist(call, STORE_TIMEOUT)
        except StoreLost:
            raise unanswered() from None

    def _failed(self, exc: Exception) -> None:
        if isinstance(exc, ANSWERS):
            return
        self.failures += 1
        if self.answers:
            # A store of the user's own may raise something else than `StoreLost`.
            unexpected = None if isinstance(exc, StoreLost) else exc
            logger.warning("the store %s does not answer: %s", self._given, exc, exc_info=unexpected)
            if self.tasks or not self.closed:  # else `close` has ended all tasks
                self._outage = self.spawn(self._wait_answer())

    async def _wait_answer(self) -> None:
        """Ask the store until it answers, because perhaps nobody else does."""
        error: Any = StoreLost()
        while isinstance(error, Exception) and not isinstance(error, ANSWERS):
            await asyncio.sleep(RETRY)
            [error] = await asyncio.gather(self._given.append(PROBE.id, PROBE, "", 0, []), return_exceptions=True)
        logger.info("the store %s answers again", self._given)

    def process_missed(self) -> None:
        """Another process does not answer: let the store look whether it has ended, before anybody reads its logs."""
        look: Callable[[], Coroutine[Any, Any, None]] | None = getattr(self.store, "look", None)
        if look is not None and self._looking not in self.tasks:
            self._looking = self.spawn(look())

    # ------------------------------------------------------------ the end

    def abandon(self) -> None:
        """Forget everything that runs, because the event loop was closed."""
        self.tasks.clear()
        self.lease.abandon()

    async def close(self) -> None:
        """End all tasks, and what the store has open."""
        here, held, answered = asyncio.current_task(), self.lease.held, self.answers
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY):
                while left := self.tasks - {here}:
                    for task in left:
                        task.cancel()
                    await asyncio.wait(left)
        try:  # a store of the user's own may raise anything
            if held and answered and self.is_shared:
                await asyncio.wait_for(self._given.release(held), RELEASE_TIMEOUT)
        except Exception as exc:
            logger.info("the store %s does not end the leases of this process: %r", self._given, exc)
        try:
            await self._given.close()
        except Exception as exc:
            logger.warning("the store %s could not be closed: %s", self._given, exc, exc_info=exc)


def unanswered() -> Overloaded:
    return made_here(Overloaded("the store of results does not answer: try again later"))
