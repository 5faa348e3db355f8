"""`PostgresStore`: keeps what calls with a key and rooms with ``keep=`` need in PostgreSQL, with the library asyncpg.

A log is a row, with its entries, writers, readers and what its process has acquired in four other tables. Each call is
one transaction, which locks the key of the log, then all lists if the log begins in one, and then its payer if bytes
are added. News are announced by ``NOTIFY`` as the transaction commits. Each process listens on one connection. All
times are those of PostgreSQL's clock, in seconds.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import urlsplit

import asyncpg

from wsrpc.store import (
    FORMAT,
    LEASE,
    Acquired,
    Appended,
    ListedLog,
    LogGone,
    LogState,
    NewLog,
    Page,
    StoreFull,
    StoreLost,
    Topic,
)

TIMEOUT = 2.0
"""Seconds in which PostgreSQL has to connect, and to do what one call needs."""
CONNECTIONS = 8
"""Maximum number of connections of a process, besides the one on which it listens."""
ENTRY, LOG = 40, 2048
"""Bytes that an entry and a log count besides their own. Those of a log include a short end, which always has room."""
SHORT_END = 1024
REMEMBERED = 600.0
"""Seconds for which a writer may repeat its last batch."""
MOST_WRITERS = 256
"""Maximum number of writers of a log whose last batch is remembered."""
MOST_FREED = 8
"""Maximum number of the logs before a log, which have freed its key, that it remembers."""

# ---------------------------------------------------------------- SQL

NOW = "extract(epoch FROM clock_timestamp())::float8"
ALIVE = f"expires > {NOW}"
RUNS = "owned AND ending IS NULL"
LISTED = f"topic <> '' AND {RUNS} AND {ALIVE}"
SIZE = f"length(entry) + length(id) + {ENTRY}"
STATE = f"""id, arguments, first, last, ending,
    (SELECT coalesce(sum(count), 0) FROM reader WHERE reader.key = log.key AND until > {NOW}),
    {RUNS} AND lapses <= {NOW}, false,
    CASE WHEN topic <> '' AND {RUNS} THEN greatest(0, lapses - {NOW}) ELSE 0 END, attempt"""
"""The fields of a `LogState`."""

VERSION = """
SELECT pg_advisory_xact_lock(0, hashtext('{schema}'));  -- processes that start together make the tables one by one
CREATE SCHEMA IF NOT EXISTS "{schema}";
CREATE TABLE IF NOT EXISTS format (version integer NOT NULL);
INSERT INTO format SELECT {format} WHERE NOT EXISTS (SELECT FROM format);
"""
TABLES = """
SELECT pg_advisory_xact_lock(0, hashtext('{schema}'));
CREATE SEQUENCE IF NOT EXISTS place;
CREATE TABLE IF NOT EXISTS log (
    key text PRIMARY KEY, id text NOT NULL, arguments text NOT NULL, payer text NOT NULL, topic text NOT NULL,
    payload bytea NOT NULL, owned boolean NOT NULL, keep float8 NOT NULL, memory bigint NOT NULL,
    base bigint NOT NULL, bytes bigint NOT NULL DEFAULT 0,  -- the size: without the entries, and of the entries
    began float8 NOT NULL, within float8 NOT NULL, lapses float8 NOT NULL, expires float8 NOT NULL,
    place bigint NOT NULL,  -- its number in its list
    owner text NOT NULL, attempt integer NOT NULL DEFAULT 0,
    ending bytea, free boolean NOT NULL DEFAULT false,
    freed_before text[] NOT NULL,  -- the ids of the logs before it, which have freed its key
    first bigint NOT NULL DEFAULT 1, last bigint NOT NULL DEFAULT 0,
    dropped text NOT NULL DEFAULT '', newest text NOT NULL DEFAULT ''  -- the ids of the entries `first - 1` and `last`
);
CREATE INDEX IF NOT EXISTS log_of_payer ON log USING hash (payer);
CREATE INDEX IF NOT EXISTS log_of_topic ON log (topic, place) WHERE topic <> '' AND ending IS NULL;
CREATE INDEX IF NOT EXISTS log_expires ON log (expires);
CREATE TABLE IF NOT EXISTS entry (key text REFERENCES log ON DELETE CASCADE, number bigint, id text NOT NULL,
    entry bytea NOT NULL, PRIMARY KEY (key, number));
