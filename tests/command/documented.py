"""A server that `wsrpc types` describes as documents. It has a handler of each kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Protocol

import msgspec

from wsrpc import AnonymousChannel, Conversation, Handshake, Limits, Peer, RpcError, Server
from wsrpc_adapters.aiohttp import routes as aiohttp_routes
from wsrpc_adapters.asgi import routes


class Cup(msgspec.Struct):
    drink: str
    size: Annotated[int, msgspec.Meta(extra_json_schema={"unit": "ml"})] = 200


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    name: str


class News(Protocol):
    async def said(self, who: str, cup: Cup) -> None: ...
    async def age(self) -> int: ...


class Says(Protocol):
    async def say(self, text: str) -> None: ...


class Asks(Protocol):
    async def hi(self, number: int) -> None: ...
    async def why(self) -> str: ...


def fill(server: Server) -> None:
    server.declare(News)
    server.room("lobby", keep=600, allow=lambda peer: True)

    @server.on_handshake
    def log_in(handshake: Handshake) -> None:
        if handshake.bearer_token == "wrong":
            handshake.reject(401, "who are you?")
        handshake.principal = "ada"

    @server.on("brew")
    def brew(cup: Cup, *names: str) -> list[Cup]:
        """Brew a cup for each name."""
        return [cup for _ in names]

    @server.on("adopt")
    def adopt(pet: Cat | Dog) -> Cat | Dog | None:
        return pet if isinstance(pet, Cat) else None

    @server.on("pair")
    def pair(at: tuple[int, str] = (1, "a")) -> tuple[int, str]:
        return at

    @server.on("nothing", deprecated="use 'pair'")
    def nothing() -> None: ...

    @server.on("refuse")
    def refuse(amount: int) -> int:
        raise RpcError("too much", code="forbidden", data={"most": amount - 1})

    @server.of("shop").on("ask")
    async def ask(peer: Peer) -> int:
        age: int = await peer.request("age", returns=int)
        await peer.emit("said", "server", Cup("tea"))
        return age

    @server.on("count", keep=600)
    async def count(stop: int) -> AsyncIterator[int]:
        for number in range(stop):
            yield number

    @server.on("price", keep=600)
    async def price(drink: str, size: int = 200, currency: str = "EUR") -> int:
        return len(drink) * (1 if currency == "EUR" else 2)

    @server.on("fails")
    def fails() -> Iterator[Cup]:
        yield Cup("tea")
        raise RpcError("no more")

    @server.on("total")
    async def total(numbers: AsyncIterator[int]) -> int:
        return sum([number async for number in numbers])

    @server.on("first")
    async def first(numbers: AsyncIterator[int]) -> int:
        return await anext(numbers)

    @server.on("doubled")
    async def doubled(numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in numbers:
            yield 2 * number

    @server.on("hang", keep=600)
    async def hang() -> None:
        await asyncio.Event().wait()

    @server.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        await channel.emit("hi", 1)
        await channel.request("why")

    @server.on("chat")
    async def chat(channel: Annotated[AnonymousChannel, Conversation(handles=Says, emits=Asks)]) -> None:
        channel.on("say", lambda text: None)
        await channel.emit("hi", 1)
        await channel.request("why")


server = Server(limits=Limits(message_bytes=100_000))
fill(server)
SERVED: dict[str, Any] = {
    "calls": ["brew", "adopt", "pair", "nothing", "refuse", "price", "hang", "total", "nobody", "rooms:leave"],
    "runs": ["count", "price", "hang"],
    "rooms": ["lobby"],
}
api = routes(server, **SERVED)
aiohttp_api = aiohttp_routes(server, **SERVED)
