"""The servers of the stream measurements: ``python -m benchmarks.streams.server KIND``.

As the other servers: prints the port that it listens on, and ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from ..servers.bare import serve_with_websockets
from ..servers.handlers import HOST, Options, echo, parent_left, say_port
from .loads import ITEM_BYTES, STREAMS, Task

MOST_LATE = 0.005
"""Seconds by which a sender may be behind its plan."""


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
    pace = Pace(rate)
    with suppress(ConnectionClosed):
        while True:
            await connection.send(message)
            await pace.wait()


class Pace:
    """When the next message of `ITEM_BYTES` is due, at ``rate`` bytes per second.

    One that is late, because sleeping is coarse, is followed by others that catch up. But what is more than `MOST_LATE`
    behind is left out: a sender that makes up for a pause of the machine fills the line, and a small request would then
    wait behind what nobody has asked for.
    """

    def __init__(self, rate: float) -> None:
        self._step = ITEM_BYTES / rate
        self._due = time.perf_counter()

    async def wait(self) -> None:
        now = time.perf_counter()
        self._due = max(self._due + self._step, now - MOST_LATE)
        await asyncio.sleep(max(self._due - now, 0))


async def large(rate: float = 0.0) -> AsyncIterator[bytes]:
    """Items without a pause, or at so many bytes per second."""
    item = bytes(ITEM_BYTES)
    if not rate:
        while True:
            yield item
    pace = Pace(rate)
    while True:
        yield item
        await pace.wait()


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
