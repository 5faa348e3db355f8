"""Over a drop: what waits keeps its order, its deadline and its way out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_driver import Driven, redialing, start, turns
from stream_driver import welcome

from wsrpc import Limits, Peer, RequestTimeout


def names(sent: list[Any]) -> list[Any]:
    return [message["a"][0] for message in sent if "a" in message]


@pytest.mark.parametrize("first_drop", [False, True])
async def test_what_waited_for_the_connection_is_not_overtaken_by_what_is_sent_right_after_the_drop(
    first_drop: bool,
) -> None:
    d = redialing()
    if first_drop:
        d.transport.lose()
        await d.peer.emit("queued")
        d.rebind()
    d.transport.pause()
    waiting = [
        start(d.peer.emit("line 1")),
        start(d.peer.request("line 2", timeout=None)),
        start(d.peer.emit("line 3")),
    ]
    await turns()
    d.transport.lose()
    await d.peer.emit("right after")  # in the same turn: nobody that waited has run yet
    await d.peer.emit("later")
    d.rebind()
    await d.peer.emit("on the next one")
    await turns(20)
    expected = ["line 1", "line 2", "line 3", "right after", "later", "on the next one"]
    assert names(d.take()) == expected
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await turns()
    d.take()
    d.assert_empty()


async def test_a_connection_that_comes_at_once_keeps_the_order_too() -> None:
    d = redialing()
    d.transport.pause()
    waiting = [start(d.peer.emit(f"line {n}")) for n in range(5)]
    await turns()
    d.rebind()  # the old one is over, and the new one open, before anybody that waited has run
    after = start(d.peer.emit("after"))
    await turns(20)
    assert names(d.take()) == [*(f"line {n}" for n in range(5)), "after"]
    await asyncio.gather(*waiting, after)
    d.assert_empty()


async def test_what_open_handlers_send_goes_before_all_that_waited() -> None:
    d = redialing()
    go = asyncio.Event()

    async def opened(peer: Peer) -> None:
        await peer.emit("hello")
        await go.wait()
        await peer.emit("ready")

    d.transport.pause()
    waiting = [start(d.peer.emit(f"line {n}")) for n in range(3)]
    await turns()
    d.peer.on("open", opened)
    d.transport.lose()
    await d.peer.emit("queued")
    d.rebind()
    await turns(20)
    assert names(d.take()) == ["hello"]
    go.set()
    await turns(20)
    assert names(d.take()) == ["ready", "line 0", "line 1", "line 2", "queued"]
    await asyncio.gather(*waiting)
    d.assert_empty()


async def places_taken(**options: Any) -> Driven:
    """A peer whose other side has one place, which is taken."""
    d = redialing(extensions=True, **options)
    await d.fed(welcome("limits", running=1, waiting=0, waiting_bytes=0))
    return d


async def test_requests_that_waited_for_a_place_are_not_overtaken_either() -> None:
    d = await places_taken()
    tasks = [start(d.peer.request(f"n{n}", timeout=None)) for n in range(4)]
    await turns()
    assert names(d.take()) == ["n0"]
    d.transport.lose()
    tasks.append(start(d.peer.request("after", timeout=None)))
    d.rebind()
    await turns(20)
    assert names(d.take()) == ["n1", "n2", "n3", "after"]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_deadline_runs_while_a_request_waits_for_a_connection() -> None:
    d = redialing()
    d.transport.lose()
    late = start(d.peer.request("late", timeout=5))
    await turns()
    d.clock.advance(4.9)
    await turns()
    assert not late.done()
    d.clock.advance(0.2)
    with pytest.raises(RequestTimeout):
        await late
    d.rebind()
    await turns()
    d.expect()
    d.assert_empty()


async def test_what_is_cancelled_leaves_the_queue_at_once() -> None:
    d = redialing(limits=Limits(offline=1))
    d.transport.lose()
    for n in range(5):  # each would find it full, if the one before were still there
        leaves = start(d.peer.request("leaves", n))
        await turns()
        assert d.peer.pending == 1
        leaves.cancel()
        await turns(1)
        assert d.peer.pending == 0
    await d.peer.emit("stays")
    d.rebind()
    await turns()
    assert names(d.take()) == ["stays"]


async def test_what_is_cancelled_while_it_goes_from_the_connection_into_the_queue_is_never_sent() -> None:
    d = redialing()
    d.transport.pause()
    tasks = [start(d.peer.emit(f"n{n}")) for n in range(4)]
    await turns()
    d.transport.lose()
    tasks[0].cancel()
    tasks[2].cancel()
    await turns(20)
    d.rebind()
    await turns()
    assert names(d.take()) == ["n1", "n3"]
    d.assert_empty()
