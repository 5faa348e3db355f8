"""Bad networks: slow, far, with queues, and with connections that do not last. Each use of wsrpc ends right on each.

``make soak`` plays all pairs of networks, with the sizes and rates that people have. The short form plays some of them,
ten times as fast and with less to send.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from effort import SOAK

from wsrpc import Client, Handshake, Limits, Peer, Reconnect, Server
from wsrpc.testing import FaultProxy

FASTER = 1 if SOAK else 10
KB = 1000 * FASTER


@dataclass(frozen=True)
class Network:
    rate: float | None = None
    """Bytes per second, in each direction."""
    round_trip: float = 0.0
    queue: float = 0.0
    """Seconds of bytes that wait in the network, beyond what every network keeps."""
    lasts: float | None = None
    """Seconds that a connection lasts."""

    def __or__(self, other: Network) -> Network:
        rates = [each for each in (self.rate, other.rate) if each is not None]
        round_trip, lasts = max(self.round_trip, other.round_trip), self.lasts or other.lasts
        if lasts is not None:  # three round trips until the session has resumed, and then some to use it
            lasts = max(lasts, 5 * round_trip)
        return Network(min(rates, default=None), round_trip, max(self.queue, other.queue), lasts)

    async def enter(self, stack: AsyncExitStack, proxy: FaultProxy) -> None:
        buffer = int(max(64_000, self.queue * (self.rate or 0)))
        slow = proxy.slow(rate=self.rate, latency=self.round_trip / 2, buffer=buffer)
        await stack.enter_async_context(slow)
        await stack.enter_async_context(proxy.time_out(life=self.lasts))


NETWORKS = {
    "20 kB a second": Network(rate=20 * KB),
    "200 kB a second": Network(rate=200 * KB),
    "600 ms": Network(round_trip=0.6 / FASTER),
    "1.5 s": Network(round_trip=1.5 / FASTER),
    "a queue of 5 s": Network(rate=100 * KB, queue=5 / FASTER),
    "drops each 5 s": Network(lasts=5 / FASTER),
}
PAIRS = {f"{a} and {b}": NETWORKS[a] | NETWORKS[b] for a, b in itertools.combinations(NETWORKS, 2)}
SHORT = ["20 kB a second and drops each 5 s", "600 ms and drops each 5 s", "1.5 s and a queue of 5 s"]
PLAYED = NETWORKS | PAIRS if SOAK else NETWORKS | {name: PAIRS[name] for name in SHORT}
LARGE = 4_000_000 if SOAK else 300_000
UPLOAD = 10_000_000 if SOAK else 500_000
MANY = 100
PINGS = Limits(ping_interval=20 / FASTER, ping_timeout=20 / FASTER)


class Served:
    """A server that remembers what has run."""

    def __init__(self) -> None:
        self.ran = Counter[Any]()
        self.server = server = Server(limits=PINGS)
        self.room = server.room("lobby", keep=600, allow=lambda peer: True)

        @server.on_handshake
        def who(handshake: Handshake) -> None:
            handshake.principal = "ada"

        @server.on("add")
        def add(a: int, b: int) -> int:
            self.ran["add", a] += 1
            return a + b

        @server.on("get")
        def get(size: int) -> str:
            self.ran["get"] += 1
            return "x" * size

        @server.on("store")
        async def store(pieces: AsyncIterator[bytes]) -> int:
            self.ran["store"] += 1
            return sum([len(piece) async for piece in pieces])

        @server.on("rows", keep=600)
        async def rows(count: int) -> AsyncIterator[str]:
            for number in range(count):
                yield f"{number} {'x' * 1000}"

        @server.on("tell")
        def tell(peer: Peer, number: int) -> None:
            peer.emit_nowait("told", number)

        @server.on("say")
        async def say(number: int) -> None:
            await self.room.emit("said", number)


Use = Callable[[Client, Served], Awaitable[None]]


async def first_call(client: Client, served: Served) -> None:
    assert await client.request("add", -1, 1, timeout=None) == 0
    assert served.ran["add", -1] == 1


async def small_calls(client: Client, served: Served) -> None:
    for number in range(MANY // 5):
        assert await client.request("add", number, 1, timeout=None) == number + 1
        assert served.ran["add", number] == 1


async def large_result(client: Client, served: Served) -> None:
    assert len(await client.request("get", LARGE, returns=str, timeout=None)) == LARGE
    assert served.ran["get"] == 1


async def upload(client: Client, served: Served) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(UPLOAD // 10_000):
            yield bytes(10_000)

    assert await client.request("store", send=pieces(), timeout=None) == UPLOAD
    assert served.ran["store"] == 1


async def stream(client: Client, served: Served) -> None:
    rows = [int(row.split()[0]) async for row in client.stream("rows", MANY, returns=str)]
    assert rows == [*range(MANY)]


async def events(client: Client, served: Served) -> None:
    told = asyncio.Queue[int]()
    client.on("told", told.put_nowait)
    for number in range(MANY):
        await client.emit("tell", number)
    assert [await told.get() for _ in range(MANY)] == [*range(MANY)]


async def keyed_stream(client: Client, served: Served) -> None:
    rows = [int(row.split()[0]) async for row in client.stream("rows", MANY, key="k", returns=str)]
    assert rows == [*range(MANY)]


async def room(client: Client, served: Served) -> None:
    said = asyncio.Queue[int]()
    client.on("said", said.put_nowait)
    await client.room("lobby").join()
    for number in range(MANY):
        await client.emit("say", number)
    # Their handlers run at the same time.
    assert sorted([await said.get() for _ in range(MANY)]) == [*range(MANY)]


USES: list[Use] = [first_call, small_calls, large_result, upload, stream, events, keyed_stream, room]


@pytest.mark.timeout(3000 if SOAK else 90)
@pytest.mark.parametrize("name", PLAYED)
async def test_each_use_ends_right(name: str) -> None:
    """On networks of their own, at the same time. Nothing is lost, doubled or untold."""

    async def play(use: Use) -> tuple[str, float]:
        served = Served()
        async with AsyncExitStack() as stack:
            listener = await stack.enter_async_context(served.server.listen())
            proxy = await stack.enter_async_context(FaultProxy(listener.url))
            await PLAYED[name].enter(stack, proxy)
            retries = Reconnect(initial=0.2 / FASTER, max=1.0 / FASTER)
            client = Client(proxy.url, limits=PINGS, reconnect=retries, connect_timeout=None)
            began = time.monotonic()
            async with client:
                await use(client, served)
                return use.__name__, time.monotonic() - began

    took = dict(await asyncio.gather(*map(play, USES)))
    print(name, {use: f"{seconds:.1f}" for use, seconds in took.items()})
