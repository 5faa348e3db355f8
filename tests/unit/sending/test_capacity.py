"""Between two wsrpc peers a caller waits on its own side for a place over there, instead of being refused."""

from __future__ import annotations

import asyncio
import json

import pytest
from core_driver import Blocked, Driven, redialing, start, turns
from leftovers import turns_until
from stream_driver import welcome

from wsrpc import ConnectionLost, Limits, RequestTimeout
from wsrpc.testing import Clock, pair

TIGHT = Limits(running=2, waiting=3)


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
    size = len(json.dumps({"i": 2**30 + 1, "a": ["work", "x" * 600]}, separators=(",", ":")))
    await d.fed(welcome(**{**room, "waiting_bytes": size}))
    tasks = [start(d.peer.request("work", "x" * 600, timeout=None)) for _ in range(3)]
    await turns()
    assert sum("work" in message.get("a", ()) for message in d.take()) == 2, "one runs, one waits there"
    for task in tasks:
        task.cancel()
    await turns()


@pytest.mark.parametrize("place", ["for capacity", "for room", "for both"])
async def test_a_request_that_waits_ends_with_its_session_if_the_peer_keeps_nothing(place: str) -> None:
    d = Driven(dialer=True, extensions=True)
    await d.fed(welcome(**({} if place == "for room" else {"running": 1, "waiting": 0, "waiting_bytes": 0})))
    runs, _ = await d.asks("runs")
    if place != "for capacity":
        d.transport.pause()
    waits = start(d.peer.request("waits"))
    await turns()
    d.rebind()
    await turns()
    assert [message["a"] for message in d.take() if "a" in message] == []
    for task, outcome in ((runs, "unknown"), (waits, "not_sent")):
        error = task.exception()
        assert isinstance(error, ConnectionLost) and (error.code, error.outcome) == (1001, outcome)
    d.assert_empty()


@pytest.mark.parametrize(
    ("limits", "small", "large", "size"),
    [
        (Limits(running=2, waiting=100, message_bytes=100_000), 2, 5, 60_000),
        (Limits(), 1024, 8, 2**20),
    ],
    ids=["tight", "default"],
)
async def test_what_does_not_fit_behind_handlers_that_run_waits_on_this_side(
    limits: Limits, small: int, large: int, size: int
) -> None:
    """There was room for the bytes in all, but not for those that had to wait."""
    work = Blocked()
    async with pair(limits=limits) as (a, b):
        b.on("work", work)
        await turns()
        asking = [start(a.request("work", "s")) for _ in range(small)]
        await turns_until(lambda: len(work.started) == small)
        asking += [start(a.request("work", "x" * size)) for _ in range(large)]
        await turns()
        work.go.set()
        assert len(await asyncio.gather(*asking)) == small + large


@pytest.mark.parametrize(
    ("limits", "count", "size"),
    [(Limits(running=20, waiting=1, high_water_bytes=100), 40, 60), (Limits(), 80, 300_000)],
    ids=["tight", "default"],
)
async def test_requests_that_wait_for_room_in_the_connection_do_not_overload_the_remote_peer(
    limits: Limits, count: int, size: int
) -> None:
    """When they were made there was room over there for each of them, but not for all."""
    work = Blocked()
    async with pair(limits=limits) as (a, b):
        b.on("work", work)
        await turns()
        asking = [start(a.request("work", n, "x" * size)) for n in range(count)]
        await turns_until(lambda: b.stats().waiting > 0)
        asking.append(start(a.request("work", count, "later")))
        await turns()
        work.go.set()
        await asyncio.gather(*asking)
        assert [n for n, _ in work.started] == [*range(count + 1)]


async def test_a_request_that_waits_for_capacity_can_fail_in_any_way_and_the_next_one_leaves() -> None:
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
        assert work.started == [(0,), (1,), (2,)] and b.stats().waiting == 3
        assert a.transport is not None
        a.transport.abort()
        results = await asyncio.gather(*first[1:], stays, return_exceptions=True)
        assert all(isinstance(result, ConnectionLost) for result in results)
        assert a.pending == 0


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


async def test_a_request_that_was_accepted_but_not_sent_gives_its_place_back() -> None:
    d = redialing(extensions=True)
    await d.fed(welcome(running=1, waiting=0, waiting_bytes=0))
    _, i = await d.asks("runs")
    first, second = (start(d.peer.request(name, timeout=None)) for name in ("first", "second"))
    await turns()
    d.transport.pause()
    await d.fed({"i": i, "d": 1})  # so the first of them is accepted, and waits for room
    first.cancel()
    await turns()
    d.transport.resume()
    await turns()
    [sent] = d.take()
    assert sent["a"] == ["second"]
    await d.fed({"i": sent["i"], "d": 2})
    assert await second == 2
