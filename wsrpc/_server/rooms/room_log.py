"""`RoomLog`: the log of a room that keeps its events, as one process writes and reads it.

An event is stored first, and then sent. So all processes send the events of a room in one order, that of the store, and
a member that has missed some gets them from there. Each process reads the log while the room has members there; the
`RoomFeed` of the room sends them what was read.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Collection, Coroutine, Generator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from weakref import WeakSet, WeakValueDictionary

from msgspec import UNSET
from msgspec.structs import replace

from ..._base.logs import logger
from ..._core.api.peer import Peer
from ..._core.wire.call_context import CallContext
from ..._core.wire.messages import event_on
from ..._log.contract import Appended, NewLog, Page, StoreFull, StoreLost, entry_id
from ..._log.kept import Encode, hash_of
from ..._log.link import STORE_TIMEOUT, StoreLink, insist
from ..._log.position import LAST, Position
from ..._log.writer import BATCH, LogWriter, Unstored
from ...errors import Overloaded
from ..broadcast import BroadcastGroup, EmitReport, EventBroadcast, Sent
from ..skipping import Skip, skipped_by
from .log_losses import LogLosses
from .room_feed import NO_ANSWER, RoomFeed, StateOf
from .room_pages import NOTHING, TOGETHER, entries_of, start_of
from .stored_event import LOST, StoredEvent

WAIT = 15.0
"""Seconds after which a log that nobody writes to is read again."""
SOON = 0.1
"""Seconds after which members that did not wait for the store are notified that they may have missed events."""
PAUSE = 1.0
"""Seconds until a store that has no room is asked again."""
NO_ROOM = "the store has no room for the events of this room"
RATE = 4 * 1024 * 1024
"""Bytes that a process stores in a second, if others read them from a log, which keeps 1 MiB by default."""
RENEWER = ""
"""The writer that adds nothing. It must not be one that adds something meanwhile."""


class UnstoredEvent(Unstored, eq=False):
    """An event that waits until those before it are stored."""

    skipped: Collection[object]
    stored: asyncio.Future[tuple[Position, EmitReport]]
    """Gets the position of the event, and the report."""

    @property
    def is_wanted(self) -> bool:
        return not self.stored.done()

    def failed(self, error: BaseException | None) -> None:
        if not self.stored.done():
            self.stored.set_exception(error or _perhaps_stored("the server was closed before the event was stored"))


class RoomLog:
    """The log of one room.

    Args:
        name: the name of the room.
        group: the members of the room here.
        link: leads to the store.
        keep: seconds for which the log is kept after its last event, and after its last member has left.
        to_bytes: encodes what is stored; see `encoder_of`.
        gates, state: see `RoomFeed`.
    """

    def __init__(
        self,
        name: str,
        group: BroadcastGroup,
        link: StoreLink,
        keep: float,
        to_bytes: Encode,
        gates: WeakValueDictionary[object, asyncio.Semaphore],
        state: StateOf | None = None,
    ) -> None:
        self.keep = keep
        self.feed = RoomFeed(name, group, link.spawn, self._page, gates, state)
        """Sends the events to the members here."""
        self._name = name
        self._members = group.members
        self._codec = group.codec
        self.link = link
        self._key = hash_of(("room", name))
        self._new = NewLog(id=secrets.token_hex(8), payer=f"room {name}", keep=keep)
        self._to_bytes = to_bytes
        own = secrets.token_hex(4)  # the name of this process in the log
        self._writer: LogWriter[UnstoredEvent] = LogWriter(own, link.spawn, self._append, self._stored, self._pace)
        self._unwritten = 0
        """About the bytes that were sent in this turn of the event loop."""
        self._losses = LogLosses()
        self._failures = 0
        """How often the store had not answered when the log was read on."""
        self._reading: asyncio.Task[None] | None = None
        self._missing: asyncio.Task[None] | None = None
        """Stores that events of other processes are missing."""
        self._is_missing = False
        """Whether it has to do so again."""
        self._calls = 0
        """Number of calls that need the log to be read, even if the room has no members here."""
        self.readers = WeakSet[object]()
        """The `RoomEvents`, which need it, too, until they are closed, or Python collects them."""

    # ------------------------------------------------------------ emitting

    async def emit(self, sent: Sent, skip: Skip, context: CallContext | None = None, *rooms: str) -> EmitReport:
        channel, event, args = sent
        if event is None or isinstance(channel, int):
            raise ValueError(f"room {self._name!r} keeps its events (keep=), and a raw message is no event: use emit()")
        skipped: Any = skip if rooms else skipped_by(skip)  # who is in a room is asked when the event reaches them
        metadata = None if context is None or context.metadata is UNSET else context.metadata
        EventBroadcast(event_on(channel, (event, *args)), self._codec)  # what other rooms refuse must not be stored
        names = [] if rooms else [each.id if isinstance(each, Peer) else str(each) for each in skipped]
        stored = StoredEvent(channel, event, args, metadata, names, [*rooms])
        item = self._to_bytes(stored)
        if (report := self._emit_now(item, stored, skipped)) is None:
            return await self._emit(item, skipped)
        if self._unwritten > BATCH:  # what was sent is written only in the next turn of the event loop
            self._unwritten = 0
            await asyncio.sleep(0)
        return report

    def _emit_now(self, item: bytes, stored: StoredEvent, skipped: Collection[object]) -> EmitReport | None:
        """Store an event, and send it, if nobody else has the store. Return None if something has to be waited for."""
        memory = self.link.memory
        if memory is None or self.feed.pages.half() or (self._members and self.feed.reached is None):
            return None
        if (sequence := self._writer.next_sequence()) is None:
            return None
        try:
            added = memory.append_now(self._key, self._new, self._writer.name, sequence, [item])
        except StoreFull:
            raise Overloaded(NO_ROOM) from None
        self._was_added(added, 1)
        self._unwritten += len(item) + BATCH // TOGETHER  # so `TOGETHER` events are enough for a turn
        return self.feed.send(Position(added.number, entry_id(self._writer.name, sequence)), item, stored, skipped)

    async def _emit(self, item: bytes, skipped: Collection[object]) -> EmitReport:
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                if self._members and self.feed.reached is None:
                    with self.needed():
                        await self.wait_started()  # members that were added just now get the event, too
                return (await self._write(item, skipped))[1]
        except TimeoutError:
            raise _perhaps_stored(NO_ANSWER) from None

    def miss_one(self) -> None:
        """Store a notice for members in place of events that their process has not stored."""
        self._is_missing = True
        if self._missing is None or self._missing.done():
            self._missing = self.link.spawn(self._store_missing())

    async def _store_missing(self) -> None:
        while self._is_missing:  # again for events that were missed while it was stored
            self._is_missing = False
            try:
                await self._emit(LOST, ())
            except Overloaded as exc:
                logger.warning("room %r: members are not told that they miss an event: %s", self._name, exc)

    # ------------------------------------------------------------ storing

    async def _write(self, item: bytes, skipped: Collection[object] = ()) -> tuple[Position, EmitReport]:
        """Store an entry, and send it to the members that are not late. Return its position, and the report.

        Raises:
            Overloaded: the store has no room, or does not answer. The event may be stored later.
        """
        event = UnstoredEvent(item, skipped, asyncio.get_running_loop().create_future())
        self._writer.add(event)
        return await event.stored

    async def _pace(self, size: int) -> None:
        # What was sent is written only in the next turn of the event loop.
        if size:
            # Of a full step and the one after it, one has more than half of `BATCH`.
            await asyncio.sleep(size / RATE if self.link.is_shared and size > BATCH // 2 else 0)
        await self.feed.wait_readers()

    async def _append(self, sequence: int, items: list[bytes]) -> Appended:
        """Store events, of which the first has a sequence.

        Raises:
            Overloaded: the store has no room, or does not answer. The events may be stored later.
        """
        asked = 0

        async def append() -> Appended:
            nonlocal asked
            asked += 1
            return await self.link.store.append(self._key, self._new, self._writer.name, sequence, items)

        try:
            added = await insist(append, STORE_TIMEOUT)
        except StoreFull:  # an earlier step may be on its way yet
            raise (_perhaps_stored(NO_ROOM) if asked > 1 else Overloaded(NO_ROOM)) from None
        except StoreLost:
            raise _perhaps_stored(NO_ANSWER) from None
        self._was_added(added, len(items))
        return added

    def _was_added(self, added: Appended, count: int) -> None:
        if self._losses.written(added, count):
            self.link.spawn(self._mark_loss())
        if added.number == 1:  # a log that is begun again later, after this one has expired, is another one
            self._new = replace(self._new, id=secrets.token_hex(8))

    def _stored(self, batch: list[UnstoredEvent], sequence: int, added: Appended) -> None:
        before = Position(added.number - 1, added.before)
        for each, event in enumerate(batch, sequence):
            position = Position(before.number + 1, entry_id(self._writer.name, each))
            if before == self.feed.reached or not self.link.is_shared:
                report = self.feed.send(position, event.entry, None, event.skipped)
            else:  # `_read` sends it, after events that other processes have stored before it
                report = self.feed.report(event.skipped)
            if not event.stored.done():
                event.stored.set_result((position, report))
            before = position

    async def _mark_loss(self) -> None:
        """Add that the log has lost events: a member may join again at a position before them, which is still valid.

        Processes that notice the loss within the same ten seconds are one writer, so they add this once.
        """
        logger.warning("room %r: the store has lost events", self._name)
        await insist(partial(self.link.store.append, self._key, self._new, f"lost-{time.time() // 10:.0f}", 1, [LOST]))

    # ------------------------------------------------------------ reading

    def start(self) -> None:
        """Begin to read the log, because the room has a member here. Idempotent."""
        if self._reading is None or self._reading.done():
            if self.link.is_shared:
                self.feed.restart()
            self._reading = self.link.spawn(self._read())

    async def wait_started(self) -> None:
        """Begin to read the log, and wait until its end is known.

        Raises:
            Overloaded: the store does not answer.
        """
        self.start()
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                while self.feed.reached is None:
                    await self.feed.wait_moved()
        except TimeoutError:
            raise Overloaded(NO_ANSWER) from None

    def stop(self) -> None:
        """Stop reading the log if nobody needs it."""
        if self._reading is not None and not self._is_needed:
            self._reading.cancel()
            self._reading = None

    @property
    def _is_needed(self) -> bool:
        return bool(self._members or self._calls or self.readers)

    @contextmanager
    def needed(self) -> Generator[None]:
        """Do not stop reading the log within this block, even if the room has no members here."""
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            self.stop()

    async def _read(self) -> None:
        """Send what other processes have stored, if they share the store. Renew the log."""
        loop, fails = asyncio.get_running_loop(), False
        latest = loop.time() + SOON
        while self._is_needed:
            try:
                if (after := self.feed.reached) is None:
                    end = await self._end()
                    # What was stored meanwhile may have been sent. The members of `room.add` do not wait for the store.
                    self.feed.start_at(self.feed.reached or end, late=self.link.is_shared and loop.time() > latest)
                elif self.link.is_shared:
                    await self._read_on(after)
                else:
                    await asyncio.sleep(self.keep / 8)
                    await self._renew()
                if fails:
                    logger.info("room %r is read again", self._name)
                fails = False
            except Exception as exc:
                if not fails:
                    logger.warning("room %r is not read: %s", self._name, exc, exc_info=not isinstance(exc, Overloaded))
                fails = True
                await asyncio.sleep(PAUSE)

    async def _read_on(self, after: Position) -> None:
        page = await insist(partial(self._next_page, after.number)) or NOTHING
        if page is not NOTHING and after != self.feed.reached:
            return  # an event of this process was sent meanwhile
        if self._losses.read(page, after):
            await self._mark_loss()
        if not page.entries:
            if after.before(page) == "next":
                await self._renew()
            else:
                self.feed.skip_to(await self._end())
            return
        if after.before(page) != "next":
            self.feed.skip_to(start_of(page))
        for position, item in entries_of(page):
            self.feed.send(position, item)
            if position.number % TOGETHER == 0:  # what was sent is written only in the next turn of the event loop
                await asyncio.sleep(0)
                if self.feed.reached != position:
                    return
        self.feed.pages.drop(self.feed.pages.half())  # nobody waits: the store drops what this process does not read

    async def _renew(self) -> None:
        """Keep the log, as long as there are members."""
        with suppress(StoreLost, StoreFull):
            await self.link.store.append(self._key, self._new, RENEWER, 0, [])

    async def _end(self) -> Position:
        """Return the position of the last entry. Write the first one if there is none."""
        page = await self._page(LAST)
        self._losses.read(page)
        if page is NOTHING or page.number == 1:
            return (await self._write(self._to_bytes(StoredEvent(None, "", []))))[0]
        return start_of(page)

    def _next_page(self, after: int) -> Coroutine[Any, Any, Page | None]:
        # After an outage, it does not wait: the log may have begun anew, and have as many entries.
        failures, self._failures = self._failures, self.link.failures
        wait = min(WAIT, self.keep / 4) if failures == self._failures else 0.0
        return self.link.store.read(self._key, after, wait=wait)

    async def _page(self, after: int) -> Page:
        return await insist(partial(self.link.store.read, self._key, after)) or NOTHING


def _perhaps_stored(why: str) -> Overloaded:
    """Return the error for an event that the store may have added, or may add later."""
    error = Overloaded(why)
    error.outcome = "unknown"
    return error
