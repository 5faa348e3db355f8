"""A client that behaves well: for each line with seconds, requests one after another, and how long each took."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

PAUSE = 0.005

Echo = Callable[[int], Awaitable[object]]


async def measure(echo: Echo, seconds: float) -> list[float]:
    took: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        assert await echo(len(took)) == len(took)
        took.append(time.perf_counter() - began)
        await asyncio.sleep(PAUSE)
    return sorted(took)


@asynccontextmanager
async def of_wsrpc(url: str) -> AsyncGenerator[Echo]:
    from wsrpc import Client

    async with Client(url, proxy=None, reconnect=None) as client:
        yield lambda number: client.request("echo", number)


@asynccontextmanager
async def of_websockets(url: str) -> AsyncGenerator[Echo]:
    from websockets.asyncio.client import connect

    async with connect(url, proxy=None, compression=None) as connection:

        async def echo(number: int) -> object:
            await connection.send(str(number))
            return int(await connection.recv())

        yield echo


async def main(kind: str, port: str) -> None:
    logging.disable()
    loop = asyncio.get_running_loop()
    connected = of_websockets if kind == "bare" else of_wsrpc
    async with connected(f"ws://127.0.0.1:{port}/") as echo:
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            took = await measure(echo, float(line))
            print(json.dumps({"calls": len(took), "p99": took[int(0.99 * len(took))], "most": took[-1]}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
