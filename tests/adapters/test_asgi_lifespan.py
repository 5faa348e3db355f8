"""A server that lives as long as an ASGI application does, as often as that starts."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from starlette.applications import Starlette

from wsrpc import Limits, Peer, Server
from wsrpc_adapters.asgi import lifespan, serve_websocket

with warnings.catch_warnings():  # of Starlette, because of the HTTP library that is installed
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

LIMITS = Limits(close_timeout=2.0)


def make_app(server: Server) -> FastAPI:
    app = FastAPI(lifespan=lifespan(server))

    @server.on("add")
    async def add(peer: Peer, row: str) -> None:
        await peer.server.emit("added", row, skip=peer)

    @app.get("/count")
    async def count() -> int:
        return len(server.peers)

    @app.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        await serve_websocket(server, websocket)

    return app


def answer(websocket: Any, request: int, *args: object) -> Any:
    """What a plain ws-wrapper client is answered."""
    websocket.send_text(json.dumps({"i": request, "a": args}))
    while True:
        message = json.loads(websocket.receive_text())
        if message.get("i") == request:
            return message.get("d")


def test_one_application_and_two_test_clients() -> None:
    server = Server(limits=LIMITS)
    app = make_app(server)
    for _ in range(3):
        with TestClient(app) as client:
            assert server.healthy and server.stats().accepted == 0
            with client.websocket_connect("/ws") as one, client.websocket_connect("/ws") as two:
                assert answer(one, 1, "add", "a") is None
                assert json.loads(two.receive_text())["a"] == ["added", "a"]
                assert client.get("/count").json() == 2
        assert not server.healthy and server.peers == ()
        with pytest.raises(ZeroDivisionError), TestClient(app):
            raise ZeroDivisionError  # afterwards the server is closed, and the application starts again


def test_a_lifespan_that_was_not_called_says_how_to() -> None:
    wrong: Any = lifespan
    text = r"^lifespan\(\) takes a wsrpc Server, as in FastAPI\(lifespan=lifespan\(server\)\); got a Starlette$"
    with pytest.raises(TypeError, match=text), TestClient(Starlette(lifespan=wrong)):
        pass
