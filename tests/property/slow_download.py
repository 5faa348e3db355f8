"""A download by a consumer that is slower than the producer: two programs, each of which knows its memory.

``slow_download.py serve`` serves; ``slow_download.py URL BYTES`` downloads and prints a report in JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from wsrpc import Client, Server

ITEM = 64 * 1024
SLOWER = 5


def memory(peak: bool) -> int:
    """Bytes of this process that are in memory, or were at most."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except FileNotFoundError:  # not Linux
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    line = next(line for line in status.splitlines() if line.startswith("VmHWM" if peak else "VmRSS"))
    return int(line.split()[1]) * 1024


def item(number: int) -> bytes:
    # Not of zeros, for which the system may give no memory.
    return number.to_bytes(8, "big") * (ITEM // 8)


def serve() -> None:
    logging.basicConfig(level="INFO")
    server = Server()
    start = memory(peak=False)

    @server.on("download")
    def download(size: int) -> Iterator[bytes]:
        return (item(number) for number in range(size // ITEM))

    @server.on("grown")
    def grown() -> int:
        return memory(peak=True) - start

    server.run("127.0.0.1", 0)


async def main(url: str, size: int) -> None:
    async with Client(url) as client:
        await client.request("grown")
        start = memory(peak=False)
        number = 0
        async with client.stream("download", size, returns=bytes) as items:
            async for piece in items:
                assert piece == item(number)
                number += 1
                for _ in range(SLOWER):  # each takes as long as an item could
                    await client.request("grown")
        assert number == size // ITEM
        report = {
            "bytes": size,
            "client_grown": memory(peak=True) - start,
            "server_grown": await client.request("grown", returns=int),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        asyncio.run(main(sys.argv[1], int(sys.argv[2])))
