"""A server with 30 events of all kinds, for the page of `docs()`: who logs in has the cookie or the token ``ada``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Protocol

from aiohttp import web
from asgi_servers import SERVERS
from chat_contract import Chat, ChatImplementation
from hosts import running
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, WebSocketRoute
from type_table import Cat, Dog, Movie, Size
from wide_server import ChatEvents, Cup, Host, Node, Odd

from wsrpc import AnonymousChannel, Context, Conversation, Handshake, HandshakeRejected, Keep, Peer, RpcError, Server
from wsrpc_adapters import aiohttp as on_aiohttp
from wsrpc_adapters import asgi as on_asgi

HTML = '<img src=x onerror="window.attacked = true"><script>window.attacked = true</script>'


class Guesses(Protocol):
    async def guess(self, number: int) -> None: ...

    async def give_up(self) -> int: ...


class Hints(Protocol):
    async def hint(self, text: str) -> None: ...


class Emitted(Protocol):
    async def said(self, who: str, text: str) -> None:
        """Somebody has said something."""

    async def confirm(self, question: str) -> bool: ...


def may_describe(peer: Peer) -> bool:
    return peer.principal == "ada"


def make_server() -> Server:
    """Make it. The page of `docs()` shows it to ``ada`` only."""
    server = Server()

    @server.on_handshake
    def log_in(handshake: Handshake) -> None:
        user = handshake.bearer_token or handshake.headers.get("cookie", "").removeprefix("user=")
        if user not in ("ada", "bob"):
            raise HandshakeRejected(401, "who are you?")
        handshake.principal = user

    @server.on("add")
    def add(a: int, b: int) -> int:
        """Add two numbers.

        The second line says more.
        """
        return a + b

    @server.on("brew")
    @server.on("cook", deprecated="use 'brew'")
    def brew(cups: list[Cup], strong: bool = False, size: Size = Size.LARGE) -> list[Cup]:
        """Brew some cups."""
        return cups

    @server.on("tree")
    def tree(node: Node, movie: Movie, odd: Odd) -> Node:
        return node

    @server.on("pets")
    def pets(pets: list[Cat | Dog]) -> Cat | Dog:
        return pets[0]

    @server.on("host")
    def host(host: Host, names: set[str], *more: int) -> list[int]:
        return [*more, len(names)]

    @server.on("echo")
    def echo(value: Any) -> Any:
        return value

    @server.on("optional")
    def optional(a: int = 1, b: str = "b", c: bool | None = None) -> str:
        return f"{a} {b} {c}"

    @server.on("nothing")
    def nothing() -> None: ...

    @server.on("fail")
    def fail(why: str) -> None:
        """Fail."""
        raise RpcError(why, code="bad_luck", data={"why": [1, 2]})

    @server.on("large")
    def large(size: int) -> str:
        return "x" * size

    cancelled = asyncio.Event()

    @server.on("hang")
    async def hang(peer: Peer) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    @server.on("is cancelled")
    async def is_cancelled() -> bool:
        await cancelled.wait()
        return True

    @server.on("a \"quoted\" 'name' <b>&amp;")
    def quoted(text: str = HTML) -> str:
        return text

    def odd(value: str) -> str:
        return value

    odd.__doc__ = HTML
    server.of(HTML).on(HTML)(odd)

    @server.on("count")
    async def count(to: int) -> AsyncIterator[int]:
        """Count from zero."""
        for number in range(to):
            yield number

    @server.on("ticks")
    async def ticks() -> AsyncIterator[int]:
        number = 0
        while True:
            yield number
            number += 1
            await asyncio.sleep(0.01)

    @server.on("broken")
    async def broken() -> AsyncIterator[str]:
        yield "one"
        raise RpcError("it broke", code="broken")

    @server.on("total")
    async def total(start: int, numbers: AsyncIterator[int]) -> int:
        """Add up an upload."""
        async for number in numbers:
            start += number
        return start

    @server.on("store")
    async def store(name: str, pieces: AsyncIterator[bytes]) -> str:
        return f"{name}: {sum([len(piece) async for piece in pieces])} bytes"

    @server.on("shout")
    async def shout(words: AsyncIterator[str]) -> AsyncIterator[str]:
        async for word in words:
            yield word.upper()

    @server.on("guess")
    async def guess(limit: int, channel: Annotated[AnonymousChannel, Conversation(Guesses, Hints)]) -> None:
        """Guess a number."""
        over = asyncio.Event()

        @channel.on("guess")
        async def one(number: int) -> None:
            await channel.emit("hint", "right" if number == limit else "wrong")

        @channel.on("give_up")
        def give_up() -> int:
            over.set()
            return limit

        await over.wait()

    @server.on("price", keep=600)
    async def price(drink: str) -> int:
        return len(drink)

    @server.on("story", keep=600)
    async def story(words: int) -> AsyncIterator[str]:
        for number in range(words):
            yield f"word {number}"

    @server.on("endless", keep=600)
    async def endless() -> AsyncIterator[int]:
        number = 0
        while True:
            yield number
            number += 1
            await asyncio.sleep(0.01)

    @server.on("approval", keep=Keep(600, inbox=str))
    async def approval(ctx: Context) -> AsyncIterator[str]:
        yield "waiting"
        async for message in ctx.inbox(str):
            yield f"got {message.value}"
            return

    server.of("chat").implement(Chat, ChatImplementation())
    server.of("chat").declare(ChatEvents)
    server.declare(Emitted)
    server.room("lobby", allow=lambda peer: True, keep=60, presence=1, state=lambda peer: {"topic": HTML})
    server.room("closed", allow=lambda peer: False)

    @server.on("say")
    async def say(peer: Peer, text: str) -> None:
        await server.room("lobby").emit("said", peer.principal, text)

    @server.on("ask me")
    async def ask_me(peer: Peer) -> bool:
        return await peer.request("confirm", "really?", returns=bool)

    return server


OPTIONS: dict[str, Any] = {"calls": ["add", "say"], "runs": ["story"], "rooms": ["lobby"]}


@asynccontextmanager
async def serving_docs(host: str, server: Server) -> AsyncGenerator[str]:
    """Serve a server at ``/ws``, and its page at ``/docs/``, and give the URL. ``/login/NAME`` sets the cookie."""
    if host == "aiohttp":

        async def log_in(request: web.Request) -> web.Response:
            return web.Response(headers={"Set-Cookie": f"user={request.match_info['name']}; Path=/"})

        app, api = web.Application(), on_aiohttp.routes(server, **OPTIONS)
        app.router.add_get("/login/{name}", log_in)
        app.router.add_route("*", "/ws", on_aiohttp.aiohttp_handler(server))
        app.add_subapp("/api", api)
        app.add_subapp("/docs", on_aiohttp.docs(server, allow=may_describe, routes=api, title="The <shop>"))
        async with running(app) as url:
            yield url.replace("ws://", "http://").removesuffix("/ws")
        await server.close()
        return

    def logged_in(request: Request) -> Response:
        return Response(headers={"Set-Cookie": f"user={request.path_params['name']}; Path=/"})

    served, api_of_asgi = on_asgi.asgi(server), on_asgi.routes(server, **OPTIONS)
    page = on_asgi.docs(server, allow=may_describe, routes=api_of_asgi, title="The <shop>")
    found = [Route("/login/{name}", logged_in), WebSocketRoute("/ws", served), Route("/ws", served)]
    starlette = Starlette(
        routes=[*found, Mount("/api", api_of_asgi), Mount("/docs", page)], lifespan=on_asgi.lifespan(server)
    )
    async with SERVERS[host](starlette) as port:
        yield f"http://127.0.0.1:{port}"
        await server.close()
