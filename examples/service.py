"""A service, with one object for each connection: `python examples/service.py`.

A factory makes the objects and passes what they need: here a till that they share.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial

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
        print(f"a customer left ({info.code}) with {len(self.basket)} things in the basket")

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


async def main() -> None:
    till = Till()
    server = wsrpc.Server()
    server.add_service(Shop, lambda: Shop(till))

    async with server.listen("127.0.0.1", 0) as listener:
        for name in ("Ada", "Bob"):
            client = wsrpc.Client(listener.url)
            client.on("welcome", partial(print, name, "reads:"))
            async with client:
                print(f"{name} has", await client.request("put", "apple", 2), "in the basket")
                print(f"{name} has", await client.request("put", "pear"), "in the basket")
                if name == "Ada":
                    print(f"{name} buys", *await client.request("buy", returns=list[str]))


if __name__ == "__main__":
    asyncio.run(main())
