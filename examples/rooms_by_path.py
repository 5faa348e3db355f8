"""Rooms by URL path: `python examples/rooms_by_path.py`.

A client that connects to ws://…/chat/general gets the messages of that room, and none of ws://…/chat/administrators.
"""

from __future__ import annotations

import asyncio
from functools import partial

from wsrpc import Client, Peer, Server

server = Server(room_from=lambda info: info.path)


@server.on("say")
async def say(text: str, peer: Peer) -> int:
    """Emit to all others in the caller's room; return how many got it."""
    report = await peer.home_room.emit("said", text, skip=peer)
    return report.sent


@server.on("announce")
async def announce(text: str) -> int:
    """Emit to the clients of all rooms."""
    return (await server.emit("said", text)).sent


@server.on("whisper")
async def whisper(room: str, text: str) -> int:
    """Emit to another room, by its name."""
    return (await server.room(room).emit("said", text)).sent


async def main() -> None:
    async with server.listen("127.0.0.1", 0) as listener:
        base = listener.url.rstrip("/")
        paths = {"Ada": "/chat/general", "Bob": "/chat/general", "Eve": "/chat/administrators"}
        clients = {name: Client(base + path) for name, path in paths.items()}
        for name, client in clients.items():
            client.on("said", partial(print, name, "in", paths[name], "hears:"))
            await client.connect()
        print("heard by", await clients["Ada"].request("say", "hello, general"))
        print("heard by", await clients["Bob"].request("whisper", "/chat/administrators", "is anybody there?"))
        print("heard by", await clients["Eve"].request("announce", "lunch is ready"))
        for client in clients.values():
            await client.close()


if __name__ == "__main__":
    asyncio.run(main())
