"""Sessions between nodes over real engines. What engines lose is played in memory, see `test_links`."""

from __future__ import annotations

import asyncio

import pytest
from cluster_process import is_there, processes
from engines_in_use import OnServer
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize("kind", ["nats", "redis"])
async def test_calls_go_both_ways_and_ride_through_a_frozen_engine(kind: str) -> None:
    broker = OnServer(kind)
    try:
        async with processes(broker.engine) as (a, b):
            for one, other in ((a, b), (b, a)):
                calls = [one.peer(other).request("count", number) for number in range(500)]
                assert await asyncio.gather(*calls) == [-number for number in range(500)]
                async with one.peer(other).stream("numbers", 1000, returns=int) as numbers:
                    assert [number async for number in numbers] == list(range(1000))
            parked = asyncio.create_task(a.peer(b).request("park"))
            await b.parked.wait()
            broker.freeze()
            await turns_until(lambda: not (a.node.connected or b.node.connected))
            broker.thaw()
            await turns_until(lambda: is_there(a, b) and is_there(b, a))
            assert await a.peer(b).request("count", 1000) == -1000 and not parked.done()
            parked.cancel()
            await turns_until(lambda: b.cancelled == 1)
    finally:
        broker.kill()
