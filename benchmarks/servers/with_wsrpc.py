"""wsrpc, on each of its transports."""

from __future__ import annotations

import itertools
import logging
from typing import Any

from wsrpc import Limits, Peer, Server

from . import handlers
from .handlers import HOST, ROOM_CONNECTIONS, ROOM_MEMBERS, TICK, Options, parent_left, say_port


def make_server(options: Options, limits: Limits | None = None) -> Server:
    """A server in its default setting but for ``limits``, with the handlers that the workloads call."""
    server = Server(limits=limits)
    server.on("add", handlers.add)
    server.on("add_async", handlers.add_async)
    server.on("echo", handlers.echo)
    server.on("echo_bytes", handlers.echo_bytes)
    server.on("items_async", handlers.items_async)
    server.on("items_plain", handlers.items_plain)
    server.on("download", handlers.download)
    server.on("upload", handlers.upload)
    for number in range(options.handlers):
        server.on(f"unused {number}", handlers.add)

    @server.on("note")
    def note(peer: Peer, number: int) -> None:
        peer.set("notes", peer.get("notes", 0) + 1)

    @server.on("notes")
    def notes(peer: Peer) -> Any:
        return peer.get("notes", 0)

    @server.on("broadcast")
    async def broadcast() -> int:
        await server.emit("tick", TICK)
        return 1

    if options.rooms:
        _add_rooms(server, options.rooms)
    return server


def _add_rooms(server: Server, count: int) -> None:
    """Each of so many rooms gets ten of `ROOM_CONNECTIONS` peers, and ``to_a_room`` emits to one room after another."""
    rooms = [server.room(f"room {number}") for number in range(count)]
    turns = itertools.cycle(rooms)
    numbers = itertools.cycle(range(ROOM_CONNECTIONS))

    @server.on("open")
    def join(peer: Peer) -> None:
        # Peers 0 to 9 are in the first room, 10 to 19 in the second, and when all have one it begins again.
        for room in rooms[next(numbers) // ROOM_MEMBERS :: ROOM_CONNECTIONS // ROOM_MEMBERS]:
            room.add(peer)

    @server.on("to_a_room")
    async def to_a_room() -> int:
        await next(turns).emit("tick", TICK)
        return 1


async def default(options: Options) -> None:
    async with make_server(options).listen(HOST, 0, ssl=options.ssl) as listener:
        say_port(listener.port)
        await parent_left()


async def without_sessions(options: Options) -> None:
    async with make_server(options, Limits(replay=0)).listen(HOST, 0, ssl=options.ssl) as listener:
        say_port(listener.port)
        await parent_left()


async def on_picows(options: Options) -> None:
    from wsrpc_adapters import picows

    async with picows.listen(make_server(options), HOST, 0, ssl=options.ssl) as listener:
        say_port(listener.port)
        await parent_left()


async def on_aiohttp(options: Options) -> None:
    from aiohttp import web

    from wsrpc_adapters.aiohttp import aiohttp_handler

    from .with_aiohttp import serve as serve_with_aiohttp

    app = web.Application()
    app.router.add_get("/", aiohttp_handler(make_server(options)))
    # aiohttp logs connections that nobody closed when the run ends.
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
    await serve_with_aiohttp(app, options)


async def on_asgi(options: Options) -> None:
    from wsrpc_adapters.asgi import asgi

    from .with_uvicorn import serve

    await serve(asgi(make_server(options)), options)
