"""The clients of the stream measurements: ``python -m benchmarks.streams.client KIND PORT SERVER_PID``.

It says ``ready``, then takes a `Task` in JSON from each line of stdin and answers it with one line of JSON, a
`Sample` or a `Shared`. Every line is a new connection in a new event loop.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

import msgspec
from websockets.asyncio.client import connect

from ..measure import Sample, cpu_seconds
from .loads import ITEM_BYTES, STREAMS, Shared, Task

PING = "hello"


@dataclass
class Counter:
    """Counts small items until told to stop."""

    items: int = 0
    wrong: int = 0
    stopping: bool = False

    async def measure(self, reading: Coroutine[Any, Any, None], server_pid: int, task: Task) -> Sample:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(reading)
            await asyncio.sleep(task.warm)
            items, began = self.items, time.perf_counter()
            server, own = cpu_seconds(server_pid), time.process_time()
            await asyncio.sleep(task.seconds)
            took = time.perf_counter() - began
            sample = Sample(
                answers=self.items - items,
                seconds=took,
                server_cpu=(cpu_seconds(server_pid) - server) / took,
                load_busy=(time.process_time() - own) / took,
            )
            self.stopping = True
        return msgspec.structs.replace(sample, wrong=self.wrong)


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


async def bare_small(url: str, task: Task, counter: Counter) -> None:
    async with connect(url, compression=None) as connection:
        await connection.send(msgspec.json.encode(task), text=True)
        async for message in connection:
            # The JSON library is the one that wsrpc uses: it is not what is compared.
            item = msgspec.json.decode(message)
            if item["n"] != counter.items:
                counter.wrong += 1
            counter.items += 1
            if counter.stopping:
                return


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


async def wsrpc_small(url: str, task: Task, counter: Counter) -> None:
    # Only here, so that a wsrpc that cannot be imported does not take the other client with it.
    from wsrpc import Client

    async with Client(url) as client, client.stream(task.subject) as items:
        async for item in items:
            if item["n"] != counter.items:
                counter.wrong += 1
            counter.items += 1
            if counter.stopping:
                return


@asynccontextmanager
async def wsrpc_line(url: str, task: Task) -> AsyncIterator[Line]:
    from wsrpc import Client

    async def read(index: int) -> None:
        async with client.stream("large", returns=bytes) as items:
            async for item in items:
                line.items[index] += 1
                line.wrong += len(item) != ITEM_BYTES

    async with Client(url) as client, asyncio.TaskGroup() as tasks:
        line = Line(lambda text: client.request("echo", text))
        readings = [tasks.create_task(read(index)) for index in range(STREAMS)]
        yield line
        for reading in readings:
            reading.cancel()


def main(kind: str, port: int, server_pid: int) -> None:
    url = f"ws://127.0.0.1:{port}/"
    small = {"bare": bare_small, "wsrpc": wsrpc_small}[kind]
    shared = {"bare": bare_line, "wsrpc": wsrpc_line}[kind]

    async def measure(task: Task) -> Sample | Shared:
        if task.shared:
            async with shared(url, task) as line:
                return await line.measure(task)
        counter = Counter()
        return await counter.measure(small(url, task, counter), server_pid, task)

    print("ready", flush=True)
    for text in sys.stdin:
        outcome = asyncio.run(measure(msgspec.json.decode(text, type=Task)))
        print(msgspec.json.encode(outcome).decode(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
