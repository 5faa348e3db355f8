"""Rooms with ``state=``, and `Room.events`: a state, and then the events that are not contained in it, each once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from waiting import settled, until

from wsrpc import BadArguments, Client, ConnectionLost, ItemsGone, Limits, Peer, Reconnect, RemoteError, Server
from wsrpc._log.kept import hash_of
from wsrpc.store import MemoryStore, NewLog
from wsrpc.testing import Line, VirtualTimeLoop, connect
from wsrpc.types import ClientRoom, RoomState


class Process:
    """A server whose room has a state: the list of what was added, which this process keeps by reading the room."""

    def __init__(self, store: MemoryStore | None = None, **options: Any) -> None:
        self.server = Server(store=store)
        self.line = Line(self.server)
        self.asked = 0
        self.room = self.server.room("board", keep=60, allow=lambda peer: True, **({"state": self.state} | options))
        self.board: list[int] = []
        self.events = self.room.events()
        self.following = asyncio.create_task(self.follow() if not options else asyncio.sleep(0))

    async def follow(self) -> None:
        while True:
            with suppress(ItemsGone):  # nothing of the board was lost
                async for event in self.events:
                    self.board += event.args
                return

    def state(self, peer: Peer) -> object:
        self.asked += 1
        return RoomState([*self.board], self.events.position)

    async def close(self) -> None:
        await self.server.close()
        self.events.close()
        await self.following


@asynccontextmanager
async def processes(count: int, store: MemoryStore | None = None, **options: Any) -> AsyncGenerator[list[Process]]:
    made = [Process(store, **options) for _ in range(count)]
    try:
        yield made
    finally:
        for each in made:
            await each.close()


class Page:
    """A client that shows the board."""

    def __init__(self, process: Process, **options: Any) -> None:
        reconnect = Reconnect(initial=0.001)
        self.client = Client("ws://server/", dial=process.line.dial, reconnect=reconnect, **options)
        self.shown: list[int] = []
        self.states: list[Any] = []
        self.missed = 0
        self.client.on("add", self.shown.append)
        self.room = self.client.room("board")
        self.room.on_state(self.begin)
        self.room.on_missed(self.miss)

    def begin(self, room: ClientRoom, state: Any) -> None:
        self.states.append(state)
        self.shown[:] = state or []

    def miss(self) -> None:
        self.missed += 1


@pytest.mark.parametrize("shared", [False, True], ids=["in memory", "in a store"])
@pytest.mark.parametrize("seed", range(5))
async def test_a_member_begins_with_the_state_and_gets_each_later_event_once(shared: bool, seed: int) -> None:
    rng = random.Random(seed)
    async with processes(2 if shared else 1, MemoryStore() if shared else None) as made:
        pages = [Page(rng.choice(made)) for _ in range(6)]

        async def emit(process: Process, first: int) -> None:
            for number in range(first, first + 20):
                await process.room.emit("add", number)
                if rng.random() < 0.5:
                    await asyncio.sleep(0)

        async def visit(page: Page) -> None:
            for _ in range(rng.randrange(30)):
                await asyncio.sleep(0)
            async with page.client:
                await page.room.join()
                assert page.room.complete and len(page.states) == 1
                await emitting
                await until(lambda: len(page.shown) >= 20 * len(made))
            assert not page.missed

        emitting = asyncio.gather(*(emit(each, 100 * n) for n, each in enumerate(made)))
        await asyncio.gather(*map(visit, pages))
        for each in made:
            await until(lambda each=each: len(each.board) == 20 * len(made))  # type: ignore[misc]
            assert all(page.shown == each.board for page in pages)
        assert sorted(made[0].board) == sorted(n + 100 * p for p in range(len(made)) for n in range(20))


async def test_the_state_may_be_behind_and_without_a_position_it_is_that_of_the_present_moment() -> None:
    board: list[int] = []
    async with processes(1, state=lambda peer: [*board]) as [process]:
        for number in range(3):
            board.append(number)
            await process.room.emit("add", number)
        page, late = Page(process), Page(process)
        async with page.client, late.client:
            await page.room.join()
            assert page.states == [[0, 1, 2]] and page.shown == [0, 1, 2]
            board.append(3)
            await process.room.emit("add", 3)
            await until(lambda: page.shown == [0, 1, 2, 3])


async def test_only_who_has_missed_something_gets_the_state_again() -> None:
    async with processes(1, MemoryStore(log_bytes=1500)) as [process]:
        page = Page(process)
        async with page.client:
            await page.room.join()
            for reconnects in range(2):
                await process.room.emit("add", 1)
                await until(lambda: len(page.shown) == len(process.board))
                [peer] = process.server.peers
                await peer.close(1012)
                await until(lambda peer=peer: {*process.room} - {peer})  # type: ignore[misc]
                assert len(page.states) == 1 and page.room.complete, reconnects
            position = page.room.position
            for number in range(100):
                await process.room.emit("add", number)
            await until(lambda: page.shown == process.board)
        returning = Page(process)
        async with returning.client:
            await until(lambda: len(process.board) == 102)
            joined = await returning.room.join(after=position)
            assert joined.complete and returning.shown == process.board and not returning.missed


@pytest.mark.parametrize("entry", [b"", b"x"], ids=["lost", "not readable"])
async def test_an_entry_in_place_of_lost_events_brings_the_state_again(
    entry: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    async with processes(1, store) as [process]:
        page = Page(process)
        async with page.client:
            await page.room.join()
            await process.room.emit("add", 1)
            await until(lambda: page.shown == [1])
            await store.append(hash_of(("room", "board")), NewLog(id="x", payer="x", keep=60.0), "x", 1, [entry])
            # The state is asked for again after a second.
            await until(lambda: page.room.position == process.events.position == "3-x.1", limit=1.1)
            await process.room.emit("add", 2)
            await until(lambda: page.shown == process.board == [1, 2])
            assert len(page.states) > 1 and not page.missed and page.room.complete
    assert ("cannot be read" in caplog.text) == bool(entry)


async def test_who_does_not_handle_the_state_is_told_what_it_has_missed() -> None:
    async with processes(1, MemoryStore(log_bytes=1000), state=lambda peer: None) as [process]:
        client = Client("ws://server/", dial=process.line.dial, reconnect=Reconnect(initial=0.001))
        room, missed = client.room("board"), list[bool]()
        room.on_missed(lambda room: missed.append(room.complete))
        async with client:
            await room.join()
            assert room.complete and not missed
            [peer] = process.server.peers
            await peer.close(1012)
            for number in range(100):
                await process.room.emit("add", number)
            await until(lambda: missed)
            assert missed == [False]


async def test_a_member_that_is_added_gets_the_state() -> None:
    async with processes(1) as [process]:
        process.server.on("open", process.room.add)
        await process.room.emit("add", 1)
        await until(lambda: process.board == [1])
        page = Page(process)
        async with page.client:
            await until(lambda: page.shown == [1])
            await process.room.emit("add", 2)
            await until(lambda: page.shown == [1, 2])
            assert page.states == [[1]] and process.asked == 1


async def _slow(peer: Peer) -> None:
    await asyncio.sleep(3600)


def _fails(peer: Peer) -> None:
    raise LookupError("no database")


async def _loses_another_connection(peer: Peer) -> None:
    raise ConnectionLost(1006, "the database is gone")


async def _waits_for_something_cancelled(peer: Peer) -> None:
    asking = asyncio.ensure_future(_slow(peer))
    asking.cancel()
    await asking


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (_fails, "no database"),
        (_loses_another_connection, "the database is gone"),
        (_waits_for_something_cancelled, "raised CancelledError"),
        (_slow, "TimeoutError"),
        (lambda peer: object(), "object"),
        (lambda peer: RoomState([], "1"), "`after` is the position of an event"),
        (lambda peer: "x" * 2_000, "MessageTooBig"),
    ],
    ids=[
        "fails",
        "loses another connection",
        "waits for a cancelled task",
        "takes too long",
        "cannot be sent",
        "no position",
        "too large",
    ],
)
async def test_a_member_without_a_state_is_told_that_it_misses_something(
    state: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with processes(1, state=state) as [process]:
        page = Page(process, limits=Limits(message_bytes=2000))
        async with page.client:
            assert not (await page.room.join()).complete
            await until(lambda: page.missed == 1)
            assert not page.states and not page.room.complete
            await process.room.emit("add", 1)
            await until(lambda: page.shown == [1])
    [record] = [each for each in caplog.records if "does not get the state" in each.message]
    assert reason in (record.exc_text or str(record.exc_info))


async def test_a_join_waits_for_the_states_of_other_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsrpc._server.rooms.room_feed.STORE_TIMEOUT", 0.02)
    asked = asyncio.Event()

    async def state(peer: Peer) -> list[int]:
        await asked.wait()
        return []

    async with processes(1, state=state) as [process]:
        page = Page(process)
        async with page.client:
            joining = asyncio.create_task(page.room.join())
            await asyncio.wait((joining,), timeout=0.1)
            asked.set()
            assert (await joining).complete and page.states == [[]]


async def test_slow_states_do_not_delay_the_events_of_other_rooms() -> None:
    async with processes(1, state=_slow) as [process]:
        server = process.server
        rooms = [process.room, *(server.room(name, keep=60, state=_slow) for name in "ab")]
        lobby = server.room("lobby", keep=60, allow=lambda peer: True)
        for number in range(3):
            await lobby.emit("add", number)
        page = Page(process)
        async with page.client:
            for room in rooms:
                room.add(server.peers[0])
            await settled()
            joining = asyncio.create_task(page.room.join())
            async with asyncio.timeout(0.1):
                await page.client.room("lobby").join(last=2)
                assert page.shown == [1, 2]
                rooms[0].remove(server.peers[0])
                with pytest.raises(RemoteError, match="left the room"):
                    await joining
                joining = asyncio.create_task(page.room.join())
                await until(lambda: len(process.room))
                await page.room.leave()
                with pytest.raises(RemoteError, match="left the room"):
                    await joining


async def test_an_emit_does_not_wait_for_a_member_that_waits_for_the_state() -> None:
    async with processes(1, state=_slow) as [process]:
        page = Page(process)
        async with page.client:
            process.room.add(process.server.peers[0])
            async with asyncio.timeout(0.5):
                for _ in range(30):
                    await process.room.emit("add", "x" * 300_000)


async def test_a_state_that_stays_older_than_the_log_is_missed_in_the_end() -> None:
    asked = list[None]()

    def state(peer: Peer) -> RoomState:
        asked.append(None)
        return RoomState([], "1-0.1")

    async with processes(1, MemoryStore(log_bytes=1000), state=state) as [process]:
        for number in range(100):
            await process.room.emit("add", number)
        page = Page(process)
        async with page.client:
            assert not (await page.room.join()).complete
            await until(lambda: page.missed == 1)
            assert page.states == [[], []]  # once more before it is missed
        assert len(asked) == 10


def test_what_a_state_needs() -> None:
    server = Server()
    with pytest.raises(ValueError, match="has state=, which needs keep="):
        server.room("board", state=lambda peer: None)
    server.room("lobby", keep=60)
    with pytest.raises(ValueError, match="give it state= together with keep="):
        server.room("lobby", state=lambda peer: None)
    with pytest.raises(TypeError, match=r"state= takes a function that is called with \(peer\)"):
        server.room("other", keep=60, state=lambda: None)  # type: ignore[arg-type, misc]


def test_a_room_has_its_state_in_another_event_loop_too() -> None:
    server, states = Server(), list[Any]()
    server.room("lobby", allow=lambda peer: True, keep=60, state=lambda peer: "full")

    async def join() -> None:
        async with connect(server) as client:
            room = client.room("lobby")
            room.on_state(lambda room, state: states.append(state))
            await room.join()

    for _ in range(2):
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(join())
    assert states == ["full"] * 2


async def test_a_room_with_a_state_takes_no_last() -> None:
    async with processes(1) as [process]:
        page = Page(process)
        async with page.client:
            with pytest.raises(RemoteError, match="begins with its state"):
                await page.room.join(last=5)


# ---------------------------------------------------------------- the events of a room, for the server's own code


async def count(events: Any) -> int:
    return len([None async for _ in events])


async def read(events: Any, count: int) -> list[Any]:
    return [(await anext(events)).args[0] for _ in range(count)]


@pytest.mark.parametrize("shared", [False, True], ids=["in memory", "in a store"])
async def test_a_server_reads_the_events_of_its_room(shared: bool) -> None:
    server = Server(store=MemoryStore() if shared else None)
    room = server.room("board", keep=60)
    whole = room.events()
    for number in range(4):
        await room.of("chat").emit("add", number, metadata={"n": str(number)})
    events = [await anext(whole) for _ in range(4)]
    assert [(e.channel, e.event, e.args[0], e.metadata) for e in events] == [
        ("chat", "add", n, {"n": str(n)}) for n in range(4)
    ]
    assert whole.position == events[3].position
    some = [room.events(after=events[1].position), room.events(last=2), room.events(last=9)]
    assert [await read(each, n) for each, n in zip(some, (2, 2, 4), strict=True)] == [[2, 3], [2, 3], [0, 1, 2, 3]]
    later = room.events(last=0)
    waiting = asyncio.create_task(anext(later))
    await asyncio.sleep(0)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    reading = asyncio.create_task(read(later, 1))
    await until(lambda: later.position != "0-0")
    await room.emit("add", 4)
    assert await reading == [4]
    ends = asyncio.create_task(read(later, 1))
    await server.close()
    with pytest.raises(StopAsyncIteration):
        await ends
    for each in (whole, *some, later):
        each.close()


async def test_a_server_is_told_that_events_are_gone_and_can_go_on() -> None:
    server = Server(store=MemoryStore(log_bytes=1000))
    room = server.room("board", keep=60)
    events = room.events()
    for number in range(3):
        await room.emit("add", number)
    assert await read(events, 1) == [0]
    for number in range(3, 60):
        await room.emit("add", number)
    with pytest.raises(ItemsGone, match="are not kept any more"):
        await read(events, 60)
    rest = await anext(events)
    whole = room.events()
    with pytest.raises(ItemsGone, match="after 0-0 are not kept any more"):
        await anext(whole)
    assert await read(whole, 1) == await read(room.events(last=100), 1) == [rest.args[0]]
    with pytest.raises(ValueError, match="either after= or last="):
        room.events(after=rest.position, last=1)
    with pytest.raises(BadArguments):
        room.events(after="yesterday")
    events.close()
    await count(events)
    await server.close()


@pytest.mark.parametrize("turns", range(10))
async def test_a_step_that_is_cancelled_hides_no_gap(turns: int) -> None:
    server = Server(store=MemoryStore(log_bytes=1000))
    room = server.room("board", keep=60)
    events = room.events()
    for number in range(60):
        await room.emit("add", number)
        if not number:
            await anext(events)
    step = asyncio.create_task(anext(events))
    for _ in range(turns):
        await asyncio.sleep(0)
    step.cancel()
    [found] = await asyncio.gather(step, return_exceptions=True)
    if isinstance(found, asyncio.CancelledError):
        with pytest.raises(ItemsGone):
            await anext(events)
    else:
        assert isinstance(found, ItemsGone)
    events.close()
    await server.close()


async def test_a_step_that_waits_ends_with_close_and_another_task_is_refused() -> None:
    server = Server()
    events = server.room("board", keep=60).events()
    waiting = asyncio.create_task(count(events))
    await until(lambda: events.position != "0-0")
    with pytest.raises(RuntimeError, match="two tasks"):
        await anext(events)
    events.close()
    assert await waiting == 0
    await server.close()


async def test_events_end_with_the_server_and_are_read_again_when_it_opens_again() -> None:
    server = Server(store=MemoryStore())
    room = server.room("board", keep=60)
    for number in range(2):
        await server.open()
        await room.emit("add", number)
        assert await read(events := room.events(), number + 1) == [*range(number + 1)]
        await server.close()
        assert await count(events) == 0


def test_a_room_without_events() -> None:
    with pytest.raises(RuntimeError, match="keeps no events"):
        Server().room("hall").events()
