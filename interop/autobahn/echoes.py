"""Programs that send back each message: by a library alone, and by wsrpc's raw connections on the same library.

`python -m interop.autobahn.echoes NAME` prints its URL, and serves until it is ended.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from wsrpc import Limits, Server
from wsrpc.types import RawConnection

LARGEST = 32 * 1024 * 1024
"""Bytes; the suite's largest message has 16 MiB."""
LIMITS = Limits(message_bytes=LARGEST, hard_cap_bytes=4 * LARGEST, ping_interval=None)

Echo = Callable[[], AbstractAsyncContextManager[str]]


def raw_server() -> Server:
    """A server of raw connections that sends everything back."""
    server = Server(limits=LIMITS, compression=True)

    async def echo(connection: RawConnection) -> None:
        async for message in connection:
            await connection.send(message)

    server.serve_raw(echo)
    return server


@asynccontextmanager
async def websockets_alone() -> AsyncGenerator[str]:
    from websockets.asyncio.server import ServerConnection, serve

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0, max_size=LARGEST, ping_interval=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}"


@asynccontextmanager
async def wsrpc_on_websockets() -> AsyncGenerator[str]:
    async with raw_server().listen("127.0.0.1", 0) as listener:
        yield listener.url


@asynccontextmanager
async def _aiohttp(handler: Any) -> AsyncGenerator[str]:
    from aiohttp import web

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def aiohttp_alone() -> AbstractAsyncContextManager[str]:
    from aiohttp import WSMsgType, web

    async def echo(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(max_msg_size=LARGEST)
        await connection.prepare(request)
        async for message in connection:
            if message.type is WSMsgType.TEXT:
                await connection.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await connection.send_bytes(message.data)
        return connection

    return _aiohttp(echo)


def wsrpc_on_aiohttp() -> AbstractAsyncContextManager[str]:
    from wsrpc_adapters.aiohttp import aiohttp_handler

    return _aiohttp(aiohttp_handler(raw_server()))


async def _asgi_echo(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        kept = {key: message[key] for key in ("text", "bytes") if message.get(key) is not None}
        await send({"type": "websocket.send", **kept})


@asynccontextmanager
async def _uvicorn(app: Any, ws: str = "websockets-sansio") -> AsyncGenerator[str]:
    import uvicorn

    options: dict[str, Any] = {"ws": ws, "ws_max_size": LARGEST, "ws_ping_interval": None}
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="error", **options))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve([listening]))
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        await serving


def uvicorn_alone() -> AbstractAsyncContextManager[str]:
    return _uvicorn(_asgi_echo)


def wsrpc_on_asgi() -> AbstractAsyncContextManager[str]:
    from wsrpc_adapters.asgi import asgi

    return _uvicorn(asgi(raw_server()))


def wsrpc_on_uvicorn() -> AbstractAsyncContextManager[str]:
    from wsrpc_adapters.asgi import asgi

    return _uvicorn(asgi(raw_server()), "wsrpc_adapters.uvicorn:WebSocketProtocol")


ECHOES: dict[str, tuple[Echo, Echo]] = {
    "websockets": (websockets_alone, wsrpc_on_websockets),
    "aiohttp": (aiohttp_alone, wsrpc_on_aiohttp),
    "asgi": (uvicorn_alone, wsrpc_on_asgi),
    "uvicorn": (uvicorn_alone, wsrpc_on_uvicorn),
}
"""The library alone, and wsrpc on it."""


async def main(arguments: Iterable[str]) -> None:
    name, which = arguments
    async with ECHOES[name][which == "wsrpc"]() as url:
        print(url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
