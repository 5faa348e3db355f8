"""`RoomFeed`: sends the events of a room that keeps them to its members here, in order, each from where it is.

A member that has room gets an event as soon as the process has it. The others are *behind*: they get the same events
later, those that this process still has at hand, or pages of the log.

An event has a number and an id, which together are its *position*. A position proves itself: if the store has lost
events, such as a Redis that was restored from an old snapshot, then the event with its number has another id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from math import inf
from typing import Any
from weakref import WeakValueDictionary

from msgspec import UNSET, Struct
from msgspec.structs import replace

from .._base.closing import CloseCode
from .._base.logs import logger
from .._base.rooms import CHANNEL, Joined
from .._core.api.peer import Peer
from .._core.session.sessions import client_of
from .._core.wire.call_context import CallContext
from .._core.wire.messages import event_on
from .._log.contract import LogState, Page
from .._log.kept import UNREADABLE, read_kept
from .._log.link import STORE_TIMEOUT
from .._log.position import LAST, Position
from .._log.writer import ENTRY
from ..errors import ConnectionLost, Overloaded, QueueFull, RpcError
from .broadcast import UNSENDABLE, BroadcastGroup, EmitReport, EventBroadcast
from .followers import Followers, Spawn
from .peers import ServedPeer

UNKNOWN = "?"
"""The id of a position that is in no log."""
UNTOLD = "Limits.message_bytes is too small to tell that an event of a room is missing"
"""Why the session of a member ends."""
NO_ANSWER = "the store of events does not answer: try again later"
TOGETHER = 16
"""Number of events that are sent to all members in one turn of the event loop."""
RECENT = 4 * 1024 * 1024
"""Bytes of the last events that a process has at hand for members that are behind."""
HOLD = 1.0
"""Seconds in which a member has to read the older half of these events, if others are to wait for it."""
NOTHING = Page(LogState("", "", 0, 0, None, readers=0, lost=False), LAST + 1, "", (), ())
"""A page in place of one of a log that the store does not have. It follows no position."""
READING = 2
"""Number of pages that are read at the same time for the members of one client. So one client cannot delay others."""


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


class RoomFeed(Followers):
    """The members of one room at this process, each with what it has got of the room's events.

    Args:
        name: the name of the room.
        group: the members of the room here.
        read: reads a page of the log after a number.
        gates: limit what is read at the same time for the members of one client, in all rooms.
    """

    def __init__(
        self,
        name: str,
        group: BroadcastGroup,
        spawn: Spawn,
        read: Callable[[int], Coroutine[Any, Any, Page]],
        gates: WeakValueDictionary[object, asyncio.Semaphore],
    ) -> None:
        super().__init__(group, spawn)
        self.reached: Position | None = None
        """The last event that was sent to the members which are not behind. None until it is known where the log ends.
        It may be old while there are no members."""
        self._moved = asyncio.Event()
        """Set when ``reached`` changes."""
        self._name = name
        self._read = read
        self._gates = gates
        self._pages: dict[tuple[int, Position | None], asyncio.Task[Page]] = {}
        """The pages that are being read, by the numbers after which they begin, and by ``reached`` as it was."""
        self._missed_after: dict[Peer, Position] = {}
        """For members that are behind: the last event that they got."""
        self._recent: list[tuple[Position, bytes]] = []
        """The last events, up to ``reached``, after the first that members which are behind have got."""
        self._recent_bytes = 0
        self._joining: set[Peer] = set()
        """Members that are behind and wait for the answer to their join, which says whether they miss something."""
        self._late: set[Peer] = set()
        """Members for which nobody waits until they have caught up."""
        self._read_some = asyncio.Event()
        """Set when a member that is behind has read something, or has left."""

    # ------------------------------------------------------------ events

    def start_at(self, position: Position, *, late: bool) -> None:
        """Send the events after a position. ``late``: tell those who are members that they may have missed some."""
        if late:
            # A member whose connection is full goes on from here later, and is told then.
            self.reached = position._replace(id=UNKNOWN)
            self._notify_all(position)
        self._move_to(position)

    def skip_to(self, position: Position) -> None:
        """Tell the members that are not behind that they miss the events before a position."""
        self._notify_all(position)
        self.drop_recent()
        self._move_to(position)

    def send(
        self,
        position: Position,
        item: bytes,
        stored: StoredEvent | None = None,
        skipped: Collection[object] | None = None,
    ) -> EmitReport:
        """Send the next event to the members that are not behind, and keep it for the others.

        Args:
            item: the event as it is stored.
            stored: the same, if it is at hand.
            skipped: the members that do not get it. None: those that it names.
        """
        try:
            if stored is None:
                stored = self._event_of(position, item)
            if skipped is None:
                skipped = {peer for peer, inside in self.members.items() if stored.is_left_out(peer, inside)}
            report = self._send(self._message(position, stored), None, skipped) if stored.event else EmitReport(0)
            for error in report.errors:
                inside = self.members.get(error.peer)
                if isinstance(inside, ServedPeer):  # the event is too large for it, for example
                    with suppress(ConnectionLost, QueueFull):
                        self._notify(inside, position)
            return self._without_late(report, skipped)
        finally:  # whatever has failed: those who have got the event must not get it again
            self._keep(position, item)
            self._move_to(position)

    def _keep(self, position: Position, item: bytes) -> None:
        """Have the next event at hand if there are members that are behind."""
        if self._missed_after and self.reached is not None:
            if not self._recent or self._recent[-1][0].number + 1 != position.number:
                # A log that begins anew does not go on from the position that was reached.
                is_next = self.reached.number + 1 == position.number
                self._recent, self._recent_bytes = [(self.reached, b"")] if is_next else [], 0
            self._recent.append((position, item))
            self._recent_bytes += len(item) + ENTRY

    def report(self, skipped: Collection[object]) -> EmitReport:
        """Return the report of an event that will be sent after others."""
        return self._without_late(EmitReport(self.count(self.members, skipped)), skipped)

    def _without_late(self, report: EmitReport, skipped: Collection[object]) -> EmitReport:
        """Return a report in which the members for which nobody waits are skipped."""
        late = self.count(self._late, skipped) if self._late else 0
        return replace(report, sent=report.sent - late, skipped=late) if late else report

    def _event_of(self, position: Position, item: bytes) -> StoredEvent:
        """Return the event of an entry. If it cannot be read, return what tells members that they miss it."""
        try:
            return read_kept(item, StoredEvent)
        except UNREADABLE as exc:
            logger.warning("room %r: members miss event %s, which cannot be read: %s", self._name, position, exc)
            return StoredEvent(CHANNEL, "missed", [self._name, str(position)])

    def _message(self, position: Position, stored: StoredEvent) -> EventBroadcast:
        metadata = UNSET if stored.metadata is None else stored.metadata
        context = CallContext(metadata=metadata, at=(self._name, str(position)))
        return EventBroadcast(event_on(stored.channel, (stored.event, *stored.args), context))

    def _missed(self, position: Position) -> EventBroadcast:
        """Return the event that tells a member that events before a position are missing."""
        at = self._name, str(position)
        return EventBroadcast(event_on(CHANNEL, ("missed", *at), CallContext(at=at)))

    def _notify_all(self, position: Position) -> None:
        """Tell the members that are not behind that events before a position are missing."""
        for error in self._send(self._missed(position), None, ()).errors:
            inside = self.members.get(error.peer)
            if isinstance(inside, ServedPeer):
                self._end(inside)

    def _notify(self, served: ServedPeer, position: Position) -> None:
        """Tell one member that events before a position are missing.

        Raises:
            ConnectionLost: it takes not even that, so its session ends, or has ended before.
            QueueFull: it has not read for too long, and its session ends.
        """
        try:
            BroadcastGroup._deliver(self, served, self._missed(position), None)
        except UNSENDABLE:
            if served.peer not in self._joining:
                self._end(served)
                raise served.writer.not_sent() from None

    def _end(self, served: ServedPeer) -> None:
        """End the session of a member that cannot be told. In the next session, the answer to its join tells it."""
        served.writer.session.fail(CloseCode.MESSAGE_TOO_BIG, UNTOLD)

    def _move_to(self, position: Position) -> None:
        self.reached = position
        self._moved.set()

    async def wait_moved(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    # ------------------------------------------------------------ members that are behind

    def drop(self, member: Peer) -> None:
        super().drop(member)
        self._caught_up(member)

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
        self._joining.add(served.peer)
        try:
            return await self.wait_live(served)
        finally:
            self._joining.discard(served.peer)

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
        try:
            complete = await self._send_rest(served)
        except (ConnectionLost, QueueFull):
            raise
        except Exception:
            logger.exception("room %r: a member misses events, because sending them has failed", self._name)
            assert self.reached is not None
            self._notify(served, self.reached)
            complete = False
        self._caught_up(served.peer)
        return Joined(str(self.reached), complete)

    async def _send_rest(self, served: ServedPeer) -> bool:
        """Send what a member has missed, up to ``reached``. Return whether this is all."""
        peer, complete = served.peer, True
        gate = self._gates.setdefault(client_of(peer), asyncio.Semaphore(READING))
        while (after := self._missed_after[peer]) != self.reached:
            await self.wait_room(served)
            async with gate:
                reached = self.reached
                # No name for the page: it would be kept while the member does not read.
                got, all_sent = self._send_page(served, after, await self._read_page(after))
                self._missed_after[peer], complete = got, complete and all_sent
            self._read_some.set()
            if got == after and reached == self.reached and not served.writer.session.full:
                await self.wait_moved()  # this process has read less than the one where the member was before
            await asyncio.sleep(0)  # others must run, even if nothing has waited
        return complete

    def _caught_up(self, peer: Peer) -> None:
        """A member is not behind any more, or has left."""
        self._missed_after.pop(peer, None)
        self._joining.discard(peer)  # the answer is made, and says nothing of what follows
        self._late.discard(peer)
        self._read_some.set()
        if not self._missed_after:
            self.drop_recent()

    async def wait_readers(self) -> None:
        """Give members that are behind time to read, if too many events are at hand for them."""
        if not (half := self.half()):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(HOLD):
                while any(at.number < half and peer not in self._late for peer, at in self._missed_after.items()):
                    self._read_some.clear()
                    await self._read_some.wait()
        self._late |= {peer for peer, at in self._missed_after.items() if at.number < half}
        self.drop_recent(half)

    def half(self) -> int:
        """Return the number of the event in the middle of those at hand, or 0 if these are not too many."""
        return self._recent[len(self._recent) // 2][0].number if self._recent_bytes > RECENT else 0

    def drop_recent(self, before: float = inf) -> None:
        """Drop the events before a number from those at hand."""
        if not before:
            return
        self._recent = [each for each in self._recent if each[0].number >= before]
        self._recent_bytes = sum(len(item) + ENTRY for _, item in self._recent)

    async def _read_page(self, after: Position) -> Page:
        """Return a page. Many members read the same ones, for example after a restart of the server."""
        place = after.number - self._recent[0][0].number if self._recent else -1
        if place >= 0 and self._recent[place : place + 1] and self._recent[place][0] == after:
            some = self._recent[place + 1 : place + 1 + TOGETHER]
            items, ids = [item for _, item in some], [position.id or "" for position, _ in some]
            return Page(NOTHING.state, after.number + 1, after.id or "", items, ids)
        page = after.number, self.reached
        if (reading := self._pages.get(page)) is None:
            reading = self._pages[page] = self._spawn(self._read(after.number))
            reading.add_done_callback(lambda _: self._pages.pop(page))
        return await asyncio.shield(reading)

    def _send_page(self, served: ServedPeer, after: Position, page: Page) -> tuple[Position, bool]:
        """Send the events of a page as far as others have got them, and there is room.

        Returns:
            the position of the last one, and whether there is nothing that the member has missed.
        """
        reached, complete = self.reached, True
        assert reached is not None
        if after.before(page) != "next":
            complete = after.id is None
            after = Position(page.number - 1, page.before) if page.number <= reached.number else reached
            if not complete:
                self._notify(served, after)
        for number, (id, item) in enumerate(zip(page.ids, page.entries, strict=True), after.number + 1):
            if number > reached.number or served.writer.session.full:
                break
            after = Position(number, id)
            try:
                stored = read_kept(item, StoredEvent)
                if stored.event and not stored.is_left_out(served.peer, served):
                    BroadcastGroup._deliver(self, served, self._message(after, stored), None)
            except (*UNSENDABLE, *UNREADABLE):
                complete = False
                self._notify(served, after)
        return after, complete
