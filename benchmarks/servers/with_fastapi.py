"""wsrpc in a WebSocket route of a FastAPI application, under uvicorn."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, WebSocket

from wsrpc_adapters.asgi import serve_websocket

from .handlers import Options
from .with_uvicorn import serve
from .with_wsrpc import make_server


async def plain(options: Options, **settings: Any) -> None:
    """``settings`` are uvicorn's."""
    server = make_server()
    app = FastAPI()

    @app.websocket("/")
    async def rpc(websocket: WebSocket) -> None:
        await serve_websocket(server, websocket)

    await serve(app, options, **settings)


async def with_our_protocol(options: Options) -> None:
    """The same application under uvicorn with wsrpc's protocol class."""
    await plain(options, ws="wsrpc_adapters.uvicorn:WebSocketProtocol")
