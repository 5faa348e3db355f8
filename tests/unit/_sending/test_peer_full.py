"""What a peer does while its line to the other side is full."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_driver import Blocked, Driven, closes_with, start, turns

from wsrpc import Limits, Peer, QueueFull
from wsrpc.testing import pair


async def test_awaiting_senders_wait_in_turn_and_encode_only_then() -> None:
    d = Driven(dialer=True)
    d.transport.pause()
    value = [0]
    first = start(d.peer.emit("first", value))
    second = start(d.peer.request("second", value, timeout=None))
    third = start(d.peer.of("room").emit("third", value))
    await turns()
    d.expect()
    assert not first.done() and not third.done()
    value[0] = 1  # had it been encoded already, this would come too late
    d.transport.resume()
    await first
    await third
    sent = d.take()
    assert [m["a"] for m in sent] == [["first", [1]], ["second", [1]], ["third", [1]]]
    d.feed({"i": sent[1]["i"]})
    await second


async def test_new_requests_are_not_started_but_answers_and_cancels_are_processed() -> None:
    d = Driven(dialer=True)
    blocked = Blocked()
    ran: list[str] = []
    d.peer.on("slow", blocked)
    d.peer.on("quick", lambda name: ran.append(name))
    await d.fed({"i": 1, "a": ["slow"]})
    task, i = await d.asks("q")
    d.transport.pause()
    d.feed(
        {"i": 2, "a": ["quick", "request"]},
        {"a": ["quick", "event"]},
        {"i": 3, "a": ["quick", "cancelled"]},
        {"i": i, "d": "answer"},
        {"i": 1, "x": "stop"},
        {"i": 3, "x": "never mind"},
    )
    assert await task == "answer"
    await turns()
    assert blocked.cancelled == ["stop"]
    assert ran == []
    assert sorted(m["i"] for m in d.take()) == [1, 3]  # rejections of what was cancelled
    d.transport.resume()
    assert ran == ["request", "event"]
    d.expect({"i": 2, "d": None})
    d.assert_empty()


async def test_replies_go_on_to_the_hard_cap_then_the_connection_closes_with_4408() -> None:
    d = Driven(limits=Limits(hard_cap=1000))
    blocked = Blocked()
    d.peer.on("h", blocked)
    await d.fed(*({"i": n, "a": ["h", "x" * 100]} for n in range(1, 4)))
    d.transport.pause()
    d.transport.unsent = 900 - 200
    blocked.go.set()
    await turns(2)
    assert len(d.take()) == 3
    d.transport.unsent = 990
    blocked.go.clear()
    d.transport.resume()
    await d.fed({"i": 4, "a": ["h"]})
    d.transport.pause()
    blocked.go.set()
    await closes_with(d, 4408)
    d.expect()


async def test_one_message_larger_than_the_cap_goes_when_nothing_else_is_unsent() -> None:
    d = Driven(limits=Limits(hard_cap=100))
    blocked = Blocked()
    d.peer.on("h", blocked)
    await d.fed({"i": 1, "a": ["h", "x" * 500]})
    d.transport.pause()
    d.transport.unsent = 0
    blocked.go.set()
    await turns()
    assert [m["i"] for m in d.take()] == [1]
    d.peer.emit_nowait("big", "x" * 500)
    assert len(d.take()) == 1
    assert d.peer.connected


async def test_emit_nowait_goes_on_to_the_hard_cap_then_raises() -> None:
    d = Driven(limits=Limits(hard_cap=1000))
    d.transport.pause()
    d.transport.unsent = 500
    d.peer.emit_nowait("e", "x" * 100)
    assert len(d.take()) == 1
    d.transport.unsent = 950
    with pytest.raises(QueueFull, match=r"950 bytes are unsent \(Limits.hard_cap=1000\).*await emit"):
        d.peer.emit_nowait("e", "x" * 100)
    with pytest.raises(QueueFull):
        d.peer.of("room").emit_nowait("e", "x" * 100)
    d.expect()
    assert d.peer.connected


async def test_senders_wait_while_the_other_side_does_not_read() -> None:
    async with pair(limits=Limits(high_water=1000)) as (a, b):
        arrived: list[int] = []
        b.on("n", lambda n, _: arrived.append(n))
        assert a.transport is not None
        line: Any = a.transport
        line.hold()
        tasks = [start(a.emit("n", n, "x" * 100)) for n in range(50)]
        await turns(20)
        done = sum(task.done() for task in tasks)
        assert 5 < done < 15 and arrived == []
        assert line.unsent < 1500
        line.release()
        await asyncio.gather(*tasks)
        await turns()
    assert arrived == list(range(50))


async def test_peers_that_answer_by_asking_back_do_not_block() -> None:
    # One place more than the outer requests take: a bound of 4 would let them wait for each other's places.
    async with pair(limits=Limits(high_water=300, running=5)) as (a, b):

        async def ping(peer: Peer, depth: int, text: str) -> int:
            return depth if depth == 0 else await peer.request("ping", depth - 1, text)

        a.on("ping", ping)
        b.on("ping", ping)
        results = await asyncio.gather(
            *(p.request("ping", 1, "x" * 50, timeout=None) for p in (a, b) for _ in range(4))
        )
        assert results == [0] * 8
