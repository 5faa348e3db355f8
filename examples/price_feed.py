"""Send prices to a room with a slow reader: `python examples/price_feed.py`.

Clients with the right plan may join the room "prices". A slow reader does not hold up the others. When it reads again,
it gets the latest price of each symbol, and not all prices that it has missed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys

from wsrpc import Client, Handshake, KeepLatest, Peer, RemoteError, Server

SYMBOLS = ["AAPL", "MSFT", "NVDA"]
TICKS = 9000
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
    """Emit ticks, each with its order book, as fast as they come."""
    for tick in range(1, TICKS + 1):
        book = [round(random.uniform(90, 110), 2) for _ in range(200)]
        await prices.emit("price", SYMBOLS[tick % len(SYMBOLS)], tick, book)
        if tick % 10 == 0:
            await asyncio.sleep(0)  # let other tasks run


class Reader:
    """A client that follows the prices."""

    def __init__(self, url: str) -> None:
        self.client = Client(url)
        self.client.on("price", self.price)
        self.last: dict[str, int] = {}
        self.ticks = 0
        self.up_to_date = asyncio.Event()

    def price(self, symbol: str, tick: int, book: list[float]) -> None:
        self.ticks += 1
        self.last[symbol] = tick
        if sorted(self.last.values()) == list(range(TICKS - len(SYMBOLS) + 1, TICKS + 1)):
            self.up_to_date.set()

    def __str__(self) -> str:
        missed = "none" if self.ticks == TICKS else "some"
        return f"{missed} missed, the last of each symbol: {sorted(self.last.values())}"


async def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="the log says: %(message)s")
    async with server.listen("127.0.0.1", 0) as listener:
        quick, slow = Reader(f"{listener.url}?plan=pro"), Reader(f"{listener.url}?plan=pro")
        async with Client(f"{listener.url}?plan=free") as free, quick.client, slow.client:
            try:
                await free.of("rooms").request("join", "prices")
            except RemoteError as error:
                print("without the plan:", error)
            for reader in (quick, slow):
                await reader.client.of("rooms").request("join", "prices")

            line = slow.client.peer.transport
            assert line is not None
            line.pause_receiving()  # it is busy, and does not read
            await feed()
            await quick.up_to_date.wait()
            line.resume_receiving()
            await slow.up_to_date.wait()
            print("quick:", quick)
            print("slow:", slow)


if __name__ == "__main__":
    asyncio.run(main())
