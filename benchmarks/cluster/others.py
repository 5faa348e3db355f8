"""Nodes that have addresses: ``python -m benchmarks.cluster.others URL NODES ADDRESSES``.

It says ``ready`` when each knows all of them.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import AsyncExitStack

from wsrpc._cluster.cluster import membership_of
from wsrpc.cluster import ClusterClient

from .brokers import engine
from .waiting import until


async def main(url: str, nodes: int, addresses: int) -> None:
    logging.disable()
    async with AsyncExitStack() as stack:
        others = [
            await stack.enter_async_context(ClusterClient(engine(url), name="bench", connect_timeout=30))
            for _ in range(nodes)
        ]
        for number in range(addresses):
            # Without a connection for each: what is measured is what others know of it.
            membership_of(others[number % nodes]).directory.claim(f"user/{number:06}")
        for other in others:
            await until(lambda other=other: (stats := other.stats()) and stats.addresses == addresses)  # type: ignore[misc]
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
