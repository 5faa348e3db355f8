"""fastapi-websocket-rpc, on uvicorn with uvloop and httptools, which FastAPI's documentation advises to install."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi_websocket_rpc import RpcMethodsBase, WebsocketRPCEndpoint

from .handlers import Options
from .with_uvicorn import serve as serve_with_uvicorn


class Methods(RpcMethodsBase):
    """It takes `async def` only, and one object for each connection."""

    async def add(self, a: int, b: int) -> int:
        return a + b

    async def echo(self, text: str) -> str:
        return text


async def serve(options: Options) -> None:
    app = FastAPI()
    WebsocketRPCEndpoint(Methods()).register_route(app, "/")
    await serve_with_uvicorn(app, options, http="httptools")
