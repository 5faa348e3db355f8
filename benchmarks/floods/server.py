"""The servers that are flooded: ``python -m benchmarks.floods.server wsrpc|bare OPEN_TIMEOUT`` says its port.

Then each line is answered with what it holds, connections, resident bytes and blocks of Python's memory, and with how
late the turns of its event loop came since the last line.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

EVERY = 0.002
"""Seconds between two looks at how late the loop is."""

Serving = tuple[int, Callable[[], int]]
"""The port, and how many connections there are."""


class Lateness:
    """How late a timer is called because of what else a turn of the loop does.

    Time in which the core was elsewhere does not count: so it is what this process worked since the timer was set, but
    for the time until it was due. (That falls short by up to `EVERY`.)
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._seen: list[float] = []
        self._start()

    def _start(self) -> None:
        self._worked = time.thread_time()
        self._due = self._loop.time() + EVERY
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        late, worked = self._loop.time() - self._due, time.thread_time() - self._worked
        self._seen.append(max(0.0, min(late, worked - EVERY)))
        self._start()

    def take(self) -> list[float]:
        """What was seen since the last time."""
        seen, self._seen = sorted(self._seen), []
        return seen or [0.0]

    def go_on(self) -> None:
        """What was done until now does not count."""
        self._timer.cancel()
        self._start()


def holds(peers: int, late: list[float]) -> str:
    gc.collect()
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    resident = pages * os.sysconf("SC_PAGE_SIZE")
    blocks = sys.getallocatedblocks()
    return json.dumps(
        {
            "peers": peers,
            "resident": resident,
            "blocks": blocks,
            "late": late[int(0.99 * len(late))],
            "latest": late[-1],
        }
    )


@asynccontextmanager
async def with_wsrpc(open_timeout: float) -> AsyncGenerator[Serving]:
    from wsrpc import Limits, Server

    # What is refused is logged as it is by default, but to nowhere: a disk is not what is measured.
    logging.getLogger("wsrpc").addHandler(logging.FileHandler(os.devnull))
    server = Server(limits=Limits(open_timeout=open_timeout))
    server.on("echo", lambda value: value)
    server.on("wait", asyncio.Event().wait)
    server.on_join(lambda peer, room: True)
    async with server.listen() as listener:
        yield listener.port, lambda: len(server.peers)


@asynccontextmanager
async def with_websockets(open_timeout: float) -> AsyncGenerator[Serving]:
    from websockets.asyncio.server import ServerConnection, serve
    from websockets.exceptions import ConnectionClosed

    logging.disable()

    async def echo(connection: ServerConnection) -> None:
        try:
            async for message in connection:
                await connection.send(message)
        except ConnectionClosed:
            pass

    refusing: dict[str, Any] = {"origins": [None], "open_timeout": open_timeout}
    async with serve(echo, "127.0.0.1", 0, compression=None, **refusing) as server:
        (listening,) = server.sockets
        yield listening.getsockname()[1], lambda: len(server.connections)


async def main(kind: str, open_timeout: float) -> None:
    loop = asyncio.get_running_loop()
    async with (with_websockets if kind == "bare" else with_wsrpc)(open_timeout) as (port, peers):
        print(port, flush=True)
        lateness = Lateness()
        while await loop.run_in_executor(None, sys.stdin.readline):
            late = lateness.take()
            print(holds(peers(), late), flush=True)
            lateness.go_on()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
