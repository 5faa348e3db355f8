"""Between two wsrpc peers a caller waits on its own side for a place over there, instead of being refused."""

from __future__ import annotations

import asyncio

import pytest
from core_driver import Blocked, redialing, start, turns
from session_story import story
from stream_driver import welcome

from wsrpc import ConnectionLost, Limits, Overloaded, RequestTimeout
from wsrpc.testing import Clock, pair

TIGHT = Limits(running=2, waiting=3)


@pytest.mark.parametrize(
    ("limits", "size", "waiting", "extensions"),
    [(TIGHT, 0, 3, True), (TIGHT, 0, 3, False), (Limits(running=2, waiting=100, message=25_000), 10_000, 2, True)],
    ids=["places", "plain", "bytes"],
)
async def test_a_caller_waits_for_a_place_and_nothing_is_refused(
    limits: Limits, size: int, waiting: int, extensions: bool
) -> None:
    """A plain peer cannot know, and is refused."""
    work = Blocked()
    async with pair(limits=limits, extensions=extensions) as (a, b):
        b.on("work", work)
        await turns()  # until each knows the other
        tasks = [start(a.request("work", n, "x" * size)) for n in range(20)]
        await turns()
        assert (len(work.started), b.stats().waiting) == (2, waiting)
        work.go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        done = 20 if extensions else 2 + waiting
        assert results[:done] == [[n, "x" * size] for n in range(done)]
        assert [type(result) for result in results[done:]] == [Overloaded] * (20 - done)
        assert (a.pending, b.active) == (0, 0)


@pytest.mark.parametrize("first", ["times out", "waits"])
async def test_a_drop_forgets_the_capacity_of_requests_that_wait_for_the_connection(first: str) -> None:
    room = {"running": 1, "waiting": 100, "running_bytes": 10_000, "waiting_bytes": 1_000}
    d = redialing(extensions=True)
    await d.fed(welcome(**room))
    runs = start(d.peer.request("work", timeout=None))
    await turns()
    d.transport.pause()
    waits = start(d.peer.request("work", "x" * 600, timeout=1.0))
    await turns()
    if first == "times out":
        d.clock.advance(2.0)
    d.transport.lose()
    await turns()
    d.rebind()
    await turns()
    d.feed(*({"i": message["i"], "d": "done"} for message in d.take() if "a" in message))
    results = await asyncio.gather(runs, waits, return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionLost, RequestTimeout if first == "times out" else str]
    await d.fed(welcome(**room))
    tasks = [start(d.peer.request("work", "x" * 600, timeout=None)) for _ in range(3)]
    await turns()
    assert sum("work" in message.get("a", ()) for message in d.take()) == 2, "one runs, one waits there"
    for task in tasks:
        task.cancel()
    await turns()


async def test_a_request_that_waits_for_capacity_can_be_cancelled_time_out_or_lose_the_connection() -> None:
    work = Blocked()
    clock = Clock()
    async with pair(limits=TIGHT, clock=clock) as (a, b):
        b.on("work", work)
        await turns()
        first = [start(a.request("work", n, timeout=None)) for n in range(5)]
        await turns()
        leaves = start(a.request("work", "leaves", timeout=None))
        late = start(a.request("work", "late", timeout=1.0))
        stays = start(a.request("work", "stays", timeout=None))
        await turns()
        leaves.cancel()
        clock.advance(2.0)
        with pytest.raises(RequestTimeout):
            await late
        first[0].cancel("enough")  # its handler exits, and so makes room
        await turns(20)
        assert work.started == [(0,), (1,), (2,)]
        assert a.transport is not None
        a.transport.abort()
        results = await asyncio.gather(*first[1:], stays, return_exceptions=True)
        assert all(isinstance(result, ConnectionLost) for result in results)
        assert a.pending == 0


async def test_a_request_that_may_not_wait_for_another_connection_leaves_when_the_connection_drops() -> None:
    work = Blocked()
    async with story(server=Limits(running=1, waiting=0)) as s:
        s.server.on("work", work)
        running = start(s.client.request("work", "running"))
        refused = start(s.client.request("work", "refused", offline="fail"))
        waits = start(s.client.request("work", "waits"))
        await turns()
        await s.cut()
        with pytest.raises(ConnectionLost) as caught:
            await refused
        assert caught.value.outcome == "not_sent"
        await s.repair()
        work.go.set()
        assert [await running, await waits] == [["running"], ["waits"]]
        assert work.started == [("running",), ("waits",)]


async def test_a_cancelled_request_keeps_its_place_until_its_handler_exits() -> None:
    gone = asyncio.Event()

    async def stubborn(n: int) -> int:
        while not gone.is_set():
            try:
                await gone.wait()
            except asyncio.CancelledError:
                continue
        return n

    async with pair(limits=Limits(running=1, waiting=0)) as (a, b):
        b.on("work", stubborn)
        await turns()
        first = start(a.request("work", 1))
        await turns()
        first.cancel()
        await turns()
        second = start(a.request("work", 2))
        await turns()
        assert not second.done()
        gone.set()
        assert await second == 2
