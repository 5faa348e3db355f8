"""Bare echoes of the WebSocket libraries: each message goes back as it came, and no library does less.

On the path ``/broadcast`` of `websockets`, a message goes to everybody on that path instead.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

from .handlers import BACKLOG, HOST, LARGEST_MESSAGE, Options, parent_left, say_port

Handler = Callable[[ServerConnection], Coroutine[Any, Any, None]]


async def serve_with_websockets(handler: Handler, options: Options) -> None:
    limits: dict[str, Any] = {"max_size": LARGEST_MESSAGE, "backlog": BACKLOG}
    async with serve(handler, HOST, 0, compression=None, ssl=options.ssl, **limits) as server:
        (listener,) = server.sockets
        say_port(listener.getsockname()[1])
        await parent_left()


async def websockets(options: Options) -> None:
    listening: set[ServerConnection] = set()

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        if connection.request.path != "/broadcast":
            await echo(connection)
            return
        listening.add(connection)
        with suppress(ConnectionClosed):
            async for message in connection:
                broadcast(listening, message)
        listening.discard(connection)

    await serve_with_websockets(handler, options)


async def aiohttp(options: Options) -> None:
    from aiohttp import WSMsgType, web

    from .with_aiohttp import serve as serve_with_aiohttp

    async def echo(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(compress=False, max_msg_size=LARGEST_MESSAGE)
        await connection.prepare(request)
        async for message in connection:
            if message.type is WSMsgType.TEXT:
                await connection.send_str(message.data)
            else:
                await connection.send_bytes(message.data)
        return connection

    app = web.Application()
    app.router.add_get("/", echo)
    await serve_with_aiohttp(app, options)


async def uvicorn(options: Options) -> None:
    from .with_uvicorn import serve as serve_with_uvicorn

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            if event.get("text") is not None:
                await send({"type": "websocket.send", "text": event["text"]})
            else:
                await send({"type": "websocket.send", "bytes": event["bytes"]})

    await serve_with_uvicorn(application, options)
