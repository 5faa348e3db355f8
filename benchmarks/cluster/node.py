"""A process of a cluster: ``python -m benchmarks.cluster.node URL`` says its port, and answers each `Task` of stdin."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Iterator
from statistics import quantiles

import msgspec
from msgspec.structs import replace

from wsrpc import Handshake, Server
from wsrpc.cluster import Cluster, ClusterPeer

from .brokers import engine
from .tasks import CALLEE, Result, Task
from .waiting import until

WARM = 0.5
"""Seconds of calls that do not count."""


class Load:
    """Calls one peer, and notes what came of it."""

    def __init__(self, peer: ClusterPeer) -> None:
        self._peer = peer
        self.done = 0
        self.wrong = 0
        self.took: list[float] = []

    async def call(self, number: int) -> None:
        self.wrong += await self._peer.request("add", number, 1) != number + 1
        self.done += 1

    async def call_until(self, end: float) -> None:
        while time.perf_counter() < end:
            await self.call(self.done)

    async def calls(self, task: Task) -> None:
        """Make calls, so many at a time."""
        end = time.perf_counter() + task.seconds
        await asyncio.gather(*(self.call_until(end) for _ in range(task.pending)))

    async def paced(self, task: Task) -> None:
        """Begin so many calls per second, whether or not those before have been answered."""
        step = 1 / task.rate
        due = time.perf_counter()
        end = due + task.seconds
        running: set[asyncio.Task[None]] = set()
        while due < end:
            now = time.perf_counter()
            while due <= now:
                running.add(each := asyncio.ensure_future(self._timed(due)))
                each.add_done_callback(running.discard)
                due += step
            await asyncio.sleep(due - now if due > now else 0)
        await asyncio.gather(*running)

    async def _timed(self, due: float) -> None:
        await self.call(self.done)
        self.took.append(time.perf_counter() - due)

    async def stream(self, task: Task) -> None:
        """Read a stream."""
        end = time.perf_counter() + task.seconds
        async with self._peer.stream("numbers", returns=int) as numbers:
            async for number in numbers:
                self.wrong += number != self.done
                self.done += 1
                if number % 256 == 0 and time.perf_counter() > end:
                    break

    async def upload(self, task: Task) -> None:
        """Upload numbers."""
        end = time.perf_counter() + task.seconds

        def numbers() -> Iterator[int]:
            while time.perf_counter() < end:
                yield self.done
                self.done += 1

        total = await self._peer.request("total", send=numbers(), timeout=None)
        self.wrong += total != self.done * (self.done - 1) // 2


async def measure(peer: ClusterPeer, task: Task) -> Result:
    warm = Load(peer)
    await getattr(warm, task.what)(replace(task, seconds=min(WARM, task.seconds)))
    load = Load(peer)
    began = time.perf_counter()
    await getattr(load, task.what)(task)
    seconds = time.perf_counter() - began
    # Twice as many of one value, where there is only one.
    percentiles = quantiles(load.took * 2 or [0.0] * 2, n=100, method="inclusive")
    return Result(
        done=load.done,
        seconds=seconds,
        total=warm.done + load.done,
        p50=percentiles[49],
        p99=percentiles[98],
        wrong=warm.wrong + load.wrong,
    )


async def main(url: str) -> None:
    logging.disable()
    cluster = Cluster(engine(url), name="bench")
    server = Server(cluster=cluster)

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        handshake.address = handshake.query["who"]

    loop = asyncio.get_running_loop()
    async with server.listen() as listener:
        print(listener.port, flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            await until(lambda: cluster.locate(CALLEE))
            result = await measure(cluster.peer(CALLEE), msgspec.json.decode(line, type=Task))
            print(msgspec.json.encode(result).decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
