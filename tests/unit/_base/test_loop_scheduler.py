"""`LoopScheduler`: the services of a loop, also of one that does not inherit them from asyncio."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from wsrpc._base.scheduler import LoopScheduler
from wsrpc.testing import Clock


class OwnFuture(asyncio.Future[Any]):
    pass


class OwnLoop(asyncio.SelectorEventLoop):
    def time(self) -> float:
        return 1000.0

    def create_future(self) -> asyncio.Future[Any]:
        return OwnFuture(loop=self)


def renewed(loop: asyncio.AbstractEventLoop, clock: Clock | None = None) -> tuple[float, asyncio.Future[Any]]:
    async def use() -> tuple[float, asyncio.Future[Any]]:
        scheduler = LoopScheduler()
        if clock is not None:
            scheduler.use(clock)
        return scheduler.time(), scheduler.create_future()

    try:
        return loop.run_until_complete(use())
    finally:
        loop.close()


def test_a_loop_of_asyncio() -> None:
    loop = asyncio.SelectorEventLoop()
    before = time.monotonic()
    now, future = renewed(loop)
    assert before <= now <= time.monotonic()
    assert type(future) is asyncio.Future and future.get_loop() is loop


def test_a_loop_with_a_time_and_futures_of_its_own() -> None:
    loop = OwnLoop()
    now, future = renewed(loop)
    assert now == 1000.0
    assert type(future) is OwnFuture and future.get_loop() is loop


def test_a_clock_of_its_own() -> None:
    clock = Clock()
    now, _ = renewed(asyncio.SelectorEventLoop(), clock)
    assert now == clock.time()
