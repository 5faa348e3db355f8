"""A server that gets killed, by `test_page_cuts_kills.py`: ``python mortal_server.py PORT JOURNAL``.

Each handler writes down that it runs before it does anything else. What was written to a file stays there when the
process is killed, so the journal says what has run, whatever anybody was told of it.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator

from wsrpc import Peer, Server


def make_server(journal: int) -> Server:
    server = Server()

    def note(number: int) -> None:
        os.write(journal, b"%d\n" % number)

    @server.on("at_once")
    def at_once(number: int) -> int:
        note(number)
        return -number

    @server.on("later")
    async def later(number: int) -> int:
        note(number)
        await asyncio.sleep(random.uniform(0, 0.05))  # its work
        return -number

    @server.on("ask_back")
    async def ask_back(peer: Peer, number: int) -> int:
        note(number)
        return await peer.request("negate", number, returns=int)

    @server.on("hold")
    async def hold(peer: Peer, number: int) -> None:
        """Say that it runs, and end with the process."""
        note(number)
        await peer.emit("held", number)
        await asyncio.Event().wait()

    @server.on("count")
    async def count(number: int) -> AsyncIterator[int]:
        note(number)
        item = 0
        while True:
            yield item
            item += 1

    server.on("event", note)
    return server


async def main(port: int, path: str) -> None:
    journal = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    async with make_server(journal).listen("127.0.0.1", port):
        print("listening", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
