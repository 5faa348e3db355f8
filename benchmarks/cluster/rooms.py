"""A node with many rooms: ``python -m benchmarks.cluster.rooms URL COUNT`` says what they take, as `Filled`.

The node that hears of them is in the same process. Memory is counted in a second round, in which everything is slow.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
import tracemalloc
from contextlib import AsyncExitStack

import msgspec

from wsrpc import Limits, Server
from wsrpc._cluster.cluster import membership_of
from wsrpc.cluster import Cluster, ClusterClient
from wsrpc.testing import connect

from .brokers import engine
from .waiting import until


class Filled(msgspec.Struct, frozen=True):
    """What it took to have a member in so many rooms."""

    adding: float
    """Seconds for all calls of `Room.add`."""
    adding_alone: float
    """The same without a cluster."""
    known: float
    """Seconds until the other node knew of all rooms."""
    one_more: float
    """Seconds until it knew of one more."""
    bytes: int
    """Bytes at both nodes, beyond those without a cluster."""


Times = tuple[float, float, float, int]
"""Seconds until all rooms had a member, until they were known elsewhere, and until one more was; and bytes."""


async def fill(server: Server, other: ClusterClient | None, count: int) -> Times:
    """Fill rooms of ``server``, and wait until ``other`` knows of them."""
    directory = None if other is None else membership_of(other).directory

    async def known(room: str) -> float:
        await until(lambda: directory is None or directory.nodes_of(room), pause=0)
        return time.perf_counter()

    async with connect(server):
        [peer] = server.peers
        gc.collect()
        allocated = tracemalloc.get_traced_memory()[0]
        began = time.perf_counter()
        for number in range(count):
            server.room(f"room/{number}").add(peer)
        added = time.perf_counter()
        all_known = await known(f"room/{count - 1}")
        gc.collect()
        allocated = tracemalloc.get_traced_memory()[0] - allocated
        begin_one = time.perf_counter()
        server.room("one more").add(peer)
        one = await known("one more") - begin_one
    return added - began, all_known - began, one, allocated


async def main(url: str, count: int) -> Filled:
    limits = Limits(rooms=count + 1)
    rounds: list[tuple[Times, Times]] = []
    for traced in (False, True):
        if traced:
            tracemalloc.start()
        alone = await fill(Server(limits=limits), None, count)
        async with AsyncExitStack() as stack:
            server = Server(cluster=Cluster(engine(url), name="bench"), limits=limits)
            await stack.enter_async_context(server.listen("127.0.0.1"))
            other = await stack.enter_async_context(ClusterClient(engine(url), name="bench"))
            await until(lambda: len(other.nodes) == 2)  # noqa: B023 - awaited here
            rounds.append((alone, await fill(server, other, count)))
    (alone, together), (alone_traced, together_traced) = rounds
    return Filled(
        adding=together[0],
        adding_alone=alone[0],
        known=together[1],
        one_more=together[2],
        bytes=together_traced[3] - alone_traced[3],
    )


if __name__ == "__main__":
    logging.disable()
    print(msgspec.json.encode(asyncio.run(main(sys.argv[1], int(sys.argv[2])))).decode())
