"""The servers of the stream measurements: ``python -m benchmarks.streams.server KIND PORT``.

As the other servers: prints the port that it listens on, and ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from itertools import count
from typing import Any

import msgspec
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from ..servers import HOST, echo, parent_left, serve_with_websockets
from .loads import ITEM_BYTES, STREAMS, Task

Item = dict[str, Any]


def small(n: int) -> Item:
    return {"n": n, "x": 1.5}


async def bare(connection: ServerConnection) -> None:
    """The first message says what is wanted, and that until the client leaves."""
    task = msgspec.json.decode(await connection.recv(), type=Task)
    if not task.shared:
        with suppress(ConnectionClosed):
            for n in count():
                await connection.send(msgspec.json.encode(small(n)), text=True)
        return
    async with asyncio.TaskGroup() as tasks:
        for index in range(STREAMS):
            tasks.create_task(_fill(connection, index, task.rate / STREAMS))
        with suppress(ConnectionClosed):
            async for message in connection:
                await connection.send(message)


async def _fill(connection: ServerConnection, index: int, rate: float) -> None:
    """Send messages at so many bytes per second, the first byte of each telling whose it is."""
    message = bytes([index]) * ITEM_BYTES
    began = time.perf_counter()
    with suppress(ConnectionClosed):
        for n in count(1):
            await connection.send(message)
            # Behind the plan, because sleeping is coarse, it catches up.
            await asyncio.sleep(max(began + n * ITEM_BYTES / rate - time.perf_counter(), 0))


async def small_async() -> AsyncIterator[Item]:
    for n in count():
        yield small(n)


def small_plain() -> Iterator[Item]:
    return map(small, count())


async def large() -> AsyncIterator[bytes]:
    item = bytes(ITEM_BYTES)
    while True:
        yield item


async def serve_with_wsrpc(port: int) -> None:
    # Only here, so that a wsrpc that cannot be imported does not take the other server with it.
    from wsrpc import Server

    server = Server()
    server.on("async", small_async)
    server.on("plain", small_plain)
    server.on("large", large)
    server.on("echo", echo)
    async with server.listen(HOST, port) as listener:
        print(listener.port, flush=True)
        await parent_left()


if __name__ == "__main__":
    kind = sys.argv[1]
    asyncio.run(serve_with_websockets(bare, int(sys.argv[2])) if kind == "bare" else serve_with_wsrpc(int(sys.argv[2])))
