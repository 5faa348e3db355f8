"""What a page says when it is refused, and whether it dials on; see ``tests/adapters/test_refusals.py``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from leftovers import nothing_left as nothing_left

from interop.page_client import Page
from wsrpc import Client, Handshake, Limits, Peer, Quotas, Server
from wsrpc_adapters.aiohttp import aiohttp_handler

pytestmark = pytest.mark.usefixtures("nothing_left")

NOBODY = "ws://127.0.0.1:1"
UNKNOWN = "connecting 1006 the server refuses the connection, or is not reachable"

# The state after a refusal, the close code and the reason: where HTTP reaches the server, and with WebSockets alone.
REFUSALS = {
    "on_handshake 401": ("closed 3000 HTTP 401 log in first", UNKNOWN),
    "on_handshake 403": ("closed 3003 HTTP 403 log in first", UNKNOWN),
    "on_handshake 429": ("connecting 1013 HTTP 429 log in first", UNKNOWN),
    "on_handshake 503": ("connecting 1006 HTTP 503 log in first", UNKNOWN),
    "origin": ("closed 3003 HTTP 403 this origin is not allowed", UNKNOWN),
    "quota": ("connecting 1013 HTTP 429 more than 1 connections: close one, or try again later", UNKNOWN),
    "closed": ("connecting 1006 HTTP 503 the server is closing", UNKNOWN),
    "open 3000": ("closed 3000 log in first",) * 2,
    "open 3003": ("closed 3003 log in first",) * 2,
    "open 1008": ("closed 1008 log in first",) * 2,
    "open 4001": ("connecting 4001 log in first",) * 2,
    "open 1013": ("connecting 1013 log in first",) * 2,
}

# Begins calls before and after the refusal. Of a client that is closed, each has failed at once.
REFUSED = """
Math.random = () => 1e6 // the next attempt is in hours
class Foreign extends WebSocket { constructor(url, offers) { super(url, offers, { origin: ORIGIN }) } }
globalThis.real ??= fetch
globalThis.fetch = (url, init) => real(url, ORIGIN ? { ...init, headers: { ...init.headers, origin: ORIGIN } } : init)
const options = { WebSocket: ORIGIN ? Foreign : WebSocket, transports: ["websocket", "http"] }
const client = globalThis.refused = new Client(URL, options)
const keyed = client.with({ key: "k" })
const begin = () => [
  client.request("sync"), client.stream("stream").next(), client.upload("upload", [1]), client.open("conversation"),
  keyed.follow("stream").next(), client.with({ retry: "idempotent" }).request("sync"), client.room("lobby").ready,
].map((call) => call.then(() => "done", ({ outcome }) => outcome))
const calls = begin()
while (!client.error) await new Promise((resolve) => setTimeout(resolve))
const { code, message } = client.error
const state = client.status.get() + " " + message.replace("the connection has ended: ", "")
let failed = []
if (client.status.get() === "closed") {
  failed = await Promise.all([...calls, ...begin()])
  try { client.emit("event") } catch ({ outcome }) { failed.push(outcome) }
} else client.close()
return [state, failed]
"""


@asynccontextmanager
async def serving(name: str, served: str) -> AsyncGenerator[tuple[Server, str]]:
    """A server that refuses, and its URL."""
    server = Server(limits=Limits(close_timeout=1), quotas=[Quotas(connections=1)] * (name == "quota"))
    server.on("sync", lambda: "synced")
    by, status = name.split(maxsplit=1) if " " in name else (name, "0")

    @server.on_handshake
    def identify(handshake: Handshake) -> None:
        handshake.principal = "ada"
        if by == "on_handshake":
            handshake.reject(int(status), "log in first")

    if by == "open":

        @server.on("open")
        async def users_only(peer: Peer) -> None:
            await peer.close(int(status), "log in first")

    async with AsyncExitStack() as stack:
        if served == "by itself":
            url = (await stack.enter_async_context(server.listen())).url
        else:
            app = web.Application()
            app.router.add_route("*" if served == "with HTTP" else "GET", "/", aiohttp_handler(server))
            runner = web.AppRunner(app)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"ws://127.0.0.1:{runner.addresses[0][1]}/"
            stack.push_async_callback(server.close)
        if by == "quota":
            await stack.enter_async_context(Client(url, transports=["websocket"]))
        if by == "closed":
            await server.close()
        yield server, url


async def refused(page: Page, name: str, url: str) -> Any:
    origin = "https://evil.example" if name == "origin" else ""
    code = REFUSED.replace("URL", json.dumps(url)).replace("ORIGIN", json.dumps(origin))
    return await page.run(code)


@pytest.mark.parametrize("served", ["with HTTP", "without HTTP", "by itself"])
async def test_a_page_that_is_refused(served: str) -> None:
    """It was told "HTTP 404", and its calls never ended."""
    table = {name: row for name, row in REFUSALS.items() if (served, name) != ("by itself", "closed")}
    seen = dict[str, str]()
    async with Page.start(NOBODY) as page:
        for name in table:
            async with serving(name, served) as (_, url):
                seen[name], failed = await refused(page, name, url)
            assert set(failed) - {"unknown"} == ({"not_sent"} if seen[name].startswith("closed") else set()), name
    assert seen == {name: row[served == "without HTTP"] for name, row in table.items()}


async def test_a_page_that_was_refused_connects_again_when_the_user_has_logged_in() -> None:
    async with serving("on_handshake 401", "with HTTP") as (server, url), Page.start(NOBODY) as page:
        assert (await refused(page, "on_handshake 401", url))[0] == REFUSALS["on_handshake 401"][0]
        server.on_handshake(lambda handshake: None)
        told = await page.run("""
        const states = []
        refused.status.subscribe((state) => states.push(state))
        refused.connect()
        states.push(await refused.request("sync"))
        const stop = refused.status.subscribe((state) => state === "closed" && refused.connect())
        refused.close() // and begins again meanwhile
        stop()
        states.push(await refused.request("sync"), refused.error ?? null)
        refused.close()
        return states
        """)
        assert told == ["connecting", "open", "synced", "closed", "connecting", "open", "synced", None, "closed"]


# The server gets the request of a WebSocket, but its answer is lost. Then it refuses the token a second time.
ONE_TIME = """
class Lost {
  readyState = 0
  constructor(url, offers) {
    const real = new WebSocket(url, offers)
    real.onopen = () => real.close()
    real.onclose = () => this.onclose({ code: 1006, reason: "" })
  }
  close() {}
}
let tokens = 0
const target = () => ({ url: URL, token: `token-${++tokens}` })
const client = new Client(target, { WebSocket: Lost, transports: ["websocket", "http"] })
const told = [await client.request("sync"), client.transport, tokens]
client.close()
return told
"""


async def test_a_token_for_one_connection_is_not_sent_twice() -> None:
    used = set[str | None]()
    async with serving("nobody", "with HTTP") as (server, url), Page.start(NOBODY) as page:

        @server.on_handshake
        def log_in(handshake: Handshake) -> None:
            if handshake.bearer_token in used:
                handshake.reject(401)
            used.add(handshake.bearer_token)

        assert await page.run(ONE_TIME.replace("URL", json.dumps(url))) == ["synced", "http", 2]


async def test_of_two_requests_that_may_open_a_connection_one_is_refused() -> None:
    """The server is slow, so the page asks for a response that ends, too, with a token that is for one connection."""
    asked, go = 0, asyncio.Event()
    async with serving("nobody", "with HTTP") as (server, url), Page.start(NOBODY) as page:

        @server.on_handshake
        async def log_in(handshake: Handshake) -> None:
            nonlocal asked
            asked += 1
            if asked == 2:
                handshake.reject(401)
            await go.wait()

        opening = asyncio.create_task(
            page.run(f"""
            globalThis.real ??= fetch
            globalThis.fetch = async (url, init) => {{
              const response = await real(url, init)
              setTimeout(() => note("status " + response.status))
              return response
            }}
            const client = new Client({json.dumps(url)}, {{ WebSocket, transports: ["http"] }})
            const told = await client.request("sync")
            client.close()
            return told
            """)
        )
        await page.notes.until("status 401")
        go.set()
        assert await opening == "synced"
