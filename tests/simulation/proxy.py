"""A proxy between the clients and the nodes of the simulated world."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Collection
from typing import Any

from wsrpc.testing import Simulation

__all__ = ["proxy"]

BUSY = b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n"
ANSWERS = b"502 Bad Gateway", b"404 Not Found", b"401 Unauthorized"
"""What it answers while it reaches no node."""


async def proxy(sim: Simulation, nodes: Collection[str]) -> None:
    async def pass_on(source: StreamReader, target: StreamWriter) -> None:
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
        target.write_eof()

    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        task: Any = asyncio.current_task()
        connections.add(task)
        ends = [writer]
        try:
            await join(reader, ends)
        except* (OSError, asyncio.CancelledError):
            for each in ends:
                each.transport.abort()
        finally:
            for each in ends:
                each.close()
            connections.discard(task)

    async def join(reader: StreamReader, ends: list[StreamWriter]) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(sim.random.choice([*nodes]), 80)
        except OSError:
            ends[0].write(BUSY % sim.random.choice(ANSWERS))
            return
        ends.append(far_writer)
        async with asyncio.TaskGroup() as group:
            group.create_task(pass_on(reader, far_writer))
            group.create_task(pass_on(far_reader, ends[0]))

    async with await asyncio.start_server(serve, port=80):
        try:
            await asyncio.Event().wait()
        finally:
            for task in connections:
                task.cancel()
            await asyncio.gather(*connections)
