"""A chat in which each participant talks to the server on an anonymous channel.

python server.py [PORT]
"""

from __future__ import annotations

import contextlib
import logging
import sys

from wsrpc import AnonymousChannel, ChannelClosed, RpcError, Server

server = Server()
room: dict[str, AnonymousChannel] = {}


@server.on("join")
async def join(name: str, channel: AnonymousChannel) -> None:
    """Serve one participant: cancelled when the channel closes; the channel closes when this returns."""
    if name in room:
        raise RpcError(f"{name} is here already", code="taken")
    room[name] = channel
    channel.on("who", lambda: sorted(room))
    try:
        await say_to_all(f"{name} is here")
        async for text in channel.events("say", returns=str):
            if text == "/quit":
                await channel.emit("said", "goodbye")
                return
            await say_to_all(f"{name}: {text}")
    finally:  # however it ends: /quit, a closed channel, a dropped connection, a closing server
        del room[name]


async def say_to_all(text: str) -> None:
    for channel in list(room.values()):
        with contextlib.suppress(ChannelClosed):  # this participant is leaving
            await channel.emit("said", text)


if __name__ == "__main__":
    logging.basicConfig(level="INFO")  # shows the address, and each connection
    server.run(port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
