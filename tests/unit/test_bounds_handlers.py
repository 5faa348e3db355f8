"""More handlers, waiting messages, requests, channels and rooms than there may be, on real connections."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from beside import AMPLE, beside, refused, request, said
from core_driver import Blocked, start
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import TEXT, raw_client

from wsrpc import Client, Overloaded, RpcError, StreamOverflow, TooManyRequests

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_more_handlers_than_may_run_wait_for_a_place() -> None:
    async with beside(AMPLE.replace(running=2)) as world, raw_client(world.port) as raw:
        work = Blocked()
        world.server.on("work", work)
        await raw.send(*(request(raw, i, "work", i) for i in (1, 2, 3)))
        await turns_until(lambda: len(work.started) == 2)
        peer = await world.newest()
        assert peer.active == 2
        await world.goes_on()
        work.go.set()
        # Which one is answered first depends on the Python: from 3.12 on a task's first step runs at once.
        answers = [await said(raw) for _ in range(3)]
        assert sorted(answers, key=lambda answer: answer["i"]) == [{"i": i, "d": [i]} for i in (1, 2, 3)]


@pytest.mark.parametrize("bound", [{"waiting": 2}, {"waiting_bytes": 60}], ids=["messages", "bytes"])
async def test_past_those_that_may_wait_requests_are_overloaded_and_events_dropped(bound: dict[str, int]) -> None:
    async with beside(AMPLE.replace(running=1, **bound)) as world, raw_client(world.port) as raw:
        work = Blocked()
        world.server.on("work", work)
        event = raw.frame(TEXT, json.dumps({"a": ["work", 5]}))
        await raw.send(*(request(raw, i, "work", i) for i in (1, 2, 3, 4)), event)
        await refused(raw, 4, "wsrpc.overloaded")
        peer = await world.newest()
        await turns_until(lambda: peer.ignored)
        await world.goes_on()
        work.go.set()
        assert [(await said(raw))["i"] for _ in range(3)] == [1, 2, 3]
        assert work.started == [(1,), (2,), (3,)]


async def test_a_wsrpc_caller_waits_on_its_own_side_instead() -> None:
    async with beside(AMPLE.replace(running=1, waiting=1)) as world, Client(world.url, limits=AMPLE) as client:
        work = Blocked()
        world.server.on("work", work)
        assert await client.request("echo") == []
        requests = [start(client.request("work", number)) for number in range(10)]
        await turns_until(lambda: work.started)
        await world.goes_on()
        work.go.set()
        assert [await each for each in requests] == [[number] for number in range(10)]


async def test_more_pending_requests_than_may_be_raise() -> None:
    async with beside(AMPLE.replace(pending=2)) as world, Client(world.url, limits=AMPLE) as client:
        work = Blocked()
        client.on("work", work)
        peer = await world.newest()
        requests = [start(peer.request("work", number)) for number in range(2)]
        await turns_until(lambda: len(work.started) == 2)
        with pytest.raises(TooManyRequests):
            await peer.request("work", 3)
        await world.goes_on()
        work.go.set()
        assert [await each for each in requests] == [[0], [1]]


async def test_more_channels_than_may_be_are_overloaded() -> None:
    async with beside(AMPLE.replace(channels=2)) as world, Client(world.url, limits=AMPLE) as client:

        @world.server.on("count")
        async def count() -> AsyncIterator[int]:
            for number in range(1000):
                yield number

        streams = [client.stream("count") for _ in range(2)]
        assert [await anext(stream) for stream in streams] == [0, 0]
        with pytest.raises(Overloaded):
            await anext(client.stream("count"))
        await world.goes_on()
        for stream in streams:
            await stream.aclose()
        third = client.stream("count")
        assert await anext(third) == 0
        await third.aclose()


async def test_a_stream_that_nobody_begins_to_read_is_aborted() -> None:
    async with beside(AMPLE.replace(unread=0.05)) as world, raw_client(world.port) as raw:
        closed: list[int] = []

        @world.server.on("count")
        async def count() -> AsyncIterator[int]:
            try:
                yield 1
            finally:
                closed.append(1)

        await raw.send(request(raw, 1, "count"))
        assert await said(raw) == {"i": 1, "h": 1}
        aborted = await said(raw)
        assert aborted["h"] == 1 and "x" in aborted
        peer = await world.newest()
        await turns_until(lambda: peer.channels == 0 and peer.active == 0)
        await world.goes_on()


@pytest.mark.parametrize(
    ("bound", "most"),
    [({"stream_window": 4}, 4), ({"stream_window_bytes": 64 * 1024}, 8)],
    ids=["items", "bytes"],
)
async def test_the_producer_of_a_stream_waits_for_its_reader(bound: dict[str, int], most: int) -> None:
    async with beside(AMPLE) as world, Client(world.url, limits=AMPLE.replace(**bound)) as client:
        produced = 0

        @world.server.on("fill")
        async def fill() -> AsyncIterator[str]:
            nonlocal produced
            for _ in range(100):
                produced += 1
                yield "x" * 10_000

        stream = client.stream("fill", returns=str)
        await anext(stream)
        for _ in range(20):
            await world.goes_on()
        assert produced <= most + 2, "those on the way, the one that was read and the one that waits"
        assert len([item async for item in stream]) == 99


async def test_a_producer_that_knows_no_flow_control_overflows_the_queue() -> None:
    async with beside(AMPLE.replace(stream_queue=10_000)) as world, raw_client(world.port) as raw:
        peer = await world.newest()
        stream = peer.stream("fill", returns=str)
        first = start(anext(stream))
        h = (await said(raw))["i"]
        await raw.send(raw.frame(TEXT, json.dumps({"i": h, "h": h})))
        assert await said(raw) == {"h": h, "a": ["start"]}
        item = json.dumps({"h": h, "a": ["next", {"value": "x" * 1000, "done": False}]})
        await raw.send(*(raw.frame(TEXT, item) for _ in range(100)))
        aborted = await said(raw)
        assert aborted["h"] == h and "stream_queue" in aborted["x"]["message"]
        await first
        await world.goes_on()
        read = 0

        async def rest() -> None:
            nonlocal read
            async for _ in stream:
                read += 1

        with pytest.raises(StreamOverflow):
            await rest()
        assert 8 <= read <= 12, "what fitted is read first"


async def test_more_rooms_than_may_be_are_refused() -> None:
    async with beside(AMPLE.replace(rooms=2)) as world, Client(world.url, limits=AMPLE) as client:
        world.server.on_join(lambda peer, room: True)
        rooms = client.of("rooms")
        for name in ("a", "b"):
            await rooms.request("join", name)
        with pytest.raises(RpcError, match="in 2 rooms already"):
            await rooms.request("join", "c")
        await world.goes_on()
        assert [room.name for room in world.server.rooms] == ["a", "b"]
    assert not world.server.rooms
