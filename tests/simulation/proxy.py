"""A proxy between the clients and the nodes of the simulated world."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Collection

from wsrpc.testing import Simulation

__all__ = ["proxy"]

BUSY = b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n"
ANSWERS = b"502 Bad Gateway", b"404 Not Found", b"401 Unauthorized"
"""What it answers while it reaches no node."""
AWAY = b"\x88\x02\x03\xe9", b"\x88\x82\0\0\0\0\x03\xe9"
"""The Close frames with the code 1001 for a client and for a node."""
END = b"\r\n\r\n"


async def proxy(sim: Simulation, nodes: Collection[str], strict_until: float) -> None:
    async def pass_on(source: StreamReader, target: StreamWriter, whole: set[StreamWriter]) -> None:
        """Pass on frames. ``whole``: the ends to which no part of a frame was passed on without its rest."""
        try:
            while True:
                whole.add(target)
                head = await source.readexactly(2)
                if (size := head[1] & 127) > 125:
                    head += await source.readexactly(2 if size == 126 else 8)
                    size = int.from_bytes(head[2:])
                size += head[1] >> 7 << 2  # the mask
                if size > 8000 and sim.now < strict_until:
                    raise OSError("too large")
                whole.discard(target)
                target.write(head)
                while size:
                    target.write(data := await source.readexactly(min(size, 4096)))
                    await target.drain()
                    size -= len(data)
        except asyncio.IncompleteReadError as exc:
            target.write(exc.partial)
        target.write_eof()

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        ends, whole = [writer], set[StreamWriter]()
        try:
            await join(reader, ends, whole)
        except* (OSError, EOFError, asyncio.CancelledError):
            says = sim.random.random() < 0.5
            for each, away in zip(ends, AWAY, strict=False):
                if says and each in whole:  # as Caddy and Cloudflare do
                    each.write(away)
                else:
                    each.transport.abort()
        finally:
            for each in ends:
                each.close()

    async def join(reader: StreamReader, ends: list[StreamWriter], whole: set[StreamWriter]) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(sim.random.choice([*nodes]), 80)
        except OSError:
            ends[0].write(BUSY % sim.random.choice(ANSWERS))
            return
        ends.append(far_writer)
        far_writer.write(await reader.readuntil(END))
        ends[0].write(await far_reader.readuntil(END))
        async with asyncio.TaskGroup() as group:
            group.create_task(pass_on(reader, far_writer, whole))
            group.create_task(pass_on(far_reader, ends[0], whole))

    server = await asyncio.start_server(serve, port=80)
    try:
        await asyncio.Event().wait()
    finally:
        server.close()
        await asyncio.sleep(0)  # those that have just come begin
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
