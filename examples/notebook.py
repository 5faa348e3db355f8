"""A notebook as a script: each part between two ``# %%`` is a cell of VS Code, PyCharm or Jupytext.

It has no ``async`` and no ``await``, and no ``with``: a client stays connected from one cell to the next. The server of
the first cell would be elsewhere in real life. Run it as it is: ``python examples/notebook.py``.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
from collections.abc import AsyncIterator, Iterator
from queue import SimpleQueue
from random import Random

import msgspec

from wsrpc import RemoteError, RpcError, Server
from wsrpc.blocking import Client

# %% A server with measurements, in a thread of its own


class Reading(msgspec.Struct):
    sensor: str
    celsius: float


server = Server()
stored: list[Reading] = []
started: SimpleQueue[str] = SimpleQueue()


@server.on("readings")
async def readings(sensor: str, count: int) -> AsyncIterator[Reading]:
    dice = Random(sensor)
    for _ in range(count):
        yield Reading(sensor, round(dice.gauss(20, 2), 1))


@server.on("store")
async def store(new: AsyncIterator[Reading]) -> int:
    async for reading in new:
        if reading.celsius < -273.15:
            raise RpcError(f"{reading.celsius} °C is too cold", code="not_real")
        stored.append(reading)
    return len(stored)


def serve() -> None:
    async def main() -> None:
        async with server.listen("127.0.0.1", 0) as listening:
            started.put(listening.url)
            await asyncio.Event().wait()

    asyncio.run(main())


threading.Thread(target=serve, daemon=True).start()

# %% Connect once, for all cells

client = Client(started.get(), connect_timeout=5)
client.connect()
print(f"the client is {client.state}")

# %% Read a stream into a list

with client.stream("readings", "attic", 1000, returns=Reading) as stream:
    attic = [reading.celsius for reading in stream]
print(f"attic: {len(attic)} readings, {statistics.mean(attic):.1f} °C on average")

# %% Leave a stream early: the server stops producing

warm: list[Reading] = []
with client.stream("readings", "cellar", 1_000_000, returns=Reading) as stream:
    for reading in stream:
        if reading.celsius > 23:
            warm.append(reading)
        if len(warm) == 3:
            break
print(f"the first warm readings of the cellar: {', '.join(str(each.celsius) for each in warm)}")

# %% Upload what a generator gives, which may read a file or a database


def calibrated() -> Iterator[Reading]:
    for celsius in attic[:500]:
        yield Reading("attic", celsius - 0.3)


print(f"the server has {client.request('store', send=calibrated(), returns=int)} readings")

# %% Errors are exceptions

try:
    client.request("store", send=[Reading("attic", -300.0)])
except RemoteError as error:
    print(f"refused: {error.message} ({error.code})")

# %% At the end

client.close()
