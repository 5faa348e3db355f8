"""The client that is called: ``python -m benchmarks.cluster.callee PORT`` says ``ready``."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Iterator

from wsrpc import Client

from .tasks import CALLEE


def add(a: int, b: int) -> int:
    return a + b


def numbers() -> Iterator[int]:
    return itertools.count()


async def total(items: AsyncIterator[int]) -> int:
    return sum([item async for item in items])


async def main(port: int) -> None:
    client = Client(f"ws://127.0.0.1:{port}/?who={CALLEE}")
    for handler in (add, numbers, total):
        client.on(handler.__name__, handler)
    async with client:
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
