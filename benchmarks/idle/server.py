"""``python -m benchmarks.idle.server KIND PING_INTERVAL WITH`` says its port, then answers each line with its cost.

WITH is what all connections have: ``nothing``, ``tls`` or ``compression``.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from websockets.asyncio.server import ServerConnection, serve

from ..servers.handlers import Options

PING_TIMEOUT = 60.0
"""Far more than a busy machine needs to answer; the same for both."""


@asynccontextmanager
async def bare(ping_interval: float, options: Options, compressed: bool) -> AsyncIterator[int]:
    async def handler(connection: ServerConnection) -> None:
        async for _ in connection:
            pass

    async with serve(
        handler,
        "127.0.0.1",
        0,
        compression="deflate" if compressed else None,
        ssl=options.ssl,
        ping_interval=ping_interval,
        ping_timeout=PING_TIMEOUT,
        backlog=1024,
    ) as server:
        (listener,) = server.sockets
        yield listener.getsockname()[1]


@asynccontextmanager
async def wsrpc(ping_interval: float, options: Options, compressed: bool) -> AsyncIterator[int]:
    # Only here, so that the other server's memory is without it.
    from wsrpc import Limits, Server

    server = Server(limits=Limits(ping_interval=ping_interval, ping_timeout=PING_TIMEOUT), compression=compressed)
    server.on("add", lambda a, b: a + b)
    async with server.listen(ssl=options.ssl) as listener:
        yield listener.port


def cost() -> str:
    """Resident bytes, and CPU seconds so far, as a line of JSON."""
    gc.collect()
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    return json.dumps({"resident": pages * os.sysconf("SC_PAGE_SIZE"), "cpu": time.process_time()})


async def main(kind: str, ping_interval: float, having: str) -> None:
    logging.disable()
    loop = asyncio.get_running_loop()
    async with {"bare": bare, "wsrpc": wsrpc}[kind](
        ping_interval, Options(tls=having == "tls"), having == "compression"
    ) as port:
        print(port, flush=True)
        while await loop.run_in_executor(None, sys.stdin.readline):
            print(cost(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), sys.argv[3]))
