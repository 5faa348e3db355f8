"""Bad networks, and what each use of wsrpc by a page has to come to on them. Those of Python are simulated.

``make soak`` plays all pairs of networks, with the sizes and rates that people have. The short form plays some of them,
ten times as fast and with less to send.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from effort import SOAK

from wsrpc import Handshake, Limits, Peer, Server
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
        both = Network(min(rates, default=None), round_trip, max(self.queue, other.queue))
        if lasts is not None:
            # Three round trips until the session has resumed, and then some to use it. The connection before has left
            # a full queue, which comes first.
            lasts = max(lasts, 5 * round_trip, 2 * both.buffer / (both.rate or math.inf))
        return replace(both, lasts=lasts)

    @property
    def buffer(self) -> int:
        """Bytes that wait in the network, at most."""
        return int(max(64_000, self.queue * (self.rate or 0)))

    async def enter(self, stack: AsyncExitStack, proxy: FaultProxy) -> None:
        slow = proxy.slow(rate=self.rate, latency=self.round_trip / 2, buffer=self.buffer)
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
SHORT = ["20 kB a second and drops each 5 s", "1.5 s and a queue of 5 s"]
PLAYED = NETWORKS | PAIRS if SOAK else {name: PAIRS[name] for name in SHORT}
LARGE = 4_000_000 if SOAK else 200_000
UPLOAD = 3_000_000 if SOAK else 200_000
MANY = 100
PINGS = Limits(ping_interval=20 / FASTER, ping_timeout=20 / FASTER)

ALL = [*range(MANY)]
COMES_TO: dict[str, tuple[Any, int]] = {
    "first_call": (0, 1),
    "small_calls": (ALL[1 : MANY // 5 + 1], MANY // 5),
    "large_result": (LARGE, 1),
    "large_argument": (LARGE, 1),
    "upload": (UPLOAD, 1),
    "stream": (ALL, 1),
    "events": (ALL, MANY + 1),
    "keyed_stream": (ALL, 1),
    "room": (ALL, MANY + 1),
}
"""What the caller sees in each use, and how many handlers run, each once. The last handler of events is a fence."""


class Served:
    """A server that remembers what has run."""

    def __init__(self) -> None:
        self.ran = Counter[Any]()
        self.server = server = Server(limits=PINGS, origins=lambda handshake: True)
        self.room = server.room("lobby", keep=600, allow=lambda peer: True)

        @server.on_handshake
        def who(handshake: Handshake) -> None:
            handshake.principal = "ada"

        server.on("greet", lambda: None)

        @server.on("add")
        def add(a: int, b: int) -> int:
            self.ran["add", a] += 1
            return a + b

        @server.on("get")
        def get(size: int) -> str:
            self.ran["get"] += 1
            return "x" * size

        @server.on("take")
        def take(text: str) -> int:
            self.ran["take"] += 1
            return len(text)

        @server.on("store")
        async def store(pieces: AsyncIterator[bytes]) -> int:
            self.ran["store"] += 1
            return sum([len(piece) async for piece in pieces])

        @server.on("rows", keep=600)
        async def rows(count: int) -> AsyncIterator[str]:
            self.ran["rows"] += 1
            for number in range(count):
                yield f"{number} {'x' * 1000}"

        @server.on("tell")
        def tell(peer: Peer, number: int) -> None:
            self.ran["tell", number] += 1
            peer.emit_nowait("told", number)

        @server.on("say")
        async def say(number: int) -> None:
            self.ran["say", number] += 1
            await self.room.emit("said", number)


def page_options(urls: dict[str, str], greets: bool) -> dict[str, Any]:
    """What ``tests/browser/page_networks.mjs`` gets. In the short form it dials at once, however often that failed."""
    sizes = {"large": LARGE, "upload": UPLOAD, "many": MANY}
    return {"urls": urls, "greets": greets, "faster": 1 if SOAK else 1000, **sizes}


Player = Callable[[dict[str, str], bool], Awaitable[dict[str, tuple[Any, float]]]]
"""Returns what the caller of each use has seen, and the seconds that it took.

Gets a URL for each use, and whether the caller must greet before: a session resumes once its client has had an answer.
"""


async def play(player: Player) -> None:
    """Play each use on each network, all at the same time. Nothing may be lost, doubled, out of order or untold."""

    async def play_on(name: str, network: Network) -> None:
        served = {use: Served() for use in COMES_TO}
        urls: dict[str, str] = {}
        async with AsyncExitStack() as stack:
            for use, each in served.items():
                listener = await stack.enter_async_context(each.server.listen())
                proxy = await stack.enter_async_context(FaultProxy(listener.url))
                await network.enter(stack, proxy)
                urls[use] = proxy.url
            played = await player(urls, network.lasts is not None)
        print(name, {use: f"{seconds:.1f}" for use, (_, seconds) in played.items()})
        for use, (wanted, runs) in COMES_TO.items():
            seen, _ = played[use]
            assert seen == wanted, (name, use)
            assert [*served[use].ran.values()] == [1] * runs, (name, use)

    async with asyncio.TaskGroup() as tasks:
        for name, network in PLAYED.items():
            tasks.create_task(play_on(name, network))
