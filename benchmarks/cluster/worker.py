"""A worker that has members of a room: ``python -m benchmarks.cluster.worker KIND URL`` says its port.

A line ``COUNT`` emits so many messages to the room, one after the other, and is answered when that is done.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from ..servers.handlers import Options

__all__ = ["MARK"]

MARK = "@@@@"
"""Is in each message once."""
PAYLOAD = {"from": "somebody", "text": MARK + "x" * 96, "number": 17}
ROOM = "lobby"

Emit = Callable[[], Awaitable[object]]


async def answer(emit: Emit) -> None:
    """Emit as stdin says, until it ends. A thread that reads would cost more than an emit to few members."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        for _ in range(int(line)):
            await emit()
        print("emitted", flush=True)


async def with_wsrpc(url: str) -> None:
    from wsrpc import Peer, Server
    from wsrpc.cluster import Cluster

    from .brokers import engine

    server = Server(cluster=Cluster(engine(url), name="bench"))
    room = server.room(ROOM)

    @server.on("open")
    def join(peer: Peer) -> None:
        room.add(peer)

    async with server.listen("127.0.0.1") as listener:
        print(listener.port, flush=True)
        await answer(lambda: room.emit("said", PAYLOAD))


async def with_socketio(url: str) -> None:
    import socketio

    from ..servers.with_uvicorn import serve

    server = socketio.AsyncServer(async_mode="asgi", client_manager=socketio.AsyncRedisManager(url))

    @server.on("connect")
    async def join(sid: str, environ: Any) -> None:
        await server.enter_room(sid, ROOM)

    application: Any = socketio.ASGIApp(server)
    await serve(
        application, Options(), until=lambda: answer(lambda: server.emit("said", PAYLOAD, room=ROOM)), http="httptools"
    )


KINDS: dict[str, Callable[[str], Any]] = {"wsrpc": with_wsrpc, "socketio": with_socketio}

if __name__ == "__main__":
    logging.disable()
    running = KINDS[sys.argv[1]](sys.argv[2])
    if sys.argv[1] == "socketio":  # as its documentation advises
        import uvloop

        uvloop.run(running)
    else:
        asyncio.run(running)
