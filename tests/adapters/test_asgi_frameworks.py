"""Mistakes and paths in ASGI applications. tests/docs/test_framework_pages.py runs an application of each framework."""

from __future__ import annotations

import pytest
from asgi_servers import SERVERS, uvicorn_serving
from fastapi import FastAPI, WebSocket
from raw_websocket import ask
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute

from wsrpc import Client, Limits, Server, dial
from wsrpc_adapters.asgi import asgi, serve_websocket

LIMITS = Limits(close_timeout=2.0)

servers = pytest.mark.parametrize("run", ["uvicorn", "uvicorn-wsrpc", "hypercorn"])


@servers
async def test_below_another_application_the_path_is_the_whole_one(run: str) -> None:
    server = Server(limits=LIMITS)
    inner = Starlette(routes=[WebSocketRoute("/{room}", asgi(server))])
    async with SERVERS[run](Starlette(routes=[Mount("/rooms", inner)])) as port:
        async with Client(f"ws://127.0.0.1:{port}/rooms/caf%C3%A9", limits=LIMITS):
            assert server.peers[0].info.path == "/rooms/café"
            assert server.peers[0].info.underlying["path_params"] == {"room": "café"}


async def test_a_route_that_has_accepted_is_told_not_to() -> None:
    server, app = Server(limits=LIMITS), FastAPI()
    told: list[str] = []

    @app.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            await serve_websocket(server, websocket)
        except RuntimeError as exc:
            told.append(str(exc))

    async with uvicorn_serving(app) as port:
        (await dial(f"ws://127.0.0.1:{port}/ws", limits=LIMITS)).abort()
    assert len(told) == 1 and "remove `websocket.accept()`" in told[0]
    with pytest.raises(TypeError, match=r"asgi\(server, state=...\)\(scope, receive, send\)"):
        await serve_websocket(Server(), {"type": "websocket"})  # type: ignore[arg-type]


@servers
async def test_http_at_the_websocket_s_path(run: str) -> None:
    async with SERVERS[run](asgi(Server(limits=LIMITS))) as port:
        answer = await ask(port, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 426")
