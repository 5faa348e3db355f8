"""`MemoryStore`: keeps the runs of keyed calls, and logs, in this process."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from math import inf
from sys import getsizeof

from msgspec import Struct, field

from .contract import LEASE, Added, AdoptedRun, NewRun, Page, RunGone, RunState, StoreFull

PAGE = 64 * 1024
"""Bytes of items after which a page has no more of them."""

LONGEST_PAGE = 256
"""Maximum number of items in a page."""

SHORT_END = 1024
"""Bytes of an end that always has room."""

ITEM = 64
"""Bytes of memory that an item takes besides its own bytes."""

RUN = 1024 + SHORT_END
"""Bytes of memory that a run takes without its texts and items, including room for a short end."""

LOG = 4096
"""Bytes of memory that a log takes besides those of a run. Its writers are few: they are processes."""

ID = 128
"""Bytes of memory that an item of a log takes besides those of another item."""

REMEMBERED = 600.0
"""Seconds for which a writer of a log may repeat its last batch."""


class Share(Struct, eq=False):
    """What one payer, or all together, have in the store."""

    runs: int = 0
    bytes: int = 0


class Batch(Struct, eq=False):
    """The last batch that a writer has added to a log."""

    sequence: int
    after: int
    """The sequence of the next batch, or less."""
    number: int
    before: str
    added: float
    """When it was added."""


class StoredRun(Struct, eq=False):
    """A run or a log in a `MemoryStore`."""

    new: NewRun
    share: Share
    base: int
    """Bytes of the run without its items."""
    lapses: float = 0.0
    expires: float = 0.0
    checked: float = inf
    """When the store will look next whether the run has expired."""
    first: int = 1
    items: deque[bytes] = field(default_factory=deque[bytes])
    item_bytes: int = 0
    each: int = ITEM
    """Bytes of memory that an item takes besides its own bytes."""
    ids: deque[str] | None = None
    """The ids of the items of a log, after the id of the item before them. None if this is a run."""
    writers: dict[str, Batch] = {}
    end: bytes | None = None
    free: bool = False
    """Whether the next `start` begins another run."""
    stopping: bool = False
    readers: dict[str, float] = {}
    """When each reader is over, unless it reads again."""
    changed: asyncio.Future[None] | None = None
    """Done with the next item or the end. None if no reader waits."""

    @property
    def last(self) -> int:
        return self.first + len(self.items) - 1

    def state(self, now: float) -> RunState:
        lost = self.end is None and self.lapses <= now
        new, readers = self.new, len(self.readers)
        return RunState(new.id, new.arguments, self.first, self.last, self.end, self.stopping, readers, lost)

    def page(self, after: int, now: float) -> Page:
        number = max(after + 1, self.first)
        place = min(number - self.first, len(self.items))
        items: list[bytes] = []
        size = 0
        for each in range(place, min(place + LONGEST_PAGE, len(self.items))):
            if size >= PAGE:
                break
            items.append(self.items[each])
            size += len(items[-1])
        if self.ids is None:
            return Page(self.state(now), number, items)
        before, *ids = [self.ids[each] for each in range(place, place + len(items) + 1)]
        return Page(self.state(now), self.first + place, items, before, ids)

    def wake_readers(self) -> None:
        changed, self.changed = self.changed, None
        if changed is not None and not changed.done() and not changed.get_loop().is_closed():
            changed.set_result(None)


class MemoryStore:
    """Store in the memory of this process. Several servers of one event loop can share it.

    Expired runs and logs are dropped at the next call of any method. Bytes are those that the entries take in memory.

    Args:
        run_bytes: the maximum size of the kept items of one run.
        payer_bytes: the maximum size of the runs of one payer.
        payer_runs: the maximum number of runs of one payer.
        bytes: the maximum size of the whole store.
        lease: seconds for which a run is leased to its process. The process renews the lease more often.
    """

    def __init__(
        self,
        *,
        run_bytes: int = 1 << 20,
        payer_bytes: int = 16 << 20,
        payer_runs: int = 1000,
        bytes: int = 256 << 20,
        lease: float = LEASE,
    ) -> None:
        self.lease = lease
        self._run_bytes = run_bytes
        self._payer_bytes = payer_bytes
        self._payer_runs = payer_runs
        self._bytes = bytes
        self._runs: dict[str, StoredRun] = {}
        self._adoptable: dict[str, StoredRun] = {}
        """The runs with a topic that have not ended."""
        self._shares: dict[str, Share] = {}
        self._whole = Share()
        self._checks: list[tuple[float, str]] = []
        """A heap: when to look whether a run has expired, with its key."""

    async def start(self, key: str, run: NewRun, /) -> RunState:
        now = self._drop_expired()
        found = self._runs.get(key)
        if found is not None and found.free and found.new.id != run.id:
            self._drop(key, found)
            found = None
        if found is None:
            found = self._create(key, run)
            self._renew(found, now)
            self._check_later(key, found)
            if run.topic:
                self._adoptable[key] = found
        elif found.ids is not None:
            raise RunGone("the key has a log, so it can have no run")
        return found.state(now)

    def _create(self, key: str, run: NewRun) -> StoredRun:
        share = self._shares.get(run.payer) or Share()
        base = RUN + run.memory + sum(map(getsizeof, (run.arguments, run.payer, run.topic, run.payload)))
        if share.runs >= self._payer_runs or self._excess(share) + base > 0:
            raise StoreFull("the store has no room for another run of this payer")
        created = self._runs[key] = StoredRun(run, share, 0)
        self._shares[run.payer] = share
        share.runs += 1
        self._resize(created, base, 0)
        return created

    async def append(self, key: str, id: str, number: int, items: Sequence[bytes], /) -> RunState:
        now = self._drop_expired()
        run = self._find(key, id)
        last = run.last
        if run.end is not None or number > last + 1:
            raise RunGone("the run has ended, or the store has lost some of its items")
        self._renew(run, now)
        if fresh := items[last + 1 - number :]:
            run.items += fresh
            self._grow(run, fresh)
        return run.state(now)

    async def add(self, key: str, log: NewRun, writer: str, sequence: int, items: Sequence[bytes], /) -> Added:
        now = self._drop_expired()
        found = self._runs.get(key)
        if found is None:
            found = self._create(key, log)
            found.lapses, found.each, found.ids = inf, ITEM + ID, deque([""])
            self._resize(found, LOG, 0)
        elif found.ids is None:
            raise RunGone("the key has a run, so it can have no log")
        found.expires = now + log.keep
        if found.expires < found.checked:
            self._check_later(key, found)
        batch = found.writers.get(writer)
        if batch is not None and sequence < batch.after:
            if sequence != batch.sequence:
                raise RunGone("the writer has added a later batch")
            return Added(batch.number, batch.before, found.state(now))
        number, before = found.last + 1, found.ids[-1]
        if items:
            if batch is None:
                found.writers = {name: old for name, old in found.writers.items() if old.added > now - REMEMBERED}
            after = sequence + len(items)
            found.writers[writer] = Batch(sequence, after, number, before, now)
            found.ids += [f"{writer}.{each}" for each in range(sequence, after)]
            found.items += items
            self._grow(found, items)
        return Added(number, before, found.state(now))

    async def end(
        self, key: str, id: str, end: bytes, /, *, last: int | None = None, free: bool = False, lapsed: bool = False
    ) -> None:
        now = self._drop_expired()
        run = self._find(key, id)
        if run.end is not None or (lapsed and run.lapses > now):
            return
        if last is not None and last != run.last:
            raise RunGone("the store has lost some items of the run")
        more = max(0, len(end) - SHORT_END) - run.new.memory
        if more > 0 and self._excess(run.share) + more > run.item_bytes:
            raise StoreFull("the store has no room for the end of a run of this payer")
        run.end, run.free = end, free
        self._resize(run, more, 0)
        self._trim(run)
        self._adoptable.pop(key, None)
        run.expires = now + run.new.keep
        self._check_later(key, run)
        run.wake_readers()

    async def read(self, key: str, after: int, /, *, reader: str = "", wait: float = 0.0) -> Page | None:
        now = self._drop_expired()
        run = self._runs.get(key)
        if run is not None and reader and run.ids is None:
            run.readers[reader] = now + wait + self.lease
        if run and wait > 0 and run.end is None and run.last <= after and not (run.ids and run.last < after):
            if run.changed is None or run.changed.get_loop().is_closed():
                run.changed = asyncio.get_running_loop().create_future()
            await asyncio.wait((run.changed,), timeout=wait)
            now = self._drop_expired()
            run = self._runs.get(key)
        return None if run is None else run.page(after, now)

    async def leave(self, key: str, reader: str, /) -> None:
        self._drop_expired()
        if (run := self._runs.get(key)) is not None:
            run.readers.pop(reader, None)

    async def stop(self, key: str, id: str, /) -> None:
        self._drop_expired()
        if (run := self._run(key, id)) is not None:
            run.stopping = True

    async def renew(self, runs: Mapping[str, str], /) -> Mapping[str, RunState]:
        now = self._drop_expired()
        states: dict[str, RunState] = {}
        for key, id in runs.items():
            if (run := self._run(key, id)) is not None:
                self._renew(run, now)
                run.readers = {reader: over for reader, over in run.readers.items() if over > now}
                states[key] = run.state(now)
        return states

    async def adopt(self, topic: str, /) -> Sequence[AdoptedRun]:
        now = self._drop_expired()
        runs = self._adoptable.items()
        lapsed = [(key, run) for key, run in runs if run.new.topic == topic and run.lapses <= now]
        for _, run in lapsed:
            self._renew(run, now)
        return [AdoptedRun(key, run.new.id, run.new.payload) for key, run in lapsed]

    async def close(self) -> None:
        self.wake_readers()

    def wake_readers(self) -> None:
        """End the waiting of all readers."""
        for run in self._runs.values():
            run.wake_readers()

    # ------------------------------------------------------------ leases and expiry

    def _run(self, key: str, id: str) -> StoredRun | None:
        run = self._runs.get(key)
        return None if run is None or run.new.id != id or run.ids is not None else run

    def _find(self, key: str, id: str) -> StoredRun:
        if (run := self._run(key, id)) is None:
            raise RunGone("the store has no such run")
        return run

    def _renew(self, run: StoredRun, now: float) -> None:
        if run.end is None:
            run.lapses = now + self.lease
            run.expires = run.lapses + run.new.keep

    def _check_later(self, key: str, run: StoredRun) -> None:
        run.checked = run.expires
        heappush(self._checks, (run.checked, key))

    def _drop_expired(self) -> float:
        """Drop the runs and logs that have expired, and return the time."""
        now = time.monotonic()
        while self._checks and self._checks[0][0] <= now:
            when, key = heappop(self._checks)
            run = self._runs.get(key)
            if run is None or run.checked != when:
                continue  # an entry that a later one replaces
            if run.expires > now:
                self._check_later(key, run)
            else:
                self._drop(key, run)
        return now

    def _drop(self, key: str, run: StoredRun) -> None:
        del self._runs[key]
        run.wake_readers()
        self._adoptable.pop(key, None)
        self._resize(run, -run.base, -run.item_bytes)
        run.share.runs -= 1
        if not run.share.runs:
            del self._shares[run.new.payer]

    # ------------------------------------------------------------ bytes

    def _resize(self, run: StoredRun, base: int, items: int) -> None:
        run.base += base
        run.item_bytes += items
        run.share.bytes += base + items
        self._whole.bytes += base + items

    def _grow(self, run: StoredRun, items: Sequence[bytes]) -> None:
        """Account for new items, and wake those who wait for them."""
        self._resize(run, 0, sum(map(len, items)) + run.each * len(items))
        self._trim(run)
        run.wake_readers()

    def _excess(self, share: Share) -> int:
        """Return how many bytes too many a payer has, or all together. Negative if there is room."""
        return max(share.bytes - self._payer_bytes, self._whole.bytes - self._bytes)

    def _trim(self, run: StoredRun) -> None:
        """Drop the oldest items until the shares suffice and the run is short enough; for the latter, not the last."""
        excess, too_long = self._excess(run.share), run.item_bytes - self._run_bytes
        freed = 0
        while run.items and (freed < excess or (freed < too_long and len(run.items) > 1)):
            freed += len(run.items.popleft()) + run.each
            run.first += 1
            if run.ids is not None:
                run.ids.popleft()
        if freed:
            self._resize(run, 0, -freed)
