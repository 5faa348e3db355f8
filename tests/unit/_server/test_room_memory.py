"""`Server.room(keep=)`: events are kept, and members miss none of them, or are told.

tests/adapters/test_room_logs.py has several servers with a common store.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from waiting import until

from wsrpc import BadArguments, Client, HandlerFailed, Limits, Overloaded, Peer, Reconnect, RpcError, Server
from wsrpc._log import link, writer
from wsrpc._log.kept import hash_of
from wsrpc._server.rooms import room_log, room_pages
from wsrpc._server.rooms.room import room_core
from wsrpc._server.rooms.room_feed import HOLD
from wsrpc.store import Appended, MemoryStore, NewLog, Page, StoreFull, StoreLost
from wsrpc.testing import Line, connect

MISSED = ("missed", "lobby")
LONG = "r" * 250
"""The name of a room with which `missed` takes more than 512 bytes, the smallest limit of a client."""
SMALL = Limits(message_bytes=512)


class Ear:
    """A client that hears the events of a room."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        client.on("said", self.heard.put_nowait)
        client.of("rooms").on("missed", lambda room, position: self.heard.put_nowait(("missed", room)))

    async def join(self, room: str = "lobby", **options: Any) -> Any:
        return await self.client.of("rooms").request("join", room, options)

    async def hear(self, count: int) -> list[Any]:
        async with asyncio.timeout(600):
            return [await self.heard.get() for _ in range(count)]


@asynccontextmanager
async def ear(server: Server, client: Client | None = None) -> AsyncGenerator[Ear]:
    async with connect(server, client=client) as client:
        yield Ear(client)


@asynccontextmanager
async def house(count: int, keep: float = 60, name: str = "lobby", **options: Any) -> AsyncGenerator[tuple[Any, ...]]:
    """A server, its room that keeps events, and so many ears."""
    server = Server(**options)
    lobby = server.room(name, allow=lambda peer: True, keep=keep)
    async with AsyncExitStack() as stack:
        yield server, lobby, *[await stack.enter_async_context(ear(server)) for _ in range(count)]
    await server.close()


