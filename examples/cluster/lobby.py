"""A chat that several processes serve as one, inside FastAPI. README.md has the commands.

Each process imports this module, and so has a Server and a Cluster of its own. They join when the application starts.
"""

from __future__ import annotations

import logging
import os

import msgspec
from fastapi import FastAPI, Response, WebSocket
from settings import NAME, engine

from wsrpc import Handshake, Key, Peer, RpcError, Server
from wsrpc.cluster import Cluster
from wsrpc.errors import PeerNotFound
from wsrpc_adapters.asgi import lifespan, serve_websocket

logging.basicConfig(level=logging.INFO, format=f"%(asctime)s [{os.getpid()}] %(message)s")

cluster = Cluster(engine(), name=NAME)
server = Server(cluster=cluster)


# ---------------------------------------------------------------- who connects

USER: Key[str] = Key("user")


@server.on_handshake
def gate(handshake: Handshake) -> None:
    # From the header `Authorization`, or from `?access_token=`, because a browser cannot send that header.
    kind, _, user = (handshake.bearer_token or "").partition("-")
    if kind != "secret" or not user:  # check a session or a JWT here: this check is for trying the example
        handshake.reject(401, "unknown token")
    handshake.principal = user
    handshake.state[USER] = user
    # From the token, never from the URL. An address belongs to one client: the next one replaces it.
    handshake.address = f"user/{user}"


@server.on("open")
async def opened(peer: Peer) -> None:
    server.room("lobby").add(peer)
    await server.room("lobby").emit("entered", peer.state[USER], skip=peer)


# ---------------------------------------------------------------- what a client may ask for


@server.on("worker")
def worker() -> int:
    """Return which process the client is connected to."""
    return os.getpid()


@server.on("say")
async def say(peer: Peer, text: str) -> None:
    """Tell everybody in the lobby, whichever process they are connected to."""
    await server.room("lobby").emit("said", peer.state[USER], text)


@server.on("who")
async def who() -> list[str]:
    """Return who is in the lobby, in all processes."""
    members = await server.room("lobby").members()
    return sorted(address.removeprefix("user/") for address in members.addresses)


@server.on("whisper")
async def whisper(peer: Peer, to: str, text: str) -> str:
    """Ask one user, wherever they are connected. Return what their program answers."""
    try:
        return await cluster.peer(f"user/{to}").request("whispered", peer.state[USER], text, returns=str, timeout=60)
    except PeerNotFound:
        raise RpcError(f"{to} is not here", code="not_here") from None


# ---------------------------------------------------------------- the application

app = FastAPI(lifespan=lifespan(server))


@app.websocket("/ws")
async def ws(websocket: WebSocket) -> None:
    await serve_websocket(server, websocket)


@app.get("/healthz")
async def healthz(response: Response) -> str:
    if not server.healthy:
        response.status_code = 503
        return "draining"
    return "ok" if cluster.connected else "degraded"


@app.get("/stats")
async def stats() -> object:
    return msgspec.to_builtins(server.stats())
