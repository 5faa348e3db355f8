"""An aiohttp application with HTTP routes and a WebSocket on one port.

`on_handshake` asks for a name, handlers and routes send news to all clients, and a client dials with aiohttp's session.

    python examples/aiohttp_app.py         serve two clients of its own, and exit
    python examples/aiohttp_app.py 8080    serve other clients on this port, until Ctrl-C
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial

import aiohttp
from aiohttp import web

from wsrpc import Client, Handshake, Peer, Server
from wsrpc_adapters.aiohttp import aiohttp_handler, dial

server = Server()


@server.on_handshake
def gate(handshake: Handshake) -> None:
    if "name" not in handshake.query:
        handshake.reject(400, "say who you are: /ws?name=Ada\n")
    handshake.state["name"] = handshake.query["name"]


@server.on("open")
async def opened(peer: Peer) -> None:
    await server.emit("news", f"{peer.state['name']} is here", skip=peer)


@server.on("add")
def add(a: int, b: int) -> int:
    return a + b


async def index(request: web.Request) -> web.Response:
    names = ", ".join(peer.state["name"] for peer in server.peers)
    return web.Response(text=f"connected: {names or 'nobody'}\n")


async def announce(request: web.Request) -> web.Response:
    """Send the body of an HTTP request to every connected client."""
    report = await server.emit("news", await request.text())
    return web.Response(text=f"{report.sent} heard it\n")


async def start(app: web.Application) -> None:
    await server.open()  # it may have been closed before, as in tests


async def close(app: web.Application) -> None:
    await server.close(drain=20)  # active work may finish; new connections get 503


def make_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/", index)
    app.router.add_post("/announce", announce)
    app.router.add_get("/ws", aiohttp_handler(server))
    app.on_startup.append(start)
    app.on_shutdown.append(close)
    return app


async def show() -> None:
    runner = web.AppRunner(make_app())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    here = f"127.0.0.1:{runner.addresses[0][1]}"
    async with aiohttp.ClientSession() as session:
        # This client dials with aiohttp, so it uses the session's cookies and connector.
        ada = Client(f"ws://{here}/ws?name=Ada", dial=partial(dial, session=session))
        news: asyncio.Queue[str] = asyncio.Queue()
        ada.on("news", news.put_nowait)
        async with ada:
            print("1 + 2 is", await ada.request("add", 1, 2))
            bob = Client(f"ws://{here}/ws?name=Bob")
            bobs_news: asyncio.Queue[str] = asyncio.Queue()
            bob.on("news", bobs_news.put_nowait)
            async with bob:
                print("Ada hears:", await news.get())
                async with session.get(f"http://{here}/") as response:
                    print("page:", (await response.text()).strip())
                async with session.post(f"http://{here}/announce", data="lunch is ready") as response:
                    print("answer:", (await response.text()).strip())
                print("Ada hears:", await news.get())
                print("Bob hears:", await bobs_news.get())
    await runner.cleanup()


if __name__ == "__main__":
    if sys.argv[1:]:
        web.run_app(make_app(), host="127.0.0.1", port=int(sys.argv[1]))
    else:
        asyncio.run(show())
