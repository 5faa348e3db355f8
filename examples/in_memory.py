"""An application in modules, with middleware, and its test without a network: `pytest examples/in_memory.py`.

Without pytest: `python examples/in_memory.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from wsrpc import CallNext, Context, RemoteError, Router, RpcError, Server
from wsrpc.testing import connect

# ---------------------------------------------------------------- a module of the application


@dataclass
class Order:
    item: str
    count: int = 1


orders = Router()


@orders.on("place")
def place(order: Order, ctx: Context) -> str:
    placed: list[Order] = ctx.state.setdefault("orders", [])  # belongs to this connection
    placed.append(order)
    return f"{order.count} × {order.item}"


@orders.on("list")
def list_orders(ctx: Context) -> list[Order]:
    placed: list[Order] = ctx.state.get("orders", [])
    return placed


# ---------------------------------------------------------------- the application


def make_server() -> Server:
    server = Server()
    server.include(orders, channel="orders")

    @server.on("login")
    def login(name: str, ctx: Context) -> None:
        ctx.state["user"] = name

    @server.use
    async def members_only(ctx: Context, call_next: CallNext) -> object:
        if ctx.event != "login" and "user" not in ctx.state:
            raise RpcError("log in first", code="unauthenticated")
        return await call_next(ctx)

    return server


# ---------------------------------------------------------------- its test


async def scenario() -> None:
    async with connect(make_server()) as client:
        shop = client.of("orders")
        refusal = None
        try:
            await shop.request("list")
        except RemoteError as error:
            refusal = error.code
        assert refusal == "unauthenticated"

        await client.request("login", "Ada")
        assert await shop.request("place", Order("tea", 2), returns=str) == "2 × tea"
        assert await shop.request("place", {"item": "milk"}, returns=str) == "1 × milk"
        assert await shop.request("list", returns=list[Order]) == [Order("tea", 2), Order("milk")]


def test_orders() -> None:
    asyncio.run(scenario())


if __name__ == "__main__":
    test_orders()
    print("ordered tea and milk, in memory")
