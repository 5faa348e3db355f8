"""The echo server of seehuhn.de/go/websocket in Python, with its access check: `python echo_server.py [PORT]`."""

from __future__ import annotations

import logging
import sys

from wsrpc import Handshake, Server
from wsrpc.types import RawConnection

server = Server()


@server.on_handshake
def access_ok(handshake: Handshake) -> None:
    if handshake.path != "/api/ws":  # handshake.target is the path and query as the client sent them
        handshake.reject(403, f"nobody may use {handshake.path}\n")
    if "echo" in handshake.subprotocols:
        handshake.subprotocol = "echo"
    handshake.response_headers["Server"] = "echo/1"


@server.serve_raw
async def echo(connection: RawConnection) -> None:
    """Return each message piece by piece, as it arrives. The end of the connection ends the loop."""
    while True:
        await connection.send(connection.pieces())


if __name__ == "__main__":
    logging.basicConfig(level="INFO")  # shows the address, and each connection
    server.run(port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
