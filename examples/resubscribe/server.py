"""Publish headlines to subscribers. Each line that you type is a headline.

    python server.py FILE [PORT]

The server stores the headlines in the file, so they survive a restart. A client that subscribes says how many headlines
it has. The server sends the headlines that the client missed, and then new ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from wsrpc import ConnectionLost, Peer, Server


class News:
    """Headlines, numbered from 0, and their subscribers."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.headlines = file.read_text("utf-8").splitlines() if file.exists() else []
        self.subscribers: set[Peer] = set()

    async def publish(self, headline: str) -> None:
        self.headlines.append(headline)
        with self.file.open("a", encoding="utf-8") as out:
            out.write(f"{headline}\n")
        for peer in list(self.subscribers):
            with contextlib.suppress(ConnectionLost):  # it subscribes again, and then gets what it missed
                await peer.emit("headline", headline)

    async def subscribe(self, peer: Peer, position: int) -> None:
        """Send the headlines that ``peer`` has missed, then new ones as they come."""
        while position < len(self.headlines):
            await peer.emit("headline", self.headlines[position])
            position += 1
        self.subscribers.add(peer)

    def unsubscribe(self, peer: Peer) -> None:
        self.subscribers.discard(peer)

    @asynccontextmanager
    async def typed(self, server: Server) -> AsyncIterator[None]:
        """Publish the lines of the standard input, which a thread reads."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            for line in sys.stdin:
                asyncio.run_coroutine_threadsafe(self.publish(line.strip()), loop)

        threading.Thread(target=read, daemon=True).start()
        yield


if __name__ == "__main__":
    logging.basicConfig(level="INFO")  # shows the address, and each connection
    news = News(Path(sys.argv[1]))
    server = Server()
    server.on("subscribe", news.subscribe)
    server.on("close", news.unsubscribe)
    server.run(port=int(sys.argv[2]) if len(sys.argv) > 2 else 8080, lifespan=news.typed)
