"""The README of the Go package for commands and listen channels, in Python: `python command_server.py [PORT]`.

Clients send and receive commands with data, and join the channels whose validation functions accept their tokens.
"""

from __future__ import annotations

import logging
import sys

from wsrpc import Handshake, Key, Peer, Server

TOKEN = Key["str | None"]("token")
server = Server()


@server.on_handshake
def keep_token(handshake: Handshake) -> None:
    handshake.state[TOKEN] = handshake.bearer_token


@server.on("open")
async def opened(peer: Peer) -> None:
    await peer.emit("welcome", f"Hello {peer.id}")  # the session id; a command that answers a command


def has_valid_token(peer: Peer) -> bool:
    return peer.state.get(TOKEN) == "valid"


test = server.room("test", allow=lambda peer: True)  # anyone can register as a listener
restricted = server.room("restricted", allow=has_valid_token)  # a client that is refused gets only "not allowed"


@server.on("thank")
async def thank(channel: str) -> None:
    """Send a command to the listeners of a channel: WriteToChannel."""
    if channel in ("test", "restricted"):
        await server.room(channel).emit("thanks", "Thank you for listening!")


@server.on("tell")
async def tell(session: str, text: str) -> None:
    """Send a command to one client by its session id: WriteToClient."""
    peer = server.peer(session)
    if peer is not None:
        await peer.emit("direct", text)


if __name__ == "__main__":
    logging.basicConfig(level="INFO")  # shows the address, and each connection
    server.run(port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
