"""Rooms by URL path: a client that connects to /chat/general gets only the messages of that room.

python server.py [PORT]
"""

from __future__ import annotations

import logging
import sys

from wsrpc import Peer, Server

server = Server()


@server.on("open")
def enter(peer: Peer) -> None:
    server.room(peer.info.path).add(peer)


@server.on("say")
async def say(text: str, peer: Peer) -> int:
    """Emit to all others in the caller's room; return to how many."""
    return (await server.room(peer.info.path).emit("said", text, skip=peer)).sent


@server.on("announce")
async def announce(text: str, peer: Peer) -> int:
    """Emit to all other clients, whatever their room; return to how many."""
    return (await server.emit("said", text, skip=peer)).sent


@server.on("whisper")
async def whisper(room: str, text: str) -> int:
    """Emit to the clients in the named room; return to how many."""
    return (await server.room(room).emit("said", text)).sent


if __name__ == "__main__":
    logging.basicConfig(level="INFO")  # shows the address, and each connection
    server.run(port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
