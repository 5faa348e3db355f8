"""`Server.room(keep=)`: events are kept, and members miss none of them, or are told.

tests/adapters/test_room_logs.py has several servers with a common store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import msgspec
import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import BadArguments, Client, Limits, Overloaded, RpcError, Server
from wsrpc._keyed import memory_store, runs
from wsrpc._keyed.keeper import hash_of
from wsrpc._server import room_log
from wsrpc.store import Added, MemoryStore, NewRun, Page, StoreFull, StoreLost
from wsrpc.testing import Line, connect, memory_transports

pytestmark = pytest.mark.usefixtures("nothing_left")


class Ear:
    """A client that hears the events of a room."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        client.on("said", self.heard.put_nowait)
        client.of("rooms").on("missed", lambda room, position: self.heard.put_nowait(("missed", room)))

    async def join(self, **options: Any) -> Any:
        return await self.client.of("rooms").request("join", "lobby", options)

    async def hear(self, count: int) -> list[Any]:
        return [await self.heard.get() for _ in range(count)]


@asynccontextmanager
async def ear(server: Server) -> AsyncGenerator[Ear]:
    async with connect(server) as client:
        yield Ear(client)


def make_server(**options: Any) -> Server:
    server = Server(**options)
    server.room("lobby", allow=lambda peer: True, keep=60)
    return server


async def test_a_new_member_gets_what_it_asks_for_and_then_live_events() -> None:
    server = make_server()
    lobby = server.room("lobby")
    async with ear(server) as one, ear(server) as two:
        begin = await one.join()
        for number in range(5):
            await lobby.emit("said", number)
        assert await one.hear(5) == [0, 1, 2, 3, 4]
        joined = await two.join(last=2)
        await lobby.emit("said", 5)
        assert await two.hear(3) == [3, 4, 5]
        assert begin["complete"] and joined["complete"]
        async with ear(server) as three:
            joined = await three.join(after=begin["position"])
            assert joined["complete"]
            assert await three.hear(6) == [0, 1, 2, 3, 4, 5]
            for after in ("", "x", "1", "1-", "-5", "1-ä"):
                with pytest.raises(BadArguments):
                    await three.join(after=after)


async def test_what_is_not_kept_any_more_is_told() -> None:
    server = make_server(store=MemoryStore(run_bytes=2000))
    lobby = server.room("lobby")
    async with ear(server) as one, ear(server) as two:
        begin = await one.join()
        for number in range(100):
            await lobby.emit("said", number)
        assert await one.hear(100) == [*range(100)]
        joined = await two.join(after=begin["position"])
        assert not joined["complete"]
        heard = await two.hear(two.heard.qsize())
        assert heard[0] == ("missed", "lobby") and heard[1:] == [*range(heard[1], 100)]
        number, _, id = joined["position"].partition("-")
        assert (await one.join(after=joined["position"]))["complete"]
    async with ear(server) as three:  # a position of another log
        joined = await three.join(after=f"{number}-{'0' * 8}.{id.partition('.')[2]}")
        assert not joined["complete"] and await three.heard.get() == ("missed", "lobby")


async def test_a_sender_that_is_left_out_gets_its_event_in_another_session() -> None:
    """It belongs to the history: a page that is loaded again shows what its user has said."""
    server = make_server()
    async with ear(server) as one:
        begin = (await one.join())["position"]
        await server.room("lobby").emit("said", "mine", skip=server.peers[0])
        await server.room("lobby").emit("said", "later")
        assert await one.hear(1) == ["later"]
    for options in ({"after": begin}, {"last": 2}):
        async with ear(server) as again:
            await again.join(**options)
            assert await again.hear(2) == ["mine", "later"]


