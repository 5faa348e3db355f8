"""`PostgresConnections`: the connections of a process to PostgreSQL, with the library asyncpg; and the statements that
they run, `SQL`, by their names in ``_postgres_store.sql``."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager, suppress
from importlib.resources import files
from types import SimpleNamespace
from typing import Any, TypeVar

import asyncpg

from wsrpc.store import FORMAT, StoreLost

from ._broker_connection import error_text

T = TypeVar("T")

STEP_TIMEOUT = 2.0
"""Seconds in which PostgreSQL has to connect, and to do what one call needs."""

CONNECTIONS = 8
"""Maximum number of connections of a process, besides the one on which it listens."""

KEY, LISTS, PAYER, SUBJECT = 1, 2, 3, 4
"""Kinds of names that a transaction locks until its end, in this order."""


def load() -> SimpleNamespace:
    """Return the statements. A name in braces stands for an earlier one, which is a part of several."""
    text = files("wsrpc_adapters").joinpath("_postgres_store.sql").read_text("utf-8")
    _, *parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    found: dict[str, str] = {}
    for name, statement in zip(parts[::2], parts[1::2], strict=True):
        found[name] = re.sub(r"\{(\w+)\}", lambda part: found.get(part[1], part[0]), statement.strip())
    return SimpleNamespace(**found)


SQL = load()


class PostgresConnections:
    """A pool of connections in one event loop, and one more, on which the process listens.

    All of them are opened when they are needed, and again when they are lost.

    Args:
        url: a ``postgresql://`` URL.
        schema: the schema of the tables, and the channel of ``NOTIFY``.
    """

    def __init__(self, url: str, schema: str) -> None:
        self.loop = asyncio.get_running_loop()
        self._url, self._schema = url, schema
        self._opening = asyncio.Lock()
        self._free = asyncio.Semaphore(CONNECTIONS)
        """Waited for in place of the pool: asyncpg logs an error of its own if it connects as a wait for it ends."""
        self._pool: asyncpg.Pool | None = None
        self._listener: asyncpg.Connection | None = None
        """The connection on which the process listens."""
        self._closed = False
        self._steps: set[asyncio.Task[Any]] = set()
        self._readers: defaultdict[str, set[asyncio.Future[bool]]] = defaultdict(set)
        """Readers that wait for a change, by the key of the log. They get false if the store is closed."""

    async def run(self, step: Callable[[asyncpg.Connection], Coroutine[Any, Any, T]], isolation: str) -> T:
        """Run a step in a transaction. It goes on if the caller is cancelled: asyncpg may connect, or commit.

        Raises:
            StoreLost: PostgreSQL has not done it within `STEP_TIMEOUT`, or has refused it.
        """
        task = self.loop.create_task(self._run(step, isolation))
        self._steps.add(task)
        task.add_done_callback(self._ended)
        await asyncio.wait((task,))
        return task.result()

    async def _run(self, step: Callable[[asyncpg.Connection], Coroutine[Any, Any, T]], isolation: str) -> T:
        try:
            pool = await self._open()
            await asyncio.wait_for(self._free.acquire(), STEP_TIMEOUT)
            try:
                async with pool.acquire() as db:
                    silence = self.loop.call_later(STEP_TIMEOUT, db.terminate)
                    try:
                        async with db.transaction(isolation=isolation):
                            return await step(db)
                    finally:
                        silence.cancel()
            finally:
                self._free.release()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
            raise StoreLost(f"PostgreSQL: {error_text(exc)}") from exc

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._steps.discard(task)
        if not task.cancelled():
            task.exception()  # otherwise asyncio logs the exception of a step whose caller was cancelled

    async def _open(self) -> asyncpg.Pool:
        """Return the pool. Make it first, and listen, unless both are there."""
        async with self._opening:
            if self._closed:
                raise StoreLost("the store was closed")
            if self._listener is None:
                self._listener = await self._listen()
            if self._pool is None:
                self._pool = await asyncpg.create_pool(self._url, min_size=0, max_size=CONNECTIONS, **self._options())
            return self._pool

    def _options(self) -> dict[str, Any]:
        return {"timeout": STEP_TIMEOUT, "server_settings": {"search_path": self._schema}}

    async def _listen(self) -> asyncpg.Connection:
        """Connect, make the tables if there are none, and listen."""
        connection = await asyncpg.connect(self._url, **self._options())
        try:
            await connection.execute(SQL.version.format(schema=self._schema, format=FORMAT), timeout=STEP_TIMEOUT)
            if (version := await connection.fetchval("SELECT version FROM format", timeout=STEP_TIMEOUT)) != FORMAT:
                raise StoreLost(f"the store has the format {version}, and this version of wsrpc {FORMAT}")
            await connection.execute(SQL.tables.format(schema=self._schema), timeout=STEP_TIMEOUT)
            await connection.add_listener(self._schema, self._notified)
        except BaseException:
            connection.terminate()
            raise
        connection.add_termination_listener(self._disconnected)
        return connection

    # ------------------------------------------------------------ readers that wait

    @contextmanager
    def watch(self, key: str) -> Generator[asyncio.Future[bool]]:
        """Yield a future that is done when a log has changed. Its result is false if the store is closed."""
        changed: asyncio.Future[bool] = self.loop.create_future()
        self._readers[key].add(changed)
        try:
            yield changed
        finally:
            self._readers[key].discard(changed)
            if not self._readers[key]:
                del self._readers[key]

    def _notified(self, connection: object, pid: int, channel: str, key: object) -> None:
        self._wake_readers([str(key)], True)

    def _disconnected(self, connection: object) -> None:
        if self._listener is connection:
            self._listener = None
            self._wake_readers(self._readers, True)  # they connect again

    def _wake_readers(self, keys: Iterable[str], changed: bool) -> None:
        for key in keys:
            for reader in self._readers.get(key, ()):
                if not reader.done():
                    reader.set_result(changed)

    # ------------------------------------------------------------ the end

    async def close(self) -> None:
        """Wait until all steps have ended, and close all connections."""
        self._wake_readers(self._readers, False)
        if self._steps:
            await asyncio.wait(self._steps, timeout=STEP_TIMEOUT)
        async with self._opening:
            self._closed = True
            listener, self._listener = self._listener, None
            if listener is not None:
                listener.terminate()
            if self._pool is not None:
                with suppress(TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    await asyncio.wait_for(self._pool.close(), STEP_TIMEOUT)  # then terminates what still runs
        await asyncio.sleep(0)  # the sockets are closed in the next turn of the event loop
