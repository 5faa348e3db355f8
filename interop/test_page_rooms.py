"""`client.room()` of a page, with real servers: positions, joining again, presence."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from operator import attrgetter, itemgetter
from typing import Any

import msgspec
import pytest
from leftovers import nothing_left as nothing_left
from waiting import until

from interop.page_client import Page, scripted
from wsrpc import Client, Handshake, Peer, Server
from wsrpc._log.kept import hash_of
from wsrpc.store import MemoryStore, NewLog
from wsrpc.testing import FaultProxy, connect
from wsrpc.types import RoomState

pytestmark = pytest.mark.usefixtures("nothing_left")

ENTER = """
globalThis.heard = []
globalThis.told = 0
globalThis.room = client.room("lobby", { %s })
room.on("missed", () => told++)
client.on("said", (what) => { heard.push(what); note(`heard ${what}`) })
return room === client.room("lobby")
"""
SUBSCRIBE = """
globalThis.seen = []
globalThis.stop = room.present.subscribe(() => {
  seen.push(room.present.get())
  if (seen.length === 3) throw new Error("shown")
})
"""
SHOW = """
const { complete, error, position } = room
return { heard, told, complete, error: error?.message ?? null, position }
"""


def identify(handshake: Handshake) -> None:
    token = handshake.bearer_token
    handshake.principal = "page" if token and token.startswith("token") else token


class House:
    """A server with the room "lobby", which has a log unless ``keep`` is None."""

    def __init__(self, store: MemoryStore, keep: float | None = 60) -> None:
        self.server = Server(store=store)
        self.server.on_handshake(identify)
        self.server.on("sync", lambda: None)
        self.allows = True
        self.lobby = self.server.room("lobby", allow=lambda peer: self.allows, keep=keep, presence=60)

    async def emit(self, *said: Any) -> None:
        for each in said:
            await self.lobby.emit("said", each)


async def position_of_last(house: House) -> str | None:
    async with connect(house.server) as client:
        return (await client.room("lobby").join()).position


@asynccontextmanager
async def visit(house: House, codec: str = "json", options: str = "last: 2") -> AsyncGenerator[tuple[FaultProxy, Page]]:
    """A page that enters the lobby, through a proxy."""
    async with house.server.listen() as listener, FaultProxy(listener.url) as proxy:
        async with Page.start(proxy.url, statuses=True, codec=codec) as page:
            assert await page.run(ENTER % options)
            await until(lambda: len(house.lobby) or not house.allows)
            yield proxy, page


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_no_event_is_lost_or_doubled_by_cuts_and_restarts(codec: str) -> None:
    store = MemoryStore()
    house, restarted = House(store), House(store)
    await house.emit(*range(10))
    last = 9
    async with visit(house, codec) as (proxy, page), restarted.server.listen() as second:
        for ends in ("drop", "close", "drop", "close", "restart", "close", "drop"):
            await house.emit(last + 1, last + 2)
            if ends == "drop":
                proxy.drop()
            elif ends == "close":
                await house.server.peers[0].close(1012)
            else:
                await page.do("go", at=second.url)
                await house.server.close()
                house = restarted
            last += 4
            await house.emit(last - 1, last)
            await page.notes.until(f"heard {last}")
        shown = await page.run(SHOW)
        assert shown.pop("position") == await position_of_last(house)
        assert shown == {"heard": [*range(8, last + 1)], "told": 0, "complete": True, "error": None}


@pytest.mark.parametrize("why", ["trimmed", "refused", "no log"])
async def test_missed_events_are_told(why: str) -> None:
    house = House(MemoryStore(log_bytes=2000), keep=None if why == "no log" else 60)
    async with visit(house, options="" if why == "no log" else "last: 2") as (proxy, page):
        if why != "no log":
            await house.emit(-1)
            await page.notes.until("heard -1")
        assert (await page.run(SHOW))["complete"]
        async with proxy.refuse():
            [peer] = house.server.peers
            await peer.close(1012)
            await until(lambda: not house.server.peers)
            house.allows = why != "refused"
            await house.emit(*range(100))
        await until(lambda: house.server.peers and (len(house.lobby) or why == "refused"))
        if why == "trimmed":
            await page.notes.until("heard 99")
        assert await page.do("ask", name="join", channel="rooms", args=["other"])  # later than the join
        shown = await page.run(SHOW)
        error = "not allowed" if why == "refused" else None
        assert (shown["complete"], shown["error"], shown["told"]) == (False, error, 1)
        if why == "trimmed":
            assert shown["heard"] == [-1, *range(shown["heard"][1], 100)]
        house.allows = True
        await house.server.peers[0].close(1012)
        await until(lambda: {*house.lobby} - {peer})
        async with asyncio.timeout(60):  # its answer may come later than the server has the member
            while (await page.run(SHOW))["error"] is not None:
                await page.do("ask", name="join", channel="rooms", args=["other"])


BEGIN = """
globalThis.entries = []
globalThis.states = 0
globalThis.lived = []
globalThis.room = client.room("board")
const stop = room.on("state", (state) => { states++; entries.splice(0, Infinity, ...state) })
client.on("add", function (what) {
  entries.push(what)
  lived.push(room.live)
  if (this.room !== "board" || this.position !== room.position) throw new Error("nowhere")
  note(`shown ${what}`)
})
await room.ready
return [room.live, entries, room.complete]
"""


async def test_a_page_begins_with_the_state_and_gets_each_later_event_once() -> None:
    store = MemoryStore(log_bytes=2000)
    board, servers, numbers = list[int](), [Server(store=store) for _ in range(2)], itertools.count()

    def state(peer: Peer) -> RoomState:
        return RoomState([*board], events.position)

    rooms = [each.room("board", keep=60, allow=lambda peer: True, state=state) for each in servers]
    events = rooms[0].events()

    async def add(count: int) -> None:
        for _ in range(count):
            await rooms[0].emit("add", next(numbers))
            board.extend((await anext(events)).args)

    async with servers[0].listen() as first, servers[1].listen() as second, FaultProxy(first.url) as proxy:
        await add(100)
        async with Page.start(proxy.url, statuses=True) as page:
            assert await page.run(BEGIN) == [True, [*range(100)], True]
            await add(2)
            await page.notes.until("shown 101")
            async with proxy.refuse():
                await servers[0].peers[0].close(1012)
                await add(2)
            await page.notes.until("shown 103")
            assert await page.run("return [states, lived]") == [1, [True, True, False, False]]
            async with proxy.refuse():
                await servers[0].peers[0].close(1012)
                await add(100)
                await page.do("go", at=second.url)
            async with asyncio.timeout(60):
                while await page.run("return entries") != board:
                    pass
            await add(1)
            await page.notes.until("shown 204")
            assert await page.run("return [states, room.complete, entries]") == [2, True, board]
            async with Page.start(second.url) as other:
                await other.run("globalThis.room = client.room('board'); await room.ready")
                lost = NewLog(id="x", payer="x", keep=60.0), "x", 1, [b""]
                await store.append(hash_of(("room", "board")), *lost)
                async with asyncio.timeout(60):
                    while await page.run("return states") == 2 or await other.run("return room.complete"):
                        pass  # the other page does not handle the state, so it has missed something
                assert await page.run("return room.complete")
    events.close()
    for each in servers:
        await each.close()


async def test_a_page_learns_that_it_may_not_join() -> None:
    house = House(MemoryStore())
    house.allows = False
    async with visit(house) as (_, page):
        assert await page.run("return room.ready.catch((error) => [error.message, room.live])") == [
            "not allowed",
            False,
        ]
        await page.run("globalThis.later = client.room('other')")
        await page.run("client.close(); return later.ready.catch((error) => error.outcome)")


async def test_who_leaves_does_not_join_again_and_may_join_anew() -> None:
    house = House(MemoryStore())
    async with visit(house) as (_, page):
        await page.run("room.leave()")
        await until(lambda: not len(house.lobby))
        await house.server.peers[0].close(1012)
        await page.notes.until("open", 2)
        await page.do("ask", name="join", channel="rooms", args=["other"])
        assert not len(house.lobby)
        await house.emit(1)
        assert await page.run("globalThis.again = client.room('lobby', { last: 1 }); return again !== room")
        await page.notes.until("heard 1")
        assert await page.run("return again.complete")


async def test_who_leaves_in_the_handler_of_an_event_gets_no_more_of_the_room() -> None:
    """The events that were on their way were handled, and moved the position."""
    house = House(MemoryStore())
    async with visit(house) as (_, page):
        await page.run("room.leave()")
        await until(lambda: not len(house.lobby))
        await house.emit(*range(100))
        left = await page.run("""
        globalThis.again = client.room("lobby", { last: 100 })
        const handled = await new Promise((done) => client.on("said", function (what) {
          if (what !== 2) return
          again.leave()
          done(this.position)
        }))
        await client.request("sync")
        return [heard, again.position === handled]
        """)
        assert left == [[0, 1, 2], True]
        assert await page.do("ignored") == {"event of a left room": 97}
        assert await page.run("again.leave(); const anew = client.room('lobby', { last: 1 }); return anew !== again")
        await page.notes.until("heard 99")


async def test_the_store_of_who_is_present_agrees_with_the_server() -> None:
    house = House(MemoryStore())
    bob = Client(auth="bob")

    async def agree(users: int) -> list[Any]:
        """Wait until the page shows what the server knows of so many users."""
        async with asyncio.timeout(60):
            while True:
                users_here = sorted(house.lobby.present().values(), key=attrgetter("user"))
                known: list[Any] = msgspec.json.decode(msgspec.json.encode(users_here))
                shown = sorted(await page.run("return room.present.get()"), key=itemgetter("user"))
                if shown == known and len(known) == users:
                    return known

    async with visit(house, options="about: { name: 'Ada' }") as (proxy, page), connect(house.server, client=bob):
        await page.run(SUBSCRIBE)
        assert await agree(1) == [{"user": "page", "state": "online", "about": [{"name": "Ada"}]}]
        room = bob.room("lobby")
        await room.join(about=1)
        await agree(2)
        async with proxy.cut():
            await page.notes.until("detached")
            await until(lambda: room.present["page"].state == "away")
            await room.join(about=2)
        assert [each["about"] for each in await agree(2)] == [[2], [{"name": "Ada"}]]
        await house.server.peers[0].close(1012)
        await page.run("await room.setAbout({ name: 'Lovelace' })")
        assert [each["about"] for each in await agree(2)] == [[2], [{"name": "Lovelace"}]]
        await room.leave()
        await agree(1)
        assert await page.run("return seen.length > 3 && new Set(seen).size === seen.length")
        assert await page.run("return stop() && room.present.get() === seen.at(-1)")
        assert page.faults.pop().startswith("console: Error: shown")


@pytest.mark.parametrize("keep", [None, 60])
async def test_a_page_changes_what_it_says_of_itself_and_misses_nothing(keep: int | None) -> None:
    house = House(MemoryStore(), keep)
    async with visit(house, options="about: 0") as (_, page):
        await page.run("await room.ready; globalThis.lives = 0; room.on('live', () => lives++); await room.setAbout(1)")
        refused = await page.run("return room.setAbout('x'.repeat(600)).catch((error) => error.message)")
        assert refused == "`about` takes 602 bytes, and at most 512 are allowed"
        assert await page.run("return [told, room.complete, room.error === undefined, lives]") == [0, True, True, 0]
        [peer] = house.server.peers
        await peer.close(1012)  # in the next session, the refused one is not sent again
        await until(lambda: {*house.lobby} - {peer})
        await until(lambda: any(each.about == (1,) for each in house.lobby.present().values()))


WRONG: list[Any] = [7, None, {}, [], ["lobby"], ["lobby", 7], [7, "1"], ["other", "1"], "ab"]


async def test_positions_of_a_hostile_server() -> None:
    async def receive(line: Any, message: Any) -> None:
        if "i" in message:
            await line.send(json.dumps({"i": message["i"], "d": {"position": "1-a", "complete": True}}))
            for at in (*WRONG, ["lobby", "2-b"], *WRONG):
                await line.send(json.dumps({"a": ["said", 1], "ctx": {"at": at}}))
            await line.send(json.dumps({"a": ["said", 2]}))

    async with scripted(receive) as url, Page.start(url) as page:
        await page.run(ENTER % "")
        await page.notes.until("heard 2")
        assert (await page.run(SHOW))["position"] == "2-b"
