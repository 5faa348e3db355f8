"""The same servers on other libraries, and a bare echo of each: see `servers`, which starts them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from wsrpc import Server

from .servers import HOST, parent_left

Handlers = dict[str, Callable[..., Any]]


def make_server(handlers: Handlers) -> Server:
    server = Server()
    for name, handler in handlers.items():
        server.on(name, handler)
    return server


async def serve_with_picows(handlers: Handlers, port: int) -> None:
    from wsrpc_adapters import picows

    async with picows.listen(make_server(handlers), HOST, port) as listener:
        print(listener.port, flush=True)
        await parent_left()


async def serve_with_aiohttp(handlers: Handlers | None, port: int) -> None:
    """Without handlers a bare echo."""
    from aiohttp import web

    async def echo(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(compress=False)
        await connection.prepare(request)
        async for message in connection:
            await connection.send_str(message.data)
        return connection

    app = web.Application()
    if handlers is None:
        app.router.add_get("/", echo)
    else:
        from wsrpc_adapters.aiohttp import aiohttp_handler

        app.router.add_get("/", aiohttp_handler(make_server(handlers)))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, port, shutdown_timeout=1.0).start()
    print(runner.addresses[0][1], flush=True)
    await parent_left()
    await runner.cleanup()


async def serve_with_uvicorn(handlers: Handlers | None, port: int, *, fastapi: bool = False, ws: str = "auto") -> None:
    """Without handlers a bare echo. ``fastapi`` puts them into a FastAPI route; ``ws`` is uvicorn's own option."""
    import uvicorn

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})

    application: Any = echo
    if handlers is not None:
        from wsrpc_adapters.asgi import asgi

        from .fastapi_app import make_app

        application = make_app(make_server(handlers)) if fastapi else asgi(make_server(handlers))
    with socket.create_server((HOST, port)) as sock:
        config = uvicorn.Config(application, ws=ws, lifespan="off", log_level="warning", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        # uvicorn takes the signals; it ends as the others do, with stdin.
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        print(sock.getsockname()[1], flush=True)
        await parent_left()
        server.should_exit = True
        await serving
