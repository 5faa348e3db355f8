"""More handlers, waiting messages, requests, channels and rooms than there may be, on real connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from beside import AMPLE, beside, refused, request, said
from core_driver import Blocked, start
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import TEXT, raw_client

from wsrpc import (
    AnonymousChannel,
    Client,
    Context,
    Overloaded,
    RemoteError,
    RpcError,
    StreamOverflow,
    TooManyRequests,
)

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


async def test_above_the_rate_requests_are_overloaded_and_events_dropped() -> None:
    async with beside(AMPLE.replace(rate=50)) as world, raw_client(world.port) as raw:
        told: list[int] = []
        world.server.on("tell", told.append)
        await raw.send(*(request(raw, i, "echo", i) for i in range(1, 201)))
        answers = [await said(raw) for _ in range(200)]
        assert answers[:50] == [{"i": i, "d": [i]} for i in range(1, 51)]
        refusals = [answer for answer in answers[50:] if "e" in answer]
        assert refusals, "200 messages take less than three seconds"
        assert {answer["e"]["code"] for answer in refusals} == {"wsrpc.overloaded"}
        await world.goes_on()
        peer = await world.newest()
        assert peer.ignored == {"above the rate": len(refusals)}
        await raw.send(*(raw.frame(TEXT, json.dumps({"a": ["tell", number]})) for number in range(200)))
        await turns_until(lambda: len(told) + peer.ignored["above the rate"] - len(refusals) == 200)
        assert len(told) < 200
        assert world.server.stats().ignored == peer.ignored


FOUR = AMPLE.replace(message=10_000, running=8)
"""`Limits.running_bytes` is 40,000: there is room for four messages with `LARGE`, and for small ones."""
LARGE = "x" * 9000


@pytest.mark.parametrize("kind", ["request", "event"])
async def test_handlers_that_hold_more_bytes_than_may_be_wait(kind: str) -> None:
    async with beside(FOUR) as world, raw_client(world.port) as raw:
        work = Blocked()
        world.server.on("work", work)
        for i in range(1, 7):
            message = {"a": ["work", i, LARGE]}
            await raw.send(raw.frame(TEXT, json.dumps(message if kind == "event" else {"i": i, **message})))
        peer = await world.newest()
        await turns_until(lambda: peer.stats().waiting == 2)
        assert len(work.started) == 4
        await raw.send(request(raw, 9, "work", 9))
        await turns_until(lambda: peer.stats().waiting == 3)
        await world.goes_on()
        work.go.set()
        await raw.next_of(TEXT)
        await turns_until(lambda: len(work.finished) == 7)
        assert [number for number, *_ in work.started] == [1, 2, 3, 4, 5, 6, 9], "nobody overtakes those who wait"
        assert peer._core.dispatcher.running.held == 0


async def test_a_handler_that_takes_longer_than_it_may_is_cancelled() -> None:
    async with beside(AMPLE.replace(handler=0.05)) as world, raw_client(world.port) as raw:
        work = Blocked()
        world.server.on("work", work)
        await raw.send(request(raw, 1, "work"))
        await refused(raw, 1, "wsrpc.handler_timeout")
        peer = await world.newest()
        await turns_until(lambda: peer.active == 0)
        assert len(work.started) == 1 and not work.finished
        await world.goes_on()


@pytest.mark.parametrize("kind", ["stream", "conversation"])
async def test_open_channels_make_nobody_wait_and_one_that_would_hold_too_many_bytes_is_refused(kind: str) -> None:
    async with beside(FOUR) as world, Client(world.url, limits=AMPLE) as client:
        begun: list[str] = []

        @world.server.use
        async def watch(ctx: Context, call_next: Callable[[Context], Awaitable[Any]]) -> Any:
            begun.append(ctx.event)
            return await call_next(ctx)

        @world.server.on("count")
        async def count(text: str) -> AsyncIterator[int]:
            for number in range(1000):
                yield number

        @world.server.on("talk")
        async def talk(text: str, channel: AnonymousChannel) -> None:
            await channel.wait_closed()

        async def open_one() -> Callable[[], Awaitable[None]]:
            if kind == "conversation":
                return (await client.open_channel("talk", LARGE)).abort
            stream = client.stream("count", LARGE)
            assert await anext(stream) == 0
            return stream.aclose

        opened = [await open_one() for _ in range(4)]
        begun.clear()
        with pytest.raises(Overloaded, match="running_bytes"):
            await open_one()
        assert not begun, "Overloaded says that nothing of the call ran"
        assert client.peer._out.requests.flight.bytes == 0, "the caller's side counts as the other does"
        assert await client.request("echo", LARGE) == [LARGE]
        peer = await world.newest()
        assert peer.stats().waiting == 0
        await opened.pop()()
        opened.append(await open_one())
        for leave in opened:
            await leave()
        await turns_until(
            lambda: (peer._core.dispatcher.running.held, peer._core.dispatcher.running.held_by_channels) == (0, 0)
        )


async def test_a_handler_that_turns_out_to_stream_and_holds_too_many_bytes_has_run() -> None:
    async with beside(FOUR) as world, Client(world.url, limits=AMPLE) as client:
        go = asyncio.Event()

        async def numbers() -> AsyncIterator[int]:
            yield 1
            await go.wait()

        world.server.on("count", lambda text: numbers())
        streams = [client.stream("count", LARGE) for _ in range(4)]
        assert [await anext(stream) for stream in streams] == [1] * 4
        with pytest.raises(RemoteError, match="running_bytes") as caught:
            await anext(client.stream("count", LARGE))
        assert caught.value.code == "wsrpc.too_many_channels"
        go.set()
        for stream in streams:
            assert [item async for item in stream] == []
        peer = await world.newest()
        await turns_until(
            lambda: (peer._core.dispatcher.running.held, peer._core.dispatcher.running.held_by_channels) == (0, 0)
        )


async def test_a_handler_that_outlives_its_channel_holds_its_bytes_until_it_exits() -> None:
    async with beside(FOUR) as world, Client(world.url, limits=AMPLE) as client:
        go = asyncio.Event()

        @world.server.on("count")
        async def count(text: str) -> AsyncIterator[int]:
            try:
                for number in range(1000):
                    yield number
            finally:
                await go.wait()

        peer = await world.newest()
        *first, last = (client.stream("count", LARGE) for _ in range(5))
        for stream in first:
            assert await anext(stream) == 0
            await stream.aclose()
        await turns_until(lambda: peer._core.dispatcher.running.held > 4 * len(LARGE))
        assert peer._core.dispatcher.running.held_by_channels == 0
        waits = start(anext(last))
        await turns_until(lambda: peer.stats().waiting == 1)
        go.set()
        assert await waits == 0
        await last.aclose()
        await turns_until(
            lambda: (peer._core.dispatcher.running.held, peer._core.dispatcher.running.held_by_channels) == (0, 0)
        )


async def test_a_wsrpc_caller_waits_on_its_own_side_for_bytes_too() -> None:
    async with beside(FOUR.replace(waiting=20)) as world, Client(world.url, limits=AMPLE) as client:
        work = Blocked()
        world.server.on("work", work)
        assert await client.request("echo") == []
        requests = [start(client.request("work", number, LARGE)) for number in range(20)]
        await turns_until(lambda: work.started)
        await world.goes_on()
        assert len(work.started) == 4
        work.go.set()
        assert [(await each)[0] for each in requests] == [*range(20)]
        requests_table = client.peer._out.requests
        assert (requests_table.flight.requests, requests_table.flight.bytes, requests_table.flight.waiting) == (0, 0, 0)


@pytest.mark.parametrize(
    ("bound", "text"), [({"waiting": 2}, ""), ({"waiting": 20, "message": 5000}, "x" * 2000)], ids=["messages", "bytes"]
)
async def test_past_those_that_may_wait_requests_are_overloaded_and_events_dropped(
    bound: dict[str, int], text: str
) -> None:
    async with beside(AMPLE.replace(running=1, **bound)) as world, raw_client(world.port) as raw:
        work = Blocked()
        world.server.on("work", work)
        event = raw.frame(TEXT, json.dumps({"a": ["work", 5, text]}))
        await raw.send(*(request(raw, i, "work", i, text) for i in (1, 2, 3, 4)), event)
        await refused(raw, 4, "wsrpc.overloaded")
        peer = await world.newest()
        await turns_until(lambda: peer.ignored)
        await world.goes_on()
        work.go.set()
        assert [(await said(raw))["i"] for _ in range(3)] == [1, 2, 3]
        assert work.started == [(1, text), (2, text), (3, text)]


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
        peer = await world.newest()
        await turns_until(lambda: peer.channels == 0 and peer.active == 0)
        await raw.send(raw.frame(TEXT, '{"h":1,"a":["start"]}'))
        aborted = await said(raw)
        assert aborted["h"] == 1 and "x" in aborted
        await world.goes_on()


@pytest.mark.parametrize(
    ("bound", "most"),
    [({"stream_window": 4}, 4), ({"stream_window": 128}, 8)],
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


async def test_unread_messages_on_many_channels_take_so_much_memory_and_no_more() -> None:
    async with beside(AMPLE.replace(unread_bytes=200_000)) as world, raw_client(world.port) as raw:
        made: list[AnonymousChannel] = []

        @world.server.on("open_it")
        def open_it(ctx: Context) -> AnonymousChannel:
            made.append(ctx.channel())
            return made[-1]

        for i in range(1, 9):
            await raw.send(request(raw, i, "open_it"))
            assert await said(raw) == {"i": i, "h": 1}
        small = [raw.frame(TEXT, json.dumps({"h": i, "a": ["x"]})) for i in range(1, 9)]
        await raw.send(*small[:7] * 200)  # 24 KB, which take 280 KB
        aborted = await said(raw)
        assert "unread_bytes=200000" in aborted["x"]["message"]
        await world.goes_on()
        await raw.send(small[7])
        events = made[7].events("x")
        assert await anext(events) is None, "the others go on"
        assert made[aborted["h"] - 1].closed and len([channel for channel in made if channel.closed]) <= 2
        for channel in made:
            channel.close()


async def test_a_channel_that_nobody_reads_is_aborted_unless_it_is_in_use() -> None:
    async with beside(AMPLE.replace(unread=0.05)) as world, Client(world.url, limits=AMPLE) as client:
        go = asyncio.Event()

        @world.server.on("idle")
        async def idle(channel: AnonymousChannel) -> None:
            await asyncio.Event().wait()

        @world.server.on("calculate")
        async def calculate(channel: AnonymousChannel) -> None:
            await channel.emit("ready")
            await go.wait()
            channel.on("add", lambda a, b: a + b)
            await asyncio.Event().wait()

        unused, used = await client.open_channel("idle"), await client.open_channel("calculate")
        for channel in (unused, used):
            await channel.emit("tick")
        await unused.wait_closed()
        assert "Limits.unread" in str(unused.close_reason)
        peer = await world.newest()
        await turns_until(lambda: peer.ignored["unread event"])
        go.set()
        assert await used.request("add", 1, 2) == 3
        await used.abort()
        await turns_until(lambda: not peer.active)


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
