"""Workers that share a port and a Redis, and serve calls with keys: ``python keyed_workers.py PORT REDIS JOURNAL``.

A handler writes down its key and its process before it does anything else, so the journal says what has run, whatever
anybody was told of it.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from asyncio.subprocess import Process
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from engine_servers import redis_server
from programs import start

from wsrpc import Context, Handshake, Server
from wsrpc.testing._proxied_connection import bound_socket
from wsrpc_adapters.redis import RedisStore

__all__ = ["ITEMS", "LEASE", "Run", "Workers", "workers"]

ITEMS = 500
LEASE = 2.0
KEPT = 10.0
"""Seconds for which the result of a charge is kept."""


def make_server(redis: str, journal: int) -> Server:
    server = Server(store=RedisStore(redis, lease=LEASE, payer_logs=100_000))

    def note(what: str | None) -> None:
        os.write(journal, f"{what} {os.getpid()} {time.monotonic()}\n".encode())  # all processes have this clock

    @server.on_handshake
    def log_in(handshake: Handshake) -> None:
        handshake.principal = handshake.bearer_token
        note("connection")

    @server.on("charge", keep=KEPT)
    async def charge(ctx: Context, stays: bool = False) -> int:
        note(ctx.key)
        if stays:  # until the process is killed
            await asyncio.Event().wait()
        await asyncio.sleep(random.uniform(0, 0.05))  # its work
        return os.getpid()

    @server.on("generate", keep=600)
    async def generate(ctx: Context, stays: bool = False) -> AsyncIterator[int]:
        note(ctx.key)
        yield os.getpid()
        if stays:
            await asyncio.Event().wait()
        for number in range(1, ITEMS):
            yield number
            if random.random() < 0.3:  # else the next one comes at once
                await asyncio.sleep(random.uniform(0, 0.02))

    return server


class Run(NamedTuple):
    """One execution of a handler."""

    pid: int
    began: float


class Workers:
    """The processes, by their ids."""

    def __init__(self, port: int, redis: str, journal: Path) -> None:
        self.url = f"ws://127.0.0.1:{port}/"
        self.alive: dict[int, Process] = {}
        self.killed: dict[int, float] = {}
        """When each was killed."""
        self._journal = journal
        self._command = sys.executable, __file__, str(port), redis, str(journal)

    async def start(self) -> None:
        process = await start(*self._command, stderr=None)
        self.alive[process.pid] = process
        assert process.stdout is not None
        assert await process.stdout.readline() == b"listening\n"

    async def kill(self, pid: int) -> None:
        process = self.alive.pop(pid)
        self.killed[pid] = time.monotonic()
        process.kill()
        await process.communicate()

    def runs(self) -> dict[str, list[Run]]:
        """What has run, by keys; and under "connection", what was connected to."""
        found: defaultdict[str, list[Run]] = defaultdict(list)
        for line in self._journal.read_text("ascii").splitlines():
            key, pid, began = line.split()
            found[key].append(Run(int(pid), float(began)))
        return found


@asynccontextmanager
async def workers(folder: Path) -> AsyncGenerator[Workers]:
    """Two workers on one port, and their Redis."""
    async with AsyncExitStack() as stack:
        redis = redis_server()
        stack.callback(redis.kill)
        # Keeps the port while nobody listens there.
        keeper = stack.enter_context(bound_socket(0))
        found = Workers(keeper.getsockname()[1], redis.url, folder / "journal")
        try:
            await asyncio.gather(found.start(), found.start())
            yield found
        finally:
            for pid in [*found.alive]:
                await found.kill(pid)


async def main(port: int, redis: str, path: str) -> None:
    journal = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    async with make_server(redis, journal).listen("127.0.0.1", port, reuse_port=True):
        print("listening", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