@pytest.mark.parametrize("kind", ["no event", "no JSON"])
async def test_an_entry_that_cannot_be_read_is_missed_and_does_not_stop_the_room(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    server = make_server(store=store)
    encode = msgspec.msgpack.encode
    entry = encode(["no event"]) if kind == "no event" else encode([None, "said", [{(1, 2): 3}]])
    log = NewRun(id="x", arguments="", payer="x", keep=60.0)
    async with ear(server) as one, connect(server, client=Client(extensions=False)) as plain:
        two = Ear(plain)  # it speaks JSON only
        begin = (await one.join())["position"]
        await two.join()
        await server.room("lobby").emit("said", 1)
        await store.add(hash_of(("room", "lobby")), log, "other", 1, [entry])
        await server.room("lobby").emit("said", 2)
        assert await two.hear(3) == [1, ("missed", "lobby"), 2]
        assert (await one.hear(3))[::2] == [1, 2]
        await plain.of("rooms").request("leave", "lobby")
        assert not (await two.join(after=begin))["complete"]
        assert await two.hear(3) == [1, ("missed", "lobby"), 2]
    await server.close()
    warned = [each for each in caplog.records if "which cannot be read" in each.getMessage()]
    assert len(warned) == (kind == "no event")


async def test_what_only_some_members_could_read_is_not_stored() -> None:
    server = make_server()
    with pytest.raises(TypeError, match="cannot be a key"):
        await server.room("lobby").emit("said", {(1, 2): 3})
    async with ear(server) as one:
        await one.join(last=9)
        await server.room("lobby").emit("said", 1)
        assert await one.hear(1) == [1]


class SlowStore(MemoryStore):
    """A store whose answers can be held back."""

    def __init__(self) -> None:
        super().__init__()
        self.adds = asyncio.Event()
        self.adds.set()
        self.reads = asyncio.Event()
        self.reads.set()
        self.renews = asyncio.Event()
        self.renewing = asyncio.Event()
        self.readers = 0

    async def add(self, key: str, log: NewRun, writer: str, sequence: int, items: Any, /) -> Added:
        if not items:
            self.renewing.set()
            await self.renews.wait()
        await self.adds.wait()
        return await super().add(key, log, writer, sequence, items)

    async def read(self, key: str, after: int, /, *, reader: str = "", wait: float = 0.0) -> Page | None:
        self.readers += 1
        try:
            await self.reads.wait()
            return await super().read(key, after, reader=reader, wait=wait)
        finally:
            self.readers -= 1


@pytest.fixture
def store() -> SlowStore:
    return SlowStore()


async def test_who_is_in_a_room_that_is_left_out_is_asked_when_the_event_arrives(store: SlowStore) -> None:
    """Also in the process that emits: one joins that room, and another one leaves it, before the store has answered."""
    server = make_server(store=store)
    staff = server.room("staff")
    async with ear(server) as comes, ear(server) as leaves:
        begin = await comes.join()
        await leaves.join()
        coming, leaving = server.peers
        staff.add(leaving)
        store.adds.clear()
        emitting = asyncio.create_task(server.room("lobby").emit("said", "not for staff", skip=staff))
        await asyncio.sleep(0)
        staff.add(coming)
        staff.remove(leaving)
        store.adds.set()
        assert (await emitting).sent == 1
        await server.room("lobby").emit("said", "later")
        assert await comes.hear(1) == ["later"] and await leaves.hear(2) == ["not for staff", "later"]
        server.room("lobby").remove(leaving)
        await leaves.join(after=begin["position"])
        assert await leaves.hear(2) == ["not for staff", "later"]
    await server.close()


@pytest.mark.parametrize("how", ["refused", "cancelled"])
async def test_the_log_is_not_read_without_members(how: str, store: SlowStore) -> None:
    server = make_server(store=store, limits=Limits(rooms=1))
    lobby = server.room("lobby")
    async with ear(server) as one, ear(server) as two:
        await two.join()
        first, second = server.peers
        lobby.remove(second)
        await turns_until(lambda: not store.readers)
        if how == "refused":
            server.room("other").add(first)
            with pytest.raises(RpcError, match=r"Limits\.rooms"):
                await lobby.join(first)
        elif how == "cancelled":
            store.reads.clear()
            joining = asyncio.create_task(lobby.join(first))
            await turns_until(lambda: store.readers)
            joining.cancel()
        await turns_until(lambda: not store.readers)
        store.reads.set()
        await one.join() if how != "refused" else await two.join()
        assert (await lobby.emit("said", 1)).sent == 1
    await server.close()


async def test_a_join_that_fails_does_not_disturb_another_one(store: SlowStore) -> None:
    server = make_server(store=store, limits=Limits(rooms=1))
    async with ear(server) as one, ear(server) as two:
        server.room("other").add(server.peers[0])
        store.reads.clear()
        refused, joined = asyncio.create_task(one.join()), asyncio.create_task(two.join())
        await turns_until(lambda: store.readers)
        store.reads.set()
        assert (await joined)["complete"]
        with pytest.raises(RpcError, match=r"Limits\.rooms"):
            await refused
    await server.close()


class Forgetful(MemoryStore):
    """A store that does what it is asked, and whose answers do not arrive."""

    async def add(self, *args: Any) -> Added:
        await super().add(*args)
        raise StoreLost


async def test_an_event_may_have_been_stored_although_the_store_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room_log, "STORE_TIMEOUT", 0.05)
    server = make_server(store=Forgetful())
    with pytest.raises(Overloaded) as caught:
        await server.room("lobby").emit("said", 1)
    assert caught.value.outcome == "unknown"
    await server.close()


