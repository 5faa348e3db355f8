"""A chat that several processes serve as one, inside FastAPI. README.md has the commands.

Each process imports this module, and so has a Server and a Cluster of its own. They join when the application starts.
"""

from __future__ import annotations

import logging
import os
from typing import Annotated

import msgspec
from fastapi import Depends, FastAPI, Response, WebSocket, WebSocketException
from settings import NAME, engine

from wsrpc import Cluster, Handshake, Peer, PeerNotFound, Room, RpcError, Server
from wsrpc_adapters.asgi import lifespan, serve_websocket

logging.basicConfig(level=logging.INFO, format=f"%(asctime)s [{os.getpid()}] %(message)s")

cluster = Cluster(engine(), name=NAME)
server = Server(cluster=cluster)


# ---------------------------------------------------------------- who connects


def user_of(websocket: WebSocket) -> str:
    """Return whose token the client has: in `Authorization`, or in the URL, since a browser cannot send that header."""
    _, _, token = websocket.headers.get("authorization", "").partition(" ")
    kind, _, name = (token or websocket.query_params.get("access_token", "")).partition("-")
    if kind != "secret" or not name:  # check a session or a JWT here: this one is for trying out
        raise WebSocketException(1008, "unknown token")  # raised before the upgrade: the client gets 403
    return name


@server.on_handshake
def gate(handshake: Handshake) -> None:
    # From the token, never from the URL. An address belongs to one client: the next one replaces it.
    handshake.principal = handshake.state["user"]
    handshake.address = f"user/{handshake.state['user']}"


@server.on("open")
async def opened(peer: Peer) -> None:
    server.room("lobby").add(peer)
    await server.room("lobby").emit("entered", peer.state["user"], skip=peer)


# ---------------------------------------------------------------- what a client may ask for


@server.on("worker")
def worker() -> int:
    """Return which process the client is connected to."""
    return os.getpid()


@server.on("say")
async def say(peer: Peer, text: str) -> None:
    """Tell everybody in the lobby, whichever process they are connected to."""
    await server.room("lobby").emit("said", peer.state["user"], text)


@server.on("who")
async def who() -> list[str]:
    """Return who is in the lobby, in all processes."""
    members = await server.room("lobby").members()
    return sorted(address.removeprefix("user/") for address in members.addresses)


@server.on("whisper")
async def whisper(peer: Peer, to: str, text: str) -> str:
    """Ask one user, wherever they are connected. Return what their program answers."""
    try:
        return await cluster.peer(f"user/{to}").request("whispered", peer.state["user"], text, returns=str, timeout=5)
    except PeerNotFound:
        raise RpcError(f"{to} is not here", code="not_here") from None


@cluster.on_gap
def missed(room: Room) -> None:
    """Tell the members at this process that they may have missed something."""
    for peer in room:
        peer.emit_nowait("missed")


# ---------------------------------------------------------------- the application

app = FastAPI(lifespan=lifespan(server))


@app.websocket("/ws")
async def ws(websocket: WebSocket, user: Annotated[str, Depends(user_of)]) -> None:
    await serve_websocket(server, websocket, state={"user": user})


@app.get("/healthz")
async def healthz(response: Response) -> str:
    if not server.healthy:
        response.status_code = 503
        return "draining"
    return "ok" if cluster.connected else "degraded"


@app.get("/stats")
async def stats() -> object:
    return msgspec.to_builtins(server.stats())
