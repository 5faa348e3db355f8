"""`SqliteStore`: keeps logs in a file, which survives a restart."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context
from math import inf
from typing import Any

import msgspec
from msgspec import Struct

from .._base.logs import logger
from .._base.scheduler import spawn_later
from .._base.threads import start_without_context
from .contract import LEASE, Appended, ListedLog, LogState, NewLog, Page, StoreFull, StoreLost, Topic
from .kept import FORMAT
from .memory_store import Batch, MemoryStore, Share, StoredLog

PRAGMAS = """
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;  -- not the default of every build: what was acknowledged survives a power cut
"""

TABLES = f"""
CREATE TABLE IF NOT EXISTS logs (key TEXT PRIMARY KEY, log BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (key TEXT, number INTEGER, id TEXT, entry BLOB, PRIMARY KEY (key, number))
WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS clock (id INTEGER PRIMARY KEY, file REAL, system REAL);
PRAGMA user_version = {FORMAT};
"""

WATCH = 10.0
"""Seconds between two looks whether the system clock was set."""

Statement = tuple[str, tuple[Any, ...]]


class Row(Struct, array_like=True):
    """What a file has of a log beside its entries. ``expires`` and ``started`` are times of the clock of the file."""

    new: NewLog
    first: int
    before: str
    """The id of the entry before the first one."""
    base: int
    """Bytes of memory that the log takes without its entries."""
    expires: float
    writers: dict[str, Batch]
    end: bytes | None
    free: bool
    started: float = inf  # unknown to earlier versions, as are those below
    freed: tuple[str, ...] = ()
    owner: str | None = None
    attempt: int = 0
    number: int = 0
    can_move: bool = False


class DiskFull(StoreLost):
    """The file cannot grow."""


_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(Row).decode


class SqliteStore(MemoryStore):
    """Store in a file, for one process at a time, such as a device or a small server.

    It is a `MemoryStore` that writes to the file, in a thread, before it answers who adds something, and before readers
    get what was added. When a process starts again, it finds everything there. What its handlers were doing is lost, as
    with any store.

    What could not be written is written with the next call for the same log, and readers of that log get `StoreLost`
    until then. On a full disk, the other logs can be read, and no log begins: `StoreFull`.

    Logs are kept by a clock of the file. It runs with the monotonic clock while a process has the file, and with the
    system clock in between. So setting the system clock changes nothing while a process has the file. A clock that is
    behind when a process opens the file counts as no time. Otherwise, the time since the last write counts, also if the
    clock was set meanwhile: while no process had the file, or less than `WATCH` seconds before the power failed.

    Args:
        path: the file. It is created if there is none, with ``-wal`` and ``-shm`` beside it. Use a local disk.
        options: those of `MemoryStore`.

    Raises:
        StoreLost: (from all methods) the file cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike[str], *, lease: float = LEASE, **options: int) -> None:
        super().__init__(lease=lease, **options)
        self._path = os.fspath(path)
        self._thread: ThreadPoolExecutor | None = None
        """Uses the file. None while the store is closed."""
        self._file: sqlite3.Connection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._saving: dict[str, asyncio.Task[None]] = {}
        """The last write of each log that has something that is not in the file, by key. Done if it has failed."""
        self._saved: dict[str, int] = {}
        """The number of the last entry in the file, by the keys of the logs there."""
        self._dropped = set[str]()
        """Keys of logs that are still in the file."""
        self._ahead = 0.0
        """Seconds that the clock of the file is ahead of the monotonic clock."""
        self._system_ahead = 0.0
        """Seconds that the system clock was ahead of the monotonic clock when both were last written."""
        self._watching: asyncio.Task[None] | None = None
        """Looks at the system clock. None until the file is opened."""
        self._is_full = False
        """Whether it was logged that the disk is full."""

    def __repr__(self) -> str:
        return f"SqliteStore({self._path!r})"

    async def open(self, key: str, log: NewLog, /) -> LogState:
        await self._open_file()
        before = self._logs.get(key)
        state = await super().open(key, log)
        found = self._logs[key]
        if found is not before or key in self._saving:  # else it is in the file, on a full disk, too
            try:
                await self._save(key)
            except DiskFull as exc:
                if self._logs.get(key) is not found or key in self._saved:
                    raise
                self._drop(key, found)
                if not self._is_full:
                    self._is_full = True
                    logger.warning("the store %s begins nothing: %s", self, exc)
                raise StoreFull(str(exc)) from exc
        return state

    async def append(self, key: str, log: NewLog | str, *args: Any, **options: Any) -> Appended:
        await self._open_file()
        try:
            return await super().append(key, log, *args, **options)
        finally:
            await self._save(key)

    async def read(self, key: str, after: int, /, *, wait: float = 0.0) -> Page | None:
        await self._open_file()
        page = await super().read(key, after, wait=wait)
        if (saving := self._saving.get(key)) is not None:
            await (self._save(key) if saving.done() else asyncio.shield(saving))
        return page

    async def hold(
        self, process: str, logs: Mapping[str, str], readers: Mapping[str, int], /
    ) -> Mapping[str, LogState]:
        await self._open_file()
        return await super().hold(process, logs, readers)

    async def release(self, logs: Mapping[str, str], /) -> None:
        await self._open_file()
        moving = [key for key in logs if key in self._logs and self._logs[key].can_move]
        await super().release(logs)
        for key in moving:
            await self._save(key)

    async def adopt(self, key: str, id: str, owner: str, /) -> LogState:
        await self._open_file()
        try:
            return await super().adopt(key, id, owner)
        finally:
            await self._save(key)

    async def pending(self, topic: str, after: int, /) -> Sequence[ListedLog]:
        await self._open_file()
        return await super().pending(topic, after)

    async def topics(self, after: int, /) -> Sequence[Topic]:
        await self._open_file()
        return await super().topics(after)

    async def close(self) -> None:
        await super().close()
        if self._opening is not None and not self._opening.done():
            await asyncio.wait((self._opening,))
        if self._watching is not None and not self._watching.get_loop().is_closed():
            self._watching.cancel()
        if self._file is not None:
            file, self._file = self._file, None
            with suppress(StoreLost):
                await self._in_thread(file.close)
        if self._thread is not None:
            self._thread.shutdown(wait=False)
            self._thread = None

    # ------------------------------------------------------------ the file

    async def _in_thread(self, function: Any, *args: Any) -> Any:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "wsrpc-sqlite")
            start_without_context(self._thread.submit, int)  # does nothing, but the thread starts
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
        except sqlite3.Error as exc:
            is_full = getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            raise (DiskFull if is_full else StoreLost)(f"{self._path}: {exc}") from exc

    async def _open_file(self) -> None:
        while self._file is None:
            if self._opening is None or self._opening.done():
                self._opening = asyncio.ensure_future(self._load_file())
            await asyncio.shield(self._opening)

    async def _load_file(self) -> None:
        file, clock, rows, entries = await self._in_thread(self._read_file)
        if not self._logs:
            self._load(clock, rows, entries)
        self._file = file
        self._watching = spawn_later(self._watch_clock(), Context())

    def _read_file(self) -> tuple[sqlite3.Connection, list[float], list[tuple[str, Row]], list[Any]]:
        file = sqlite3.connect(self._path, timeout=1.0, check_same_thread=False)
        try:
            file.executescript(PRAGMAS)
            [version] = file.execute("PRAGMA user_version").fetchone()
            if version > FORMAT:
                raise sqlite3.DatabaseError(f"it has the format {version}, and this version of wsrpc {FORMAT}")
            # The queries need not find that the end of the file is gone. They take several times as long as this.
            [damage] = file.execute("PRAGMA quick_check(1)").fetchone()
            if damage != "ok":
                raise sqlite3.DatabaseError(f"it is damaged: {damage}")
            if version != FORMAT:  # 0: it is new, or of before there was a number, and has no clock
                file.executescript(TABLES)
            clock = file.execute("SELECT file, system FROM clock").fetchone() or [time.time()] * 2
            entries = file.execute("SELECT key, id, entry FROM entries ORDER BY key, number").fetchall()
            rows = [(key, _decode(row)) for key, row in file.execute("SELECT key, log FROM logs")]
        except msgspec.MsgspecError as exc:
            file.close()
            raise sqlite3.DatabaseError(f"a later version has written it: {exc}") from exc
        except sqlite3.Error:
            file.close()
            raise
        return file, clock, rows, entries

    def _load(self, clock: list[float], rows: list[tuple[str, Row]], entries: list[tuple[str, str, bytes]]) -> None:
        now, system = asyncio.get_running_loop().time(), time.time()
        time_in_file = clock[0] + max(0.0, system - clock[1])
        self._ahead, self._system_ahead = time_in_file - now, system - now
        for key, row in sorted(rows, key=lambda row: row[1].number):
            share = self._shares.setdefault(row.new.payer, Share())
            started = now - max(0.0, time_in_file - row.started)
            log = self._logs[key] = StoredLog(row.new, share, started, row.new.id if row.owner is None else row.owner)
            log.attempt, log.can_move = row.attempt, row.can_move
            log.first, log.ids, log.writers = row.first, deque([row.before]), row.writers
            log.end, log.free, log.freed = row.end, row.free, row.freed
            log.expires = now + row.expires - time_in_file
            log.renew(now, 0.0)  # the process that ran it has ended
            for batch in log.writers.values():
                batch.added = now  # on the clock of this process
            share.logs += not row.new.topic
            if log.new.topic or log.can_move:
                self._number = log.number = max(row.number, self._number + 1)
                if log.can_move:
                    self._moving[key] = log
                else:
                    (self._join if log.runs else share.left.__setitem__)(key, log)
            self._resize(log, row.base, 0)
            self._check_later(key, log)
        for key, id, entry in entries:
            if (found := self._logs.get(key)) is not None:
                found.entries.append(entry)
                if not found.new.owned:
                    found.ids.append(id)
                self._resize(found, 0, len(entry) + found.each)
                self._saved[key] = found.last

    async def _watch_clock(self) -> None:
        """Write the time soon after the system clock was set, because the power may fail before the next call."""
        while True:
            await asyncio.sleep(WATCH)
            if abs(time.time() - asyncio.get_running_loop().time() - self._system_ahead) > 1:
                with suppress(StoreLost):
                    await self._save("")

    def _drop(self, key: str, log: StoredLog) -> None:
        super()._drop(key, log)
        self._dropped.add(key)
        self._saving.pop(key, None)

    async def _save(self, key: str) -> None:
        """Write what has changed in a log, and forget what has expired. Others may wait for it, too."""
        saving = self._saving[key] = asyncio.ensure_future(self._save_now(key))
        await asyncio.shield(saving)

    async def _save_now(self, key: str) -> None:
        await self._open_file()  # again, if it was closed meanwhile
        statements: list[Statement] = []
        dropped, self._dropped = self._dropped, set[str]()
        for each in dropped:
            statements += [(f"DELETE FROM {table} WHERE key = ?", (each,)) for table in ("logs", "entries")]
            self._saved.pop(each, None)
        changed = [each for each in {key, *dropped} if each in self._logs]  # a key may have another log by now
        for each in changed:
            statements += self._statements(each, self._logs[each])
        saved = {each: (self._logs[each], self._logs[each].last) for each in changed}
        now, system = asyncio.get_running_loop().time(), time.time()
        statements.append(("REPLACE INTO clock VALUES (0, ?, ?)", (self._ahead + now, system)))
        try:
            await self._in_thread(self._write, self._file, statements)
        except BaseException:
            self._dropped |= {key, *dropped}  # it is not known what was written
            raise
        self._system_ahead, self._is_full = system - now, False
        for each, (log, last) in saved.items():
            if self._logs.get(each) is log:
                self._saved[each] = max(last, self._saved.get(each, 0))
        if self._saving.get(key) is asyncio.current_task():
            del self._saving[key]

    def _statements(self, key: str, log: StoredLog) -> Iterator[Statement]:
        expires, started, before = self._ahead + log.expires, self._ahead + log.started, log.id_of(log.first - 1)
        known = log.new, log.first, before, log.base, expires, log.writers, log.end, log.free, started
        row = Row(*known, log.freed, log.owner, log.attempt, log.number, log.can_move)
        yield "REPLACE INTO logs VALUES (?, ?)", (key, _encode(row))
        saved = self._saved.get(key, 0)
        yield "DELETE FROM entries WHERE key = ? AND (number < ? OR number > ?)", (key, log.first, saved)
        for number in range(max(log.first, saved + 1), log.last + 1):
            entry = log.entries[number - log.first]
            yield "REPLACE INTO entries VALUES (?, ?, ?, ?)", (key, number, log.id_of(number), entry)

    def _write(self, file: sqlite3.Connection, statements: list[Statement]) -> None:
        with file:
            for statement, values in statements:
                file.execute(statement, values)
