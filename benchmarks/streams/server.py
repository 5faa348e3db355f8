"""The servers of the stream measurements: ``python -m benchmarks.streams.server KIND``.

As the other servers: prints the port that it listens on, and ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count

import msgspec
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from ..servers.bare import serve_with_websockets
from ..servers.handlers import HOST, Options, echo, parent_left, say_port
from .loads import ITEM_BYTES, STREAMS, Task


async def bare(connection: ServerConnection) -> None:
    """The first message says how fast the line is to be filled, until the client leaves."""
    task = msgspec.json.decode(await connection.recv(), type=Task)
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


async def large() -> AsyncIterator[bytes]:
    item = bytes(ITEM_BYTES)
    while True:
        yield item


async def serve_with_wsrpc() -> None:
    # Only here, so that a wsrpc that cannot be imported does not take the other server with it.
    from wsrpc import Server

    server = Server()
    server.on("large", large)
    server.on("echo", echo)
    async with server.listen(HOST) as listener:
        say_port(listener.port)
        await parent_left()


if __name__ == "__main__":
    asyncio.run(serve_with_websockets(bare, Options()) if sys.argv[1] == "bare" else serve_with_wsrpc())