CREATE TABLE IF NOT EXISTS writer (key text REFERENCES log ON DELETE CASCADE, writer text,
    sequence bigint NOT NULL, after bigint NOT NULL,  -- those of the first entry of the last batch, and of the next one
    number bigint NOT NULL, before text NOT NULL, added float8 NOT NULL, PRIMARY KEY (key, writer));
CREATE TABLE IF NOT EXISTS reader (key text REFERENCES log ON DELETE CASCADE, process text,
    count integer NOT NULL, until float8 NOT NULL, PRIMARY KEY (key, process));
CREATE TABLE IF NOT EXISTS acquired (subject text, process text REFERENCES log ON DELETE CASCADE,
    count bigint NOT NULL, PRIMARY KEY (subject, process));
"""
LOCK = "SELECT pg_advisory_xact_lock($1, hashtext($2))"
REMOVE_EXPIRED = f"""
DELETE FROM log WHERE key IN
    (SELECT key FROM log WHERE NOT {ALIVE} ORDER BY expires LIMIT 100 FOR UPDATE SKIP LOCKED);
DELETE FROM reader WHERE (key, process) IN
    (SELECT key, process FROM reader WHERE until <= {NOW} LIMIT 100 FOR UPDATE SKIP LOCKED);
"""
REMOVE_IF_EXPIRED = f"DELETE FROM log WHERE key = $1 AND NOT {ALIVE}"
FIND = f"SELECT *, lapses <= {NOW} AS lost FROM log WHERE key = $1 FOR UPDATE"
FIND_STATE = f"SELECT {STATE}, dropped FROM log WHERE key = $1"
SHARE = f"""
SELECT coalesce(sum(base + bytes), 0)::bigint, count(*) FILTER (WHERE topic = '') FROM log WHERE payer = $1 AND {ALIVE}
"""
WAITING = f"SELECT count(*) FROM log WHERE topic = $1 AND {LISTED} AND lapses > {NOW}"
# The logs of a payer that have left their lists, until they have freed $2 bytes.
MAKE_ROOM = """
DELETE FROM log WHERE key IN (
    SELECT key FROM (
        SELECT key, sum(base + bytes) OVER (ORDER BY ended, key) - base - bytes AS freed FROM (
            SELECT *, expires - keep AS ended FROM log WHERE payer = $1 AND topic <> '' AND ending IS NOT NULL
            FOR UPDATE SKIP LOCKED
        ) AS ended
    ) AS sized WHERE freed < $2
)
"""
# The numbers are those of the clock, so that a database which is restored gives none again.
CREATE = f"""
INSERT INTO log (key, id, owner, arguments, payer, topic, payload, owned, keep, memory, base, freed_before, within,
    place, began, lapses, expires)
SELECT $1, $2, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,
    CASE WHEN $5 = '' THEN 0 ELSE setval('place', greatest(nextval('place'), (1e6 * {NOW})::bigint)) END,
    {NOW}, {NOW} + $13, {NOW} + $8 + CASE WHEN $7 THEN $13 ELSE 0 END
RETURNING *
"""
LAPSES = f"greatest({NOW} + $2, began + within)"
RENEW = f"UPDATE log SET lapses = {LAPSES}, expires = {LAPSES} + keep WHERE key = ANY($1) AND {RUNS}"
ADOPT = f"""
UPDATE log SET owner = $2, attempt = attempt + 1 WHERE key = $1 AND began + within > {NOW} RETURNING key
"""
KEEP = f"UPDATE log SET keep = $2, expires = {NOW} + $2 WHERE key = $1"
END = f"""
UPDATE log SET ending = $2, free = $3, base = base + $4, payload = '', expires = {NOW} + keep WHERE key = $1
"""
REMEMBER = f"""
WITH old AS (DELETE FROM writer WHERE key = $1 AND writer <> $2 AND added <= greatest({NOW} - $7,
    (SELECT added FROM writer WHERE key = $1 ORDER BY added DESC OFFSET {MOST_WRITERS} - 1 LIMIT 1)))
INSERT INTO writer VALUES ($1, $2, $3, $4, $5, $6, {NOW})
ON CONFLICT (key, writer) DO UPDATE SET (sequence, after, number, before, added) = ($3, $4, $5, $6, excluded.added)
"""
ADD = f"""
WITH added AS (
    INSERT INTO entry SELECT $1, $2::bigint + place - 1, $3::text || '.' || $4::bigint + place - 1, entry
    FROM unnest($5::bytea[]) WITH ORDINALITY AS new (entry, place) RETURNING number, id, {SIZE} AS size
)
UPDATE log SET bytes = bytes + (SELECT sum(size) FROM added), last = (SELECT max(number) FROM added),
    newest = (SELECT id FROM added ORDER BY number DESC LIMIT 1)
