"""Send each client the newest value of a live feed.

    python server.py [PORT]

There is a tick every millisecond. If a client reads slowly, the server does not keep the ticks for it: when the client
is ready for another tick, the server sends the newest one.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from wsrpc import Server


class Feed:
    """Keeps the newest tick, and wakes the tasks that wait for it."""

    def __init__(self) -> None:
        self.number = 0
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0.001)
            async with self._changed:
                self.number += 1
                self._changed.notify_all()

    async def newer_than(self, number: int) -> int:
        async with self._changed:
            await self._changed.wait_for(lambda: self.number > number)
            return self.number


server = Server()
feed = Feed()
watching = 0


def count(change: int) -> None:
    global watching
    watching += change
    print(f"{watching} watching", flush=True)


@server.on("watch")
async def watch() -> AsyncIterator[int]:
    count(+1)
    newest = feed.number
    try:
        while True:
            newest = await feed.newer_than(newest)
            yield newest  # continues when the client has room; ticks that came meanwhile are skipped
    finally:
        count(-1)  # however it ends: the client leaves, the connection drops, the server closes


@asynccontextmanager
async def ticking(server: Server) -> AsyncIterator[None]:
    task = asyncio.create_task(feed.run())
    yield
    task.cancel()


if __name__ == "__main__":
    logging.basicConfig(level="INFO")  # shows the address, and each connection
    server.run(port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080, lifespan=ticking)
