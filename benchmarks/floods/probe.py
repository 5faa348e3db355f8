"""A client that behaves well: for each line with seconds, requests one after another, and how long each took."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time

from wsrpc import Client

PAUSE = 0.005


async def measure(client: Client, seconds: float) -> list[float]:
    took: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        assert await client.request("echo", len(took)) == len(took)
        took.append(time.perf_counter() - began)
        await asyncio.sleep(PAUSE)
    return sorted(took)


async def main(port: str) -> None:
    logging.disable()
    loop = asyncio.get_running_loop()
    async with Client(f"ws://127.0.0.1:{port}/", proxy=None, reconnect=None) as client:
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            took = await measure(client, float(line))
            print(json.dumps({"calls": len(took), "p99": took[int(0.99 * len(took))], "most": took[-1]}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
