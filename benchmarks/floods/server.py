"""Says its port, then answers each line with what it holds: connections, resident bytes, blocks of Python's memory."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys

from wsrpc import Limits, Server


def holds(server: Server) -> str:
    gc.collect()
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    resident = pages * os.sysconf("SC_PAGE_SIZE")
    return json.dumps({"peers": len(server.peers), "resident": resident, "blocks": sys.getallocatedblocks()})


async def main(open_timeout: float) -> None:
    # What is refused is logged as it is by default, but to nowhere: a disk is not what is measured.
    logging.getLogger("wsrpc").addHandler(logging.FileHandler(os.devnull))
    server = Server(limits=Limits(open_timeout=open_timeout))
    server.on("echo", lambda value: value)
    server.on("wait", asyncio.Event().wait)
    server.on_join(lambda peer, room: True)
    loop = asyncio.get_running_loop()
    async with server.listen() as listener:
        print(listener.port, flush=True)
        while await loop.run_in_executor(None, sys.stdin.readline):
            print(holds(server), flush=True)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
