"""Rooms with ``keep=`` at two processes that share a store, and clients that join, read slowly, drop, and come back.

Processes are killed, closed and cut off; connections drop; the store is lost for a while, is restored from a snapshot,
forgets everything, and drops old events. Whatever happens: a client gets the events of a room in the order of the
store, none twice, and none missing between its position and the present, unless it was told; it is told only if there
was a reason; its positions are right; reports count the members; nobody waits for ever; and in the end nothing is left.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import hypothesis.strategies as st
import pytest
from effort import EXPLORE, examples
from hypothesis import settings
from hypothesis.stateful import initialize, rule
from keyed_world import CLIENTS, DETACHED, LEASE, KnownLog, OverRedis, Process, StoreMachine, WithRedis, clients, nodes

from wsrpc import ConnectionLost, Context, Limits, Overloaded, Peer, RemoteError, RequestTimeout, Room, Server
from wsrpc._keyed.keeper import hash_of
from wsrpc._keyed.runs import LAST
from wsrpc._server.room_log import RoomLog, StoredEvent
from wsrpc._server.rooms import _room_core
from wsrpc.types import ClientRoom

KEPT = 20.0
SMALL, LARGE = 3000, 1 << 20
"""Bytes of the events of a room, of which the oldest are dropped."""
COUNT = CLIENTS
"""The number of clients. The last one uses `Client.room`."""
ROOMS = ["hall", "yard"]
STAFF = {1, COUNT - 1}
"""The clients that are in the room "staff" from the beginning of each session."""
LOST = "7-00000000.1"
"""A position of no event."""
ON = "on"
"""Stands for the position that the client has reached."""

some = st.integers(0, 20)
rooms = st.sampled_from([ROOMS[0], ROOMS[0], ROOMS[1]])
sizes = st.sampled_from([0, 0, 200, 200, 60_000])
skips = st.sampled_from([None, None, *range(COUNT), "staff", "staff"])


class Seat:
    """What one client has had of one room."""

    def __init__(self, ear: Ear, room: str, log: KnownLog) -> None:
        self.ear = ear
        self.room = room
        self.log = log
        self.position: str | None = None
        """The client has had everything up to here. None if the next event may be any."""
        self.trail: list[str] = []
        """The positions since the client has joined."""
        self.was_anywhere = False
        """Whether the position was None when the client has joined."""
        self.told = 0
        """How often the client was told that it has missed events."""
        self.expelled = 0
        """How often the server has removed the client."""
        self.state = "out"
        """Of the last request: "in", "out", or "unknown" if it failed."""
        self.turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<{self.room} of {self.ear.index}, {self.state}, at {self.position}, told {self.told}>"

    def is_left_out(self, event: StoredEvent) -> bool:
        """Whether the client need not get an event."""
        return not event.event or self.hides(event) or not self.ear.peers.isdisjoint(event.skip)

    def hides(self, event: StoredEvent) -> bool:
        """Whether an event is not for the staff, and the client belongs to that."""
        return self.ear.index in STAFF and event.args[0] in self.ear.world.hidden

    def lacks_nothing_before(self, position: str, after: str | None) -> bool:
        return after is None or position == after or self.log.follows(position, after, self.is_left_out)

    def hear(self, number: int, position: str) -> None:
        event = self.log.events[position]
        assert self.state != "out", f"{self} gets {position}, although it has left"
        assert event.args[0] == number, f"{self} gets event {number} with the position of another: {position}"
        again = self.log.numbers[number] > 1 and not self.ear.world.shared.restored
        assert not again, f"{self} gets event {number}, which was stored twice: {position}"
        assert self.ear.peer not in event.skip, f"{self} gets what is not for it: {position}"
        assert not self.hides(event), f"{self} gets what is not for the staff: {position}"
        assert position != self.position and self.lacks_nothing_before(position, self.position), (
            f"{self} gets {position}, which does not follow"
        )
        self.move(position)

    def move(self, position: str | None) -> None:
        self.position = position
        if position is not None:
            self.trail.append(position)

    def miss(self, position: str | None) -> None:
        world, before = self.ear.world, self.position
        trimmed = before is None or self.log.first > int(before.partition("-")[0]) + 1
        expired = world.troubles["leap"] or world.troubles["full"]
        refused = self.ear.rooms and self.expelled  # perhaps while it joined again
        assert before == LOST or trimmed or world.shared.restored or expired or refused, (
            f"{self} is told of a loss: {position}"
        )
        self.told += 1
        self.move(position)

    def begin(self, position: str | None) -> None:
        self.trail.clear()
        self.was_anywhere = position is None
        self.move(position)

    def joined(self, position: str, told: int, complete: bool) -> None:
        """See that the answer to a request to join is true."""
        assert complete or self.told > told, f"{self} is not complete, and was not told: {position}"
        if self.trail:
            known = position in self.trail or any(self.lacks_nothing_before(position, each) for each in self.trail)
            before_all = self.was_anywhere and (self.told > told or self.lacks_nothing_before(self.trail[0], position))
            assert known or before_all, f"{self} is said to be at {position}"
        if self.position is None:
            self.move(position)


class Ear:
    """A client."""

    def __init__(self, world: RoomLogsMachine, index: int) -> None:
        self.world = world
        self.index = index
        self.peers: set[str] = set()
        """The ids of the server's peers that it had."""
        self.peer = ""
        self.seats = {room: Seat(self, room, world.shared.logs[hash_of(("room", room))]) for room in ROOMS}
        self.reads = True
        """Whether it surely gets what is sent to it. (A connection that is half open ends later.)"""
        self.line: Any = None
        self.client = world.client(index, self.dial)
        self.rooms: dict[str, ClientRoom] = {}
        self.client.on("said", self.hear)
        self.client.on_reconnect(self.came_back)
        if index == COUNT - 1:
            self.rooms = {room: self.client.room(room) for room in ROOMS}
            for room in self.rooms.values():
                room.on_missed(self.miss_in_room)
        else:
            self.client.of("rooms").on("missed", self.miss)

    @property
    def home(self) -> int:
        return self.world.homes[self.index]

    async def dial(self, url: str, **options: Any) -> Any:
        process = self.world.processes[self.home]
        ours = await process.dial(url, **options)
        self.line = next(theirs for end, theirs in process.line.connections if end is ours)
        return ours

    def hear(self, ctx: Context, number: int, filling: str) -> None:
        assert ctx.room is not None and ctx.position is not None
        self.seats[ctx.room].hear(number, ctx.position)
        assert not self.rooms or self.rooms[ctx.room].position == ctx.position

    def miss(self, room: str, position: str) -> None:
        self.seats[room].miss(position)

    def miss_in_room(self, room: ClientRoom) -> None:
        self.seats[room.name].miss(room.position)

    def came_back(self, info: Any) -> None:
        if info.resumed:
            return
        for seat in self.seats.values():
            if seat.state == "in" and not self.rooms:  # `cancel` must not end this before it has begun
                self.world.orders.append(self.world.loop.create_task(self.world.join_now(seat, ON)))

    async def ask_to_join(self, seat: Seat, options: dict[str, Any]) -> tuple[str, bool]:
        if self.rooms:
            joined = await self.rooms[seat.room].join(**options)
            assert joined.position is not None
            return joined.position, joined.complete
        request = self.client.of("rooms").request
        answer = await request("join", seat.room, options, timeout=None)
        return answer["position"], answer["complete"]

    async def ask_to_leave(self, seat: Seat) -> None:
        if self.rooms:
            await self.rooms[seat.room].leave()
        else:
            await self.client.of("rooms").request("leave", seat.room, timeout=None)


