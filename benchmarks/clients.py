"""The Python clients under test: ``python -m benchmarks.clients KIND PORT SERVER_PID``.

It says ``ready``, then takes lines ``WARM_SECONDS SECONDS`` on stdin and answers each with one line of JSON
in the shape of ``measure.Sample``. Every line is a new connection in a new event loop.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect

from .measure import Sample, cpu_seconds
from .workloads import PENDING

Request = Callable[..., Awaitable[Any]]
Dial = Callable[[str], AbstractAsyncContextManager[Request]]


class HandwrittenClient:
    """What one writes by hand: futures by id, and a task that reads.

    The JSON library is the one that wsrpc uses: it is not what is compared.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._last_id = 0

    async def read(self) -> None:
        async for message in self._connection:
            answer = msgspec.json.decode(message)
            self._pending.pop(answer["i"]).set_result(answer["d"])

    async def request(self, name: str, *arguments: Any) -> Any:
        self._last_id += 1
        future = self._pending[self._last_id] = asyncio.get_running_loop().create_future()
        message = {"i": self._last_id, "a": [name, *arguments]}
        await self._connection.send(msgspec.json.encode(message), text=True)
        return await future


@asynccontextmanager
async def handwritten(url: str) -> AsyncIterator[Request]:
    async with connect(url, compression=None) as connection, asyncio.TaskGroup() as tasks:
        client = HandwrittenClient(connection)
        tasks.create_task(client.read())
        yield client.request
        await connection.close()


@asynccontextmanager
async def wsrpc(url: str) -> AsyncIterator[Request]:
    # Only here, so that a wsrpc that cannot be imported does not take the other client with it.
    from wsrpc import Client

    async with Client(url) as client:
        yield client.request


@dataclass
class Workers:
    """Coroutines that each keep one request under way until they are told to stop."""

    request: Request
    answers: int = 0
    wrong: int = 0
    stopping: bool = False

    async def work(self) -> None:
        request = self.request
        while not self.stopping:
            if await request("add", 1, 2) != 3:
                self.wrong += 1
            self.answers += 1


async def measure(dial: Dial, url: str, server_pid: int, warm: float, seconds: float) -> Sample:
    async with dial(url) as request, asyncio.TaskGroup() as tasks:
        workers = Workers(request)
        for _ in range(PENDING):
            tasks.create_task(workers.work())
        await asyncio.sleep(warm)
        answers, began = workers.answers, time.perf_counter()
        server, own = cpu_seconds(server_pid), time.process_time()
        await asyncio.sleep(seconds)
        took = time.perf_counter() - began
        sample = Sample(
            answers=workers.answers - answers,
            seconds=took,
            server_cpu=(cpu_seconds(server_pid) - server) / took,
            load_busy=(time.process_time() - own) / took,
        )
        workers.stopping = True
    # The group has waited for every worker: nothing is left unanswered, and all wrong answers are counted.
    return msgspec.structs.replace(sample, wrong=workers.wrong)


def main(kind: str, port: int, server_pid: int) -> None:
    dials: dict[str, Dial] = {"handwritten": handwritten, "wsrpc": wsrpc}
    dial = dials[kind]
    print("ready", flush=True)
    for line in sys.stdin:
        warm, seconds = map(float, line.split())
        sample = asyncio.run(measure(dial, f"ws://127.0.0.1:{port}/", server_pid, warm, seconds))
        print(msgspec.json.encode(sample).decode(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
