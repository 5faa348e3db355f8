"""The chat as a web application: its page, the WebSocket, and handlers for clients of other protocols."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Annotated

import agui
import aisdk
from ai_chat import items_before, may_see, may_send, server
from fastapi import Cookie, FastAPI, WebSocket
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from language_model import Word, Words

from wsrpc import Context, Keep, Peer
from wsrpc_adapters.asgi import lifespan, routes, serve_websocket

HERE = Path(__file__).parent

logging.basicConfig(level=logging.INFO, format="[%(process)d] %(message)s")  # the process, so that you can kill it

app = FastAPI(lifespan=lifespan(server))
app.mount("/wsrpc", StaticFiles(packages=[("wsrpc", "browser")]))  # the client for pages

User = Annotated[str | None, Cookie()]


@app.get("/")
async def index(user: User = None) -> FileResponse:
    """Send the page, and know its user from now on. A real application has a login."""
    response = FileResponse(HERE / "index.html")
    response.set_cookie("user", user or f"user-{uuid.uuid4()}", httponly=True, samesite="strict")
    return response


@app.get("/staff")
async def staff() -> FileResponse:
    """The same page for the staff. A real application asks for a password."""
    return await index(f"staff-{uuid.uuid4()}")


@app.get("/page.js")
async def script() -> FileResponse:
    return FileResponse(HERE / "page.js")


@app.websocket("/ws")
async def ws(websocket: WebSocket) -> None:
    await serve_websocket(server, websocket)


# ---------------------------------------------------------------- other clients, which have the conversation themselves


def may_generate(peer: Peer, run: agui.RunAgentInput) -> str:
    return may_see(peer, run.thread_id)


@server.on("generate", keep=Keep(600, unread=60, attempts=3, scope=may_generate, inbox=Word, may_send=may_send))
async def generate(ctx: Context, run: agui.RunAgentInput) -> AsyncGenerator[agui.Event]:
    """Answer a client of AG-UI, whose tools are its own."""
    earlier = await items_before(ctx)
    with closing(Words(ctx.inbox(Word), [])) as words:
        async with aclosing(agui.events(run, earlier, words)) as events:
            async for event in events:
                yield event


@server.on("chat", keep=Keep(600, unread=60, attempts=3))
async def chat(ctx: Context, asked: aisdk.Chat) -> AsyncGenerator[dict[str, str]]:
    """Answer a chat of the AI SDK."""
    async with aclosing(aisdk.chunks(asked, await items_before(ctx))) as chunks:
        async for chunk in chunks:
            yield chunk


app.mount("/http", routes(server, runs=["answer", "chat"]))  # for curl, and the AI SDK