@dataclass
class Work:
    """A task of the machine, which `cancel` may cancel."""

    task: asyncio.Task[None]
    cancelled: bool = False


class RoomLogsMachine(StoreMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ears: list[Ear] = []
        self.hidden: set[int] = set()
        """The numbers of the events that are not for the staff."""

    # ------------------------------------------------------------ the scene

    @initialize(run_bytes=st.sampled_from([SMALL, SMALL, LARGE]), homes=st.lists(nodes, min_size=COUNT, max_size=COUNT))
    def begin(self, run_bytes: int, homes: list[int]) -> None:
        self.patches.enter_context(patch("wsrpc._server.room_log.RECENT", run_bytes))

        async def main() -> None:
            limits = Limits(
                ping_interval=None,
                close_timeout=2.0,
                high_water_bytes=300,
                hard_cap_bytes=100_000,  # who does not fall behind is closed
                replay_bytes=128 << 10,
            )
            self.begin_processes(limits, homes, run_bytes=run_bytes, lease=LEASE * self.scale)
            for index in range(COUNT):
                self.ears.append(Ear(self, index))
                await self.ears[-1].client.connect()

        self.run(main())

    def register_at(self, server: Server, process: Process) -> None:
        def welcome(peer: Peer) -> None:
            ear = self.ears[int(str(peer.principal))]
            ear.peer = peer.id
            ear.peers.add(peer.id)
            if ear.index in STAFF:
                server.room("staff").add(peer)

        server.on("open", welcome)
        for room in ROOMS:
            server.room(room, allow=lambda peer: True, keep=KEPT * self.scale)

    def seat(self, index: int, room: str) -> Seat:
        return self.ears[index].seats[room]

    def work(self, doing: Any, process: Process | None = None) -> None:
        task = self.loop.create_task(doing)
        self.works.append(Work(task))
        if process is not None:
            process.works.append(task)

    # ------------------------------------------------------------ what the clients do

    @rule(index=clients, room=rooms, how=st.sampled_from(["on", "on", "on", "new", "last", "old", "lost"]), which=some)
    def join(self, index: int, room: str, how: str, which: int) -> None:
        seat = self.seat(index, room)
        if how == "on":
            self.join_later(seat, ON)
        elif how == "last":
            self.join_later(seat, None, 1 + which)
        elif how == "old":
            known = list(seat.log.events)
            self.join_later(seat, known[which * (len(known) - 1) // 20] if known else None)
        else:
            self.join_later(seat, LOST if how == "lost" else None)
        self.turn(3)

    def join_later(self, seat: Seat, after: str | None, last: int = 0) -> None:
        self.work(self.join_now(seat, after, last))

    async def join_now(self, seat: Seat, after: str | None, last: int = 0) -> None:
        async with seat.turn:
            if seat.state == "unknown":
                await self.leave_now(seat)
            if seat.state == "unknown":
                return
            told, expelled, is_in = seat.told, seat.expelled, seat.state == "in"
            after = seat.position if after == ON or is_in else after
            if is_in:  # it may be a member, or have another session
                told = 0
            else:
                seat.begin(after)
            seat.state = "unknown"
            given = {"after": after, "last": last}
            with suppress(ConnectionLost):
                try:
                    answer = await seat.ear.ask_to_join(seat, {key: value for key, value in given.items() if value})
                except RemoteError as error:
                    trouble = self.troubles["loss"] or self.troubles["leap"] or self.troubles["death"]
                    if not (error.message == "left the room" or (trouble and isinstance(error, Overloaded))):
                        raise
                else:
                    seat.state = "in" if seat.expelled == expelled else "unknown"
                    seat.joined(answer[0], told, answer[1])

    @rule(index=clients, room=rooms)
    def leave(self, index: int, room: str) -> None:
        async def main() -> None:
            seat = self.seat(index, room)
            async with seat.turn:
                await self.leave_now(seat)

        self.work(main())
        self.turn(3)

    async def leave_now(self, seat: Seat) -> None:
        seat.state = "unknown"
        with suppress(ConnectionLost, RequestTimeout):
            await seat.ear.ask_to_leave(seat)
            seat.state = "out"

    @rule(index=clients, room=rooms)
    def expel(self, index: int, room: str) -> None:
        """The server removes a client, which is not told. (With a join in progress, its position would be too old.)"""
        seat = self.seat(index, room)
        if seat.turn.locked():
            return
        for process in self.processes:
            for peer in [*process.server.room(room)]:
                if peer.id == seat.ear.peer:
                    self.inside(process.server.room(room).remove, peer)
                    seat.state = "unknown"
                    seat.expelled += 1

    # ------------------------------------------------------------ what the servers do

    @rule(at=nodes, room=rooms, count=st.integers(1, 8), size=sizes, skip=skips, together=st.booleans())
    def emit(self, at: int, room: str, count: int, size: int, skip: int | str | None, together: bool) -> None:
        process = self.processes[at]
        skipped: list[Peer] | Room = [peer for peer in process.server.peers if peer.principal == str(skip)]
        numbers = [self.number + each for each in range(1, count + 1)]
        if skip == "staff":
            skipped = process.server.room("staff")
            self.hidden.update(numbers)
        self.number += count

        async def main() -> None:
            for number in numbers:
                await self.emit_one(process, room, number, size, skipped)

        if together:
            for number in numbers:
                self.work(self.emit_one(process, room, number, size, skipped), process)
        else:
            self.work(main(), process)
        self.turn(1)

    async def emit_one(self, process: Process, room: str, number: int, size: int, skip: list[Peer] | Room) -> None:
        if process.closed:
            return
        place, log = process.server.room(room), self.shared.logs[hash_of(("room", room))]
        before, skipped = tuple(place), {*skip}
        try:
            report = await place.emit("said", number, "x" * size, skip=skip)
        except Overloaded:
            assert self.troubles["loss"] or self.troubles["death"] or self.troubles["leap"]
            return
        assert any(event.event and event.args[0] == number for event in log.events.values()), "not stored"
        if before == tuple(place) and not any(self.troubles.values()) and not self.shared.restored:
            assert report.sent + report.skipped == len({*before} - skipped) and not report.errors, report

    @rule(at=nodes, room=rooms, size=sizes, skip=skips)
    def emit_from_both(self, at: int, room: str, size: int, skip: int | str | None) -> None:
        self.emit(at, room, 3, size, None, True)
        self.emit(1 - at, room, 3, size, skip, False)

    @rule(index=clients, room=rooms, count=st.sampled_from([20, 80]), size=st.sampled_from([200, 900, 4000]))
    def burst(self, index: int, room: str, count: int, size: int) -> None:
        """Much more at once than the log keeps: members in this process miss nothing of it if they read."""
        at = self.ears[index].home
        for each in (0, 1):  # in peace
            self.lose_store(each, "back")
            self.slow_store(each, 0, "")
        self.read_again(index)
        self.join(index, room, "on", 0)
        for _ in range(3):
            self.time_passes(1.1)
            self.settle()
        told = {seat: seat.told for seat in self.live_seats(at, room)}
        self.emit(at, room, count, size, None, True)
        self.settle()
        for seat, before in told.items():
            assert seat.told == before, f"{seat} reads, and has missed events"

    def live_seats(self, at: int, room: str) -> list[Seat]:
        """The members in a process that read, if all have what is stored and nothing more is on its way."""
        place = self.processes[at].server.room(room)
        log = _room_core(place).room_log
        page = self.run(self.processes[at].store.store.read(hash_of(("room", room)), LAST))
        assert log is not None
        emits = [task for process in self.all_processes for task in process.works if not task.done()]
        if emits or log._behind or page is None or log.reached != (page.number - 1, page.before):
            return []
        peers = {peer.id for peer in place}
        return [ear.seats[room] for ear in self.ears if ear.reads and ear.peer in peers]

    @rule(at=nodes, room=rooms, gives_up=st.booleans(), repeats_first=st.booleans())
    def emit_late(self, at: int, room: str, gives_up: bool, repeats_first: bool) -> None:
        """The store does not answer in time, and stores events later: before they are stored again, or after that."""
        self.slow_store(at, 0, "late")
        self.emit(at, room, 3, 0, None, True)
        for _ in range(10 if gives_up else 1):
            self.time_passes(1.1)
        if repeats_first:
            self.slow_store(at, 0, "")
            self.time_passes(1.1)
            self.emit(at, room, 1, 0, None, False)
        self.do_late()
        self.slow_store(at, 0, "")
        self.time_passes(1.1)
        self.settle()

    # ------------------------------------------------------------ what happens to lines, processes and the store

    @rule(index=clients)
    def stop_reading(self, index: int) -> None:
        self.ears[index].line.hold()
        self.ears[index].reads = False

    @rule(index=clients)
    def read_again(self, index: int) -> None:
        self.inside(self.ears[index].line.release)
        self.ears[index].reads = True
        self.turn(6)

    @rule(
        index=clients,
        room=rooms,
        then=st.sampled_from(["leave", "leave", "join", "expel", "cut", "move", "trim", "nothing"]),
        turns=st.integers(0, 6),
        skip=skips,
    )
    def fall_behind(self, index: int, room: str, then: str, turns: int, skip: int | str | None) -> None:
        """A client stops reading while much is said, and something happens to it before it reads again."""
        ear = self.ears[index]
        self.stop_reading(index)
        self.emit(ear.home, room, 4, 200, skip, True)
        self.settle()
        if then == "leave":
            self.leave(index, room)
        elif then == "join":
            self.join(index, room, "old", turns)
        elif then == "expel":
            self.expel(index, room)
        elif then == "cut":
            self.cut(ear.home, False)
        elif then == "move":
            self.move(index)
        elif then == "trim":
            self.emit(1 - ear.home, room, 8, 600, None, True)
        self.turn(turns)
        self.read_again(index)

    @rule(at=nodes, half_open=st.booleans())
    def cut(self, at: int, half_open: bool) -> None:
        super().cut(at, half_open)
        for ear in self.ears:
            ear.reads = ear.reads and not (half_open and ear.home == at)

    @rule(at=nodes, room=rooms, size=sizes, turns=st.integers(0, 6))
    def fail_over(self, at: int, room: str, size: int, turns: int) -> None:
        """A replica takes over that lacks the last events. For a while, one process still uses the old primary."""
        old = self.processes[at].store
        self.wind_back("save")
        self.emit_from_both(at, room, size, None)
        self.turn(turns)
        self.run(self.shared.fail_over(old))
        self.emit_from_both(at, room, size, None)
        self.turn(turns)
        self.run(old.follow())

    @rule(seconds=st.sampled_from([0.3, 1.1, 1.1, 6.0, 11.0, KEPT + 1]))
    def time_passes(self, seconds: float) -> None:
        self.troubles["leap"] += seconds > 1.1  # nobody renews a log meanwhile
        if seconds > KEPT:
            self.do_late()  # a log that is gone does not know of what it has stored
        self.run(self.leap(seconds))

    # ------------------------------------------------------------ the end

    async def finish(self) -> None:
        for ear in self.ears:
            ear.line.release()
        await self.calm_down(1.2)
        self.holds()
        works = [work.task for work in self.works]
        await self.until(lambda: all(task.done() for task in works), "everybody has an answer")
        await self.all_end(self.orders, "everything that was ordered is done")
        self.holds()
        for room in ROOMS:
            await self.check_all_have_come(room)
        await self.all_end([client.close() for client in self.clients], "the clients close")
        for process in self.processes:
            for _, theirs in process.line.connections:
                theirs.abort()  # the servers notice half-open connections
        await self.turns(40)
        await self.leap(DETACHED + 1)  # sessions that clients have left end
        await self.turns(40)
        for log in self.logs():
            assert log.reached is None and not log.members, "a room is read that has no members"
            left = (log._behind, log._missed_after, log._pages, log._queue, log._recent, log._late)
            assert not any(left), left
        await self.close_servers()

    async def check_all_have_come(self, room: str) -> None:
        store = self.shared.connect()
        page = await store.read(hash_of(("room", room)), LAST)
        seats = [ear.seats[room] for ear in self.ears if ear.seats[room].state == "in"]
        if page is not None:
            end = f"{page.number - 1}-{page.before or 0}"

            def late() -> list[Seat]:
                return [seat for seat in seats if not seat.lacks_nothing_before(end, seat.position)]

            try:
                await self.until(lambda: not late(), "all members are at the end of the log")
            except AssertionError:
                raise AssertionError(f"the log is at {end}, and these are not: {late()}") from None
        if isinstance(self, OverRedis):
            await store.close()

    def logs(self) -> list[RoomLog]:
        rooms = [process.server.room(room) for process in self.processes for room in ROOMS]
        return [log for room in rooms if (log := _room_core(room).room_log) is not None]


@pytest.mark.timeout(7200 if EXPLORE else 120)
class TestRoomLogsMachine(RoomLogsMachine.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=examples(150), stateful_step_count=40, deadline=None)


class RoomLogsOverRedis(OverRedis, RoomLogsMachine):
    def __init__(self) -> None:
        super().__init__()
        self.troubles["leap"] += 1  # the machine may be so busy that a log expires
        for name in ("_server.room_log.STORE_TIMEOUT", "_server.room_log.PAUSE"):
            self.patches.enter_context(patch(f"wsrpc.{name}", 0.3))
        self.patches.enter_context(patch("wsrpc_adapters._redis_store.RESPONSE_TIMEOUT", 0.3))

    @rule(seconds=st.sampled_from([0.05, 0.5]))
    def freeze(self, seconds: float) -> None:
        """Redis is stopped for a while."""
        self.troubles["loss"] += 1
        self.redis.freeze()
        self.run(self.leap(10 * seconds))
        self.redis.thaw()


@pytest.mark.explore
@pytest.mark.timeout(7200)
class TestRoomLogsOverRedis(WithRedis, RoomLogsOverRedis.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=min(400, examples(3)), stateful_step_count=40, deadline=None)
