"""A FastAPI application with a server in one of its routes."""

from __future__ import annotations

from fastapi import FastAPI, WebSocket

from wsrpc import Server
from wsrpc_adapters.asgi import serve_websocket


def make_app(server: Server) -> FastAPI:
    app = FastAPI()

    @app.websocket("/")
    async def ws(websocket: WebSocket) -> None:
        await serve_websocket(server, websocket)

    return app
