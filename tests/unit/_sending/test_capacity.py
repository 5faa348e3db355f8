"""Between two wsrpc peers a caller waits on its own side for a place over there, instead of being refused."""

from __future__ import annotations

import asyncio

import pytest
from core_driver import Blocked, redialing, start, turns
from session_story import story
from stream_driver import welcome

from wsrpc import ConnectionLost, Limits, Overloaded, Peer, RequestTimeout
from wsrpc.testing import Clock, pair

TIGHT = Limits(running=2, waiting=3)


async def test_a_caller_waits_for_a_place_and_nothing_is_refused() -> None:
    work = Blocked()
    async with pair(limits=TIGHT) as (a, b):
        b.on("work", work)
        await turns()  # until each knows the other
        tasks = [start(a.request("work", n)) for n in range(20)]
        await turns()
        assert len(work.started) == 2
        assert b.stats().waiting == 3  # the others are still on the caller's side
        work.go.set()
        assert await asyncio.gather(*tasks) == [[n] for n in range(20)]
        assert work.started == [(n,) for n in range(20)]
        assert (a.pending, b.active) == (0, 0)


async def test_plain_peers_are_refused() -> None:
    work = Blocked()
    async with pair(limits=TIGHT, extensions=False) as (a, b):
        b.on("work", work)
        tasks = [start(a.request("work", n)) for n in range(8)]
        await turns()
        work.go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [list] * 5 + [Overloaded] * 3


async def test_bytes_that_wait_there_are_bounded_too() -> None:
    work = Blocked()
    async with pair(limits=Limits(running=1, waiting=100, message=25_000)) as (a, b):
        b.on("work", work)
        await turns()
        tasks = [start(a.request("work", "x" * 10_000, n)) for n in range(10)]
        await turns()
        assert b.stats().waiting == 2
        work.go.set()
        assert [last for _, last in await asyncio.gather(*tasks)] == list(range(10))


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


ROOM = {"running": 1, "waiting": 100, "running_bytes": 10_000, "waiting_bytes": 1_000}


def waiting_there(peer: Peer) -> int:
    return peer._out.requests.flight.waiting


@pytest.mark.parametrize("when", ["drops", "times out and drops"])
async def test_a_drop_forgets_the_capacity_of_requests_that_wait_for_the_connection(when: str) -> None:
    d = redialing(extensions=True)
    await d.fed(welcome(**ROOM))
    runs = start(d.peer.request("work", timeout=None))
    await turns()
    d.transport.pause()
    tasks = [start(d.peer.request("work", "x" * 600, timeout=1.0)) for _ in range(2)]
    await turns()
    assert waiting_there(d.peer) > 600
    if when == "times out and drops":
        d.clock.advance(2.0)
    d.transport.lose()
    assert waiting_there(d.peer) == 0
    await turns()
    assert waiting_there(d.peer) == 0
    d.rebind()
    await turns()
    for message in d.take():
        if "a" in message:
            d.feed({"i": message["i"], "d": "done"})
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert waiting_there(d.peer) == 0 and d.peer._out.requests.flight.requests == 0
    if when == "drops":
        assert results == ["done", "done"]
    else:
        assert all(isinstance(result, RequestTimeout) for result in results)
    with pytest.raises(ConnectionLost):
        await runs


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


async def test_a_request_that_cannot_be_encoded_leaves_its_turn_to_the_next_one() -> None:
    work = Blocked()
    async with pair(limits=Limits(running=1, waiting=1)) as (a, b):
        b.on("work", work)
        await turns()
        first = [start(a.request("work", n, timeout=None)) for n in range(3)]
        await turns()
        flight = a._out.requests.flight
        assert flight.awaited  # the third one waits on this side
        flight.awaited = False
        first[0].cancel()
        first[1].cancel()
        await turns()
        flight.awaited = True
        # There will be a place for these, too, but not their turn. When that comes the place is taken, so that the size
        # counts, for which the request is encoded.
        mistaken = start(a.request("work", object(), timeout=None))
        last = start(a.request("work", "last", timeout=None))
        flight.freed()  # both places are free at once, and the third request is woken
        work.go.set()
        with pytest.raises(TypeError):
            await mistaken
        assert [await first[2], await last] == [[2], ["last"]]
