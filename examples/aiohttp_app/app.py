"""An aiohttp application with HTTP routes and a WebSocket on one port.

    python app.py [PORT]

`on_handshake` requires a name. Handlers and routes send news to all clients.
"""

from __future__ import annotations

import logging
import sys

from aiohttp import web

from wsrpc import Handshake, Peer, Server
from wsrpc_adapters.aiohttp import aiohttp_handler

server = Server()


@server.on_handshake
def gate(handshake: Handshake) -> None:
    if "name" not in handshake.query:
        handshake.reject(400, "say who you are: /ws?name=Ada\n")
    handshake.state["name"] = handshake.query["name"]


@server.on("open")
async def opened(peer: Peer) -> None:
    await server.emit("news", f"{peer.state['name']} is here", skip=peer)


@server.on("add")
def add(a: int, b: int) -> int:
    return a + b


async def index(request: web.Request) -> web.Response:
    names = ", ".join(peer.state["name"] for peer in server.peers)
    return web.Response(text=f"connected: {names or 'nobody'}\n")


async def announce(request: web.Request) -> web.Response:
    """Send the body of an HTTP request to every connected client."""
    report = await server.emit("news", await request.text())
    return web.Response(text=f"{report.sent} heard it\n")


async def start(app: web.Application) -> None:
    await server.open()  # it may have been closed before, as in tests


async def close(app: web.Application) -> None:
    await server.close(drain_timeout=20)  # active work may finish; new connections get 503


def make_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/", index)
    app.router.add_post("/announce", announce)
    app.router.add_route("*", "/ws", aiohttp_handler(server))
    app.on_startup.append(start)
    app.on_shutdown.append(close)
    return app


if __name__ == "__main__":
    logging.basicConfig(level="INFO")  # shows each connection
    web.run_app(make_app(), host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
