"""Very many requests, and very many streams, uploads and conversations. Half of them are cancelled at any moment, the
others are left in every way: each ends once, and nothing is left of them on either side.

``WSRPC_SOAK=1`` runs 100,000 of each instead of a number that fits an ordinary test run.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from typing import Any

import leftovers
import pytest
from effort import SOAK
from leftovers import living_objects, other_tasks
from leftovers import only_objects_of_the_test as only_objects_of_the_test
from traffic import ENOUGH, LEAVING, Ledger, turns

from wsrpc import Limits, Peer
from wsrpc.testing import pair

LEFT = 1024 * 1024  # bytes


def held() -> tracemalloc.Snapshot:
    """What is allocated, except where objects are counted. Python's table of strings may grow by 7 MiB there."""
    return tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, leftovers.__file__)])


class Storm:
    """Calls from both sides. The test cancels calls that would never end."""

    def __init__(self, peers: tuple[Peer, Peer], seed: int) -> None:
        self.peers = peers
        self.chance = random.Random(seed)
        self.ends: Counter[str] = Counter()
        self.ledgers = {peer: Ledger(self.chance, asyncio.Event(), offline=False) for peer in peers}
        for peer, other in zip(peers, reversed(peers), strict=True):
            self.ledgers[peer].serve(other)

    async def rage(self, ways: Sequence[str], count: int, at_once: int) -> None:
        for start in range(0, count, at_once):
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(at_once, count - start)):
                    tasks.create_task(self.one(ways))
        await turns(30)
        for ledger in self.ledgers.values():
            ledger.check()

    async def one(self, ways: Sequence[str]) -> None:
        peer = self.chance.choice(self.peers)
        way = self.chance.choice(ways)
        task = asyncio.create_task(self.ledgers[peer].call(peer, [way]))
        if cancels := way == "park" or self.chance.random() < 0.4:
            await turns(self.chance.randrange(12))
            task.cancel(ENOUGH)
        try:
            self.ends[await task] += 1
        except asyncio.CancelledError:
            assert cancels
            self.ends["cancelled"] += 1


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("only_objects_of_the_test")
@pytest.mark.parametrize(
    ("ways", "count", "at_once"),
    [
        pytest.param(["request", "request", "park"], 4_000, 500, id="requests"),
        pytest.param(LEAVING, 1_000, 100, id="streams"),
    ],
)
async def test_every_one_of_very_many_ends_once_and_nothing_is_left(
    ways: Sequence[str], count: int, at_once: int, caplog: pytest.LogCaptureFixture
) -> None:
    # A stream that is thrown away is warned of, and pytest would keep each of those lines.
    caplog.set_level(logging.ERROR, "wsrpc")
    count = 100_000 if SOAK else count
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with pair(limits=Limits(running=300, high_water_bytes=16 * 1024)) as peers:
        storm = Storm(peers, 1)
        await storm.rage(ways, 4 * at_once, at_once)  # so that caches, pools and remembered ids are as full as they get
        tasks = other_tasks()
        before = await living_objects()
        storm.ends.clear()
        tracemalloc.start()
        try:
            gc.collect()
            memory = held()
            await storm.rage(ways, count, at_once)
            after = await living_objects()
            more = held().compare_to(memory, "lineno")
        finally:
            tracemalloc.stop()
        assert storm.ends.keys() == {"value", "cancelled"} and storm.ends.total() == count
        assert min(storm.ends.values()) > count / 4, storm.ends
        for peer in peers:
            assert (peer.anonymous_channels, peer.pending, peer.active) == (0, 0, 0)
            assert peer._current.dispatcher.active == {} and peer._current.dispatcher.calls.tasks() == set()
        assert other_tasks() == tasks
        assert after == before
        assert sum(line.size_diff for line in more) < LEFT, "\n".join(map(str, more[:5]))
    assert (complaints, caplog.records) == ([], [])
