"""A FastAPI application with HTTP routes and an authenticated WebSocket on one port.

The server checks who connects; routes and handlers share the stock, and both tell all clients about changes.

    python examples/fastapi_app.py                                           serve two clients of its own, and exit
    uvicorn fastapi_app:app --ws wsrpc_adapters.uvicorn:WebSocketProtocol    in examples/: serve other clients
"""

from __future__ import annotations

import asyncio
import socket
from urllib.request import Request, urlopen

import uvicorn
from fastapi import FastAPI, WebSocket

from wsrpc import Client, Handshake, HandshakeRejected, Peer, RpcError, Server
from wsrpc_adapters.asgi import lifespan, serve_websocket
from wsrpc_adapters.uvicorn import WebSocketProtocol

TOKENS = {"secret-1": "Ada", "secret-2": "Bob"}

server = Server()
stock = {"apples": 3}


@server.on_handshake
def authenticate(handshake: Handshake) -> None:
    """Refuse clients without a known token, which may be in a header, in a subprotocol or in the query."""
    user = TOKENS.get(handshake.bearer_token or "")
    if user is None:
        handshake.reject(401, "unknown token")
    handshake.principal = user
    handshake.state["user"] = user


@server.on("buy")
async def buy(peer: Peer, what: str, count: int = 1) -> int:
    """Return how many are left, and tell all other clients."""
    if stock.get(what, 0) < count:
        raise RpcError(f"only {stock.get(what, 0)} left", code="sold_out")
    stock[what] -= count
    await server.emit("bought", peer.state["user"], count, what, skip=peer)
    return stock[what]


app = FastAPI(lifespan=lifespan(server))


@app.get("/stock")
async def show_stock() -> dict[str, int]:
    return stock


@app.put("/stock/{what}")
async def restock(what: str, count: int) -> dict[str, int]:
    """Add to the stock, which routes and handlers share, and tell all clients."""
    stock[what] = stock.get(what, 0) + count
    await server.emit("restocked", what, stock[what])
    return stock


@app.websocket("/ws")
async def ws(websocket: WebSocket) -> None:
    await serve_websocket(server, websocket)


async def try_out(url: str) -> None:
    """Use the application from two clients."""
    try:
        await Client(url).connect()
    except HandshakeRejected as exc:
        print(f"without a token: {exc.status}")
    ada = Client(url, auth="secret-1")
    bob = Client(url, auth="secret-2")
    news: asyncio.Queue[str] = asyncio.Queue()

    @ada.on("bought")
    def bought(who: str, count: int, what: str) -> None:
        news.put_nowait(f"{who} bought {count} {what}")

    @ada.on("restocked")
    def restocked(what: str, count: int) -> None:
        news.put_nowait(f"there are {count} {what}")

    async with ada:
        async with bob:
            print(f"apples left: {await bob.request('buy', 'apples', 2)}")
        print(f"Ada hears: {await news.get()}")
        try:
            await ada.request("buy", "apples", 2)
        except RpcError as exc:
            print(f"Ada is told: {exc.message} [{exc.code}]")
        page = await asyncio.to_thread(restocked_by_http, url.replace("ws://", "http://").replace("/ws", "/stock"))
        print(f"Ada hears: {await news.get()}")
        print(f"a route says: {page}")


def restocked_by_http(url: str) -> str:
    """Use the routes, as a program without WebSockets does."""
    with urlopen(Request(f"{url}/apples?count=5", method="PUT")):
        pass
    with urlopen(url) as response:
        return str(response.read().decode())


async def main() -> None:
    # At lower levels uvicorn 0.54 logs an error, "without completing handshake", for each refusal that is not a 403.
    web = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws=WebSocketProtocol))
    with socket.create_server(("127.0.0.1", 0)) as sock:
        serving = asyncio.create_task(web.serve([sock]))
        while not web.started:  # noqa: ASYNC110 - uvicorn sets no event
            await asyncio.sleep(0.01)
        try:
            await try_out(f"ws://127.0.0.1:{sock.getsockname()[1]}/ws")
        finally:
            web.should_exit = True
            await serving


if __name__ == "__main__":
    asyncio.run(main())
