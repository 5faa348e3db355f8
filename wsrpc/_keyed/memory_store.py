"""`MemoryStore`: keeps the runs of keyed calls in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from sys import getsizeof
from time import monotonic

from msgspec import Struct

from .contract import LEASE, AdoptedRun, NewRun, Page, RunGone, RunState, StoreFull

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


class Share(Struct, eq=False):
    """What one payer, or all together, have in the store."""

    runs: int = 0
    bytes: int = 0


class StoredRun(Struct, eq=False):
    """A run in a `MemoryStore`."""

    new: NewRun
    share: Share
    base: int
    """Bytes of the run without its items."""
    lapses: float = 0.0
    expires: float = 0.0
    checked: float = 0.0
    """When the store will look next whether the run has expired."""
    first: int = 1
    items: list[bytes] = []
    item_bytes: int = 0
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
        items = self.items[number - self.first : number - self.first + LONGEST_PAGE]
        size = 0
        for count, item in enumerate(items):
            if size >= PAGE:
                del items[count:]
                break
            size += len(item)
        return Page(self.state(now), number, items)

    def wake_readers(self) -> None:
        if self.changed is not None and not self.changed.done():
            self.changed.set_result(None)
        self.changed = None


class MemoryStore:
    """Store in the memory of this process. Several servers of one event loop can share it.

    Expired runs are dropped at the next call of any method. Bytes are those that the entries take in memory.

    Args:
        run_bytes: the maximum size of the kept items of one run.
        payer_bytes: the maximum size of the runs of one payer.
        payer_runs: the maximum number of runs of one payer.
        bytes: the maximum size of the whole store.
        lease: seconds for which a process claims a run. It renews the claim more often.
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
        if found is not None and found.free:
            self._drop(key, found)
            found = None
        if found is None:
            share = self._shares.get(run.payer) or Share()
            base = RUN + run.held + sum(map(getsizeof, (run.arguments, run.payer, run.topic, run.payload)))
            if share.runs >= self._payer_runs or self._excess(share) + base > 0:
                raise StoreFull("the store has no room for another run of this payer")
            found = self._runs[key] = StoredRun(run, share, 0)
            self._shares[run.payer] = share
            share.runs += 1
            self._resize(found, base, 0)
            self._renew(found, now)
            self._check_later(key, found)
            if run.topic:
                self._adoptable[key] = found
        return found.state(now)

    async def append(self, key: str, id: str, number: int, items: Sequence[bytes], /) -> RunState:
        now = self._drop_expired()
        run = self._find(key, id)
        last = run.last
        if run.end is not None or number > last + 1:
            raise RunGone("the run has ended, or the store has lost some of its items")
        self._renew(run, now)
        if fresh := items[last + 1 - number :]:
            run.items += fresh
            self._resize(run, 0, sum(map(len, fresh)) + ITEM * len(fresh))
            self._trim(run)
            run.wake_readers()
        return run.state(now)

    async def end(self, key: str, id: str, end: bytes, /, *, last: int | None = None, free: bool = False) -> None:
        now = self._drop_expired()
        run = self._find(key, id)
        if run.end is not None:
            return
        if last is not None and last != run.last:
            raise RunGone("the store has lost some items of the run")
        more = max(0, len(end) - SHORT_END) - run.new.held
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
        if run is not None and reader:
            run.readers[reader] = now + wait + self.lease
        if run is not None and wait > 0 and run.end is None and run.last <= after:
            if run.changed is None:
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
        if (run := self._runs.get(key)) is not None and run.new.id == id:
            run.stopping = True

    async def renew(self, runs: Mapping[str, str], /) -> Mapping[str, RunState]:
        now = self._drop_expired()
        states: dict[str, RunState] = {}
        for key, id in runs.items():
            if (run := self._runs.get(key)) is not None and run.new.id == id:
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
        for run in self._runs.values():
            run.wake_readers()

    # ------------------------------------------------------------ claims and expiry

    def _find(self, key: str, id: str) -> StoredRun:
        run = self._runs.get(key)
        if run is None or run.new.id != id:
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
        """Drop the runs that have expired, and return the time."""
        now = monotonic()
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

    def _excess(self, share: Share) -> int:
        """Return how many bytes too many a payer has, or all together. Negative if there is room."""
        return max(share.bytes - self._payer_bytes, self._whole.bytes - self._bytes)

    def _trim(self, run: StoredRun) -> None:
        """Drop the oldest items until the shares suffice and the run is short enough; for the latter, not the last."""
        excess, too_long = self._excess(run.share), run.item_bytes - self._run_bytes
        count = freed = 0
        while count < len(run.items) and (freed < excess or (freed < too_long and count < len(run.items) - 1)):
            freed += len(run.items[count]) + ITEM
            count += 1
        if count:
            del run.items[:count]
            run.first += count
            self._resize(run, 0, -freed)
