"""A node that joins: ``python -m benchmarks.cluster.joiner URL ADDRESSES [traced]`` says what it took, as `Joined`."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import time
import tracemalloc

import msgspec

from wsrpc.cluster import ClusterClient

from ..measure import resident_bytes
from .brokers import engine
from .waiting import until


class Joined(msgspec.Struct, frozen=True):
    """What it took to know of all addresses."""

    entered: float
    """Seconds until the block of `ClusterClient` was entered."""
    known: float
    """Seconds until all addresses were known."""
    resident: int
    """Bytes that the process has grown by."""
    traced: int
    """Bytes that Python has allocated since, if the run is traced, which makes it slow."""


async def join(url: str, addresses: int, traced: bool) -> Joined:
    shop = ClusterClient(engine(url), name="bench")
    gc.collect()
    if traced:
        tracemalloc.start()
    before = resident_bytes(os.getpid())
    began = time.perf_counter()
    async with shop:
        entered = time.perf_counter() - began
        await until(lambda: (stats := shop.stats()) is not None and stats.addresses == addresses)
        known = time.perf_counter() - began
        gc.collect()
        return Joined(
            entered,
            known,
            resident_bytes(os.getpid()) - before,
            tracemalloc.get_traced_memory()[0] if traced else 0,
        )


if __name__ == "__main__":
    logging.disable()
    print(msgspec.json.encode(asyncio.run(join(sys.argv[1], int(sys.argv[2]), "traced" in sys.argv))).decode())