WHERE key = $1 RETURNING bytes
"""
# Drops the oldest entries until they have freed $2 bytes, or, without the last entry, $3.
TRIM = f"""
WITH old AS (
    SELECT number, id, {SIZE} AS size, sum({SIZE}) OVER (ORDER BY number) - ({SIZE}) AS freed FROM entry WHERE key = $1
), dropped AS (
    DELETE FROM entry USING old JOIN log ON log.key = $1 WHERE entry.key = $1 AND entry.number = old.number
    AND (freed < $2::bigint OR freed < $3::bigint AND old.number < last) RETURNING old.number, old.id, size
)
UPDATE log SET bytes = bytes - (SELECT sum(size) FROM dropped), first = (SELECT max(number) + 1 FROM dropped),
    dropped = (SELECT id FROM dropped ORDER BY number DESC LIMIT 1)
WHERE key = $1 AND EXISTS (SELECT FROM dropped)
"""
# The entry with the number $2, for its id, and those after it until they have 64 KiB.
PAGE = """
SELECT number, id, entry FROM (
    SELECT *, sum(CASE WHEN number > $2 THEN length(entry) ELSE 0 END) OVER (ORDER BY number) - length(entry) AS size
    FROM (SELECT * FROM entry WHERE key = $1 AND number >= $2 ORDER BY number LIMIT 256) AS next
) AS sized WHERE size < 65536 ORDER BY number
"""
# These two lock many rows, in the order of their keys, so that they do not wait for each other in a circle. What is
# locked is updated by the next statement: the same one would try to lock the versions from before it waited, too.
COUNT = f"""
INSERT INTO reader SELECT key, $1, count, {NOW} + $4 FROM unnest($2::text[], $3::int[]) AS asked (key, count)
    JOIN (SELECT key FROM log WHERE key = ANY($2) AND {ALIVE} ORDER BY key FOR KEY SHARE) AS alive USING (key)
    ORDER BY key
