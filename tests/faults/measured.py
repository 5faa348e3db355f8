"""A server that knows its own memory.

``measured.py BYTES`` has that bound for sessions without a connection, and for what is kept for each caller. With the
URL of a Redis, it keeps results there.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from wsrpc import Handshake, Peer, Server
from wsrpc.store import MemoryStore
from wsrpc_adapters.redis import RedisStore

ITEM = 64 * 1024


def memory() -> int:
    """Bytes of this process that are in memory, or that were at most where the system tells no more."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except FileNotFoundError:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def make_server(most: int, *options: str) -> Server:
    redis = [RedisStore(option, payer_bytes=most) for option in options if option.startswith("redis:")]
    server = Server(detached_bytes=most, store=redis[0] if redis else MemoryStore(payer_bytes=most))
    room = server.room("everybody")
    log = server.room("log", allow=lambda peer: True, keep=600)

    @server.on("join")
    def join(peer: Peer) -> None:
        room.add(peer)

    @server.on("work")
    async def work(data: Any) -> None:
        await asyncio.Event().wait()

    @server.on("keep")
    async def keep(items: AsyncIterator[str]) -> None:
        async for _ in items:
            await asyncio.Event().wait()

    @server.on_handshake
    def log_in(handshake: Handshake) -> None:
        handshake.principal = handshake.bearer_token

    @server.on("kept", keep=60)
    async def kept(size: int) -> str:
        return "x" * size

    @server.on("kept download", keep=60)
    async def kept_download(count: int, size: int, more: str) -> AsyncIterator[str]:
        for _ in range(count):
            yield "x" * size
        await asyncio.Event().wait()

    @server.on("broadcast")
    async def broadcast() -> int:
        """Broadcast small events until a session ends, and return the memory before that."""
        before = len(server.peers)
        while True:
            now = memory()
            for number in range(1000):
                room.emit_nowait("news", number)
            if len(server.peers) < before:
                return now
            await asyncio.sleep(0)

    @server.on("say")
    async def say(count: int) -> None:
        for number in range(count):
            await log.emit("said", number, "x" * 1000)

    @server.on("state")
    def state() -> tuple[int, int, int]:
        """Return the memory, and the numbers of sessions without a connection, and with one."""
        gc.collect()
        detached = server.stats().detached_peers
        return memory(), detached, len(server.peers) - detached

    return server


if __name__ == "__main__":
    make_server(int(sys.argv[1]), *sys.argv[2:]).run("127.0.0.1", 0)
