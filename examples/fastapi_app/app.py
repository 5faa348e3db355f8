"""A FastAPI application with HTTP routes and an authenticated WebSocket on one port.

    uvicorn app:app --port 8080 --ws wsrpc_adapters.uvicorn:WebSocketProtocol

`on_handshake` checks the client's token. Routes and handlers share the stock, and both tell all clients about changes.
"""

from __future__ import annotations

from fastapi import FastAPI, WebSocket

from wsrpc import Handshake, Peer, RpcError, Server
from wsrpc_adapters.asgi import lifespan, serve_websocket

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
