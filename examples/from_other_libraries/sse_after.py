"""sse_before.py with wsrpc: `uvicorn sse_after:app`, or with `--ws wsrpc_adapters.uvicorn:WebSocketProtocol`.

GET /rooms/lobby follows the lobby, POST /call/say says something there. POST /runs/answer/KEY begins an answer, and GET
reads it: an EventSource needs no other code. Clients of wsrpc connect to /ws.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute

from wsrpc import Keep, Server
from wsrpc_adapters.asgi import asgi, lifespan, routes

server = Server()
lobby = server.room("lobby", keep=3600, allow=lambda peer: True)  # the events of the last hour


@server.on("say")
async def say(text: str) -> int:
    await lobby.emit("said", text)
    return len(text)


@server.on(
    "answer", keep=Keep(600, scope=lambda peer, *, key: "everybody")
)  # without scope=, a key belongs to its user
async def answer(question: str) -> AsyncIterator[str]:
    for word in ("It", "depends,", question):
        await asyncio.sleep(0.1)
        yield word


urls = routes(server, calls=["say"], rooms=["lobby"], runs=["answer"])
app = Starlette(routes=[WebSocketRoute("/ws", asgi(server)), Mount("/", urls)], lifespan=lifespan(server))
