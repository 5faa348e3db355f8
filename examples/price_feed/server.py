"""Send prices to a room whose members may read slowly.

    python server.py [PORT]

Only clients with the right plan can join the room "prices". A slow reader does not delay the others. When it continues
to read, it gets the latest price of each symbol instead of all the prices that it missed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from wsrpc import Handshake, KeepLatest, Peer, Server

SYMBOLS = ["AAPL", "MSFT", "NVDA"]
server = Server()


def pays(peer: Peer) -> bool:
    return bool(peer.state["plan"] == "pro")


def by_symbol(symbol: str, tick: int, book: list[float]) -> str:
    return symbol


prices = server.room("prices", allow=pays, slow=KeepLatest(by_symbol))


@server.on_handshake
def gate(handshake: Handshake) -> None:
    handshake.state["plan"] = handshake.query.get("plan", "free")


async def feed() -> None:
    """Emit the ticks of each symbol, each with its order book: about 2,000 a second, and 2 KB each."""
    tick = 0
    while True:
        await asyncio.sleep(0.005)
        for _ in range(10):
            tick += 1
            book = [round(random.uniform(90, 110), 2) for _ in range(300)]
            await prices.emit("price", SYMBOLS[tick % len(SYMBOLS)], tick // len(SYMBOLS), book)


@asynccontextmanager
async def feeding(server: Server) -> AsyncIterator[None]:
    task = asyncio.create_task(feed())
    yield
    task.cancel()


if __name__ == "__main__":
    logging.basicConfig(level="INFO")  # shows the address, each connection, and which peer reads too slowly
    server.run(port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080, lifespan=feeding)
