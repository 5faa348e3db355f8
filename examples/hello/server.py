"""A small server, run as a program: a request, events in both directions, and an error.

python server.py [PORT]
"""

from __future__ import annotations

import logging
import sys
from datetime import datetime, timedelta, timezone

from wsrpc import Peer, RpcError, Server

server = Server()


@server.on("time")
def time(hours_east: int = 0) -> datetime:
    try:
        return datetime.now(timezone(timedelta(hours=hours_east)))
    except ValueError:
        raise RpcError(f"nowhere is {hours_east} hours east", code="unknown_zone") from None


@server.on("shout")
async def shout(peer: Peer, text: str) -> int:
    """Emit a text to all other clients; return how many got it."""
    report = await server.emit("shouted", text, skip=peer)
    return report.sent


@server.on("open")
async def welcome(peer: Peer) -> None:
    await peer.emit("shouted", f"welcome, {len(server.peers)} of you are here")


if __name__ == "__main__":
    logging.basicConfig(level="INFO")  # shows the address, and each connection
    server.run(port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
