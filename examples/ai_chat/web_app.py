"""The chat as a web application: its page, the WebSocket, and chats for clients of the AI SDK and of AG-UI."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

from ai_chat import items_before, server
from fastapi import Cookie, FastAPI, WebSocket
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from language_model import think
from starlette.routing import Route

from wsrpc import Context, Keep
from wsrpc_adapters import agui, aisdk
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


@server.on("reply", keep=Keep(600, unread=60, attempts=3))
async def reply(ctx: Context, asked: dict[str, Any]) -> AsyncGenerator[str]:
    """Answer the last message, or go on with what the attempts before have written."""
    messages = [{"role": message["role"], "content": text_of(message)} for message in asked["messages"]]
    if written := "".join(await items_before(ctx)):
        messages.append({"role": "assistant", "content": written})
    async with aclosing(think(messages, [])) as words:
        async for word in words:
            yield str(word)


def text_of(message: dict[str, Any]) -> str:
    content: str | list[dict[str, Any]] = message.get("parts") or message.get("content", "")
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


app.routes.append(Route("/api/chat{path:path}", aisdk.chat(server, "reply")))
app.routes.append(Route("/api/agent{path:path}", agui.agent(server, "reply")))
app.mount("/http", routes(server, runs=["answer"]))  # for curl
