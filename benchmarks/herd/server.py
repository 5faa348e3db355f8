"""Says its port; ``cut`` drops all connections, ``count`` says how many there are, the end of stdin ends it."""

from __future__ import annotations

import asyncio
import logging
import sys

from wsrpc import Server


async def main() -> None:
    logging.disable()
    server = Server()
    loop = asyncio.get_running_loop()
    async with server.listen() as listener:
        print(listener.port, flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            if line.strip() == "cut":
                for peer in server.peers:
                    if peer.transport is not None:
                        peer.transport.abort()
            else:
                print(len(server.peers), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
