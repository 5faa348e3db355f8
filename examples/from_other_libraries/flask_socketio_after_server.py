"""The WebSocket server beside flask_socketio_after.py: `python flask_socketio_after_server.py [PORT] [ORIGIN ...]`."""

from __future__ import annotations

import hmac
import logging
import sys

from flask import session
from flask_socketio_after import TOKEN, app

from wsrpc import Handshake, Peer, RpcError, Server

# The pages of Flask have another port. Behind a proxy that serves both under one name, leave it out.
server = Server(origins=sys.argv[2:] or ["http://127.0.0.1:5000", "http://localhost:5000"])


@server.on_handshake
def log_in(handshake: Handshake) -> None:
    handshake.state["is_flask"] = hmac.compare_digest(handshake.bearer_token or "", TOKEN)
    if handshake.state["is_flask"]:
        return
    with app.test_request_context(headers={"Cookie": handshake.headers.get("Cookie", "")}):
        name = session.get("name")  # with Flask-Login: current_user.get_id()
    if name is None:
        handshake.reject(401, "log in first")
    handshake.principal = name


@server.on("open")
def opened(peer: Peer) -> None:
    if peer.principal is not None:
        server.room(f"user {peer.principal}").add(peer)


@server.on("join")
def join(peer: Peer) -> None:
    server.room("lobby").add(peer)


@server.on("say")
async def say(peer: Peer, text: str) -> int:
    await server.room("lobby").emit("said", peer.principal, text, skip=peer)
    return len(text)


@server.on("announce")
async def announce(peer: Peer, name: str, text: str) -> None:
    flask_only(peer)
    await server.room("lobby").emit("said", name, text)


@server.on("ask")
async def ask(peer: Peer, name: str, text: str) -> str:
    flask_only(peer)
    return await server.room(f"user {name}").request("question", text, returns=str, within=10)


def flask_only(peer: Peer) -> None:
    if not peer.state["is_flask"]:
        raise RpcError("only for Flask", code="forbidden")


if __name__ == "__main__":
    logging.basicConfig(level="INFO")  # shows the address, and each connection
    server.run(port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
