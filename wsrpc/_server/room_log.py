"""`RoomLog`: the log of a room, which keeps events, and sends them to the room's members in order.

An event is stored first, and then sent. So all processes send the events of a room in one order, that of the store, and
a member that has missed some gets them from there. Each process reads the log while the room has members there.

An event has a number and an id, which together are its *position*. A position proves itself: if the store has lost
events, such as a Redis that was restored from an old snapshot, then the event with its number has another id.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from bisect import bisect
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import accumulate
from math import inf
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from msgspec import UNSET, Struct
from msgspec.structs import replace

from .._base.logs import logger
from .._base.misuse import check_number
from .._base.rooms import CHANNEL, Joined
from .._core.api.peer import Peer
from .._core.sending.checks import check_sending, check_thread
from .._core.session.sessions import client_of
from .._core.wire.call_context import CallContext
from .._core.wire.messages import event_on
from .._keyed.contract import NewRun, Page, RunState, StoreFull, StoreLost
from .._keyed.keeper import Encode, hash_of
from .._keyed.runs import LAST, STORE_TIMEOUT, UNREADABLE, Runs, insist, read_kept
from ..errors import BadArguments, ConnectionLost, Overloaded, RpcError, short
from .broadcast import UNSENDABLE, BroadcastGroup, EmitReport, EventBroadcast, Sent, Skip, skipped_by
from .followers import Followers
from .peers import ServedPeer

WAIT = 15.0
"""Seconds after which a log that nobody writes to is read again."""
SOON = 0.1
"""Seconds after which members that did not wait for the store are told that they may have missed events."""
UNKNOWN = "?"
"""The id of a position that is in no log."""
PAUSE = 1.0
"""Seconds until a store that has no room is asked again."""
NO_ANSWER = "the store of events does not answer: try again later"
TOGETHER = 16
"""Number of events that are sent to all members in one turn of the event loop."""
BATCH = 64 * 1024
"""Bytes of events after which one step stores no more of them: a store must not drop them before others read them."""
RATE = 4 * 1024 * 1024
"""Bytes that a process stores in a second, if others read them from a log, which keeps 1 MiB by default."""
RECENT = 4 * 1024 * 1024
"""Bytes of the last events that a process has at hand for members that are behind."""
HOLD = 1.0
"""Seconds in which a member has to read the older half of these events, if others are to wait for it."""
EVENT = 192
"""Bytes for which an event counts besides its own, as in a `MemoryStore`."""
NOTHING = Page(RunState("", "", 0, 0, None, stopping=False, readers=0, lost=False), LAST + 1, ())
"""A page in place of one of a log that the store does not have. It follows no position."""
LOST = b""
"""Entry in place of events that are not in the store. It cannot be read, so members are told that they miss some."""
RENEWER = ""
"""The writer that adds nothing. It must not be one that adds something meanwhile."""
READING = 2
"""Number of pages that are read at the same time for the members of one client. So one client cannot delay others."""

_position = re.compile(r"([0-9]{1,16})-([!-~]{1,40})").fullmatch


def check_keep(keep: float) -> None:
    """Check the option ``keep`` of a room.

    Raises:
        TypeError, ValueError: it is not a number of seconds.
    """
    check_number("keep= is a number of seconds, 1 or more", keep, 1)


class Position(NamedTuple):
    """The place of an event in a log: its number, and its id. The id is None where only the number is known."""

    number: int
    id: str | None

    def __str__(self) -> str:
        return f"{self.number}-{self.id or 0}"  # before the first event, there is no id

    @classmethod
    def parse(cls, text: str) -> Position:
        """Return the position that a client has passed.

        Raises:
            BadArguments: the text is not a position.
        """
        if (found := _position(text)) is None:
            raise BadArguments(f"`after` is the position of an event of the room, got {short(text)}")
        return cls(int(found[1]), found[2])

    def precedes(self, page: Page) -> bool:
        """Return whether a page that was read after this position has all events after it, or the first of them."""
        return page.number == self.number + 1 and page.before == self.id


class StoredEvent(Struct, array_like=True):
    """An event as it is stored.

    Attributes:
        event: the name of the event. Empty for the first entry of a log, which is no event: it gives the first members
            a position.
        skip: the ids and addresses of the peers that do not get the event.
        skip_rooms: rooms whose members do not get the event.
    """

    channel: str | None
    event: str
    args: Any
    metadata: dict[str, str] | None = None
    skip: list[str] = []
    skip_rooms: list[str] = []

    def is_left_out(self, peer: Any, inside: Any) -> bool:
        """Return whether a member does not get the event."""
        rooms = (room.name for room in inside.rooms)
        return peer.id in self.skip or inside.address in self.skip or any(map(self.skip_rooms.count, rooms))


class Unstored(NamedTuple):
    """An entry that waits until those before it are stored."""

    item: bytes
    skipped: Collection[object]
    stored: asyncio.Future[tuple[Position, EmitReport]]
    """Gets the position of the entry, and the report."""


class RoomLog(Followers):
    """The log of one room, as one process uses it.

    Args:
        name: the name of the room.
        group: the members of the room here.
        runs: has the store.
        keep: seconds for which the log is kept after its last event, and after its last member has left.
        to_bytes: encodes what is stored; see `encoder_of`.
        gates: limit what is read at the same time for the members of one client, in all rooms.
    """

    def __init__(
        self,
        name: str,
        group: BroadcastGroup,
        runs: Runs,
        keep: float,
        to_bytes: Encode,
        gates: WeakValueDictionary[object, asyncio.Semaphore],
    ) -> None:
        super().__init__(group, runs.spawn)
        self.keep = keep
        self.reached: Position | None = None
        """The last event that was sent to the members which are not behind. None while the log is not read."""
        self._name = name
        self._runs = runs
        self._store = runs.store
        self._key = hash_of(("room", name))
        self._new = NewRun(id=secrets.token_hex(8), arguments="", payer=f"room {name}", keep=keep)
        self._to_bytes = to_bytes
        self._gates = gates
        self._writer = secrets.token_hex(4)
        self._sequence = 0
        """How many entries this process has written."""
        self._read_from = ""
        """The id of the log that this process has read last."""
        self._written = ("", 0)
        """The id of the log to which this process has written last, and the number of the entry there. What it has read
        says nothing here: the answer to a read may overtake that to a write."""
        self._queue: list[Unstored] = []
        self._storing: asyncio.Task[None] | None = None
        """Stores the queue. None if it is empty."""
        self._reading: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        """Set when ``reached`` changes."""
        self._needed = 0
        """How many calls need the log to be read, even if the room has no members here."""
        self._pages: dict[int, asyncio.Task[Page]] = {}
        """The pages that are being read, by the numbers after which they begin."""
        self._missed_after: dict[Peer, Position] = {}
        """For members that are behind: the last event that they got."""
        self._recent: list[tuple[Position, bytes]] = []
        """The last events, up to ``reached``, after the first that members which are behind have got."""
        self._recent_bytes = 0
        self._late: set[Peer] = set()
        """Members for which nobody waits until they have caught up."""
        self._read_some = asyncio.Event()
        """Set when a member that is behind has read something, or has left."""

    # ------------------------------------------------------------ emitting

    async def emit(self, sent: Sent, skip: Skip, context: CallContext | None = None, *rooms: str) -> EmitReport:
        channel, event, args = sent
        if event is None or isinstance(channel, int):
            raise ValueError(f"room {self._name!r} keeps its events (keep=), and a raw message is no event: use emit()")
        check_sending(channel, event, None)
        check_thread(self._thread, "room.emit(...)")
        skipped: Any = skip if rooms else skipped_by(skip)  # who is in a room is asked when the event reaches them
        metadata = None if context is None or context.metadata is UNSET else context.metadata
        EventBroadcast(event_on(channel, (event, *args)), self.codec)  # what other rooms refuse must not be stored
        names = [] if rooms else [each.id if isinstance(each, Peer) else str(each) for each in skipped]
        item = self._to_bytes(StoredEvent(channel, event, args, metadata, names, [*rooms]))
        return await self._emit(item, skipped)

    async def _emit(self, item: bytes, skipped: Collection[object]) -> EmitReport:
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                if self.members and self.reached is None:
                    with self.needed():
                        await self.wait_started()  # members that were added just now get the event, too
                return (await self._write(item, skipped))[1]
        except TimeoutError:
            raise _unanswered() from None

    async def miss_one(self) -> None:
        """Store, in place of an event that its process has not stored, what tells members that they miss it."""
        try:
            await self._emit(LOST, ())
        except Overloaded as exc:
            logger.warning("room %r: members are not told that they miss an event: %s", self._name, exc)

    def _send_stored(self, position: Position, item: bytes, skipped: Collection[object] | None = None) -> EmitReport:
        """Send the event after the last one to the members that are not behind, and keep it for the others."""
        try:
            stored = read_kept(item, StoredEvent)
        except UNREADABLE as exc:
            logger.warning("room %r: members miss event %s, which cannot be read: %s", self._name, position, exc)
            stored = StoredEvent(CHANNEL, "missed", [self._name, str(position)])
        if skipped is None:
            skipped = {peer for peer, inside in self.members.items() if stored.is_left_out(peer, inside)}
        report = self._send(self._message(position, stored), None, skipped) if stored.event else EmitReport(0)
        for error in report.errors:
            inside = self.members.get(error.peer)
            if isinstance(inside, ServedPeer):  # the event is too large for it, for example
                with suppress(ConnectionLost):
                    self._deliver(inside, self._missed(position), None)
        if self._missed_after and self.reached is not None:
            if not self._recent or self._recent[-1][0].number + 1 != position.number:
                self._recent = [(self.reached, b"")]
            self._recent.append((position, item))
            self._recent_bytes += len(item) + EVENT
        self._move_to(position)
        return report

    def _message(self, position: Position, stored: StoredEvent) -> EventBroadcast:
        metadata = UNSET if stored.metadata is None else stored.metadata
        context = CallContext(metadata=metadata, at=(self._name, str(position)))
        return EventBroadcast(event_on(stored.channel, (stored.event, *stored.args), context))

    # ------------------------------------------------------------ storing

    async def _write(self, item: bytes, skipped: Collection[object] = ()) -> tuple[Position, EmitReport]:
        """Store an entry, and send it to the members that are not behind. Return its position, and the report.

        Raises:
            Overloaded: the store has no room, or does not answer. The event may be stored later.
        """
        entry = Unstored(item, skipped, asyncio.get_running_loop().create_future())
        self._queue.append(entry)
        if self._storing is None:
            self._storing = self._runs.spawn(self._store_queue())
            self._storing.add_done_callback(self._storing_ended)
        return await entry.stored

    async def _store_queue(self) -> None:
        """Store the entries that wait. Those that come meanwhile go together."""
        while self._queue:
            await self._wait_readers()
            # An entry whose caller waits no longer is not stored.
            self._queue = [entry for entry in self._queue if not entry.stored.done()]
            if not self._queue:
                break
            sizes = [*accumulate(len(entry.item) + EVENT for entry in self._queue[: BATCH // EVENT])]
            batch = self._queue[: bisect(sizes, BATCH) + 1]
            try:
                await self._store_batch(batch)
            except Overloaded as exc:
                for entry in batch:
                    _fail(entry, exc)
            del self._queue[: len(batch)]
            size = sizes[len(batch) - 1]
            # What was sent is written only in the next turn of the event loop.
            await asyncio.sleep(size / RATE if self._runs.is_shared and size > BATCH else 0)
        self._storing = None

    async def _store_batch(self, batch: list[Unstored]) -> None:
        sequence, self._sequence = self._sequence + 1, self._sequence + len(batch)
        before = await self._add(sequence, [entry.item for entry in batch])
        for each, entry in enumerate(batch, sequence):
            position = Position(before.number + 1, f"{self._writer}.{each}")
            if before == self.reached or not self._runs.is_shared:
                report = self._send_stored(position, entry.item, entry.skipped)
            else:  # `_read` sends it, after events that other processes have stored before it
                report = EmitReport(self.count(self.members, entry.skipped))
            late = self.count(self._late, entry.skipped)
            if not entry.stored.done():
                entry.stored.set_result((position, replace(report, sent=report.sent - late, skipped=late)))
            before = position

    def _storing_ended(self, task: asyncio.Task[None]) -> None:
        """Fail the entries that are left because the server was closed, or the store has raised another error."""
        if self._storing is task:
            self._storing, left, self._queue = None, self._queue, []
            for entry in left:
                _fail(entry, None if task.cancelled() else task.exception())

    async def _add(self, sequence: int, items: list[bytes]) -> Position:
        """Store events, of which the first has a sequence. Return the position before them.

        Raises:
            Overloaded: the store has no room, or does not answer. The events may be stored later.
        """
        try:
            added = await insist(
                partial(self._store.add, self._key, self._new, self._writer, sequence, items), STORE_TIMEOUT
            )
        except StoreFull:
            raise Overloaded("the store has no room for the events of this room") from None
        except StoreLost:
            raise _unanswered() from None
        if added.number == 1:  # a log that is begun again later, after this one has expired, is another one
            self._new = replace(self._new, id=secrets.token_hex(8))
        elif self._written[0] == added.state.id and added.number <= self._written[1]:
            self._runs.spawn(self._mark_loss())
        self._written = added.state.id, added.number + len(items) - 1
        return Position(added.number - 1, added.before)

    async def _mark_loss(self) -> None:
        """Add that the log has lost events: a member may come back at a position before them, which is still valid.

        Processes that notice the loss within the same ten seconds are one writer, so they add this once.
        """
        logger.warning("room %r: the store has lost events", self._name)
        await insist(partial(self._store.add, self._key, self._new, f"lost-{time.time() // 10:.0f}", 1, [LOST]))

    # ------------------------------------------------------------ reading

    def start(self) -> None:
        """Begin to read the log, because the room has a member here. Idempotent."""
        if self._reading is None or self._reading.done():
            self._reading = self._runs.spawn(self._read())

    def stop(self) -> None:
        """Stop reading the log if the room has no members here."""
        if self.members or self._needed:
            return
        if self._reading is not None:
            self._reading.cancel()
        self._reading = None
        if self._runs.is_shared:
            self.reached = None

    @contextmanager
    def needed(self) -> Generator[None]:
        """Do not stop reading the log within this block, even if the room has no members here."""
        self._needed += 1
        try:
            yield
        finally:
            self._needed -= 1
            self.stop()

    async def _read(self) -> None:
        """Send what other processes have stored, if they share the store. Renew the log."""
        fails, now = False, asyncio.get_running_loop().time
        latest = now() + SOON
        while True:
            try:
                if (after := self.reached) is None:
                    end = await self._end()
                    reached = self.reached or end  # what was stored meanwhile may have been sent
                    if self._runs.is_shared and now() > latest:  # to the members of `room.add`
                        # A member whose connection is full goes on from here later, and is told then.
                        self.reached = reached._replace(id=UNKNOWN)
                        self._send(self._missed(reached), None, ())
                    self._move_to(reached)
                elif self._runs.is_shared:
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
        page = await self._page(after.number, wait=min(WAIT, self.keep / 4))
        if page is not NOTHING and after != self.reached:
            return  # an event of this process was sent meanwhile
        is_same, self._read_from = page.state.id in (self._read_from, self._written[0]), page.state.id
        # Another log needs no mark, because no position of the one before is valid there.
        if is_same and page.number <= after.number + 1 and not after.precedes(page):
            self._written = ("", 0)  # what this process has written may be lost, too, and is marked now
            await self._mark_loss()
        if not page.items:
            if after.precedes(page):
                await self._renew()
            else:
                self._skip_to(await self._end())
            return
        if not after.precedes(page):
            self._skip_to(Position(page.number - 1, page.before))
        for number, (id, item) in enumerate(zip(page.ids, page.items, strict=True), page.number):
            self._send_stored(Position(number, id), item)
            if number % TOGETHER == 0:  # what was sent is written only in the next turn of the event loop
                await asyncio.sleep(0)
                if self.reached != (number, id):
                    return
        if half := self._half():  # nobody waits: the store drops what this process does not read
            self._drop_recent(half)

    async def _renew(self) -> None:
        """Keep the log, as long as there are members."""
        with suppress(StoreLost, StoreFull):
            await self._store.add(self._key, self._new, RENEWER, 0, [])

    def _skip_to(self, position: Position) -> None:
        """Tell the members that are not behind that they miss the events before a position."""
        self._send(self._missed(position), None, ())
        self._drop_recent()
        self._move_to(position)

    async def _end(self) -> Position:
        """Return the position of the last entry. Write the first one if there is none."""
        page = await self._page(LAST)
        self._read_from = page.state.id
        if page is NOTHING or page.number == 1:
            return (await self._write(self._to_bytes(StoredEvent(None, "", []))))[0]
        return Position(page.number - 1, page.before)

    async def _page(self, after: int, wait: float = 0.0) -> Page:
        return await insist(partial(self._store.read, self._key, after, wait=wait)) or NOTHING

    def _move_to(self, position: Position) -> None:
        self.reached = position
        self._moved.set()

    async def _wait_moved(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    # ------------------------------------------------------------ members

    def drop(self, member: Peer) -> None:
        super().drop(member)
        self._caught_up(member)

    async def wait_started(self) -> None:
        """Begin to read the log, and wait until its end is known.

        Raises:
            Overloaded: the store does not answer.
        """
        self.start()
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                while self.reached is None:
                    await self._wait_moved()
        except TimeoutError:
            raise Overloaded(NO_ANSWER) from None

    async def send_missed(self, served: ServedPeer, after: Position | None, last: int) -> Joined:
        """Send the events after a position, or the last ones, to a new member. It is not behind afterwards."""
        reached = self.reached
        assert reached is not None
        if after is None:
            after = Position(max(0, reached.number - last), None) if last else reached
        if after == reached:
            return Joined(str(reached), complete=True)
        self._missed_after[served.peer] = after
        self.fall_behind(served)
        return await self.wait_live(served)

    async def wait_live(self, served: ServedPeer) -> Joined:
        """Wait until a member is not behind.

        Raises:
            Overloaded: the store does not answer. The member gets what it has missed later.
        """
        task = self._behind.get(served.peer)
        if task is None:
            return Joined(str(self.reached), complete=True)
        got = None
        while not task.done():
            before, got = got, self._missed_after.get(served.peer)
            if got == before and not served.writer.session.full:
                raise Overloaded(NO_ANSWER)
            await asyncio.wait((task,), timeout=STORE_TIMEOUT)
        joined: Joined | None = None if task.cancelled() else task.result()
        if joined is None:
            raise RpcError("left the room")
        return joined

    def fall_behind(self, served: ServedPeer) -> asyncio.Task[Any]:
        assert self.reached is not None
        self._missed_after.setdefault(served.peer, self.reached)
        return super().fall_behind(served)

    async def catch_up(self, served: ServedPeer) -> Joined:
        peer, complete = served.peer, True
        gate = self._gates.setdefault(client_of(peer), asyncio.Semaphore(READING))
        while (after := self._missed_after[peer]) != self.reached:
            await self.wait_room(served)
            async with gate:
                # No name for the page: it would be kept while the member does not read.
                got, all_sent = self._send_page(served, after, await self._read_page(after))
                self._missed_after[peer], complete = got, complete and all_sent
            self._read_some.set()
            if got == after != self.reached and not served.writer.session.full:
                await self._wait_moved()  # this process has read less than the one where the member was before
            await asyncio.sleep(0)  # others must run, even if nothing has waited
        self._caught_up(peer)
        return Joined(str(after), complete)

    def _caught_up(self, peer: Peer) -> None:
        """A member is not behind any more, or has left."""
        self._missed_after.pop(peer, None)
        self._late.discard(peer)
        self._read_some.set()
        if not self._missed_after:
            self._drop_recent()

    async def _wait_readers(self) -> None:
        """Give members that are behind time to read, if too many events are at hand for them."""
        if not (half := self._half()):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(HOLD):
                while any(at.number < half and peer not in self._late for peer, at in self._missed_after.items()):
                    self._read_some.clear()
                    await self._read_some.wait()
        self._late |= {peer for peer, at in self._missed_after.items() if at.number < half}
        self._drop_recent(half)

    def _half(self) -> int:
        """Return the number of the event in the middle of those at hand, or 0 if these are not too many."""
        return self._recent[len(self._recent) // 2][0].number if self._recent_bytes > RECENT else 0

    def _drop_recent(self, before: float = inf) -> None:
        """Drop the events before a number from those at hand."""
        self._recent = [each for each in self._recent if each[0].number >= before]
        self._recent_bytes = sum(len(item) + EVENT for _, item in self._recent)

    async def _read_page(self, after: Position) -> Page:
        """Return a page. Many members read the same ones, for example after a restart of the server."""
        place = after.number - self._recent[0][0].number if self._recent else -1
        if place >= 0 and self._recent[place : place + 1] and self._recent[place][0] == after:
            some = self._recent[place + 1 : place + 1 + TOGETHER]
            items, ids = [item for _, item in some], [position.id or "" for position, _ in some]
            return Page(NOTHING.state, after.number + 1, items, after.id or "", ids)
        if (reading := self._pages.get(after.number)) is None:
            reading = self._pages[after.number] = self._runs.spawn(self._page(after.number))
            reading.add_done_callback(lambda _: self._pages.pop(after.number))
        return await asyncio.shield(reading)

    def _send_page(self, served: ServedPeer, after: Position, page: Page) -> tuple[Position, bool]:
        """Send the events of a page as far as others have got them, and there is room.

        Returns:
            the position of the last one, and whether there is nothing that the member has missed.
        """
        reached, complete = self.reached, True
        assert reached is not None
        if not after.precedes(page):
            complete = after.id is None
            after = Position(page.number - 1, page.before) if page.number <= reached.number else reached
            if not complete:
                BroadcastGroup._deliver(self, served, self._missed(after), None)
        for number, (id, item) in enumerate(zip(page.ids, page.items, strict=True), after.number + 1):
            if number > reached.number or served.writer.session.full:
                break
            after = Position(number, id)
            try:
                stored = read_kept(item, StoredEvent)
                if stored.event and not stored.is_left_out(served.peer, served):
                    BroadcastGroup._deliver(self, served, self._message(after, stored), None)
            except (*UNSENDABLE, *UNREADABLE):
                complete = False
                BroadcastGroup._deliver(self, served, self._missed(after), None)
        return after, complete

    def _missed(self, position: Position) -> EventBroadcast:
        """Return the event that tells a member that events before a position are missing."""
        at = self._name, str(position)
        return EventBroadcast(event_on(CHANNEL, ("missed", *at), CallContext(at=at)))


def _unanswered() -> Overloaded:
    error = Overloaded(NO_ANSWER)
    error.outcome = "unknown"  # the store may have added the event
    return error


def _fail(entry: Unstored, error: BaseException | None) -> None:
    if not entry.stored.done():
        entry.stored.set_exception(error or Overloaded("the server was closed before the event was stored"))
