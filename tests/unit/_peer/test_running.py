"""What counts as a running handler, and as a waiting message. What exceeds the limits is in `test_limits.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from core_driver import Driven, turns

from wsrpc import Limits


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
