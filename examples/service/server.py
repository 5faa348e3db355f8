"""A service: the server creates one object for each connection.

    python server.py [PORT]

A factory creates the objects and passes them what they need: here a till that all of them share.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field

import wsrpc


@dataclass
class Till:
    """Sales of the whole application."""

    sold: dict[str, int] = field(default_factory=dict[str, int])


class Shop(wsrpc.Service):
    """Serves one customer."""

    def __init__(self, till: Till) -> None:
        self.till = till
        self.basket: list[str] = []

    async def on_open(self) -> None:
        await self.peer.emit("welcome", f"{sum(self.till.sold.values())} things sold today")

    async def on_close(self, info: wsrpc.CloseInfo) -> None:
        print(f"a customer left ({info.code}) with {len(self.basket)} things in the basket", flush=True)

    @wsrpc.method
    def put(self, thing: str, count: int = 1) -> int:
        self.basket += [thing] * count
        return len(self.basket)

    @wsrpc.method
    async def buy(self) -> list[str]:
        bought, self.basket = self.basket, []
        for thing in bought:
            self.till.sold[thing] = self.till.sold.get(thing, 0) + 1
        return bought


till = Till()
server = wsrpc.Server()
server.add_service(Shop, lambda: Shop(till))

if __name__ == "__main__":
    logging.basicConfig(level="INFO")  # shows the address, and each connection
    server.run(port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
