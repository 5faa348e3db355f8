"""Promise 1: messages leave in order, handlers start in arrival order."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pytest
from core_driver import Blocked, Driven, start, turns
from leftovers import turns_until

from wsrpc import Context, Limits, Peer
from wsrpc.testing import pair


@pytest.mark.parametrize("limits", [Limits(), Limits(high_water=200)], ids=["room for all", "full line"])
async def test_many_tasks_that_emit_keep_the_order_in_which_they_ran(limits: Limits) -> None:
    async with pair(limits=limits) as (a, b):
        seen: list[int] = []
        done = asyncio.Event()

        def on_number(n: int) -> None:
            seen.append(n)
            if len(seen) == 500:
                done.set()

        b.on("n", on_number)
        await asyncio.gather(*(a.emit("n", n) for n in range(500)))
        await done.wait()
    assert seen == list(range(500))


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


async def test_two_ordered_handlers_do_not_wait_for_each_other() -> None:
    d = Driven()
    first, second = Blocked(), Blocked()
    d.peer.on("first", first, ordered=True)
    d.peer.on("second", second, ordered=True)
    await d.fed({"a": ["first", 1]}, {"a": ["second", 1]}, {"a": ["first", 2]})
    assert first.started == [(1,)] and second.started == [(1,)]
    first.go.set()
    second.go.set()
    await turns()
    assert first.finished == [(1,), (2,)]
    d.assert_empty()


async def test_an_ordered_channel_orders_all_its_handlers_sync_ones_too() -> None:
    d = Driven()
    log: list[str] = []
    gate = asyncio.Event()
    channel = d.peer.of("room", ordered=True)

    async def slow(n: int) -> None:
        log.append(f"begin {n}")
        await gate.wait()
        log.append(f"end {n}")

    channel.on("slow", slow)
    channel.on("quick", lambda n: log.append(f"quick {n}"))
    d.peer.on("quick", lambda n: log.append(f"main {n}"))
    await d.fed({"c": "room", "a": ["slow", 1]}, {"c": "room", "a": ["quick", 2]}, {"a": ["quick", 3]})
    assert log == ["begin 1", "main 3"]
    gate.set()
    await turns()
    assert log == ["begin 1", "main 3", "end 1", "quick 2"]
    d.assert_empty()


async def test_ordered_goes_on_after_one_fails_and_after_one_is_cancelled() -> None:
    d = Driven()
    blocked = Blocked()
    d.peer.on("b", blocked, ordered=True)
    await d.fed({"i": 1, "a": ["b", 1]}, {"i": 2, "a": ["b", 2]}, {"i": 3, "a": ["b", 3]})
    assert blocked.started == [(1,)]
    # The one in the middle leaves while it waits in line, then the first while it runs.
    assert [m["i"] for m in await d.fed({"i": 2, "x": "no"})] == [2]
    assert [m["i"] for m in await d.fed({"i": 1, "x": "no"})] == [1]
    assert blocked.started == [(1,), (3,)]
    blocked.go.set()
    await turns()
    d.expect({"i": 3, "d": [3]})
    d.assert_empty()


@pytest.mark.parametrize("by_channel", [False, True])
async def test_ordered_holds_for_handlers_in_threads(by_channel: bool) -> None:
    d = Driven()
    log: list[str] = []
    entered, gate = threading.Event(), threading.Event()

    def work(n: int) -> int:
        log.append(f"begin {n}")
        if n == 1:
            entered.set()
            gate.wait(5)
        log.append(f"end {n}")
        return n

    where: Any = d.peer.of("room", ordered=True) if by_channel else d.peer
    where.on("work", work, thread=True, ordered=not by_channel)
    extra = {"c": "room"} if by_channel else {}
    d.feed({"i": 1, "a": ["work", 1], **extra}, {"i": 2, "a": ["work", 2], **extra})
    tasks = d.peer._core.dispatcher.running.tasks()
    await turns_until(entered.is_set)
    await turns(20)
    await asyncio.to_thread(lambda: None)  # what was handed to the threads before has begun, too
    assert log == ["begin 1"]
    gate.set()
    await asyncio.wait(tasks)
    assert log == ["begin 1", "end 1", "begin 2", "end 2"]
    assert sorted(m["i"] for m in d.take()) == [1, 2]


async def test_a_sender_that_comes_when_the_connection_clears_does_not_overtake_those_who_waited() -> None:
    d = Driven(dialer=True)
    d.transport.pause()
    first = start(d.peer.emit("first"))
    await turns()
    d.transport.resume()
    await d.peer.emit("second")  # in the same turn: the first one has not run yet
    await first
    assert [m["a"][0] for m in d.take()] == ["first", "second"]


async def test_a_request_inside_a_handler_is_answered_while_the_handler_waits() -> None:
    async with pair() as (a, b):

        async def outer(peer: Peer, n: int) -> int:
            return await peer.request("inner", n, returns=int) + 1

        b.on("outer", outer)
        a.on("inner", lambda n: n * 2)
        assert await a.request("outer", 20) == 41