class OddStore(MemoryStore):
    """A store whose answers can be held back or get lost, and that can be full."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = asyncio.Event()
        self.reads.set()
        self.is_deaf = self.is_broken = False
        self.error: Exception | None = None
        self.readers = self.asked = self.renewed = 0

    async def append(self, key: str, log: Any, *args: Any, **options: Any) -> Appended:
        self.asked += 1
        self.renewed += not args[2]
        if self.error is not None:
            raise self.error
        added = await super().append(key, log, *args, **options)
        await asyncio.sleep(3600 if self.is_deaf else 0)
        return added

    async def read(self, key: str, after: int, /, *, wait: float = 0.0) -> Page | None:
        self.readers += 1
        try:
            await self.reads.wait()
            if self.is_broken and not wait:
                raise StoreFull("out of place")
            return await super().read(key, after, wait=wait)
        finally:
            self.readers -= 1

    def restart(self) -> None:
        """Forget everything."""
        super().__init__()


@pytest.fixture
def store() -> OddStore:
    return OddStore()


# ---------------------------------------------------------------- what members get


async def test_a_new_member_gets_what_it_asks_for_and_then_live_events() -> None:
    async with house(3) as (_, lobby, one, two, three):
        begin = await one.join()
        for number in range(5):
            await lobby.emit("said", number)
        assert await one.hear(5) == [0, 1, 2, 3, 4]
        joined = await two.join(last=2)
        await lobby.emit("said", 5)
        assert await two.hear(3) == [3, 4, 5]
        assert begin["complete"] and joined["complete"]
        await three.join(after="0-0")  # before the first event
        assert await three.hear(6) == [0, 1, 2, 3, 4, 5]
        await three.client.of("rooms").request("leave", "lobby")
        assert (await three.join(after=begin["position"]))["complete"]
        assert await three.hear(6) == [0, 1, 2, 3, 4, 5]
        for after in ("", "x", "1", "1-", "-5", "1-ä"):
            with pytest.raises(BadArguments):
                await three.join(after=after)


async def test_what_is_not_kept_any_more_is_told() -> None:
    async with house(3, store=MemoryStore(log_bytes=2000)) as (_, lobby, one, two, three):
        begin = await one.join()
        for number in range(100):
            await lobby.emit("said", number)
        assert await one.hear(100) == [*range(100)]
        joined = await two.join(after=begin["position"])
        heard = await two.hear(two.heard.qsize())
        assert not joined["complete"] and heard == [MISSED, *range(heard[1], 100)]
        number, _, id = joined["position"].partition("-")
        assert (await one.join(after=joined["position"]))["complete"]
        joined = await three.join(after=f"{number}-{'0' * 8}.{id.partition('.')[2]}")  # of another log
        assert not joined["complete"] and await three.heard.get() == MISSED


async def test_a_sender_that_is_left_out_gets_its_event_in_another_session() -> None:
    """It belongs to the history: a page that is loaded again shows what its user has said."""
    async with house(2) as (server, lobby, one, again):
        begin = (await one.join())["position"]
        await lobby.emit("said", "mine", skip=server.peers[0])
        await lobby.emit("said", "later")
        assert await one.hear(1) == ["later"]
        await again.join(after=begin)
        assert await again.hear(2) == ["mine", "later"]


@pytest.mark.parametrize("kind", ["no event", "no JSON", "too deep"])
async def test_an_entry_that_cannot_be_read_is_missed_and_does_not_stop_the_room(
    kind: str, caplog: pytest.LogCaptureFixture, store: OddStore
) -> None:
    entry = {
        "no event": msgspec.msgpack.encode(["no event"]),
        "no JSON": msgspec.msgpack.encode([None, "said", [{(1, 2): 3}]]),
        "too deep": msgspec.msgpack.encode([None, "said", [None]]).replace(b"\x91\xc0", b"\x91" * 100_000 + b"\xc0"),
    }[kind]
    log = NewLog(id="x", payer="x", keep=60.0)
    async with house(1, store=store) as (server, lobby, one), ear(server, Client(extensions=False)) as two:
        begin = (await one.join())["position"]
        await two.join()  # it speaks JSON only
        await lobby.emit("said", 1)
        await store.append(hash_of(("room", "lobby")), log, "other", 1, [entry])
        await lobby.emit("said", 2)
        assert await two.hear(3) == [1, MISSED, 2]
        assert (await one.hear(3))[::2] == [1, 2]
        await two.client.of("rooms").request("leave", "lobby")
        assert not (await two.join(after=begin))["complete"]
        assert await two.hear(3) == [1, MISSED, 2]
    warned = [each for each in caplog.records if "which cannot be read" in each.getMessage()]
    assert len(warned) == (kind != "no JSON")


async def test_the_own_event_in_a_log_that_has_begun_anew_is_missed_once(
    store: OddStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The process took what it had written for a loss of the log, which the members then missed as an event."""
    async with house(1, store=store) as (_, lobby, one):
        await one.join()
        for number in range(3):
            await lobby.emit("said", number)
        assert await one.hear(3) == [0, 1, 2]
        store.reads.clear()
        store.restart()
        await lobby.emit("said", 3)
        store.reads.set()
        assert await one.hear(1) == [MISSED]
        await lobby.emit("said", 4)
        assert await one.hear(1) == [4] and "lost events" not in caplog.text


@pytest.mark.parametrize("shared", [True, False])
async def test_a_member_for_which_an_event_is_too_large_is_told(shared: bool) -> None:
    small = Client(limits=Limits(message_bytes=2000))
    async with house(0, store=MemoryStore() if shared else None) as (server, lobby), ear(server, small) as one:
        begin = await one.join()
        report = await lobby.emit("said", "x" * 5000)
        assert (report.sent, len(report.errors)) == (0, 1)
        await lobby.emit("said", 2)
        assert await one.hear(2) == [MISSED, 2]
        lobby.remove(server.peers[0])
        assert not (await one.join(after=begin["position"]))["complete"]
        assert await one.hear(2) == [MISSED, 2]


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("where", ["one process", "a store for several", "another process"])
async def test_who_cannot_even_be_told_is_told_in_another_session_and_the_others_hear_each_event_once(
    where: str, slow: bool
) -> None:
    """The process sent the event to the others again and again, and no later one."""
    store = None if where == "one process" else MemoryStore()
    async with (
        house(1, name=LONG, store=store, limits=Limits(high_water_bytes=300)) as (server, here, other),
        house(0, name=LONG, store=store) as (_, there),
    ):
        emit, line = (there if where == "another process" else here).emit, Line(server)
        await other.join(LONG)
        async with Client("ws://server/", dial=line.dial, limits=SMALL, reconnect=Reconnect(initial=0.001)) as client:
            heard: asyncio.Queue[Any] = asyncio.Queue()
            client.on("said", heard.put_nowait)
            client.room(LONG).on_missed(lambda: heard.put_nowait("missed"))
            await client.room(LONG).join()
            for number in range(2):
                if slow:
                    line.connections[-1][1].hold()
                    server.peers[-1].emit_nowait("filling", "x" * 400)
                report = await emit("said", "x" * 600)
                await emit("said", number)
                assert await other.hear(2) == ["x" * 600, number]
                line.connections[-1][1].release()
                assert {await heard.get(), await heard.get()} == {"missed", number}
                if where != "another process":
                    assert (report.sent, len(report.errors)) == ((2, 0) if slow else (1, 1))
            await emit("said", "last")
            assert [await heard.get()] == await other.hear(1) == ["last"]


