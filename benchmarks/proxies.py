"""A call of a proxy beside the request that it stands for, in one program: ``python -m benchmarks --proxies``."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from wsrpc import Client, Server

from .runner import say

MOST = 1.10
"""How much a call of a proxy may cost, as a multiple of the request."""


class Adding(Protocol):
    async def add(self, a: int, b: int = 0) -> int: ...


class Adder:
    def add(self, a: int, b: int = 0) -> int:
        return a + b


class Ratios(NamedTuple):
    """How long a call of a proxy takes, as a multiple of the request: the median of several runs."""

    one: float
    """One call at a time."""
    many: float
    """A hundred at once."""


Call = Callable[[int, int], Awaitable[int]]


async def _one_at_a_time(call: Call, count: int) -> float:
    begun = time.perf_counter()
    for number in range(count):
        if await call(number, 1) != number + 1:
            raise AssertionError("a wrong answer")
    return time.perf_counter() - begun


async def _many_at_once(call: Call, count: int) -> float:
    begun = time.perf_counter()
    for start in range(0, count, 100):
        numbers = range(start, min(start + 100, count))
        if await asyncio.gather(*(call(number, 1) for number in numbers)) != [number + 1 for number in numbers]:
            raise AssertionError("a wrong answer")
    return time.perf_counter() - begun


async def measure(runs: int, count: int) -> Ratios:
    """Measure ``runs`` times ``count`` calls in each way, one way after the other."""
    server = Server()
    server.implement(Adding, Adder())
    async with server.listen("127.0.0.1", 0) as listener, Client(listener.url) as client:
        proxy = client.proxy(Adding)

        def request(a: int, b: int) -> Awaitable[int]:
            return client.request("add", a, b, returns=int)

        def proxied(a: int, b: int) -> Awaitable[int]:  # as deep as the other
            return proxy.add(a, b)

        found: list[float] = []
        for way in (_one_at_a_time, _many_at_once):
            ratios: list[float] = []
            for _ in range(runs + 1):
                by_request = await way(request, count)
                ratios.append(await way(proxied, count) / by_request)
            found.append(statistics.median(ratios[1:]))  # the first warms up
    return Ratios(*found)


def run_proxies(runs: int, count: int) -> bool:
    """Print the ratios, and return whether they are low enough."""
    ratios = asyncio.run(measure(runs, count))
    say(f"a call of a proxy takes {ratios.one:.2f} of a request, one at a time; {ratios.many:.2f} with 100 at once")
    return max(ratios) <= MOST
