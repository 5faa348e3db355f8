"""`MemoryStore`: keeps logs in this process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from itertools import takewhile
from math import inf
from sys import getsizeof
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from .contract import (
    LEASE,
    MOST_LISTED,
    MOST_TOPICS,
    OTHER,
    PAGE,
    Acquired,
    Appended,
    ListedLog,
    LogGone,
    LogState,
    NewLog,
    Page,
    StoreFull,
    Topic,
    entry_id,
)

LONGEST_PAGE = 256
"""Maximum number of entries in a page."""

SHORT_END = 1024
"""Bytes of an end that always has room."""

KEPT_ENTRY = 64
"""Bytes of memory that an entry takes besides its own bytes."""

ID = 128
"""Bytes of memory that the id of an entry takes. Those of a log with an owner follow from the numbers."""

LOG = 1024 + SHORT_END
"""Bytes of memory that a log takes without its texts and entries, including room for a short end."""

WRITERS = 4096
"""Bytes of memory that the writers of a log take. They are few: they are processes."""

MOST_WRITERS = 256
"""Maximum number of writers of a log whose last batch is remembered. A writer that repeats its batch does so for
seconds."""

REMEMBERED = 600.0
"""Seconds for which a writer may repeat its last batch."""


MOST_FREED = 8
"""Maximum number of the logs before a log, which have freed its key, that it remembers."""


class Share(Struct, eq=False):
    """What one payer, or all together, have in the store."""

    logs: int = 0
    """Those that were never in a list."""
    bytes: int = 0
    left: dict[str, StoredLog] = {}
    """The logs that have left their lists, by key. The one that has ended first is the first."""


class Batch(Struct, eq=False):
    """The last batch that a writer has added to a log."""

    sequence: int
    after: int
    """The sequence of the next batch, or less."""
    number: int
    before: str
    added: float
    """When it was added."""


class StoredLog(Struct, eq=False):
    """A log in a `MemoryStore`."""

    new: NewLog
    share: Share
    started: float
    owner: str
    """The writer that adds the entries, if it has an owner."""
    attempt: int = 0
    can_move: bool = False
    """Whether another process can adopt it, without a list, when its lease has lapsed; also to tell its end."""
    number: int = 0
    """Its place in its list, and then among the logs that have left their lists. Later ones are higher."""
    lapses: float = inf
    """When the lease lapses, if it has an owner, and has not ended."""
    base: int = 0
    """Bytes of the log without its entries."""
    expires: float = 0.0
    checked: float = inf
    """When the store will look next whether the log has expired."""
    first: int = 1
    entries: deque[bytes] = field(default_factory=deque[bytes])
    entry_bytes: int = 0
    ids: deque[str] = field(default_factory=lambda: deque([""]))
    """The ids of the entries, after the id of the entry before them. Unused if the log has an owner."""
    writers: dict[str, Batch] = {}
    end: bytes | None = None
    free: bool = False
    """Whether the next `open` begins another log."""
    freed: tuple[str, ...] = ()
    """The ids of the logs before it, which have freed its key. A late `open` must not begin one of them again."""
    readers: dict[str, tuple[int, float]] = {}
    """The number of readers in each process, and until when that holds."""
    changed: asyncio.Future[None] | None = None
    """Done with the next entry or the end. None if no reader waits."""

    @property
    def last(self) -> int:
        return self.first + len(self.entries) - 1

    @property
    def each(self) -> int:
        """Bytes of memory that an entry takes besides its own bytes."""
        return KEPT_ENTRY if self.new.owned else KEPT_ENTRY + ID

    def id_of(self, number: int) -> str:
        if self.new.owned:
            return entry_id(self.new.id, number)
        return self.ids[number - self.first + 1]

    def check_order(self, writer: str, sequence: int, entries: Sequence[bytes]) -> None:
        """Check what a writer wants to add, if the log has an owner.

        Raises:
            LogGone: it may not, or the store has lost some entries.
        """
        if not self.new.owned:
            return
        if writer != self.owner and (entries or writer != OTHER):
            raise LogGone("the log has another owner")
        if self.end is not None and not entries:
            return
        if self.end is not None:
            raise LogGone("the log has ended")
        if writer == self.owner and sequence != self.last + 1:
            raise LogGone("the store has lost some entries of the log")

    @property
    def runs(self) -> bool:
        """Whether it has an owner, and has not ended."""
        return self.new.owned and self.end is None

    @property
    def held_as(self) -> str:
        """The name by which its process holds and releases it."""
        return self.owner if self.can_move else self.new.id

    def renew(self, now: float, lease: float) -> None:
        if self.runs or self.can_move:
            self.lapses = max(now + lease, self.started + self.new.within)
        if self.runs:
            self.expires = self.lapses + self.new.keep

    def is_lost(self, now: float) -> bool:
        return self.runs and self.lapses <= now

    def state(self, now: float, behind: str = "") -> LogState:
        readers = sum(count for count, until in self.readers.values() if until > now)
        known = self.new.id, self.new.arguments, self.first, self.last, self.end, readers, self.is_lost(now)
        left = max(0.0, self.lapses - now) if self.new.topic and self.runs else 0.0
        return LogState(*known, known_in=left, attempt=self.attempt, can_move=self.can_move, behind=behind)

    def page(self, after: int, now: float) -> Page:
        number = min(max(after + 1, self.first), self.last + 1)
        place, size = number - self.first, 0
        entries: list[bytes] = []
        for each in range(place, min(place + LONGEST_PAGE, len(self.entries))):
            if size >= PAGE:
                break
            entries.append(self.entries[each])
            size += len(entries[-1])
        ids = [*map(self.id_of, range(number, number + len(entries)))]
        return Page(self.state(now), number, self.id_of(number - 1), entries, ids)

    def wake_readers(self) -> None:
        changed, self.changed = self.changed, None
        if changed is not None and not changed.done() and not changed.get_loop().is_closed():
            changed.set_result(None)


class Listing(Struct, eq=False):
    """A list of logs that have not ended."""

    number: int = 0
    """That of the last log which has begun in it."""
    logs: dict[str, StoredLog] = {}
    """By key, in order."""


class MemoryStore:
    """Store in the memory of this process. Several servers of one event loop can share it.

    Expired logs are dropped at the next call of any method. Bytes are those that the entries take in memory.

    Args:
        log_bytes: the maximum size of the kept entries of one log.
        payer_bytes: the maximum size of the logs of one payer.
        payer_logs: the maximum number of logs of one payer, such as the results of one caller.
        waiting: the maximum number of calls that wait for one address.
        bytes: the maximum size of the whole store.
        lease: seconds for which a process keeps its logs without a sign of life.
    """

    def __init__(
        self,
        *,
        log_bytes: int = 1 << 20,
        payer_bytes: int = 16 << 20,
        payer_logs: int = 1000,
        waiting: int = 1000,
        bytes: int = 256 << 20,
        lease: float = LEASE,
    ) -> None:
        self.lease = lease
        self._log_bytes = log_bytes
        self._payer_bytes = payer_bytes
        self._payer_logs = payer_logs
        self._waiting = waiting
        self._bytes = bytes
        self._logs: dict[str, StoredLog] = {}
        self._topics: dict[str, Listing] = {}
        """The lists that are not empty, by name. The one in which a log has begun last is the last."""
        self._moving: dict[str, StoredLog] = {}
        """The logs that can move to another process, by key, in the order in which they were offered."""
        self._number = 0
        """The last one that a log has got."""
        self._acquired: dict[str, dict[str, int]] = {}
        """What processes have of each subject, by the keys of their logs."""
        self._shares: dict[str, Share] = {}
        self._whole = Share()
        self._checks: list[tuple[float, str]] = []
        """A heap: when to look whether a log has expired, with its key."""

    async def open(self, key: str, log: NewLog, /) -> LogState:
        now = self._drop_expired()
        found = self._logs.get(key)
        if found is None:
            found = self._create(key, log, now)
        elif found.free and log.id not in (freed := (*found.freed, found.new.id)):
            self._drop(key, found)
            found = self._create(key, log, now)
            found.freed = freed[-MOST_FREED:]
        return found.state(now, self._behind(found))

    async def append(self, key: str, log: NewLog | str, *args: Any, **options: Any) -> Appended:
        return self.append_now(key, log, *args, **options)

    def append_now(
        self,
        key: str,
        log: NewLog | str,
        writer: str,
        sequence: int,
        entries: Sequence[bytes],
        end: bytes | None = None,
        free: bool = False,
        only_if_lost: bool = False,
    ) -> Appended:
        """Do what `append` does, at once."""
        now = self._drop_expired()
        found = self._find(key, log, now)
        batch = found.writers.get(writer)
        if batch is not None and sequence < batch.after:
            if sequence != batch.sequence:
                raise LogGone("the writer has added a later batch")
            entries = ()
        else:
            found.check_order(writer, sequence, entries)
            batch = Batch(sequence, sequence + len(entries), found.last + 1, found.id_of(found.last), now)
        if writer == found.owner and not found.new.topic:
            found.renew(now, self.lease)
        if entries:
            self._add(found, writer, batch, entries)
        if end is not None and found.runs and not (only_if_lost and found.lapses > now):
            self._end(key, found, end, free, now)
        elif end == b"" and found.can_move and writer == found.owner and found.end is not None:
            self._resize(found, -len(found.new.payload), 0)
            self._drop_payload(key, found)
        return Appended(batch.number, batch.before, found.state(now))

    def _find(self, key: str, log: NewLog | str, now: float) -> StoredLog:
        found = self._logs.get(key)
        if isinstance(log, str):
            if found is None or found.new.id != log:
                raise LogGone("the store has no such log")
            return found
        found = found or self._create(key, log, now)
        if found.new.owned:
            raise LogGone("the log has an owner")
        found.expires = now + log.keep
        if found.expires < found.checked:
            self._check_later(key, found)
        return found

    def _create(self, key: str, log: NewLog, now: float) -> StoredLog:
        share = self._shares.get(log.payer) or Share()
        base = LOG + log.memory + sum(map(getsizeof, (log.arguments, log.payer, log.topic, log.payload)))
        base += 0 if log.owned else WRITERS
        is_full = self._has_many(log.topic, now) if log.topic else share.logs >= self._payer_logs
        while log.topic and not is_full and share.left and self._excess(share) + base > 0:
            self._drop(*next(iter(share.left.items())))
        if is_full or self._excess(share) + base > 0:
            raise StoreFull("the store has no room for another log of this payer")
        created = self._logs[key] = StoredLog(log, share, now, log.id, expires=now + log.keep)
        created.renew(now, 0.0 if log.topic else self.lease)
        self._shares[log.payer] = share
        share.logs += not log.topic
        if log.topic:
            created.number = self._next_number(now)
            self._join(key, created)
        self._resize(created, base, 0)
        self._check_later(key, created)
        return created

    def _add(self, log: StoredLog, writer: str, batch: Batch, entries: Sequence[bytes]) -> None:
        writers = log.writers
        writers.pop(writer, None)
        writers[writer] = batch  # the last one, so the first is the one that has added nothing for longest
        while len(writers) > MOST_WRITERS or writers[next(iter(writers))].added < batch.added - REMEMBERED:
            del writers[next(iter(writers))]
        log.entries += entries
        if not log.new.owned:
            log.ids += [entry_id(writer, each) for each in range(batch.sequence, batch.after)]
        self._resize(log, 0, sum(map(len, entries)) + log.each * len(entries))
        self._trim(log)
        log.wake_readers()

    def _end(self, key: str, log: StoredLog, end: bytes, free: bool, now: float) -> None:
        stays = log.can_move and not free
        more = max(0, len(end) - SHORT_END) - log.new.memory - (0 if stays else len(log.new.payload))
        if more > 0 and self._excess(log.share) + more > log.entry_bytes:
            raise StoreFull("the store has no room for the end of a log of this payer")
        log.end, log.free = end, free
        if log.new.topic:
            self._leave(key, log)
            log.share.left[key] = log
            log.number = self._next_number(now)
        self._resize(log, more, 0)
        self._trim(log)
        if not stays:
            self._drop_payload(key, log)
        log.expires = now + log.new.keep
        self._check_later(key, log)
        log.wake_readers()

    def _drop_payload(self, key: str, log: StoredLog) -> None:
        """No other process adopts a log any more."""
        self._moving.pop(key, None)
        log.can_move = False
        log.new = replace(log.new, payload=b"") if log.new.payload else log.new

    async def read(self, key: str, after: int, /, *, wait: float = 0.0) -> Page | None:
        now = self._drop_expired()
        log = self._logs.get(key)
        if log is not None and wait > 0 and log.end is None and log.last == after:
            if log.changed is None or log.changed.get_loop().is_closed():
                log.changed = asyncio.get_running_loop().create_future()
            await asyncio.wait((log.changed,), timeout=wait)
            now = self._drop_expired()
            log = self._logs.get(key)
        return None if log is None else log.page(after, now)

    async def hold(
        self, process: str, logs: Mapping[str, str], readers: Mapping[str, int], /
    ) -> Mapping[str, LogState]:
        now = self._drop_expired()
        for key, count in readers.items():
            if (log := self._logs.get(key)) is not None:
                log.readers[process] = count, now + self.lease
        states: dict[str, LogState] = {}
        for key, id in logs.items():
            if (log := self._logs.get(key)) is not None and log.held_as == id:
                log.readers = {each: told for each, told in log.readers.items() if told[1] > now}
                log.renew(now, self.lease)
                states[key] = log.state(now)
        return states

    async def release(self, logs: Mapping[str, str], /) -> None:
        now = self._drop_expired()
        for key, id in logs.items():
            if (log := self._logs.get(key)) is not None and log.held_as == id:
                log.renew(now, 0.0)
                log.owner = "" if log.can_move else log.owner

    async def adopt(self, key: str, id: str, owner: str, /) -> LogState:
        now = self._drop_expired()
        log = self._find(key, id, now)
        may_move = log.lapses <= now if log.can_move else log.runs and log.started + log.new.within > now
        if not (may_move or (owner == log.owner and (log.runs or log.can_move))):
            raise LogGone("the log has ended, its time is over, or its process has it")
        log.attempt += log.owner not in (owner, "") and log.end is None
        log.owner = owner
        if log.new.payload and not (log.new.topic or log.can_move):
            log.can_move, log.number = True, self._next_number(now)
            self._moving[key] = log
        log.renew(now, self.lease)
        return log.state(now)

    async def pending(self, topic: str, after: int, /) -> Sequence[ListedLog]:
        now, found, size = self._drop_expired(), list[ListedLog](), 0
        for key, log in (self._logs_of(topic) if topic else self._moving).items():
            if size >= PAGE or len(found) == MOST_LISTED:
                break
            if log.number > after and (topic or log.lapses <= now):
                new, age, lost = log.new, now - log.started, log.lapses <= now
                known = log.number, key, new.id, new.payload, age, log.attempt, lost
                found.append(ListedLog(*known, released=not log.owner))
                size += len(new.payload)
        return found

    async def topics(self, after: int, /) -> Sequence[Topic]:
        now, found = self._drop_expired(), list[Topic]()
        newer = [*takewhile(lambda each: each[1].number > after, reversed(self._topics.items()))]
        for name, listing in reversed(newer[-MOST_TOPICS:]):
            logs = listing.logs
            oldest, newest = logs[next(iter(logs))], logs[next(reversed(logs))]
            found.append(Topic(listing.number, name, len(logs), now - oldest.started, newest.new.id))
        return found

    async def acquire(self, subject: str, process: str, has: int, wants: int, most: int, /) -> Acquired:
        now = self._drop_expired()
        if (log := self._logs.get(process)) is None or not log.runs:
            raise LogGone("the store has no such log of a process")
        own = self._acquired.setdefault(process, {})
        for each, acquired in self._acquired.items():
            if acquired is not own and self._logs[each].runs and not self._logs[each].is_lost(now):
                most -= acquired.get(subject, 0)
        count = max(has, min(wants, most))
        own[subject] = count
        if not count:
            del own[subject]
        return Acquired(count)

    # ------------------------------------------------------------ lists

    def _logs_of(self, topic: str) -> dict[str, StoredLog]:
        return self._topics[topic].logs if topic in self._topics else {}

    def _has_many(self, topic: str, now: float) -> bool:
        logs = self._logs_of(topic)
        return len(logs) >= self._waiting and sum(not log.is_lost(now) for log in logs.values()) >= self._waiting

    def _next_number(self, now: float) -> int:
        self._number = max(self._number + 1, int(1e6 * now))  # a store that is restored gives no number again
        return self._number

    def _join(self, key: str, log: StoredLog) -> None:
        listing = self._topics.pop(log.new.topic, None) or Listing()
        self._topics[log.new.topic] = listing  # the last one
        listing.number = log.number
        listing.logs[key] = log

    def _leave(self, key: str, log: StoredLog) -> None:
        if (logs := self._logs_of(log.new.topic)).get(key) is log:
            del logs[key]
            if not logs:
                del self._topics[log.new.topic]

    def _behind(self, log: StoredLog) -> str:
        """Return the id of the log before a log in its list. Empty if there is none, or the log is in no list."""
        logs = reversed(self._logs_of(log.new.topic).values())
        before = next(logs, None) if any(each is log for each in logs) else None  # the iterator goes on behind the log
        return before.new.id if before is not None else ""

    async def close(self) -> None:
        self.wake_readers()

    def wake_readers(self) -> None:
        """End the waiting of all readers."""
        for log in self._logs.values():
            log.wake_readers()

    # ------------------------------------------------------------ expiry

    def _check_later(self, key: str, log: StoredLog) -> None:
        log.checked = log.expires
        heappush(self._checks, (log.checked, key))

    def _drop_expired(self) -> float:
        """Drop the logs that have expired, and return the time."""
        now = asyncio.get_running_loop().time()
        while self._checks and self._checks[0][0] <= now:
            when, key = heappop(self._checks)
            log = self._logs.get(key)
            if log is None or log.checked != when:
                continue  # an entry that a later one replaces
            if log.expires > now:
                self._check_later(key, log)
            else:
                self._drop(key, log)
        return now

    def _drop(self, key: str, log: StoredLog) -> None:
        del self._logs[key]
        log.wake_readers()
        self._acquired.pop(key, None)
        self._moving.pop(key, None)
        self._leave(key, log)
        log.share.left.pop(key, None)
        self._resize(log, -log.base, -log.entry_bytes)
        log.share.logs -= not log.new.topic
        if not log.share.bytes:
            del self._shares[log.new.payer]

    # ------------------------------------------------------------ bytes

    def _resize(self, log: StoredLog, base: int, entries: int) -> None:
        log.base += base
        log.entry_bytes += entries
        log.share.bytes += base + entries
        self._whole.bytes += base + entries

    def _excess(self, share: Share) -> int:
        """Return how many bytes too many a payer has, or all together. Negative if there is room."""
        return max(share.bytes - self._payer_bytes, self._whole.bytes - self._bytes)

    def _trim(self, log: StoredLog) -> None:
        """Drop the oldest entries until the shares suffice, and the log is short enough; for that, not the last."""
        excess, too_long = self._excess(log.share), log.entry_bytes - self._log_bytes
        freed = 0
        while log.entries and (freed < excess or (freed < too_long and len(log.entries) > 1)):
            freed += len(log.entries.popleft()) + log.each
            log.first += 1
            if not log.new.owned:
                log.ids.popleft()
        if freed:
            self._resize(log, 0, -freed)
