"""A site whose pages use the client in wsrpc/browser, and the pages that open it in Chromium."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from browser.pages import PATIENCE
from hosts import application, running
from playwright.async_api import BrowserContext, ConsoleMessage, Page

import wsrpc
from wsrpc import AnonymousChannel, Peer, RpcError, Server
from wsrpc.testing import FaultProxy

HERE = Path(__file__).parent
BLANK = HERE / "page_blank.html"
CUT_WHILE_DIALING = (
    "Error in connection establishment",
    "Error during WebSocket handshake: net::ERR_CONNECTION_RESET",
    # Where a WebSocket takes seconds to open, as on a busy machine, HTTP is tried too, which not each server has.
    "has been blocked by CORS policy",
    "net::ERR_FAILED",
)
"""What Chromium writes into the console, whatever a page does."""

Reports = asyncio.Queue[Any]
"""What pages have posted to /report."""
Front = Callable[[int], AbstractContextManager[str]]
"""Puts a proxy in front of a port, and gives the URL of the site."""


def pass_one_write(transport: Any) -> None:
    """Let the answer to a request pass, and nothing after it."""
    write = transport.write

    def write_once(data: bytes) -> None:
        transport.write = lambda data: None
        write(data)

    transport.write = write_once


@asynccontextmanager
async def on_aiohttp(
    server: Server, reports: Reports, treat: Callable[[bool], str], api: web.Application | None = None
) -> AsyncGenerator[str]:
    """Serve the pages, the modules and the server with aiohttp, and give the URL of the WebSocket.

    Args:
        treat: returns what a proxy between passes on, see `Site`, of a request that asks for a WebSocket, or does not.
        api: what is at ``/http/``.
    """

    async def blank(request: web.Request) -> web.FileResponse:
        return web.FileResponse(BLANK)

    async def report(request: web.Request) -> web.Response:
        reports.put_nowait(await request.json())
        return web.Response()

    @web.middleware
    async def proxy(request: web.Request, handler: Any) -> Any:
        upgrades, streams = "Upgrade" in request.headers, request.headers.get("Wsrpc-Transport") == "stream"
        passes = treat(upgrades)
        if upgrades and passes in ("http", "responses that end"):
            return web.Response(status=403)
        if (upgrades and passes == "swallows") or (streams and passes == "responses that end"):
            while request.transport is not None:  # noqa: ASYNC110 - aiohttp tells of it in no other way
                await asyncio.sleep(0.05)
            return web.Response(status=504)
        if upgrades and passes == "mutes":
            muted = web.WebSocketResponse(protocols=["wsrpc"])
            await muted.prepare(request)
            async for _ in muted:
                pass
            return muted
        if upgrades and passes == "mutes the server":
            pass_one_write(request.transport)
        return await handler(request)

    app = application(server)
    app.middlewares.append(proxy)
    app.router.add_get("/", blank)
    app.router.add_post("/report", report)
    if api is not None:
        app.add_subapp("/http", api)
    app.router.add_static("/tests", HERE)
    app.router.add_static("/wsrpc", Path(wsrpc.__file__).with_name("browser"))
    async with running(app) as url:
        yield url


class Site:
    """A server, the proxy through which pages reach it, and what they have reported.

    Attributes:
        passes: what the proxy passes on: WebSockets; only ``"http"``; or ``"responses that end"``, because it holds
            others back. ``"swallows"``: only HTTP, because requests for a WebSocket get no answer. ``"mutes"``: only
            HTTP, because nothing passes on a WebSocket that is open. ``"mutes the server"``: only what the page sends
            passes on it.
    """

    proxy: FaultProxy
    url = ""

    def __init__(self, server: Server, passes: str) -> None:
        self.server = server
        self.passes = passes
        self.reports = Reports()
        self.upgrades = 0
        """Number of requests for a WebSocket."""
        self.opened: list[Peer] = []
        """The peer of each session that has begun."""
        self.closed: list[int] = []
        """The close code of each session that has ended."""
        server.on("open", self.opened.append)
        server.on("close", lambda peer, info: self.closed.append(info.code))

    def treat(self, upgrades: bool) -> str:
        self.upgrades += upgrades
        return self.passes


@asynccontextmanager
async def serving_site(
    server: Server, passes: str = "websocket", front: Front | None = None, api: web.Application | None = None
) -> AsyncGenerator[Site]:
    """Serve a site.

    Args:
        front: a real proxy, in place of that of `on_aiohttp`.
        api: as for `on_aiohttp`.
    """
    site = Site(server, passes if front is None else "websocket")
    async with on_aiohttp(server, site.reports, site.treat, api) as url, FaultProxy(url) as site.proxy:
        if front is None:
            site.url = f"http://127.0.0.1:{site.proxy.port}/"
            yield site
        else:
            with front(site.proxy.port) as site.url:
                yield site


@asynccontextmanager
async def quiet_page(context: BrowserContext, url: str, *tolerated: str) -> AsyncGenerator[Page]:
    """Open a page. It may raise no error, leave no rejection unhandled, and write nothing into its console.

    Args:
        tolerated: parts of what the browser itself says when a connection fails, which no page can prevent.
    """
    complaints: list[str] = []

    def said(message: ConsoleMessage) -> None:
        complaints.append(f"{message.type}: {message.text}")

    page = await context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("console", said)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(url)
    try:
        yield page
    finally:
        await page.close()
    complaints = [text for text in complaints if not any(part in text for part in tolerated)]
    assert not complaints, complaints


def calling_server(drop: Callable[[], None] = lambda: None) -> Server:
    """A server with a handler for each kind of call. The event ``drop`` calls ``drop``."""
    server = Server()
    server.on("add", lambda a, b: a + b)
    server.of("math").on("add", lambda a, b: a + b)
    server.on("echo", lambda value: value)
    server.on("drop", drop)
    lobby = server.room("lobby", allow=lambda peer: True)

    @server.on("say")
    async def say(text: str) -> None:
        await lobby.emit("said", text)

    @server.on("fail")
    def fail() -> None:
        raise RpcError("it failed", code="bad_luck", data={"why": [1, 2]})

    @server.on("hang")
    async def hang(peer: Peer) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await peer.emit("left")

    @server.on("count")
    async def count(to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    @server.on("ticks")
    async def ticks(peer: Peer) -> AsyncIterator[int]:
        number = 0
        try:
            while True:
                yield number
                number += 1
        finally:
            await peer.emit("left")

    @server.on("total")
    async def total(start: int, numbers: AsyncIterator[int]) -> int:
        async for number in numbers:
            start += number
        return start

    @server.on("size")
    async def size(pieces: AsyncIterator[Any]) -> int:
        return sum([len(piece) async for piece in pieces])

    @server.on("shout")
    async def shout(channel: AnonymousChannel) -> None:
        async for line in channel.events("line", returns=str):
            await channel.emit("line", line.upper())
            if line == "name":
                await channel.emit("line", await channel.request("name"))

    @server.on("call me")
    async def call_me(peer: Peer) -> dict[str, Any]:
        """Make each kind of call to the page, and return what came of it."""
        await peer.emit("note", "from the server")
        seen: dict[str, Any] = {"request": await peer.request("name")}
        seen["stream"] = [letter async for letter in peer.stream("letters", "abc")]
        seen["upload"] = await peer.request("sum", send=range(1000))
        async with await peer.open_channel("shout") as channel:
            lines = channel.events("line", returns=str)
            await channel.emit("line", "hello")
            seen["conversation"] = await anext(lines)
        return seen

    return server
