"""The places in which a server can run, each with the same tests.

A `Host` serves a `wsrpc.Server` by one library. What the library cannot do is said in ``cannot``, by the name of the
ability: the tests look there, and the table in docs/adapters.md is made of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager as Context
from contextlib import asynccontextmanager
from typing import ClassVar

from aiohttp import web

from wsrpc import Server
from wsrpc_adapters import picows
from wsrpc_adapters.aiohttp import aiohttp_handler

ABILITIES: dict[str, str] = {
    "subprotocol": "`on_handshake` chooses the subprotocol",
    "response headers": "`on_handshake` sets headers of the response",
    "refusal body": "a refusal has the status, body and headers that `on_handshake` gave",
    "async handshake": "`on_handshake` may be async",
    "limits per connection": "`on_handshake` sets the size of inbound messages",
    "compression": "permessage-deflate, for a server or for one connection",
    "half-read message": "a drop in the middle of a message is seen as such",
    "pieces in": "a large message can be read piece by piece",
    "pieces out": "a large message can be sent piece by piece",
    "close code": "a `close` handler is told the other side's code and reason",
    "pause": "reading stops while a raw handler is slow",
    "heartbeat": "`Limits.ping_interval` and `ping_timeout` are kept",
}
"""What a host may be unable to do."""


class Host(ABC):
    """A place to run a server in."""

    name: ClassVar[str]
    cannot: ClassVar[Mapping[str, str]] = {}
    """Abilities that its library does not give, each with what happens instead."""

    def __repr__(self) -> str:
        return self.name

    @abstractmethod
    def serving(self, server: Server) -> Context[str]:
        """Serve ``server`` at the path ``/ws``, and give the URL; leaving closes the server and ends everything."""


class Default(Host):
    """`Server.listen`, on `websockets`."""

    name = "websockets"

    @asynccontextmanager
    async def serving(self, server: Server) -> AsyncGenerator[str]:
        async with server.listen("127.0.0.1", 0, path="/ws") as listener:
            yield listener.url


class Aiohttp(Host):
    """A route of an aiohttp application."""

    name = "aiohttp"

    @asynccontextmanager
    async def serving(self, server: Server) -> AsyncGenerator[str]:
        app = web.Application()
        app.router.add_get("/ws", aiohttp_handler(server))

        async def close(app: web.Application) -> None:
            await server.close()

        app.on_shutdown.append(close)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"ws://127.0.0.1:{runner.addresses[0][1]}/ws"
        finally:
            await runner.cleanup()


class Picows(Host):
    """picows."""

    name = "picows"
    cannot: ClassVar[Mapping[str, str]] = {
        "async handshake": "`listen` refuses with a TypeError: picows calls a plain function",
        "compression": "nothing is compressed",
    }

    @asynccontextmanager
    async def serving(self, server: Server) -> AsyncGenerator[str]:
        async with picows.listen(server, path="/ws") as listener:
            yield listener.url


HOSTS: list[Host] = [Default(), Aiohttp(), Picows()]
