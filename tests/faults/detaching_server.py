"""A server whose memory is looked at: ``python detaching_server.py BYTES``, with that bound for detached sessions."""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any

from wsrpc import Peer, Server


def make_server(most: int) -> Server:
    server = Server(detached_bytes=most)
    room = server.room("everybody")

    @server.on("join")
    def join(peer: Peer) -> None:
        room.add(peer)

    @server.on("work")
    async def work(data: Any) -> None:
        await asyncio.Event().wait()

    @server.on("broadcast")
    async def broadcast() -> int:
        """Broadcast small events until a session ends, and return the resident memory before that."""
        before = len(server.peers)
        while True:
            memory = resident()
            for number in range(1000):
                room.emit_nowait("news", number)
            if len(server.peers) < before:
                return memory
            await asyncio.sleep(0)

    @server.on("state")
    def state() -> tuple[int, int, int]:
        """Return the resident memory, and the numbers of sessions without a connection, and with one."""
        gc.collect()
        detached = server.stats().detached
        return resident(), detached, len(server.peers) - detached

    return server


def resident() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024


if __name__ == "__main__":
    make_server(int(sys.argv[1])).run("127.0.0.1", 0)
