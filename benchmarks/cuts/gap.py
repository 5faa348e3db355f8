"""How long the reader of a stream waits at a cut."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from tenacity import wait_none

from wsrpc import Client, Reconnect, Server
from wsrpc.testing import FaultProxy

from .outcome import Gaps

__all__ = ["measure_gaps"]

EVERY = 0.001
"""Seconds between two items of the stream."""
WINDOW = 0.06
"""Seconds in which the longest wait for an item is looked for, with a cut in the beginning or without one."""


async def ticks() -> AsyncIterator[int]:
    number = 0
    while True:
        yield number
        number += 1
        await asyncio.sleep(EVERY)


async def measure_gaps(cuts: int) -> Gaps:
    """Cut a connection so many times under a stream that is read, and dial again without a delay.

    Raises:
        RuntimeError: an item was lost, or came twice, or the session did not go on within a window.
    """
    server = Server()
    server.on("ticks", ticks)
    gaps = Gaps([], [])
    async with server.listen("127.0.0.1", 0) as listener, FaultProxy(listener.url) as proxy:
        client = Client(proxy.url, reconnect=Reconnect(wait=wait_none()), proxy=None)
        resumed = 0

        @client.on_reconnect
        def count() -> None:
            nonlocal resumed
            resumed += 1

        async with client, client.stream("ticks", returns=int) as stream:
            expected, last = 0, time.perf_counter()

            async def longest() -> float:
                nonlocal expected, last
                end, found = time.perf_counter() + WINDOW, 0.0
                while last < end:
                    number = await anext(stream)
                    if number != expected:
                        raise RuntimeError(f"item {number} has come, and not {expected}")
                    now = time.perf_counter()
                    expected, found, last = expected + 1, max(found, now - last), now
                return found * 1000

            await longest()
            for cut in range(cuts):
                gaps.without.append(await longest())
                proxy.drop()
                gaps.at_cuts.append(await longest())
                if resumed != cut + 1:
                    raise RuntimeError(f"{resumed} of {cut + 1} cuts were over when items came again")
    return gaps
