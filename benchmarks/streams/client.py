"""The clients of the stream measurements: ``python -m benchmarks.streams.client KIND PORT``.

It says ``ready``, then takes a `Task` in JSON from each line of stdin and answers it with a `Shared`. Every line is a
new connection in a new event loop.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

import msgspec
from websockets.asyncio.client import connect

from .loads import ITEM_BYTES, STREAMS, Shared, Task

PING = "hello"


@dataclass
class Line:
    """What has come of the items of each stream, and what asks small requests beside them."""

    ask: Callable[[str], Awaitable[Any]]
    items: list[int] = field(default_factory=lambda: [0] * STREAMS)
    took: list[float] = field(default_factory=list)
    wrong: int = 0

    async def measure(self, task: Task) -> Shared:
        """Ask for `task.seconds` seconds, one after the other."""
        await asyncio.sleep(task.warm)
        before, began = list(self.items), time.perf_counter()
        until = began + task.seconds
        while (start := time.perf_counter()) < until:
            if await self.ask(PING) != PING:
                self.wrong += 1
            self.took.append(time.perf_counter() - start)
        seconds = time.perf_counter() - began
        items = [after - earlier for after, earlier in zip(self.items, before, strict=True)]
        # Twice as many of one value, where there is only one.
        percentiles = quantiles(self.took * 2, n=100, method="inclusive")
        return Shared(
            requests=len(self.took),
            seconds=seconds,
            p50=percentiles[49],
            p99=percentiles[98],
            rate=sum(items) * ITEM_BYTES / seconds,
            fairness=min(items) / max(max(items), 1),
            wrong=self.wrong,
        )


# ---------------------------------------------------------------- bare


@asynccontextmanager
async def bare_line(url: str, task: Task) -> AsyncIterator[Line]:
    answers: asyncio.Queue[str] = asyncio.Queue()

    async def ask(text: str) -> str:
        await connection.send(text)
        return await answers.get()

    async def read() -> None:
        async for message in connection:
            if isinstance(message, str):
                answers.put_nowait(message)
            else:
                line.items[message[0]] += 1

    line = Line(ask)
    async with connect(url, compression=None) as connection, asyncio.TaskGroup() as tasks:
        await connection.send(msgspec.json.encode(task), text=True)
        tasks.create_task(read())
        yield line
        await connection.close()


# ---------------------------------------------------------------- wsrpc


@asynccontextmanager
async def wsrpc_line(url: str, task: Task) -> AsyncIterator[Line]:
    from wsrpc import Client

    async def read(index: int) -> None:
        async with client.stream("large", task.rate / STREAMS, returns=bytes) as items:
            async for item in items:
                line.items[index] += 1
                line.wrong += len(item) != ITEM_BYTES

    async with Client(url) as client, asyncio.TaskGroup() as tasks:
        line = Line(lambda text: client.request("echo", text))
        readings = [tasks.create_task(read(index)) for index in range(STREAMS)]
        yield line
        for reading in readings:
            reading.cancel()


def main(kind: str, port: int) -> None:
    opened = {"bare": bare_line, "wsrpc": wsrpc_line}[kind]

    async def measure(task: Task) -> Shared:
        async with opened(f"ws://127.0.0.1:{port}/", task) as line:
            return await line.measure(task)

    print("ready", flush=True)
    for text in sys.stdin:
        print(msgspec.json.encode(asyncio.run(measure(msgspec.json.decode(text, type=Task)))).decode(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
