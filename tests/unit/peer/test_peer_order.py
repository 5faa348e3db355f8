"""Messages leave in order, and handlers start in the order of arrival."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from core_driver import Blocked, Driven, turns

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
    started: list[str] = []
    blocked = Blocked()

    async def coroutine(name: str) -> str:
        started.append(name)
        if name == "slow":
            await blocked()
        return name

    d.peer.on("coroutine", coroutine)
    d.peer.on("plain", lambda name: started.append(name))
    d.feed({"i": 1, "a": ["coroutine", "slow"]}, {"i": 2, "a": ["coroutine", "brief"]}, {"i": 3, "a": ["plain", "x"]})
    answers = [{"i": 2, "d": "brief"}, {"i": 3, "d": None}]
    at_once = sys.version_info >= (3, 12)
    assert started == (["slow", "brief", "x"] if at_once else [])
    d.expect(*(answers if at_once else []))
    await turns()
    assert started == ["slow", "brief", "x"]
    d.expect(*([] if at_once else answers))
    blocked.go.set()
    await turns()
    d.expect({"i": 1, "d": "slow"})


async def test_on_an_ordered_channel_one_handler_runs_at_a_time_plain_functions_too() -> None:
    d = Driven()
    log: list[object] = []
    slow = Blocked()
    channel = d.peer.of("room", ordered=True)
    channel.on("slow", slow)
    for place in (channel, d.peer, d.peer.of("hall")):
        place.on("quick", log.append)
    await d.fed(
        {"c": "room", "a": ["slow"]}, *({"c": c, "a": ["quick", c]} for c in ("room", "hall")), {"a": ["quick", "main"]}
    )
    assert log == ["hall", "main"]
    slow.go.set()
    await turns()
    assert log == ["hall", "main", "room"]
