"""Between two wsrpc peers a caller waits on its own side for a place over there, instead of being refused."""

from __future__ import annotations

import asyncio

import pytest
from core_driver import Blocked, start, turns

from wsrpc import ConnectionLost, Limits, RequestTimeout
from wsrpc.testing import Clock, pair

TIGHT = Limits(running=2, waiting=3)


async def test_a_request_that_waits_for_capacity_can_fail_in_any_way_and_the_next_one_leaves() -> None:
    work, value = Blocked(), list[object]()
    clock = Clock()
    async with pair(limits=TIGHT, clock=clock) as (a, b):
        b.on("work", work)
        await turns()
        first = [start(a.request("work", n, timeout=None)) for n in range(5)]
        await turns()
        leaves = start(a.request("work", "leaves", timeout=None))
        late = start(a.request("work", "late", timeout=1.0))
        changed = start(a.request("work", value, timeout=None))
        stays = start(a.request("work", "stays", timeout=None))
        await turns()
        leaves.cancel()
        clock.advance(2.0)
        with pytest.raises(RequestTimeout):
            await late
        value.append(object())  # it is encoded when it leaves
        first[0].cancel("enough")  # its handler exits, and so makes room
        with pytest.raises(TypeError):
            await changed
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