class DeafStore(MemoryStore):
    """A store that does not answer."""

    asked = 0

    async def add(self, *args: Any) -> Added:
        self.asked += 1
        answer: asyncio.Future[Added] = asyncio.get_running_loop().create_future()
        return await answer


async def test_emit_does_not_wait_longer_while_another_event_is_being_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waited up to twice as long."""
    store = DeafStore()
    server = make_server(store=store)
    lobby = server.room("lobby")
    first = asyncio.create_task(lobby.emit("said", 1))
    await turns_until(lambda: store.asked)
    monkeypatch.setattr(room_log, "STORE_TIMEOUT", 0.01)
    with pytest.raises(Overloaded):
        await lobby.emit("said", 2)
    first.cancel()
    await server.close()


class FullStore(MemoryStore):
    """A store that has no room until there is some."""

    has_room = False
    refused = 0

    async def add(self, *args: Any) -> Added:
        if not self.has_room:
            self.refused += 1
            raise StoreFull
        return await super().add(*args)


async def test_a_store_that_is_full_is_reported_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was a warning each second."""
    caplog.set_level(logging.INFO, "wsrpc")
    monkeypatch.setattr(room_log, "PAUSE", 0.001)
    monkeypatch.setattr(room_log, "SOON", 60)
    store = FullStore()
    server = make_server(store=store)
    async with ear(server) as one:
        server.room("lobby").add(server.peers[0])
        await turns_until(lambda: store.refused > 5)
        store.has_room = True
        await turns_until(lambda: "is read again" in caplog.text)
        await server.room("lobby").emit("said", 1)
        assert await one.hear(1) == [1]
    await server.close()
    about = [(each.levelname, each.getMessage()) for each in caplog.records if "room 'lobby'" in each.getMessage()]
    full = "room 'lobby' is not read: the store has no room for the events of this room"
    assert about == [("WARNING", full), ("INFO", "room 'lobby' is read again")]


async def test_a_server_that_closes_leaves_no_emit_waiting(store: SlowStore) -> None:
    server = make_server(store=store)
    async with ear(server) as one:
        await one.join()
        store.adds.clear()
        emits = [asyncio.create_task(server.room("lobby").emit("said", number)) for number in range(600)]
        await asyncio.sleep(0)
        late = asyncio.create_task(server.room("lobby").emit("said", 600))
        await server.close()
        results = await asyncio.gather(*emits, late, return_exceptions=True)
        assert {type(result) for result in results} == {Overloaded}


async def test_a_log_that_is_renewed_late_is_still_read(store: SlowStore) -> None:
    here, there = (Server(store=store) for _ in range(2))
    for server in (here, there):
        server.room("lobby", allow=lambda peer: True, keep=1)
    async with ear(here) as one:
        await one.join()
        await store.renewing.wait()
        for number in range(3):
            await here.room("lobby").emit("said", number)
        store.renews.set()
        await there.room("lobby").emit("said", 3)
        assert await one.hear(4) == [0, 1, 2, 3]
    await here.close()
    await there.close()