async def test_a_join_says_what_is_missed_to_who_cannot_be_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The join failed. The member got later events, but they were also kept at hand for it, so that `emit` waited."""
    monkeypatch.setattr(room_pages, "RECENT", 10_000)
    async with house(0, name=LONG) as (server, lobby), ear(server, Client(limits=SMALL)) as one:
        await lobby.emit("said", "x" * 600)
        await lobby.emit("said", 0)
        assert not (await one.join(LONG, last=2))["complete"]
        for number in range(1, 100):
            report = await lobby.emit("said", number)
            assert (report.sent, report.skipped) == (1, 0)
        assert await one.hear(100) == [*range(100)]


# ---------------------------------------------------------------- the store


async def test_a_member_is_told_that_what_it_has_missed_cannot_be_read_and_later_catches_up_from_there(
    store: OddStore, caplog: pytest.LogCaptureFixture
) -> None:
    """It was not told. When it was behind later, it got events that it had got already."""
    async with house(1, store=store, limits=Limits(high_water_bytes=300)) as (server, lobby, other):
        await other.join()
        await lobby.emit("said", 1)
        line = Line(server)
        async with Client("ws://server/", dial=line.dial) as client:
            one = Ear(client)
            store.is_broken = True
            assert not (await one.join(last=1))["complete"]
            store.is_broken = False
            await lobby.emit("said", 2)
            assert await one.hear(2) == [MISSED, 2]
            line.connections[0][1].hold()
            server.peers[1].emit_nowait("filling", "x" * 1000)
            await lobby.emit("said", 3)
            line.connections[0][1].release()
            await lobby.emit("said", 4)
            assert await one.hear(2) == [3, 4]
    assert "a member misses events, because sending them has failed" in caplog.text


async def test_a_join_that_fails_disturbs_nobody_and_leaves_the_log_unread(store: OddStore) -> None:
    async with house(2, store=store, limits=Limits(rooms=1)) as (server, lobby, one, two):
        server.room("other").add(server.peers[0])
        store.reads.clear()
        refused, joined = asyncio.create_task(one.join()), asyncio.create_task(two.join())
        await until(lambda: store.readers)
        store.reads.set()
        assert (await joined)["complete"]
        lobby.remove(server.peers[1])
        for each in (refused, lobby.join(server.peers[0])):
            with pytest.raises(RpcError, match=r"Limits\.rooms"):
                await each
            await until(lambda: not store.readers)
        await two.join()
        assert (await lobby.emit("said", 1)).sent == 1


async def test_emit_does_not_wait_longer_while_another_event_is_being_stored(store: OddStore) -> None:
    """It waited up to twice as long. The event may have been stored although the store does not answer."""
    store.is_deaf = True
    async with house(1, store=store) as (server, lobby, one):
        server.on("say", lambda: lobby.emit("said", 3))
        first = asyncio.create_task(lobby.emit("said", 1))
        await asyncio.sleep(5)
        async with asyncio.timeout(10.1):
            with pytest.raises(Overloaded) as caught:
                await lobby.emit("said", 2)
        assert caught.value.outcome == "unknown"
        with pytest.raises(HandlerFailed) as failed:  # not Overloaded, which says that the handler has not run
            await one.client.request("say")
        assert failed.value.outcome == "ran"
        await asyncio.gather(first, return_exceptions=True)


@pytest.mark.parametrize(
    ("first", "then", "outcome"),
    [(StoreFull(), None, "not_run"), (StoreLost(), StoreFull(), "unknown"), (None, None, "unknown")],
    ids=["full", "full after a step without an answer", "closed before the answer"],
)
async def test_an_error_of_emit_says_whether_the_event_may_be_stored(
    first: Exception | None, then: Exception | None, outcome: str, store: OddStore
) -> None:
    """It said "not_run" each time. The store had done, or did later, what it did not answer."""
    async with house(0, store=store) as (server, lobby):
        store.error, store.is_deaf = first, True
        emitting = asyncio.create_task(lobby.emit("said", 1))
        await until(lambda: store.asked)
        store.error = then
        if first is None:
            await server.close()
        with pytest.raises(Overloaded) as caught:
            await emitting
    assert caught.value.outcome == outcome


async def test_a_handler_that_brings_in_its_peer_wrongly_does_not_say_that_it_has_not_run() -> None:
    async with house(1) as (server, lobby, one):

        async def bring_in(peer: Peer) -> None:
            await lobby.join(peer, after="nowhere")

        server.on("bring in", bring_in)
        with pytest.raises(HandlerFailed) as caught:  # not BadArguments
            await one.client.request("bring in")
        assert caught.value.outcome == "ran"


async def test_a_store_that_is_full_is_reported_once_and_read_again(
    store: OddStore, caplog: pytest.LogCaptureFixture
) -> None:
    """There was a warning each second."""
    caplog.set_level(logging.INFO, "wsrpc")
    store.error, why = StoreFull(), "the store has no room for the events of this room"
    async with house(1, store=store) as (server, lobby, one):
        lobby.add(server.peers[0])
        await asyncio.sleep(10)
        store.error = None
        await asyncio.sleep(2)
        await lobby.emit("said", 1)
        assert await one.hear(2) == [MISSED, 1]
    about = [(each.levelname, each.getMessage()) for each in caplog.records if "room 'lobby'" in each.getMessage()]
    assert about == [("WARNING", f"room 'lobby' is not read: {why}"), ("INFO", "room 'lobby' is read again")]


async def test_join_does_not_wait_for_ever_for_a_store_that_goes_away_meanwhile(store: OddStore) -> None:
    async with house(2, store=store) as (_, lobby, one, two):
        position = (await one.join())["position"]
        await lobby.emit("said", 1)
        store.reads.clear()
        for _ in range(2):
            with pytest.raises(Overloaded, match="does not answer"):
                await two.join(after=position)
        store.reads.set()
        assert await two.hear(1) == [1]
        assert (await two.join())["complete"]


class LateStore:
    """A store of which one process gets the answers to its reads late: those that wait, and the others."""

    def __init__(self, store: MemoryStore) -> None:
        self.waiting, self.others = asyncio.Event(), asyncio.Event()
        self.late = 0
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read(self, key: str, after: int, /, *, wait: float = 0.0) -> Page | None:
        page = await self._store.read(key, after, wait=wait)
        self.late += 1
        await (self.waiting if wait else self.others).wait()
        self.late -= 1
        return page


async def test_who_is_ahead_of_a_process_gets_what_it_sends_while_it_reads_for_the_member() -> None:
    store = MemoryStore()
    late: Any = LateStore(store)
    late.waiting.set()
    late.others.set()
    async with house(2, store=late) as (_, _, one, two), house(1, store=store) as (_, other, three):
        await one.join()
        for event in (late.waiting, late.others):
            event.clear()
        await other.emit("said", 0)
        position = (await three.join())["position"]
        joining = asyncio.ensure_future(two.join(after=position))
        await until(lambda: late.late == 2)  # both are read before the next event is stored
        await other.emit("said", 1)
        late.waiting.set()
        assert await one.hear(2) == [0, 1]
        late.others.set()
        assert await two.hear(1) == [1]
        assert (await joining)["complete"]


async def test_a_join_waits_for_no_event_that_the_other_members_here_have_not_got() -> None:
    store = MemoryStore()
    late: Any = LateStore(store)
    late.others.set()
    async with house(2, store=late) as (_, _, one, two), house(0, store=store) as (_, there):
        await one.join()
        await there.emit("said", 1)
        assert (await two.join(last=1))["complete"] and not two.heard.qsize()
        late.waiting.set()
        assert await one.hear(1) == await two.hear(1) == [1]


async def test_a_member_that_leaves_takes_no_page_from_another_one() -> None:
    late: Any = LateStore(MemoryStore())
    late.waiting.set()
    late.others.set()
    async with house(3, store=late) as (server, lobby, one, two, three):
        await one.join()
        await lobby.emit("said", 1)
        late.others.clear()
        leaving, joining = [asyncio.ensure_future(each.join(last=1)) for each in (two, three)]
        await until(lambda: late.late == 1)
        lobby.remove(server.peers[1])
        late.others.set()
        with pytest.raises(RpcError, match="left the room"):
            await leaving
        assert (await joining)["complete"] and await three.hear(1) == [1]


async def test_events_in_memory_are_kept_as_long_as_there_are_members() -> None:
    async with house(2, keep=2) as (server, lobby, one, two):
        await one.join()
        await lobby.emit("said", 1)
        await asyncio.sleep(60)
        await two.join(last=1)
        assert await two.hear(1) == [1]
        for peer in server.peers:
            lobby.remove(peer)
        await asyncio.sleep(3)
        await two.join(last=1)
        await lobby.emit("said", 2)
        assert await two.hear(1) == [2], "nothing is kept without members"


async def test_a_loss_that_was_told_is_not_told_again_with_the_next_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_log, "time", SimpleNamespace(time=count(0.0, 100.0).__next__))
    store = MemoryStore()
    async with house(1, store=store) as (_, lobby, here):
        await here.join()
        await lobby.emit("said", 1)
        assert await here.hear(1) == [1]
        store.wake_readers()
        before = copy.deepcopy(vars(store))
        for number in (2, 3, 4):
            await lobby.emit("said", number)
        assert await here.hear(3) == [2, 3, 4]
        store.wake_readers()
        vars(store).update(before)
        assert await here.hear(1) == [MISSED]
        await lobby.emit("said", 5)
        await lobby.emit("said", 6)
        assert await here.hear(2) == [5, 6]


async def test_who_is_added_before_the_store_has_answered_is_told_that_it_may_have_missed_events(
    store: OddStore,
) -> None:
    """One member is told at once. The connection of the other is full: the room was not read until it had room."""
    limits = Limits(high_water_bytes=300)
    async with (
        house(1, store=store, limits=limits) as (server, lobby, one),
        house(0, store=store) as (_, there),
        Client("ws://server/", dial=(line := Line(server)).dial) as client,
    ):
        slow = Ear(client)
        lobby.add(server.peers[0])
        await lobby.emit("said", 0)  # which waits for the answer
        assert await one.hear(1) == [0]
        lobby.remove(server.peers[0])
        store.reads.clear()
        line.connections[0][1].hold()
        full = server.peers[1]
        full.emit_nowait("filling", "x" * 1000)
        for peer in server.peers:
            lobby.add(peer)
        await there.emit("said", 1)
        await asyncio.sleep(1)
        store.reads.set()
        assert await one.hear(1) == [MISSED]
        await there.emit("said", 2)
        assert await one.hear(1) == [2]
        line.connections[0][1].release()
        assert await slow.hear(2) == [MISSED, 2]


# ---------------------------------------------------------------- bursts, and slow readers


@pytest.fixture
def small_log(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """A store of small logs, as that of a server that is given none."""
    monkeypatch.setattr(room_pages, "RECENT", 10_000)
    for module in (room_log, writer):
        monkeypatch.setattr(module, "BATCH", 1000)
    monkeypatch.setattr(link, "MemoryStore", lambda: MemoryStore(log_bytes=10_000))
    return MemoryStore(log_bytes=10_000)


@pytest.mark.parametrize("where", ["one process", "a store for several", "another process"])
@pytest.mark.parametrize(("count", "size"), [(10, 3000), (100, 300)])
async def test_who_reads_gets_all_of_a_burst_that_is_larger_than_the_log(
    count: int, size: int, where: str, small_log: MemoryStore
) -> None:
    """Members were told that they had missed most of it."""
    store = None if where == "one process" else small_log
    async with house(2, store=store) as (_, lobby, one, two), house(1, store=store) as (_, _, three):
        ears = [one, three if where == "another process" else two]
        for each in ears:
            await each.join()
        reports = await asyncio.gather(*(lobby.emit("said", number, "x" * size) for number in range(count)))
        assert [report.sent for report in reports] == [len(lobby)] * count
        for each in ears:
            assert await each.hear(count) == [*range(count)]


class FarStore(MemoryStore):
    """A store that is far away, and farther from those who read."""

    async def append(self, *args: Any, **options: Any) -> Appended:
        await asyncio.sleep(0.09)
        return await super().append(*args, **options)

    async def read(self, key: str, after: int, /, *, wait: float = 0.0) -> Page | None:
        await asyncio.sleep(0.15)
        return await super().read(key, after, wait=wait)


async def test_a_step_of_who_emits_stores_no_more_than_one_of_who_reads_gets() -> None:
    """It stored half as much again. So members in a process farther away missed some of it."""
    store = FarStore()
    async with house(0, store=store) as (_, lobby), house(1, store=store) as (_, _, one):
        await one.join()
        await asyncio.gather(*(lobby.emit("said", number, "x" * 30_000) for number in range(170)))
        assert await one.hear(170) == [*range(170)]


@pytest.mark.parametrize("where", ["one process", "a store for several", "another process"])
async def test_nobody_waits_long_for_who_does_not_read(where: str, small_log: MemoryStore) -> None:
    store, limits = None if where == "one process" else small_log, Limits(high_water_bytes=300)
    async with house(1, store=store, limits=limits) as (server, lobby, other), house(0, store=store) as (_, there):
        line, is_here, log = Line(server), where != "another process", room_core(lobby).room_log
        assert log is not None
        async with Client("ws://server/", dial=line.dial) as client:
            one = Ear(client)
            await one.join()
            await other.join()
            line.connections[0][1].hold()
            emit = (lobby if is_here else there).emit
            async with asyncio.timeout(HOLD + 0.1):
                emitting = [asyncio.ensure_future(emit("said", number, "x" * 1000)) for number in range(150)]
                assert await other.hear(60) == [*range(60)]  # and later ones do not overtake those that still wait
                for number in range(150, 200):
                    emitting.append(asyncio.ensure_future(emit("said", number, "x" * 1000)))
                    await asyncio.sleep(0)
                reports = await asyncio.gather(*emitting)
                assert await other.hear(140) == [*range(60, 200)]
            assert not is_here or [(each.sent, each.skipped) for each in reports[::199]] == [(2, 0), (1, 1)]
            assert log.feed.pages._bytes < 20_000
            line.connections[0][1].release()  # it is told, and gets the last ones
            heard = await one.hear(1)
            while heard[-1] != 199:
                heard += await one.hear(1)
            place = heard.index(MISSED)
            assert heard == [*range(place), MISSED, *range(heard[place + 1], 200)]
            report = await lobby.emit("said", "later")
            assert (report.sent, report.skipped) == (2, 0)


async def test_a_report_counts_each_member_once_when_one_after_another_falls_behind() -> None:
    async with house(0, limits=Limits(high_water_bytes=300)) as (server, lobby):
        line = Line(server)
        async with Client("ws://server/", dial=line.dial) as one, Client("ws://server/", dial=line.dial) as two:
            for client in (one, two):
                await Ear(client).join()
            for number in range(2):
                line.connections[number][1].hold()
                server.peers[number].emit_nowait("filling", "x" * 1000)
                assert (await lobby.emit("said", number)).sent == 2
            for _, end in line.connections:
                end.release()


async def test_a_member_that_is_behind_goes_on_in_a_new_log_and_events_at_hand_are_counted_anew(
    store: OddStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It heard nothing more, because events of both logs were at hand as if they were one, or `emit` waited too early.

    The log expires because the store does not answer for a while, so that nobody renews it.
    """
    monkeypatch.setattr(room_pages, "RECENT", 10_000)
    monkeypatch.setattr(link, "MemoryStore", lambda: store)
    async with house(0, limits=Limits(high_water_bytes=300)) as (server, lobby):
        line, loop = Line(server), asyncio.get_running_loop()

        async def expire() -> None:
            store.error = StoreLost("down")
            await asyncio.sleep(100)
            store.error = None

        async with Client("ws://server/", dial=line.dial) as client:
            ear = Ear(client)
            await ear.join()
            for batches in ((5, 8), ()):  # at first, it is behind already when the log expires
                line.connections[0][1].hold()
                server.peers[0].emit_nowait("fills", "x" * 1000)
                for events in batches:
                    began = loop.time()
                    for _ in range(events):
                        report = await lobby.emit("said", "x" * 1000)
                        assert (report.sent, report.skipped) == (1, 0)
                    assert loop.time() - began < 0.5
                    await expire()
                await lobby.emit("said", "new")
                line.connections[0][1].release()
                assert await ear.hear(1) == [MISSED]
                await lobby.emit("said", "next")
                assert await ear.hear(1) == ["next"]
                await expire()


# ---------------------------------------------------------------- the server


@pytest.mark.parametrize("options", [{"extensions": False}, {"profile": "go"}])
def test_events_without_positions_are_not_kept(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needs extensions"):
        Server(**options).room("lobby", keep=60)
