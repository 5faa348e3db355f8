"""`Server.room(keep=)`: events are kept, and members miss none of them, or are told.

tests/adapters/test_room_logs.py has several servers with a common store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left

from wsrpc import BadArguments, Client, Server
from wsrpc.store import MemoryStore
from wsrpc.testing import connect

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