async def test_join_does_not_wait_for_ever_for_a_store_that_goes_away_meanwhile(
    store: SlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_server(store=store)
    async with ear(server) as one, ear(server) as two:
        position = (await one.join())["position"]
        await server.room("lobby").emit("said", 1)
        store.reads.clear()
        monkeypatch.setattr(room_log, "STORE_TIMEOUT", 0.05)
        for _ in range(2):
            with pytest.raises(Overloaded, match="does not answer"):
                await two.join(after=position)
        store.reads.set()
        assert await two.hear(1) == [1]
        assert (await two.join())["complete"]
    await server.close()


class RenewedStore(MemoryStore):
    """The store of a server that was given none."""

    renewed = 0

    async def add(self, key: str, log: NewRun, writer: str, sequence: int, items: Any, /) -> Added:
        RenewedStore.renewed += not items
        return await super().add(key, log, writer, sequence, items)


async def test_events_in_memory_are_kept_as_long_as_there_are_members(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = 0.0
    monkeypatch.setattr(runs, "MemoryStore", RenewedStore)
    monkeypatch.setattr(memory_store, "monotonic", lambda: monotonic() + passed)
    server = Server()
    lobby = server.room("lobby", allow=lambda peer: True, keep=2)
    async with ear(server) as one, ear(server) as two:
        await one.join()
        await lobby.emit("said", 1)
        for _ in range(3):
            passed += 1
            renewed = RenewedStore.renewed
            await turns_until(lambda renewed=renewed: RenewedStore.renewed > renewed)  # type: ignore[misc]
        await two.join(last=1)
        assert await two.hear(1) == [1]
        for peer in server.peers:
            lobby.remove(peer)
        passed += 2
        await two.join(last=1)
        await lobby.emit("said", 2)
        assert await two.hear(1) == [2], "nothing is kept without members"


async def test_who_comes_from_a_process_that_is_ahead_becomes_live(store: SlowStore) -> None:
    here, there = make_server(store=store), make_server(store=store)
    async with ear(here) as one, ear(here) as two, ear(there) as ahead:
        await one.join()
        await ahead.join()
        store.reads.clear()
        for number, ears in ((0, [ahead, one]), (1, [ahead])):  # `here` learns only of the first
            await there.room("lobby").emit("said", number)
            for each in ears:
                await each.hear(1)
        position = (await ahead.join())["position"]
        joining = asyncio.create_task(two.join(after=position))
        await turns_until(lambda: store.readers == 3)
        store.reads.set()
        assert (await joining)["position"] == position
        await there.room("lobby").emit("said", 2)
        assert await two.hear(1) == [2]
    await here.close()
    await there.close()


async def test_who_is_added_before_the_store_has_answered_is_told_that_it_may_have_missed_events(
    store: SlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = make_server(store=store), make_server(store=store)
    async with ear(here) as one:
        store.reads.clear()
        monkeypatch.setattr(room_log, "SOON", -1)  # uvloop counts in ms
        here.room("lobby").add(here.peers[0])
        await there.room("lobby").emit("said", 1)
        await turns_until(lambda: store.readers)
        store.reads.set()
        assert await one.hear(1) == [("missed", "lobby")]
        await there.room("lobby").emit("said", 2)
        assert await one.hear(1) == [2]
    await here.close()
    await there.close()


async def test_an_event_after_room_add_reaches_the_new_member(
    store: SlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_log, "SOON", 60)
    server = make_server(store=store)
    async with ear(server) as one:
        store.reads.clear()
        server.room("lobby").add(server.peers[0])
        emit = asyncio.create_task(server.room("lobby").emit("said", 1))
        await turns_until(lambda: store.readers)
        store.reads.set()
        assert (await emit).sent == 1
        assert await one.hear(1) == [1]
    await server.close()


@pytest.mark.parametrize("by", ["client", "server"])
async def test_who_joins_again_while_it_is_behind_waits(by: str) -> None:
    server = make_server(limits=Limits(high_water_bytes=300))
    line, lobby = Line(server), server.room("lobby")
    async with Client("ws://server/", dial=line.dial) as client:
        one = Ear(client)
        await one.join()
        line.connections[0][1].hold()
        for number in range(10):
            await lobby.emit("said", [number, "x" * 200])
        joining = asyncio.ensure_future(one.join() if by == "client" else lobby.join(server.peers[0]))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not joining.done()
        line.connections[0][1].release()
        joined = await joining
        assert (joined["position"] if by == "client" else joined.position).startswith("11-")
        assert [number for number, _ in await one.hear(10)] == [*range(10)]
    await server.close()


async def test_who_leaves_while_it_is_behind_gets_nothing_more() -> None:
    server = make_server(limits=Limits(high_water_bytes=300))
    line, lobby = Line(server), server.room("lobby")
    async with Client("ws://server/", dial=line.dial) as client, ear(server) as other:
        one = Ear(client)
        await one.join()
        await other.join()
        line.connections[0][1].hold()
        for number in range(8):
            await lobby.emit("said", [number, "x" * 200])
        lobby.remove(server.peers[0])
        line.connections[0][1].release()
        await other.hear(8)
        for _ in range(5):
            await client.of("rooms").request("leave", "lobby")
        assert one.heard.qsize() < 8
    await server.close()


@pytest.mark.parametrize("where", ["one process", "a store for several", "another process"])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(("count", "size"), [(10, 300_000), (500, 5000)])
async def test_who_reads_gets_all_of_a_burst_that_is_larger_than_the_log(
    count: int, size: int, together: bool, where: str
) -> None:
    """Members were told that they had missed most of it."""
    store = None if where == "one process" else MemoryStore()
    here = make_server(store=store)
    there = make_server(store=store) if where == "another process" else here
    lobby = here.room("lobby")
    async with ear(here) as one, ear(there) as two:
        await one.join()
        await two.join()

        async def emit(number: int) -> int:
            return (await lobby.emit("said", [number, "x" * size])).sent

        if together:
            sent = await asyncio.gather(*map(emit, range(count)))
        else:
            sent = [await emit(number) for number in range(count)]
        assert sent == [len(lobby)] * count
        for each in (one, two):
            assert [said[0] for said in await each.hear(count)] == [*range(count)]
    await here.close()
    await there.close()


@pytest.mark.parametrize("shared", [True, False])
async def test_nobody_waits_long_for_who_does_not_read(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_log, "RECENT", 10_000)
    monkeypatch.setattr(room_log, "HOLD", 0.3)
    server = make_server(store=MemoryStore() if shared else None, limits=Limits(high_water_bytes=300))
    line, lobby = Line(server), server.room("lobby")
    async with Client("ws://server/", dial=line.dial) as client, ear(server) as other:
        one = Ear(client)
        await one.join()
        await other.join()
        line.connections[0][1].hold()
        reports = await asyncio.gather(*(lobby.emit("said", [number, "x" * 1000]) for number in range(2000)))
        assert [said[0] for said in await other.hear(2000)] == [*range(2000)]
        assert (reports[0].sent, reports[0].skipped) == (2, 0)
        assert (reports[-1].sent, reports[-1].skipped) == (1, 1)  # it is told, and gets the last ones
        line.connections[0][1].release()
        heard = list[Any]()
        while heard[-1:] != [1999]:
            heard += [said if said[0] == "missed" else said[0] for said in await one.hear(1)]
        place = heard.index(("missed", "lobby"))
        after = heard[place + 1 :]
        assert heard[:place] == [*range(place)] and after == [*range(after[0], 2000)]
        assert heard.count(("missed", "lobby")) == 1
        report = await lobby.emit("said", "later")
        assert (report.sent, report.skipped) == (2, 0)
    await server.close()


async def test_a_report_counts_each_member_that_falls_behind_once() -> None:
    server = make_server(limits=Limits(high_water_bytes=300))
    line, lobby = Line(server), server.room("lobby")
    async with (
        Client("ws://server/", dial=line.dial) as one,
        Client("ws://server/", dial=line.dial) as two,
    ):
        for client, (_, end) in zip((one, two), line.connections, strict=True):
            await Ear(client).join()
            end.hold()
            for number in range(5):
                assert (await lobby.emit("said", number, "x" * 200)).sent == len(lobby)
    await server.close()


@pytest.mark.parametrize("shared", [True, False])
async def test_a_member_for_which_an_event_is_too_large_is_told(shared: bool) -> None:
    server = make_server(store=MemoryStore() if shared else None)
    lobby = server.room("lobby")
    async with Client("ws://server/", dial=Line(server).dial, limits=Limits(message_bytes=2000)) as client:
        one = Ear(client)
        begin = await one.join()
        report = await lobby.emit("said", "x" * 5000)
        assert (report.sent, len(report.errors)) == (0, 1)
        await lobby.emit("said", 2)
        assert await one.hear(2) == [("missed", "lobby"), 2]
        lobby.remove(server.peers[0])
        assert not (await one.join(after=begin["position"]))["complete"]
        assert await one.hear(2) == [("missed", "lobby"), 2]
    await server.close()


async def test_every_position_that_a_client_is_told_can_be_passed_to_join() -> None:
    server = make_server()
    told = list[str]()
    async with ear(server) as one:
        one.client.of("rooms").on("missed", lambda room, position: told.append(position))
        await server.room("lobby").emit("said", 1)
        for after in ("0-x", "9999999999999999-x"):
            await one.join(after=after)
            await one.client.of("rooms").request("leave", "lobby")
        for position in [*told]:
            await one.join(after=position)
            await one.client.of("rooms").request("leave", "lobby")
        assert await one.hear(2) == [1, 1]
        assert [position.partition("-")[0] for position in told] == ["0", "1", "0"]
    await server.close()


@pytest.mark.parametrize("shared", [True, False])
def test_a_server_keeps_its_rooms_when_its_event_loop_was_closed(shared: bool) -> None:
    server = make_server(store=MemoryStore() if shared else None)
    left = list[Any]()

    async def serve(number: int) -> list[Any]:
        ours, theirs = memory_transports()
        client = Client()
        one = Ear(client)
        await asyncio.gather(server.accept(theirs), client.bind(ours))
        left.append((client, ours, theirs, asyncio.all_tasks()))
        await one.join(last=number)
        await server.room("lobby").emit("said", number)
        return await one.hear(number + 1)

    for number in range(3):
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)
        assert loop.run_until_complete(serve(number)) == [*range(number + 1)]
        loop.close()


@pytest.mark.parametrize("options", [{"extensions": False}, {"profile": "go"}])
def test_events_without_positions_are_not_kept(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needs extensions"):
        Server(**options).room("lobby", keep=60)
