"""Promise 1: messages leave in order, handlers start in arrival order."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from core_driver import Driven, turns

from wsrpc import Context


@pytest.mark.parametrize("layered", [False, True])
@pytest.mark.parametrize("reads", [1, 3])
async def test_handlers_start_in_arrival_order_plain_functions_behind_coroutines(reads: int, layered: bool) -> None:
    d = Driven()
    started: list[int] = []

    async def slow(n: int) -> None:
        started.append(n)
        await turns(3)

    async def pass_on(ctx: Context, call_next: Any) -> Any:
        return await call_next(ctx)

    d.peer.on("slow", slow)
    d.peer.on("quick", started.append)
    if layered:
        d.peer.use(pass_on)
    names = ["quick", "slow", "quick", "slow", "nobody", "quick"]
    messages = [{"a": [name, n]} if n % 2 else {"i": n + 1, "a": [name, n]} for n, name in enumerate(names)]
    for read in range(reads):  # all in one turn of the event loop
        d.feed(*messages[read * 6 // reads : (read + 1) * 6 // reads])
    await turns()
    assert started == [0, 1, 2, 3, 5]


async def test_a_coroutine_takes_its_first_step_in_the_read_where_python_can_do_that() -> None:
    d = Driven()
    gate = asyncio.Event()
    started: list[str] = []

    async def slow() -> str:
        started.append("slow")
        await gate.wait()
        return "late"

    async def brief() -> str:
        started.append("brief")
        return "done"

    def quick() -> str:
        started.append("quick")
        return "at once"

    for handler in (slow, brief, quick):
        d.peer.on(handler.__name__, handler)
    d.feed({"i": 1, "a": ["slow"]}, {"i": 2, "a": ["brief"]}, {"i": 3, "a": ["quick"]})
    answers = [{"i": 2, "d": "done"}, {"i": 3, "d": "at once"}]
    assert started == (["slow", "brief", "quick"] if sys.version_info >= (3, 12) else [])
    d.expect(*(answers if sys.version_info >= (3, 12) else []))
    await turns()
    assert started == ["slow", "brief", "quick"]
    d.expect(*([] if sys.version_info >= (3, 12) else answers))
    gate.set()
    await turns()
    d.expect({"i": 1, "d": "late"})
    d.assert_empty()
