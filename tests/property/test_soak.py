"""Very many requests of which half are cancelled at any moment: each ends once, and nothing is left.

``WSRPC_SOAK=1`` runs 100,000 of them instead of a number that fits an ordinary test run.
"""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
from collections import Counter
from typing import Any

import pytest
from effort import QUICK, SOAK

from wsrpc import Limits, Peer
from wsrpc.testing import pair

REQUESTS = 100_000 if SOAK else 4_000 if QUICK else 20_000
AT_ONCE = 500
LEFT = 1024 * 1024  # bytes


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def storm(a: Peer, b: Peer, count: int, seed: int) -> tuple[Counter[str], Counter[str]]:
    """``count`` requests, `AT_ONCE` at a time, from both sides; half of them are cancelled after 0 to 8 turns.

    Returns which were to be cancelled, of those that wait for ever and of the others, and how all of them ended.
    """
    chance = random.Random(seed)
    cancels: Counter[str] = Counter()
    ends: Counter[str] = Counter()

    async def cancel_after(turns_left: int, task: asyncio.Task[Any]) -> None:
        await turns(turns_left)
        task.cancel("enough")

    async def ask(peer: Peer, kind: str, n: int) -> None:
        task = asyncio.ensure_future(peer.request(kind, n, timeout=None))
        ended: list[int] = []
        task.add_done_callback(lambda _: ended.append(1))
        cancelling = None
        # What waits for ever can only end by being cancelled.
        if kind == "wait" or chance.random() < 0.25:
            cancels["endless" if kind == "wait" else "other"] += 1
            cancelling = asyncio.ensure_future(cancel_after(chance.randrange(9), task))
        try:
            assert await task == n
            ends["answered"] += 1
        except asyncio.CancelledError:
            ends["cancelled"] += 1
        if cancelling is not None:
            await cancelling
        assert ended == [1]

    kinds = ["wait", "now", "later"]
    for start in range(0, count, AT_ONCE):
        size = min(AT_ONCE, count - start)
        await asyncio.gather(*(ask(chance.choice((a, b)), chance.choice(kinds), n) for n in range(size)))
    return cancels, ends


def objects() -> Counter[str]:
    """How many objects of the kinds that calls are made of are alive."""
    gc.collect()
    return Counter(
        type(thing).__name__
        for thing in gc.get_objects()
        if str(type(thing).__module__).startswith(("wsrpc", "_asyncio", "asyncio"))
        or type(thing).__name__ == "coroutine"
    )


@pytest.mark.timeout(600)
async def test_every_one_of_very_many_ends_once_and_nothing_is_left() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with pair(limits=Limits(running=300, high_water=16 * 1024)) as (a, b):

        async def wait(n: int) -> None:
            await asyncio.Event().wait()

        async def later(n: int) -> int:
            await turns(n % 4)
            return n

        for peer in (a, b):
            peer.on("wait", wait)
            peer.on("now", lambda n: n)
            peer.on("later", later)

        await storm(a, b, 4 * AT_ONCE, 1)  # so that caches, pools and remembered ids are as full as they get
        await turns(30)
        tasks = asyncio.all_tasks()
        before = objects()
        tracemalloc.start()
        try:
            gc.collect()
            memory = tracemalloc.get_traced_memory()[0]
            cancels, ends = await storm(a, b, REQUESTS, 2)
            await turns(30)
            after = objects()
            grown = tracemalloc.get_traced_memory()[0] - memory
        finally:
            tracemalloc.stop()
        assert ends.total() == REQUESTS
        assert 0.4 < cancels.total() / REQUESTS < 0.6
        # Of the others some are cancelled in time, and some have their answer by then.
        assert cancels["endless"] < ends["cancelled"] < cancels.total()
        for peer in (a, b):
            assert (peer.pending, peer.active) == (0, 0)
        assert asyncio.all_tasks() == tasks
        assert after == before
        assert grown < LEFT, f"{grown} bytes more than before"
    assert complaints == []
