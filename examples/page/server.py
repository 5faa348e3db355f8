"""A web page in TypeScript: a login, a room, an answer that appears word by word, and an upload.

    wsrpc types server:server --msgpack -o api.d.ts    # after a change here: the types of what the page calls
    npm install && npm run build        # checks the types of page.ts, and makes page.js
    python server.py [PORT]             # then open http://127.0.0.1:8080

Run these commands in this folder, which has to be in a clone of wsrpc. All of the page survives a dropped connection:
unplug your network while an answer appears, or while a large file is uploaded.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from aiohttp import web

import wsrpc
from wsrpc import Handshake, Peer, Server
from wsrpc_adapters.aiohttp import aiohttp_handler

HERE = Path(__file__).parent
VALID = 10  # seconds in which a token has to be used


class Guest(Protocol):
    """What the server calls in the page."""

    async def said(self, name: str, text: str) -> None: ...


server = Server()
server.declare(Guest)
lobby = server.room("lobby")
logins: dict[str, str] = {}  # names by cookies
tokens: dict[str, tuple[str, float]] = {}  # names and deadlines, by tokens for one connection each


@server.on_handshake
def authenticate(handshake: Handshake) -> None:
    name, deadline = tokens.pop(handshake.bearer_token or "", ("", 0.0))
    if time.monotonic() > deadline:
        handshake.reject(401, "the token is unknown, or too old")
    handshake.principal = name  # a session resumes only for the same user
    handshake.state["name"] = name


@server.on("open")
def enter(peer: Peer) -> None:
    lobby.add(peer)


@server.on("say")
async def say(peer: Peer, text: str) -> None:
    await lobby.emitter(Guest).said(peer.state["name"], text)


@server.on("generate")
async def generate(prompt: str) -> AsyncIterator[str]:
    """Write an answer, as a language model would."""
    for number, word in enumerate(prompt.split() * 10):
        await asyncio.sleep(0.02)
        yield f"{number}:{word} "


@server.on("store")
async def store(name: str, pieces: AsyncIterator[bytes]) -> str:
    size, digest = 0, hashlib.sha256()
    async for piece in pieces:
        size += len(piece)
        digest.update(piece)
    return f"{name}: {size} bytes, SHA-256 {digest.hexdigest()}"


# ---------------------------------------------------------------- HTTP


async def index(request: web.Request) -> web.FileResponse:
    return web.FileResponse(HERE / "index.html")


async def script(request: web.Request) -> web.FileResponse:
    return web.FileResponse(HERE / "page.js")


async def log_in(request: web.Request) -> web.Response:
    """Check nothing but a name. A real login has a password."""
    cookie = secrets.token_urlsafe()
    logins[cookie] = await request.text()
    response = web.Response()
    response.set_cookie("login", cookie, httponly=True, samesite="Strict")
    return response


async def make_token(request: web.Request) -> web.Response:
    name = logins.get(request.cookies.get("login", ""))
    if name is None:
        raise web.HTTPUnauthorized()
    token = secrets.token_urlsafe()
    tokens[token] = name, time.monotonic() + VALID
    return web.Response(text=token)


async def close(app: web.Application) -> None:
    await server.close(drain_timeout=5)


app = web.Application()
app.router.add_get("/", index)
app.router.add_get("/page.js", script)
app.router.add_post("/login", log_in)
app.router.add_post("/token", make_token)
app.router.add_route("*", "/ws", aiohttp_handler(server))
app.router.add_static("/wsrpc", Path(wsrpc.__file__).with_name("browser"))
app.on_shutdown.append(close)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
