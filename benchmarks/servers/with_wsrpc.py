"""wsrpc, on each of its transports."""

from __future__ import annotations

import logging
from typing import Any

from wsrpc import Limits, Peer, Server
from wsrpc.cluster import Cluster

from . import handlers
from .handlers import HOST, TICK, Options, parent_left, say_port


def make_server(limits: Limits | None = None, cluster: Cluster | None = None) -> Server:
    """A server in its default setting but for ``limits``, with the handlers that the workloads call."""
    server = Server(limits=limits, cluster=cluster)
    server.on("add", handlers.add)
    server.on("add_async", handlers.add_async)
    server.on("echo", handlers.echo)
    server.on("echo_bytes", handlers.echo_bytes)
    server.on("items", handlers.items)
    server.on("download", handlers.download)
    server.on("upload", handlers.upload)

    @server.on("note")
    def note(peer: Peer, number: int) -> None:
        peer.state["notes"] = peer.state.get("notes", 0) + 1

    @server.on("notes")
    def notes(peer: Peer) -> Any:
        return peer.state.get("notes", 0)

    room = server.room("all")
    if cluster is not None:
        server.on("open", room.add)

    @server.on("broadcast")
    async def broadcast() -> int:
        await (server if cluster is None else room).emit("tick", TICK)
        return 1

    return server


async def default(options: Options) -> None:
    cluster = None
    if options.redis is not None:
        from wsrpc_adapters.redis import RedisEngine

        cluster = Cluster(RedisEngine(f"redis://127.0.0.1:{options.redis}"), name="bench")
    async with make_server(cluster=cluster).listen(HOST, 0, ssl=options.ssl) as listener:
        say_port(listener.port)
        await parent_left()


async def without_sessions(options: Options) -> None:
    async with make_server(Limits(replay_bytes=0)).listen(HOST, 0, ssl=options.ssl) as listener:
        say_port(listener.port)
        await parent_left()


async def on_aiohttp(options: Options) -> None:
    from aiohttp import web

    from wsrpc_adapters.aiohttp import aiohttp_handler

    from .with_aiohttp import serve as serve_with_aiohttp

    app = web.Application()
    app.router.add_get("/", aiohttp_handler(make_server()))
    # aiohttp logs connections that nobody closed when the run ends.
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
    await serve_with_aiohttp(app, options)


async def on_asgi(options: Options) -> None:
    from wsrpc_adapters.asgi import asgi

    from .with_uvicorn import serve

    await serve(asgi(make_server()), options)
