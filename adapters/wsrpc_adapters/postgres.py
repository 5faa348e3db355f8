"""`PostgresStore`: keeps logs in PostgreSQL, with the library asyncpg.

Each step is one transaction. It locks the key of the log, then all lists if the log begins in one, and then its payer
if bytes are added. ``NOTIFY`` announces a change when its transaction commits. Times are those of PostgreSQL's clock.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from wsrpc.store import (
    LEASE,
    Acquired,
    Appended,
    ListedLog,
    LogGone,
    LogState,
    NewLog,
    Page,
    StoreFull,
    Topic,
)

from ._broker_connection import host_of

try:
    from asyncpg import Connection, Record
except ImportError as exc:
    raise ImportError("wsrpc_adapters.postgres needs asyncpg: pip install python-wsrpc[postgres]") from exc

from ._postgres_connections import KEY, LISTS, PAYER, SQL, SUBJECT, PostgresConnections

__all__ = ["PostgresStore"]

LOG_OVERHEAD = 2048
"""Bytes that a log counts besides its own. They include a short end, which always has room."""
SHORT_END = 1024
REPEATABLE_TIME = 600.0
"""Seconds for which a writer may repeat its last batch."""
MOST_FREED = 8
"""Maximum number of the logs before a log, which have freed its key, that it remembers."""

P = ParamSpec("P")
T = TypeVar("T")
Step = Callable[Concatenate["PostgresStore", Connection, P], Coroutine[Any, Any, T]]
Method = Callable[Concatenate["PostgresStore", P], Coroutine[Any, Any, T]]


def transaction(isolation: str = "read_committed") -> Callable[[Step[P, T]], Method[P, T]]:
    """Make a method of one that also gets the connection of a transaction, which it runs in."""

    def decorate(step: Step[P, T]) -> Method[P, T]:
        @wraps(step)
        async def call(self: PostgresStore, /, *args: P.args, **options: P.kwargs) -> T:
            connections = self._enter_loop()  # pyright: ignore[reportPrivateUsage]  # of this module
            return await connections.run(lambda db: step(self, db, *args, **options), isolation)

        return call

    return decorate


class PostgresStore:
    """PostgreSQL as the store of a `Server` or `Client`. All processes with the same schema share it.

    The store makes its tables when it is first used. It needs PostgreSQL 15 or later.

    - Each process has up to nine connections, and listens on one of them. ``LISTEN`` does not work through PgBouncer in
      the transaction mode.
    - Transactions with ``NOTIFY`` commit one after another in the whole database, and each reader that waits reads by
      itself. With very many events or readers, use `RedisStore`.
    - What was acknowledged survives a crash of PostgreSQL, unless ``synchronous_commit`` or ``fsync`` is off. After a
      failover to a replica that is not synchronous, entries can be missing.
    - Methods raise `StoreLost` if PostgreSQL does not answer within two seconds. wsrpc then tries again.

    Args:
        url: a ``postgresql://`` URL, as for ``asyncpg.connect``. The user may create the schema.
        schema: the schema of the tables, and the channel of ``NOTIFY``. Small letters, digits and underscores.
        log_bytes: the maximum size of the kept entries of one log.
        payer_bytes: the maximum size of the logs of one payer.
        payer_logs: the maximum number of logs of one payer, such as the results of one caller.
        waiting: the maximum number of calls that wait for one address.
        lease: seconds for which a process keeps its logs without a sign of life.

    Raises:
        ValueError: the URL or the name of the schema is not valid.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str = "wsrpc",
        log_bytes: int = 1 << 20,
        payer_bytes: int = 16 << 20,
        payer_logs: int = 1000,
        waiting: int = 1000,
        lease: float = LEASE,
    ) -> None:
        if not re.fullmatch("[a-z_][a-z0-9_]{0,62}", schema):
            raise ValueError(f"schema= has small letters, digits and underscores, at most 63, got {schema!r}")
        self.lease = lease
        self._url, self._host, self._schema = url, host_of(url), schema
        self._log_bytes, self._payer_bytes, self._payer_logs, self._most = log_bytes, payer_bytes, payer_logs, waiting
        self._connections: PostgresConnections | None = None
        """Those of the present event loop. None before the first step, and after `close`."""

    def __repr__(self) -> str:
        return f"PostgresStore({self._host}, schema={self._schema!r})"

    def _enter_loop(self) -> PostgresConnections:
        """Return the connections of the running event loop. Those of a loop that has ended are left."""
        connections = self._connections
        if connections is None or connections.loop is not asyncio.get_running_loop():
            connections = self._connections = PostgresConnections(self._url, self._schema)
        return connections

    @transaction()
    async def open(self, db: Connection, key: str, log: NewLog, /) -> LogState:
        found = await self._find(db, key)
        if found is None:
            await self._create(db, key, log)
        elif found["free"] and log.id not in (freed := [*found["freed_before"], found["id"]]):
            await db.execute("DELETE FROM log WHERE key = $1", key)
            await self._create(db, key, log, freed[-MOST_FREED:])
        behind = await db.fetchval(SQL.behind, key) if log.topic else None
        return await self._state(db, key, behind or "")

    @transaction()
    async def append(
        self,
        db: Connection,
        key: str,
        log: NewLog | str,
        writer: str,
        sequence: int,
        entries: Sequence[bytes],
        /,
        *,
        end: bytes | None = None,
        free: bool = False,
        only_if_lost: bool = False,
    ) -> Appended:
        found = await self._find(db, key)
        if isinstance(log, NewLog):
            found = found or await self._create(db, key, log)
            await db.execute(SQL.keep, key, log.keep)
        if found is None or (found["owned"] if isinstance(log, NewLog) else found["id"] != log):
            raise LogGone("the store has no such log")
        number, before, runs = found["last"] + 1, found["newest"], found["owned"] and found["ending"] is None
        batch = await db.fetchrow("SELECT * FROM writer WHERE key = $1 AND writer = $2", key, writer)
        if batch is not None and sequence < batch["after"]:
            if sequence != batch["sequence"]:
                raise LogGone("the writer has added a later batch")
            number, before, entries = batch["number"], batch["before"], ()
        elif found["owned"] and (
            (entries and not runs) or (writer != found["owner"] and (entries or writer != "other"))
        ):
            raise LogGone("the log has ended, or has another owner")
        elif runs and writer == found["owner"] and sequence != number:
            raise LogGone("the store has lost some entries of the log")
        if writer == found["owner"] and not found["topic"]:
            await db.execute(SQL.renew, [key], self.lease)
        if entries:
            await db.execute(
                SQL.remember, key, writer, sequence, sequence + len(entries), number, before, REPEATABLE_TIME
            )
            name = found["id"] if found["owned"] else writer
            size = await db.fetchval(SQL.add, key, number, name, sequence, entries)
            excess, _ = await self._share(db, found["payer"])
            await db.execute(SQL.trim, key, excess, size - self._log_bytes)
        ends = end is not None and runs and (found["lost"] or not only_if_lost)
        if end is not None and ends:
            await self._end(db, key, found, end, free)
        elif end == b"" and found["moves"] and found["ending"] is not None and writer == found["owner"]:
            await db.execute(SQL.done, key)
        if entries or ends:
            await db.execute("SELECT pg_notify($1, $2)", self._schema, key)
        return Appended(number, before, await self._state(db, key))

    async def read(self, key: str, after: int, /, *, wait: float = 0.0) -> Page | None:
        if wait <= 0:
            return await self._page(key, after)
        with self._enter_loop().watch(key) as changed:  # before the log is read, so that no entry is overlooked
            page = await self._page(key, after)
            if page is None or page.state.end is not None or page.state.last != after:
                return page
            done, _ = await asyncio.wait((changed,), timeout=wait)
            was_closed = done and not changed.result()
            return page if was_closed else await self._page(key, after)

    async def hold(
        self, process: str, logs: Mapping[str, str], readers: Mapping[str, int], /
    ) -> Mapping[str, LogState]:
        await self._count(process, readers)
        return await self._renew(logs)  # in another transaction, which locks keys from the first one on

    @transaction()
    async def _count(self, db: Connection, process: str, readers: Mapping[str, int]) -> None:
        await db.execute(SQL.count, process, [*readers], [*readers.values()], self.lease)

    @transaction()
    async def _renew(self, db: Connection, logs: Mapping[str, str]) -> Mapping[str, LogState]:
        keys = [row["key"] for row in await db.fetch(SQL.held, [*logs], [*logs.values()])]
        await db.execute(SQL.renew, keys, self.lease)
        rows = await db.fetch(f"SELECT key, {SQL.state} FROM log WHERE key = ANY($1)", keys)
        return {key: LogState(*state) for key, *state in rows}

    @transaction()
    async def release(self, db: Connection, logs: Mapping[str, str], /) -> None:
        keys = [row["key"] for row in await db.fetch(SQL.held, [*logs], [*logs.values()])]
        await db.execute(SQL.renew, keys, 0.0)
        await db.execute(SQL.release, keys)

    @transaction()
    async def adopt(self, db: Connection, key: str, id: str, owner: str, /) -> LogState:
        found = await self._find(db, key)
        if found is None or found["id"] != id or not (found["moves"] or (found["owned"] and found["ending"] is None)):
            raise LogGone("the store has no such log, or it has ended")
        if found["owner"] != owner and not await db.fetchval(SQL.adopt, key, owner):
            raise LogGone("the time of the log is over, or its process has it")
        await db.execute(SQL.can_move, key)
        await db.execute(SQL.renew, [key], self.lease)
        return await self._state(db, key)

    @transaction()
    async def pending(self, db: Connection, topic: str, after: int, /) -> Sequence[ListedLog]:
        rows = await db.fetch(SQL.pending, topic, after) if topic else await db.fetch(SQL.lost, after)
        return [ListedLog(*row) for row in rows]

    @transaction()
    async def topics(self, db: Connection, after: int, /) -> Sequence[Topic]:
        return [Topic(*row) for row in await db.fetch(SQL.topics, after)]

    @transaction()
    async def acquire(self, db: Connection, subject: str, process: str, has: int, wants: int, most: int, /) -> Acquired:
        await db.execute(SQL.lock, SUBJECT, subject)
        if (count := await db.fetchval(SQL.acquire, subject, process, has, wants, most)) is None:
            raise LogGone("the store has no such log of a process")
        await db.execute("DELETE FROM acquired WHERE (subject, process, count) = ($1, $2, 0)", subject, process)
        return Acquired(count)

    async def close(self) -> None:
        connections, self._connections = self._connections, None
        if connections is not None and connections.loop is asyncio.get_running_loop():
            await connections.close()

    # ------------------------------------------------------------ steps of a transaction

    async def _find(self, db: Connection, key: str) -> Record | None:
        """Lock a key, which may have no row, and return the row of its log."""
        await db.execute(SQL.lock, KEY, key)
        await db.execute(SQL.remove_if_expired, key)
        found: Record | None = await db.fetchrow(SQL.find, key)
        return found

    async def _create(self, db: Connection, key: str, log: NewLog, freed: Sequence[str] = ()) -> Record:
        await db.execute(SQL.remove_expired)
        texts = log.arguments, log.payer, log.topic
        base = LOG_OVERHEAD + log.memory + len(log.payload) + sum(len(text.encode()) for text in texts)
        is_full = False
        if log.topic:
            await db.execute(SQL.lock, LISTS, "")  # so that places are committed in their order
            is_full = await db.fetchval(SQL.waiting, log.topic) >= self._most
        excess, logs = await self._share(db, log.payer)
        if not log.topic:
            is_full = logs >= self._payer_logs
        elif excess + base > 0 and not is_full:
            await db.execute(SQL.make_room, log.payer, excess + base)
            excess, _ = await self._share(db, log.payer)
        if is_full or excess + base > 0:
            raise StoreFull("the store has no room for another log of this payer")
        within, lease = (log.within, log.within) if log.topic else (0.0, self.lease)
        fields = log.id, *texts, log.payload, log.owned, log.keep, log.memory, base, freed, within, lease
        created: Record = await db.fetchrow(SQL.create, key, *fields)
        return created

    async def _end(self, db: Connection, key: str, found: Record, end: bytes, free: bool) -> None:
        stays = found["moves"] and not free
        more = max(0, len(end) - SHORT_END) - found["memory"] - (0 if stays else len(found["payload"]))
        if more > 0:
            excess, _ = await self._share(db, found["payer"])
            await db.execute(SQL.trim, key, excess + more, 0)
            excess, _ = await self._share(db, found["payer"])
            if excess + more > 0:
                raise StoreFull("the store has no room for the end of a log of this payer")
        await db.execute(SQL.end, key, end, free, more)

    async def _share(self, db: Connection, payer: str) -> tuple[int, int]:
        """Lock a payer. Return how many bytes too many it has, which is negative if there is room, and its logs."""
        await db.execute(SQL.lock, PAYER, payer)
        size, logs = await db.fetchrow(SQL.share, payer)
        return size - self._payer_bytes, logs

    async def _state(self, db: Connection, key: str, behind: str = "") -> LogState:
        fields: list[Any] = [*await db.fetchrow(SQL.find_state, key)]
        fields[-1] = behind
        return LogState(*fields)

    @transaction("repeatable_read")
    async def _page(self, db: Connection, key: str, after: int) -> Page | None:
        if (found := await db.fetchrow(f"{SQL.find_state} AND {SQL.alive}", key)) is None:
            return None
        *fields, before = found
        state = LogState(*fields)
        number = min(max(after + 1, state.first), state.last + 1)
        rows = await db.fetch(SQL.page, key, number - 1)
        if rows and rows[0]["number"] < number:
            before = rows.pop(0)["id"]
        return Page(state, number, before, [row["entry"] for row in rows], [row["id"] for row in rows])
