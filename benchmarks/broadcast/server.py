"""Says its port; a line ``COUNT SIZE`` emits that to all, and is answered with what it took. Argument: the hard cap."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time

from wsrpc import Limits, Server


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def emit(server: Server, count: int, size: int) -> dict[str, float]:
    text, failed, most, began = "x" * size, 0, resident(), time.monotonic()
    for number in range(count):
        report = await server.emit("n", number, text)
        failed += len(report.errors)
        if number % 16 == 0:
            most = max(most, resident())
    return {
        "began": began,
        "seconds": time.monotonic() - began,
        "failed": failed,
        "resident": max(most, resident()),
        "peers": len(server.peers),
    }


async def main(hard_cap: int) -> None:
    logging.disable()
    server = Server(limits=Limits(hard_cap=hard_cap))
    loop = asyncio.get_running_loop()
    async with server.listen() as listener:
        print(listener.port, flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            count, size = map(int, line.split())
            print(json.dumps(await emit(server, count, size)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
