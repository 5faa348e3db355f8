"""Each ASGI framework's own way of mounting a server, with authentication, state and HTTP routes beside it."""

from __future__ import annotations

import pytest
from asgi_apps import APPS, channels_cookie
from asgi_servers import SERVERS, uvicorn_serving
from fastapi import FastAPI, WebSocket
from raw_websocket import ask
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute

from wsrpc import Client, HandshakeRejected, Limits, Peer, Server, dial
from wsrpc_adapters.asgi import asgi, serve_websocket

LIMITS = Limits(close_timeout=2.0)

servers = pytest.mark.parametrize("run", ["uvicorn", "uvicorn-wsrpc", "hypercorn"])


def talking_server() -> Server:
    server = Server(limits=LIMITS)

    @server.on("whoami")
    async def whoami(peer: Peer) -> str:
        user: str = peer.state["user"]
        return f"{user}, says {await peer.request('name')}"

    return server


def client(port: int, path: str = "/ws", token: str = "t1") -> Client:
    client = Client(
        f"ws://127.0.0.1:{port}{path}?access_token={token}",
        headers={"Cookie": channels_cookie()} if token == "t1" else {},
        limits=LIMITS,
        reconnect=None,
    )
    client.on("name", lambda: "Ada")
    return client


async def get(port: int, path: str) -> bytes:
    return await ask(port, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())


@pytest.mark.parametrize(
    ("app", "run"),
    [*((name, "uvicorn-wsrpc") for name in APPS), ("litestar", "uvicorn"), ("fastapi", "hypercorn")],
)
async def test_a_server_beside_routes(app: str, run: str) -> None:
    server = talking_server()
    async with SERVERS[run](APPS[app](server)) as port:
        async with client(port) as ada:
            assert await ada.request("whoami") == "ada, says Ada"
            info = server.peers[0].info
            assert (info.path, dict(info.query)) == ("/ws", {"access_token": "t1"})
            answer = await get(port, "/hello")
            assert answer.startswith(b"HTTP/1.1 200") and b"hello" in answer
        with pytest.raises(HandshakeRejected) as caught:
            await client(port, token="wrong").connect()
        assert caught.value.status in (401, 403)
        ada = client(port)
        await ada.connect()
        [peer] = server.peers
        if run == "hypercorn":
            await server.close()
    # The application's shutdown has ended everything; Django has none, and uvicorn's has closed the connection.
    assert not server.peers and not peer.connected
    assert not server.healthy or app == "channels"
    await ada.close()


@servers
async def test_below_another_application_the_path_is_the_whole_one(run: str) -> None:
    server = talking_server()
    inner = Starlette(routes=[WebSocketRoute("/{room}", asgi(server))])
    async with SERVERS[run](Starlette(routes=[Mount("/rooms", inner)])) as port:
        async with client(port, "/rooms/caf%C3%A9"):
            assert server.peers[0].info.path == "/rooms/café"
            assert server.peers[0].info.underlying["path_params"] == {"room": "café"}


async def test_a_route_that_has_accepted_is_told_not_to() -> None:
    server, app = talking_server(), FastAPI()
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
    async with SERVERS[run](asgi(talking_server())) as port:
        assert (await get(port, "/")).startswith(b"HTTP/1.1 426")
