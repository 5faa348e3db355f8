"""Rooms that keep their events in a store that several servers share: one order, and no event is missed untold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from stores_in_use import Connect
from stores_in_use import connect as connect
from test_stores import servers as servers
from test_stores_lost import Mortal
from test_stores_lost import client as client
from test_stores_lost import mortal as mortal
from waiting import until

import wsrpc.testing
from wsrpc import Client, Context, Server
from wsrpc.store import Store
from wsrpc_adapters.redis import RedisStore

pytestmark = pytest.mark.usefixtures("nothing_left")


EACH = 30
"""Events of each speaker."""


class Ear:
    """A client of a server. It hears the events of the room "lobby", each with its position."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self.position = ""

        @client.on("said")
        def said(ctx: Context, text: Any) -> None:
            assert ctx.room == "lobby" and ctx.position is not None
            self.position = ctx.position
            self.heard.put_nowait(text)

        @client.of("rooms").on("missed")
        def missed(room: str, position: str) -> None:
            self.heard.put_nowait("missed")

        @client.of("rooms").on("state")
        def begin(room: str, position: str, state: Any) -> None:
            self.heard.put_nowait(state)

    async def join(self, **options: Any) -> Any:
        return await self.client.of("rooms").request("join", "lobby", options)

    async def hear(self, count: int) -> list[Any]:
        return [await self.heard.get() for _ in range(count)]


class House:
    """A server whose room keeps its events."""

    def __init__(self, store: Store, stack: AsyncExitStack, **options: Any) -> None:
        self.server = Server(store=store)
        self.lobby = self.server.room("lobby", allow=lambda peer: True, keep=3600, **options)
        self._stack = stack
        stack.push_async_callback(self.server.close)

    async def ear(self, **options: Any) -> Ear:
        ear = Ear(await self._stack.enter_async_context(wsrpc.testing.connect(self.server)))
        ear.position = (await ear.join(**options))["position"]
        return ear


@asynccontextmanager
async def houses(*stores: Store, **options: Any) -> AsyncGenerator[list[House]]:
    async with AsyncExitStack() as stack:
        yield [House(store, stack, **options) for store in stores]


async def test_members_of_all_servers_get_all_events_in_one_order(connect: Connect) -> None:
    async with houses(connect(), connect(), connect()) as (one, two, empty):
        ears = [await one.ear(), await two.ear(), await two.ear()]

        async def talk(house: House, name: str) -> list[int]:
            return [(await house.lobby.emit("said", f"{name}{number}", skip=None)).sent for number in range(EACH)]

        talks = [(one, "a"), (one, "b"), (two, "c"), (empty, "d")]
        reports = await asyncio.gather(*(talk(*each) for each in talks))
        assert reports == [[1] * EACH, [1] * EACH, [2] * EACH, [0] * EACH]
        heard = [await ear.hear(4 * EACH) for ear in ears]
        assert heard[0] == heard[1] == heard[2]
        for name in "abcd":
            assert [text for text in heard[0] if text[0] == name] == [f"{name}{number}" for number in range(EACH)]
        late = await empty.ear(last=3)
        assert await late.hear(3) == heard[0][-3:]
        for house in (one, two):
            again = await house.ear(after=late.position)
            assert (again.position, again.heard.qsize()) == (late.position, 0)


async def test_who_is_left_out_does_not_get_the_event_later_either(connect: Connect) -> None:
    async with houses(connect(), connect()) as (one, two):
        begin = (await one.ear()).position
        left_out, other = await one.ear(), await two.ear()
        peer = one.server.peers[1]
        await one.lobby.emit("said", 1, skip=peer)
        await two.lobby.emit("said", 2)
        assert await other.hear(2) == [1, 2] and await left_out.hear(1) == [2]
        one.lobby.remove(peer)
        assert (await left_out.join(after=begin))["complete"]
        assert await left_out.hear(1) == [2]


@pytest.mark.parametrize("lost", ["everything", "the last events"])
async def test_what_redis_has_lost_is_told(mortal: Mortal, client: Any, lost: str) -> None:
    async with houses(RedisStore(mortal.url), RedisStore(mortal.url)) as (one, two):
        here, there = await one.ear(), await two.ear()
        await one.lobby.emit("said", 1)
        assert await here.hear(1) == await there.hear(1) == [1]
        early = here.position
        if lost == "the last events":
            await client.save()
        await two.lobby.emit("said", 2)
        assert await here.hear(1) == await there.hear(1) == [2]
        before = here.position
        mortal.server.kill()
        mortal.start()
        assert await here.hear(1) == await there.hear(1) == ["missed"]
        await asyncio.gather(one.lobby.emit("said", 3), two.lobby.emit("said", 4))
        for each in (here, there):
            heard = await each.hear(2)
            while "missed" in heard:  # who learns of the loss late may be told once more
                heard.remove("missed")
                heard += await each.hear(1)
            assert sorted(heard) == [3, 4]
        late = await one.ear(after=before)
        assert await late.hear(1) == ["missed"]
        back = await two.ear(after=early)  # which is still valid, if Redis has lost only the last events
        assert back.heard.get_nowait() == "missed"


@pytest.mark.parametrize("state", [None, lambda peer: "state"], ids=["missed", "state"])
async def test_another_log_with_as_many_events_is_noticed_at_once(
    mortal: Mortal, client: Any, state: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("wsrpc._server.rooms.room_log.WAIT", 900)
    async with houses(RedisStore(mortal.url)) as (before,):
        for number in range(3):
            await before.lobby.emit("said", number)
        await client.save()
    await client.flushall()
    async with houses(RedisStore(mortal.url), RedisStore(mortal.url), state=state) as (one, two):
        ears = [await one.ear(), await two.ear()]
        told = [] if state is None else ["state"]
        assert [await ear.hear(len(told)) for ear in ears] == [told, told]
        for number in (1, 2):  # the log has an entry before them
            await one.lobby.emit("said", number)
        assert [await ear.hear(2) for ear in ears] == [[1, 2], [1, 2]]
        mortal.server.kill()
        await until(lambda: caplog.text.count("does not answer") == 2)
        mortal.start()
        assert [await ear.hear(1) for ear in ears] == [told or ["missed"]] * 2
        await two.lobby.emit("said", 3)
        assert [await ear.hear(1) for ear in ears] == [[3], [3]]
    assert "lost events" not in caplog.text and "cannot be read" not in caplog.text


async def test_servers_without_members_notice_what_redis_has_lost(mortal: Mortal, client: Any) -> None:
    async with houses(RedisStore(mortal.url), RedisStore(mortal.url)) as (one, two):
        await one.lobby.emit("said", 1)
        early = (await two.ear(last=1)).position
        await asyncio.gather(*[peer.close() for peer in two.server.peers])
        await client.save()
        await one.lobby.emit("said", 2)
        mortal.server.kill()
        mortal.start()
        await one.lobby.emit("said", 3)
        back = await two.ear(after=early)
        assert sorted(map(str, await back.hear(2))) == ["3", "missed"]
