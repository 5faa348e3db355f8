"""`RoomFeed`: sends the events of a room that keeps them to its members here, in order, each from its own position.

A member that has room gets an event as soon as the process has it. The others are *late*: they get the same events
later, those that this process still has at hand, or pages of the log.

An event has a number and an id, which together are its *position*. A position proves itself: if the store has lost
events, such as a Redis that was restored from an old snapshot, then the event with its number has another id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import suppress
from enum import Enum
from typing import Any
from weakref import WeakValueDictionary

from msgspec.structs import replace

from ..._base.closing import CloseCode
from ..._base.logs import logger
from ..._base.rooms import Joined, RoomState
from ..._core.api.peer import Peer
from ..._core.handlers.lifecycle import attempted
from ..._core.session.sessions import client_of
from ..._log.contract import Page
from ..._log.kept import UNREADABLE, read_kept
from ..._log.link import STORE_TIMEOUT
from ..._log.position import Position
from ...errors import ConnectionLost, Overloaded, QueueFull, RpcError
from ..broadcast import UNSENDABLE, EmitReport, Fanout
from ..lossless_fanout import LateMember, LosslessFanout, Spawn
from ..peers import ServedPeer
from .room_pages import RoomPages, entries_of, start_of
from .stored_event import LOST, StoredEvent, missed, state_event

UNKNOWN = "?"
"""The id of a position that is in no log."""
UNTOLD = "Limits.message_bytes is too small to tell that an event of a room is missing"
"""Why the session of a member ends."""
NO_ANSWER = "the store of events does not answer: try again later"
NOWHERE = Position(0, None)
"""The position of a member that has received nothing."""
HOLD = 1.0
"""Seconds in which a member has to read the older half of the events at hand, if others are to wait for it."""
ATTEMPTS = 10
"""How often the state of the room is asked for, if the events after it are not kept any more."""
AGAIN = 1.0
"""Seconds until it is asked for again."""
STATE_TIMEOUT = 5.0
"""Seconds until the function that returns the state of a room has failed."""
STATES = 16
"""Number of members for which the state of a room is asked for at the same time."""
READING = 2
"""Number of pages that are read at the same time for the members of one client, and of states that are asked for. So
one client cannot delay others."""

StateOf = Callable[[Peer], Awaitable[RoomState]]
"""Returns the state of a room for a member."""


class Next(Enum):
    """What a late member gets next."""

    EVENTS = "the events after the last one that it got"
    STATE = "the state of the room, which has to be asked for"
    ANSWER = "the state of the room, for which the function runs"


class LateReader(LateMember):
    """A late member of a room that keeps its events. Only its methods change what it gets next.

    Attributes:
        got: the position of the last event that it got, or of the state.
        next: what it gets next.
        is_joining: whether it waits for the answer to its join, which contains whether it misses something.
        has_state: whether it has got the state, and no events after it.
        is_waited_for: whether others wait until it has read.
    """

    def __init__(self, served: ServedPeer, got: Position) -> None:
        super().__init__(served)
        self.got = got
        self.next = Next.EVENTS
        self.is_joining = False
        self.has_state = False
        self.is_waited_for = True
        self._attempts = ATTEMPTS
        """How often it may still get the state, until it receives the events after it."""

    def delays_others(self, half: int) -> bool:
        """Whether others wait until it has the event ``half``. If it waits for the state, it needs none before that."""
        return self.got.number < half and self.is_waited_for and self.next is Next.EVENTS

    def delay_no_longer(self, half: int) -> None:
        """Let nobody wait for it any more, if it has not got the event ``half``."""
        self.is_waited_for &= self.got.number >= half

    def want_state(self) -> bool:
        """Get the state next. Return False if this was of no use lately: it gets events."""
        self.next = Next.STATE if self._attempts > 0 else Next.EVENTS
        self._attempts -= 1
        return self.next is Next.STATE

    def want_events(self, after: Position) -> None:
        """Get the events after a position next."""
        self.next = Next.EVENTS
        self.received(after)

    def received(self, position: Position) -> None:
        """Record that the member has the events up to a position."""
        self.got, self.has_state, self._attempts = position, False, ATTEMPTS

    def got_state(self, position: Position) -> None:
        """Record that the member gets the state as of a position."""
        self.got, self.has_state = position, True

    def ask(self) -> None:
        """The function that returns the state is called."""
        self.next = Next.ANSWER

    def answered(self) -> None:
        """The function has returned, or failed. If the state was wanted again meanwhile, it is called once more."""
        if self.next is Next.ANSWER:
            self.next = Next.EVENTS

    def give_up(self, position: Position) -> None:
        """Go on after a position, without the state."""
        self.got, self._attempts = position, 0


class RoomFeed:
    """The members of one room at this process, each with the position up to which it has the events.

    Args:
        name: the name of the room.
        group: the members of the room here.
        read: reads a page of the log after a number.
        gates: limit what is read at the same time for the members of one client, in all rooms.
        state: returns the state of the room for a member. None if the room has none.
    """

    def __init__(
        self,
        name: str,
        group: Fanout,
        spawn: Spawn,
        read: Callable[[int], Coroutine[Any, Any, Page]],
        gates: WeakValueDictionary[object, asyncio.Semaphore],
        state: StateOf | None,
    ) -> None:
        self._state = state
        self._states = asyncio.Semaphore(STATES)
        self.pages = RoomPages(spawn, read)
        self.reached: Position | None = None
        """The last event that was sent to the members which are not late. None until it is known where the log ends.
        It may be old while there are no members.

        Only the event after this one may be sent, and only the methods below move it. Several tasks do, so whoever has
        waited compares it again."""
        self._moved = asyncio.Event()
        """Set when ``reached`` changes."""
        self._name = name
        self._gates = gates
        self._fanout = LosslessFanout(group, spawn, self._new_late, self._catch_up, self._has_caught_up)
        self._read_some = asyncio.Event()
        """Set when a late member has read something, or has left."""

    # ------------------------------------------------------------ events

    def start_at(self, position: Position, *, late: bool) -> None:
        """Send the events after a position. ``late``: notify the members that they may have missed some."""
        if late:
            # A member whose connection is full goes on from here later, and is notified then.
            self.reached = position._replace(id=UNKNOWN)
            self._notify_all(position)
        self._move_to(position)

    def restart(self) -> None:
        """It is not known where the log ends: the last member may have left while an event was sent."""
        self.reached = None

    def skip_to(self, position: Position) -> None:
        """Notify the members that are not late that they miss the events before a position."""
        self._notify_all(position)
        self.pages.drop()
        self._move_to(position)

    def send(
        self,
        position: Position,
        item: bytes,
        stored: StoredEvent | None = None,
        skipped: Collection[object] | None = None,
    ) -> EmitReport:
        """Send the next event to the members that are not late, and keep it for the others.

        Args:
            item: the event as it is stored.
            stored: the same, if it is at hand.
            skipped: the members that do not get it. None: those that it names.
        """
        try:
            if stored is None and (stored := self._event_of(position, item)) is None:
                self._notify_all(position)
                return EmitReport(0)
            if skipped is None:
                members = self._fanout.members if stored.skip or stored.skip_rooms else {}
                skipped = {peer for peer, inside in members.items() if stored.is_left_out(peer, inside)}
            if not stored.event:
                return EmitReport(0)
            report = self._fanout.send(stored.message(self._name, position), skipped)
            for error in report.errors:
                inside = self._fanout.members.get(error.peer)
                if isinstance(inside, ServedPeer):  # the event is too large for it, for example
                    with suppress(ConnectionLost, QueueFull):
                        self._notify(inside, position)
            return self._without_late(report, skipped)
        finally:  # whatever has failed: those who have got the event must not get it again
            if self._fanout.late and self.reached is not None:
                self.pages.keep(self.reached, position, item)
            self._move_to(position)

    def report(self, skipped: Collection[object]) -> EmitReport:
        """Return the report of an event that will be sent after others."""
        return self._without_late(EmitReport(self._fanout.count(self._fanout.members, skipped)), skipped)

    def _without_late(self, report: EmitReport, skipped: Collection[object]) -> EmitReport:
        """Return a report in which the members for which nobody waits are skipped."""
        if not (late := self._fanout.late):
            return report
        unawaited = self._fanout.count((peer for peer, member in late.items() if not member.is_waited_for), skipped)
        return replace(report, sent=report.sent - unawaited, skipped=unawaited)

    def _event_of(self, position: Position, item: bytes) -> StoredEvent | None:
        """Return the event of an entry. None if members miss it, because it is lost or cannot be read."""
        if item != LOST:
            try:
                return read_kept(item, StoredEvent)
            except UNREADABLE as exc:
                logger.warning("room %r: members miss event %s, which cannot be read: %s", self._name, position, exc)
        return None

    def _notify_all(self, position: Position) -> None:
        """Notify the members that are not late of missing events before a position, or send the state again."""
        if self._state is not None:
            for member in tuple(self._fanout.members.values()):
                if isinstance(member, ServedPeer) and member.peer not in self._fanout.late:
                    self._send_state_later(member)
            return
        for error in self._fanout.send(missed(self._name, position).message(self._name, position), ()).errors:
            inside = self._fanout.members.get(error.peer)
            if isinstance(inside, ServedPeer):
                self._end(inside)

    def _notify(self, served: ServedPeer, position: Position) -> bool:
        """Notify one member of missing events before a position, or send the state again, which has them.

        Returns:
            whether the state is sent.

        Raises:
            ConnectionLost: it takes not even that, so its session ends, or has ended before.
            QueueFull: it has not read for too long, and its session ends.
        """
        if self._state is not None and self._send_state_later(served):
            return True
        try:
            self._fanout.send_to(served, missed(self._name, position).message(self._name, position))
        except UNSENDABLE:
            late = self._fanout.late.get(served.peer)
            if late is None or not late.is_joining:
                self._end(served)
                raise served.writer.not_sent() from None
        return False

    def _end(self, served: ServedPeer) -> None:
        """End the session of a member that accepts no notice. The answer to its join in the next session is one."""
        served.writer.session.fail(CloseCode.MESSAGE_TOO_BIG, UNTOLD)

    def _move_to(self, position: Position) -> None:
        self.reached = position
        self._moved.set()

    async def wait_moved(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    # ------------------------------------------------------------ late members

    def enter(self, served: ServedPeer) -> None:
        """A new member gets the state first, if the room has one."""
        if self._state is not None:
            self._send_state_later(served)

    def _send_state_later(self, served: ServedPeer) -> bool:
        """Send a member the state before anything else. Return False if this was of no use lately."""
        late = self._fanout.late.get(served.peer)
        if late is None:
            late = self._fanout.hold(LateReader(served, self.reached or NOWHERE))
        return late.want_state()

    def drop(self, member: Peer) -> None:
        """Stop what a member that leaves has to catch up with. Idempotent."""
        self._fanout.drop(member)

    async def send_missed(self, served: ServedPeer, after: Position | None, last: int) -> Joined:
        """Send the events after a position, or the last ones, to a new member. It is not late afterwards."""
        late = self._fanout.late.get(served.peer)  # it waits for the state
        if late is not None and after is not None:
            late.want_events(after)
        elif late is None:
            late = self._late_after(served, after, last)
        if late is None:
            return Joined(str(self.reached), complete=True)
        late.is_joining = True
        try:
            return await self.wait_live(served)
        finally:
            late.is_joining = False

    def _late_after(self, served: ServedPeer, after: Position | None, last: int) -> LateReader | None:
        """Return the state of a new member of a room without a state. None if it is not late."""
        reached = self.reached
        assert reached is not None
        if after is None:
            after = Position(max(0, reached.number - last), None) if last else reached
        return None if after == reached else self._fanout.hold(LateReader(served, after))

    async def wait_live(self, served: ServedPeer) -> Joined:
        """Wait until a member is not late.

        Raises:
            Overloaded: the store does not answer. The member gets what it has missed later.
        """
        late = self._fanout.late.get(served.peer)
        if late is None:
            return Joined(str(self.reached), complete=True)
        got = None
        while not late.task.done():
            before, got = got, late.got
            asks = late.next is not Next.EVENTS and self.reached is not None  # that has a time limit of its own
            if got == before and not asks and not served.writer.session.full:
                raise Overloaded(NO_ANSWER)
            await asyncio.wait((late.task,), timeout=STORE_TIMEOUT)
        joined: Joined | None = None if late.task.cancelled() else late.task.result()
        if joined is None:
            raise RpcError("left the room")
        return joined

    def _new_late(self, served: ServedPeer) -> LateReader:
        assert self.reached is not None
        return LateReader(served, self.reached)

    async def _catch_up(self, late: LateReader) -> Joined:
        try:
            complete = await self._send_rest(late)
        except (ConnectionLost, QueueFull):
            raise
        except Exception:
            logger.exception("room %r: a member misses events, because sending them has failed", self._name)
            assert self.reached is not None
            late.give_up(self.reached)
            self._notify(late.served, self.reached)
            complete = False
        return Joined(str(self.reached), complete)

    async def _send_rest(self, late: LateReader) -> bool:
        """Send what a member has missed, up to ``reached``. Return whether this is all."""
        complete = True
        client = client_of(late.served.peer)
        gate = self._gates.setdefault(client, asyncio.Semaphore(READING))
        # One of its own, because events of other rooms must not wait for a slow function.
        state_gate = self._gates.setdefault(("state", client), asyncio.Semaphore(READING))
        while late.next is Next.STATE or late.got != self.reached:
            await late.wait_room()
            if late.next is Next.STATE:
                if late.has_state:
                    await asyncio.sleep(AGAIN)
                async with state_gate:
                    complete &= await self._send_state(late)
                continue
            after = late.got
            async with gate:
                reached = self.reached
                # No name for the page: it would be kept while the member does not read.
                complete &= self._send_page(late, await self.pages.read(after, reached))
            self._read_some.set()
            waits = late.got == after and reached == self.reached and late.next is Next.EVENTS
            if waits and not late.served.writer.session.full:
                await self.wait_moved()  # this process has read less than the one where the member was before
            await asyncio.sleep(0)  # others must run, even if nothing has waited
        return complete

    async def _send_state(self, late: LateReader) -> bool:
        """Send the state of the room to a member, who goes on after it. Return False if it misses something."""
        assert self._state is not None
        while (reached := self.reached) is None:
            await self.wait_moved()
        served = late.served
        late.ask()
        try:
            state = await self._ask_state(served.peer)
            late.answered()
            position = reached if state.position is None else Position.parse(state.position)
            if position == late.got and late.has_state and late.want_state():
                return True  # it has not changed
            late.got_state(position)
            self._fanout.send_to(served, state_event(self._name, position, state.value).message(self._name, position))
        except (ConnectionLost, QueueFull):
            raise
        except Exception:
            logger.exception("room %r: a member does not get the state of the room", self._name)
            late.answered()
            late.give_up(reached)
            return self._notify(served, reached)
        return True

    async def _ask_state(self, peer: Peer) -> RoomState:
        """Call the function that returns the state.

        Raises:
            RuntimeError: it has failed with an error that could be taken for one of the member, or of this task.
        """
        assert self._state is not None
        async with self._states, asyncio.timeout(STATE_TIMEOUT):
            try:
                state: RoomState = await attempted(self._state, peer)
            except (ConnectionLost, QueueFull) as exc:
                raise RuntimeError("state= has lost another connection") from exc
            return state

    def _send_page(self, late: LateReader, page: Page) -> bool:
        """Send the events of a page as far as others have got them, and there is room.

        Return whether there is nothing that the member has missed.
        """
        served, after, reached, complete = late.served, late.got, self.reached, True
        assert reached is not None
        if after.before(page) != "next":
            complete = after.id is None
            after = start_of(page) if page.number <= reached.number else reached
            if not complete and (complete := self._notify(served, after)):
                return True  # the state is next
        for position, item in entries_of(page):
            if position.number > reached.number or served.writer.session.full:
                break
            after = position
            try:
                stored = read_kept(item, StoredEvent)
                if stored.event and not stored.is_left_out(served.peer, served):
                    self._fanout.send_to(served, stored.message(self._name, after))
            except (*UNSENDABLE, *UNREADABLE):
                if self._notify(served, after):
                    return complete
                complete = False
        late.received(after)
        return complete

    def _has_caught_up(self) -> None:
        """A member is not late any more, or has left."""
        self._read_some.set()
        if not self._fanout.late:
            self.pages.drop()

    async def wait_readers(self) -> None:
        """Give late members time to read, if too many events are at hand for them."""
        if not (half := self.pages.half()):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(HOLD):
                while any(late.delays_others(half) for late in self._fanout.late.values()):
                    self._read_some.clear()
                    await self._read_some.wait()
        for late in self._fanout.late.values():
            late.delay_no_longer(half)
        self.pages.drop(half)
