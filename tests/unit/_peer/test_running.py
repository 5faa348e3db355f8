"""What counts as a running handler, and as a waiting message. What exceeds the limits is in `test_limits.py`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import Driven, turns
from leftovers import turns_until

from wsrpc import Context, Limits, Peer, Server
from wsrpc.testing import ScriptedTransport


@pytest.mark.parametrize("around", ["nothing", "middleware", "handler_context", "ordered"])
async def test_a_thread_counts_until_it_ends_whatever_is_around_it(around: str) -> None:
    server = Server(limits=Limits(running=1))
    if around == "handler_context":
        server = Server(limits=Limits(running=1), handler_context=lambda ctx: asyncio.timeout(None))
    entered, gate, ran = asyncio.Event(), threading.Event(), list[int]()
    loop = asyncio.get_running_loop()

    @server.on("work", thread=True, ordered=around == "ordered")
    def work() -> str:
        loop.call_soon_threadsafe(entered.set)
        gate.wait(10)
        return "too late"

    if around == "middleware":

        @server.use
        async def pass_on(ctx: Context, call_next: Any) -> Any:
            return await call_next(ctx)

    server.on("n", ran.append)
    transport = ScriptedTransport()
    peer = await server.accept(transport)
    assert isinstance(peer, Peer)
    try:
        transport.feed({"i": 1, "a": ["work"]})
        await entered.wait()
        transport.feed({"i": 1, "x": "stop"}, {"a": ["n", 2]})
        await turns()
        assert all(m["i"] == 1 and "e" in m for m in transport.take())
        assert peer.active == 1 and ran == []
    finally:
        gate.set()
    await turns_until(lambda: ran == [2])
    assert peer.active == 0
    await server.close()


async def test_a_handler_that_outlives_its_stream_holds_its_bytes_until_it_exits() -> None:
    d = Driven(limits=Limits(message=10_000, running=8))  # room for four large messages
    go, large = asyncio.Event(), "x" * 9000

    @d.peer.on("count")
    async def count(text: str) -> AsyncIterator[int]:
        try:
            for number in range(1000):
                yield number
        finally:
            await go.wait()

    for i in (1, 2, 3, 4):
        assert await d.fed({"i": i, "a": ["count", large]}) == [{"i": i, "h": 1}]
        await d.fed({"h": i, "a": ["start"]})
        await d.fed({"h": i, "x": "enough"})
    assert (d.peer.channels, d.peer.active) == (0, 4)
    assert await d.fed({"i": 5, "a": ["count", large]}) == [] and d.peer.stats().waiting == 1
    go.set()
    await turns()
    assert {"i": 5, "h": 1} in d.take()
    await d.fed({"h": 5, "x": "enough"})
    d.assert_empty()