ON CONFLICT (key, process) DO UPDATE SET (count, until) = (excluded.count, excluded.until)
"""
HELD = f"""
SELECT key FROM log JOIN unnest($1::text[], $2::text[]) AS asked (key, id) USING (key, id)
WHERE {ALIVE} ORDER BY key FOR NO KEY UPDATE OF log
"""
BEHIND = f"""
WITH this AS (SELECT topic AS list, place AS number FROM log WHERE key = $1 AND {RUNS})
SELECT id FROM log, this WHERE topic = list AND place < number AND {LISTED} ORDER BY place DESC LIMIT 1
"""
PENDING = f"""
SELECT place, key, id, payload, {NOW} - began, attempt, lapses <= {NOW} FROM (
    SELECT *, sum(length(payload)) OVER (ORDER BY place) - length(payload) AS size FROM (
        SELECT * FROM log WHERE topic = $1 AND place > $2 AND {LISTED} ORDER BY place LIMIT 100
    ) AS next
) AS sized WHERE size < 65536 ORDER BY place
"""
# The names come from the index, one step for each: GROUP BY would read all logs.
TOPICS = f"""
WITH RECURSIVE names AS (
    (SELECT topic FROM log WHERE {LISTED} ORDER BY topic LIMIT 1) UNION ALL
    SELECT (SELECT log.topic FROM log WHERE log.topic > names.topic AND {LISTED} ORDER BY log.topic LIMIT 1)
    FROM names WHERE topic IS NOT NULL
)
SELECT newest.place, names.topic, (SELECT count(*) FROM log WHERE topic = names.topic AND {LISTED}), (
    SELECT {NOW} - began FROM log WHERE topic = names.topic AND {LISTED} ORDER BY place LIMIT 1
), newest.id FROM names, LATERAL (
    SELECT place, id FROM log WHERE topic = names.topic AND {LISTED} ORDER BY place DESC LIMIT 1
) AS newest WHERE newest.place > $1 ORDER BY newest.place LIMIT 200
"""
ACQUIRE = f"""
INSERT INTO acquired SELECT $1, $2, greatest($3::bigint, least($4::bigint, $5::bigint - (
    SELECT coalesce(sum(count), 0) FROM acquired JOIN log AS other ON other.key = process
    WHERE subject = $1 AND process <> $2 AND {RUNS} AND lapses > {NOW}
))) FROM log WHERE key = $2 AND {RUNS} AND {ALIVE}
ON CONFLICT (subject, process) DO UPDATE SET count = excluded.count RETURNING count
"""

# ---------------------------------------------------------------- the store

P = ParamSpec("P")
T = TypeVar("T")
Method = Callable[Concatenate["PostgresStore", P], Coroutine[Any, Any, T]]


def to_its_end(method: Method[P, T]) -> Method[P, T]:
    """Let the method go on if its caller is cancelled: asyncpg must not be as it connects, or ends a transaction."""

    @wraps(method)
    async def call(self: PostgresStore, /, *args: P.args, **options: P.kwargs) -> T:
        task = asyncio.create_task(method(self, *args, **options))
        self._calls.add(task)
        task.add_done_callback(self._ended)
        await asyncio.wait((task,))
        return task.result()

    return call


class PostgresStore:
    """PostgreSQL as the store of a `Server` or `Client`. All processes with the same schema share it.

    Args:
        url: a ``postgresql://`` URL, as for ``asyncpg.connect``. The user may create the schema.
        schema: the schema of the tables, and the channel of ``NOTIFY``: a name in small letters.
        log_bytes: the maximum size of the kept entries of one log.
        payer_bytes: the maximum size of the logs of one payer.
        payer_logs: the maximum number of logs of one payer, such as the results of one caller.
        waiting: the maximum number of calls that wait for one address.
        lease: seconds for which a process keeps its logs without a sign of life.
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
        self.lease = lease
        self._url, self._schema = url, schema
        self._options = {"timeout": TIMEOUT, "server_settings": {"search_path": schema}}
        self._log_bytes, self._payer_bytes, self._payer_logs, self._most = log_bytes, payer_bytes, payer_logs, waiting
        self._connecting = asyncio.Lock()
        self._pool: Any = None
        self._listener: Any = None
        """The connection on which the process listens."""
        self._calls: set[asyncio.Task[Any]] = set()
        self._waiting: defaultdict[str, set[asyncio.Future[bool]]] = defaultdict(set)
        """Readers that wait for news, by the key of the log. They get false if the store is closed."""

    def __repr__(self) -> str:
        return f"PostgresStore({urlsplit(self._url).hostname}, {self._schema})"

    @to_its_end
    async def open(self, key: str, log: NewLog, /) -> LogState:
        async with self._transaction() as db:
            found = await self._find(db, key)
            if found is None:
                await self._create(db, key, log)
            elif found["free"] and log.id not in (freed := [*found["freed_before"], found["id"]]):
                await db.execute("DELETE FROM log WHERE key = $1", key)
                await self._create(db, key, log, freed[-MOST_FREED:])
            behind = await db.fetchval(BEHIND, key) if log.topic else None
            return await self._state(db, key, behind or "")

    @to_its_end
    async def append(
        self,
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
        async with self._transaction() as db:
            found = await self._find(db, key)
            if isinstance(log, NewLog):
                found = found or await self._create(db, key, log)
                await db.execute(KEEP, key, log.keep)
            if found is None or (found["owned"] if isinstance(log, NewLog) else found["id"] != log):
                raise LogGone("the store has no such log")
            number, before, runs = found["last"] + 1, found["newest"], found["owned"] and found["ending"] is None
            batch = await db.fetchrow("SELECT * FROM writer WHERE key = $1 AND writer = $2", key, writer)
            if batch is not None and sequence < batch["after"]:
                if sequence != batch["sequence"]:
                    raise LogGone("the writer has added a later batch")
                number, before, entries = batch["number"], batch["before"], ()
            elif (
                found["owned"] and (entries or (runs and writer != "other")) and not (runs and writer == found["owner"])
            ):
                raise LogGone("the log has ended, or has another owner")
            elif runs and writer == found["owner"] and sequence != number:
                raise LogGone("the store has lost some entries of the log")
            if writer == found["owner"] and not found["topic"]:
                await db.execute(RENEW, [key], self.lease)
            if entries:
                await db.execute(REMEMBER, key, writer, sequence, sequence + len(entries), number, before, REMEMBERED)
                size = await db.fetchval(ADD, key, number, writer, sequence, entries)
                excess, _ = await self._share(db, found["payer"])
                await db.execute(TRIM, key, excess, size - self._log_bytes)
            ends = end is not None and runs and (found["lost"] or not only_if_lost)
            if end is not None and ends:
                await self._end(db, key, found, end, free)
            if entries or ends:
                await db.execute("SELECT pg_notify($1, $2)", self._schema, key)
            return Appended(number, before, await self._state(db, key))

    async def read(self, key: str, after: int, /, *, wait: float = 0.0) -> Page | None:
        if wait <= 0:
            return await self._page(key, after)
        news = asyncio.get_running_loop().create_future()
        self._waiting[key].add(news)  # before the log is read, so that no entry is overlooked
        try:
            page = await self._page(key, after)
            if page is None or page.state.end is not None or page.state.last != after:
                return page
            done, _ = await asyncio.wait((news,), timeout=wait)
            return page if done and not news.result() else await self._page(key, after)
        finally:
            self._waiting[key].discard(news)
            if not self._waiting[key]:
                del self._waiting[key]

    @to_its_end
    async def hold(
        self, process: str, logs: Mapping[str, str], readers: Mapping[str, int], /
    ) -> Mapping[str, LogState]:
        async with self._transaction() as db:
            await db.execute(COUNT, process, [*readers], [*readers.values()], self.lease)
        async with self._transaction() as db:  # another one, which begins again with the first key
            keys = [row["key"] for row in await db.fetch(HELD, [*logs], [*logs.values()])]
            await db.execute(RENEW, keys, self.lease)
            rows = await db.fetch(f"SELECT key, {STATE} FROM log WHERE key = ANY($1)", keys)
        return {key: LogState(*state) for key, *state in rows}

    @to_its_end
    async def release(self, logs: Mapping[str, str], /) -> None:
        async with self._transaction() as db:
            keys = [row["key"] for row in await db.fetch(HELD, [*logs], [*logs.values()])]
            await db.execute(RENEW, keys, 0.0)

    @to_its_end
    async def adopt(self, key: str, id: str, owner: str, /) -> LogState:
        async with self._transaction() as db:
            found = await self._find(db, key)
            if found is None or found["id"] != id or found["ending"] is not None:
                raise LogGone("the store has no such log, or it has ended")
            if found["owner"] != owner and not await db.fetchval(ADOPT, key, owner):
                raise LogGone("the time of the log is over")
            await db.execute(RENEW, [key], self.lease)
            return await self._state(db, key)

    @to_its_end
    async def pending(self, topic: str, after: int, /) -> Sequence[ListedLog]:
        async with self._transaction() as db:
            return [ListedLog(*row) for row in await db.fetch(PENDING, topic, after)]

    @to_its_end
    async def topics(self, after: int, /) -> Sequence[Topic]:
        async with self._transaction() as db:
            return [Topic(*row) for row in await db.fetch(TOPICS, after)]

    @to_its_end
    async def acquire(self, subject: str, process: str, has: int, wants: int, most: int, /) -> Acquired:
        async with self._transaction() as db:
            await db.execute(LOCK, 4, subject)
            if (count := await db.fetchval(ACQUIRE, subject, process, has, wants, most)) is None:
                raise LogGone("the store has no such log of a process")
            await db.execute("DELETE FROM acquired WHERE (subject, process, count) = ($1, $2, 0)", subject, process)
            return Acquired(count)

    async def close(self) -> None:
        self._wake_readers(self._waiting, news=False)
        if self._calls:
            await asyncio.wait(self._calls, timeout=TIMEOUT)
        async with self._connecting:
            listener, pool, self._listener, self._pool = self._listener, self._pool, None, None
            if listener is not None:
                listener.terminate()
            if pool is not None:
                with suppress(TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    await asyncio.wait_for(pool.close(), TIMEOUT)  # terminates what is under way after that
        await asyncio.sleep(0)  # the sockets are closed in the next turn of the event loop

    # ------------------------------------------------------------ steps of a transaction

    async def _find(self, db: Any, key: str) -> Any:
        """Lock a key, which may have no row, and return the row of its log."""
        await db.execute(LOCK, 1, key)
        await db.execute(REMOVE_IF_EXPIRED, key)
        return await db.fetchrow(FIND, key)

    async def _create(self, db: Any, key: str, log: NewLog, freed: Sequence[str] = ()) -> Any:
        await db.execute(REMOVE_EXPIRED)
        texts = log.arguments, log.payer, log.topic
        base = LOG + log.memory + len(log.payload) + sum(len(text.encode()) for text in texts)
        if log.topic:
            await db.execute(LOCK, 3, "")  # so that places are committed in their order
            is_full = await db.fetchval(WAITING, log.topic) >= self._most
        excess, logs = await self._share(db, log.payer)
        if not log.topic:
            is_full = logs >= self._payer_logs
        elif excess + base > 0 and not is_full:
            await db.execute(MAKE_ROOM, log.payer, excess + base)
            excess, _ = await self._share(db, log.payer)
        if is_full or excess + base > 0:
            raise StoreFull("the store has no room for another log of this payer")
        within, lease = (log.within, log.within) if log.topic else (0.0, self.lease)
        fields = log.id, *texts, log.payload, log.owned, log.keep, log.memory, base, freed, within, lease
        return await db.fetchrow(CREATE, key, *fields)

    async def _end(self, db: Any, key: str, found: Any, end: bytes, free: bool) -> None:
        more = max(0, len(end) - SHORT_END) - found["memory"] - len(found["payload"])
        if more > 0:
            excess, _ = await self._share(db, found["payer"])
            await db.execute(TRIM, key, excess + more, 0)
            excess, _ = await self._share(db, found["payer"])
            if excess + more > 0:
                raise StoreFull("the store has no room for the end of a log of this payer")
        await db.execute(END, key, end, free, more)

    async def _share(self, db: Any, payer: str) -> tuple[int, int]:
        """Lock a payer. Return how many bytes too many it has, which is negative if there is room, and its logs."""
        await db.execute(LOCK, 2, payer)
        size, logs = await db.fetchrow(SHARE, payer)
        return size - self._payer_bytes, logs

    async def _state(self, db: Any, key: str, behind: str = "") -> LogState:
        *fields, _ = await db.fetchrow(FIND_STATE, key)
        return LogState(*[*fields, behind])

    @to_its_end
    async def _page(self, key: str, after: int) -> Page | None:
        async with self._transaction("repeatable_read") as db:
            if (found := await db.fetchrow(f"{FIND_STATE} AND {ALIVE}", key)) is None:
                return None
            *fields, before = found
            state = LogState(*fields)
            number = min(max(after + 1, state.first), state.last + 1)
            rows = await db.fetch(PAGE, key, number - 1)
        if rows and rows[0]["number"] < number:
            before = rows.pop(0)["id"]
        return Page(state, number, before, [row["entry"] for row in rows], [row["id"] for row in rows])

    # ------------------------------------------------------------ connections

    @asynccontextmanager
    async def _transaction(self, isolation: str = "read_committed") -> AsyncGenerator[Any]:
        try:
            pool = await self._connect()
            async with pool.acquire(timeout=TIMEOUT) as db:
                silence = asyncio.get_running_loop().call_later(TIMEOUT, db.terminate)
                try:
                    async with db.transaction(isolation=isolation):
                        yield db
                finally:
                    silence.cancel()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
            raise StoreLost(f"PostgreSQL: {exc or type(exc).__name__}") from exc

    async def _connect(self) -> Any:
        """Connect, listen, and return the pool. Does nothing if the process does so already."""
        async with self._connecting:
            if self._listener is None:
                listener = await asyncpg.connect(self._url, **self._options)
                try:
                    await listener.execute(VERSION.format(schema=self._schema, format=FORMAT), timeout=TIMEOUT)
                    if (version := await listener.fetchval("SELECT version FROM format", timeout=TIMEOUT)) != FORMAT:
                        raise StoreLost(f"{self} has the format {version}, and this version of wsrpc {FORMAT}")
                    await listener.execute(TABLES.format(schema=self._schema), timeout=TIMEOUT)
                    await listener.add_listener(self._schema, self._notified)
                except BaseException:
                    listener.terminate()
                    raise
                listener.add_termination_listener(self._disconnected)
                self._listener = listener
            if self._pool is None:
                self._pool = await asyncpg.create_pool(self._url, min_size=0, max_size=CONNECTIONS, **self._options)
            return self._pool

    def _ended(self, call: asyncio.Task[Any]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # so that nobody complains of the exception of a call whose caller was cancelled

    def _notified(self, connection: Any, pid: int, channel: str, key: Any) -> None:
        self._wake_readers([key], news=True)

    def _disconnected(self, connection: Any) -> None:
        if self._listener is connection:
            self._listener = None
            self._wake_readers(self._waiting, news=True)  # they connect again

    def _wake_readers(self, keys: Iterable[str], news: bool) -> None:
        for key in keys:
            for each in self._waiting.get(key, ()):
                if not each.done():
                    each.set_result(news)
