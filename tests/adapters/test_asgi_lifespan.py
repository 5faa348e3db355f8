"""A server that lives as long as an ASGI application does, as often as that starts."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import litestar
import pytest
from fastapi import Depends, FastAPI, Request, WebSocket
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from wsrpc import Key, Limits, Peer, Router, Server
from wsrpc_adapters.asgi import asgi, lifespan, serve_websocket

with warnings.catch_warnings():  # of Starlette, because of the HTTP library that is installed
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient, WebSocketDenialResponse

LIMITS = Limits(close_timeout=2.0)


class Database:
    def __init__(self) -> None:
        self.rows: list[str] = []
        self.is_open = True


DATABASE = Key[Database]("database")

router = Router()


@router.on("add")
async def add(peer: Peer, row: str) -> int:
    database = peer.server.state[DATABASE]
    assert database.is_open
    database.rows.append(row)
    await peer.server.emit("added", row, skip=peer)
    return len(database.rows)


def make_app() -> FastAPI:
    """The application, as a factory: ``uvicorn --factory module:make_app``."""
    server = Server(limits=LIMITS)
    server.include(router)

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncGenerator[None]:
        database = server.state[DATABASE] = Database()
        async with lifespan(server)(app):
            yield
        assert server.peers == ()
        database.is_open = False

    app = FastAPI(lifespan=living)
    app.state.server = server

    def get_server(request: Request) -> Server:
        found: Server = request.app.state.server
        return found

    @app.get("/rows")
    async def rows(server: Server = Depends(get_server)) -> list[str]:  # noqa: B008 - FastAPI's way
        return server.state[DATABASE].rows

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
            return message["d"]


def test_one_application_and_two_test_clients() -> None:
    app = make_app()
    server: Server = app.state.server
    for _ in range(3):
        with TestClient(app) as client:
            assert server.healthy and server.stats().accepted == 0
            with client.websocket_connect("/ws") as one, client.websocket_connect("/ws") as two:
                assert answer(one, 1, "add", "a") == 1, "the database is new"
                assert json.loads(two.receive_text())["a"] == ["added", "a"]
                assert client.get("/rows").json() == ["a"]
                assert len(server.peers) == 2
        assert not server.healthy and server.peers == ()


def test_an_application_that_fails_closes_the_server_and_starts_again() -> None:
    server = Server(limits=LIMITS)
    server.on("echo", lambda value: value)
    app = Starlette(routes=[WebSocketRoute("/ws", asgi(server))], lifespan=lifespan(server))
    with pytest.raises(ZeroDivisionError), TestClient(app):
        raise ZeroDivisionError
    assert not server.healthy
    with TestClient(app) as client, client.websocket_connect("/ws") as websocket:
        assert answer(websocket, 1, "echo", "x") == "x"


def test_without_the_lifespan_a_closed_server_refuses() -> None:
    server = Server(limits=LIMITS)
    app = Starlette(routes=[WebSocketRoute("/ws", asgi(server))])
    asyncio.run(server.close())
    client = TestClient(app)
    with pytest.raises(WebSocketDenialResponse) as caught, client.websocket_connect("/ws"):
        pytest.fail("connected")
    assert caught.value.status_code == 503


def test_litestar_takes_it_as_it_is() -> None:
    server = Server(limits=LIMITS)
    server.on("echo", lambda value: value)

    @litestar.websocket("/ws")
    async def ws(socket: litestar.WebSocket[Any, Any, Any]) -> None:
        await serve_websocket(server, socket)

    asgi_app: Any = litestar.Litestar([ws], lifespan=[lifespan(server)], logging_config=None)
    for _ in range(2):
        with TestClient(asgi_app) as client, client.websocket_connect("/ws") as websocket:
            assert answer(websocket, 1, "echo", "x") == "x"
        assert not server.healthy


def test_the_server_as_the_application() -> None:
    server = Server(limits=LIMITS)
    server.on("echo", lambda value: value)
    app = asgi(server)
    for _ in range(2):
        with TestClient(app) as client, client.websocket_connect("/") as websocket:
            assert answer(websocket, 1, "echo", "x") == "x"
        assert not server.healthy


def test_a_lifespan_that_was_not_called_says_how_to() -> None:
    wrong: Any = lifespan
    text = r"^lifespan\(\) takes a wsrpc Server, as in FastAPI\(lifespan=lifespan\(server\)\); got a Starlette$"
    with pytest.raises(TypeError, match=text), TestClient(Starlette(lifespan=wrong)):
        pass
