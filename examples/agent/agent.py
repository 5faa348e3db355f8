"""An agent for a web page: its answers survive a reload, and its tools run in the page. README.md has the commands."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Annotated

import agui
import aisdk
from fastapi import Cookie, FastAPI, WebSocket
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from language_model import think

from wsrpc import Handshake, Keep, Peer, Room, Server, WsrpcError
from wsrpc.cluster import Cluster
from wsrpc_adapters.asgi import lifespan, routes, serve_websocket
from wsrpc_adapters.redis import RedisEngine, RedisStore

HERE = Path(__file__).parent
REDIS = os.environ.get("REDIS", "redis://127.0.0.1:6379")

# All workers share the answers, and each of them can call the pages at the others.
server = Server(store=RedisStore(REDIS, name="agent"), cluster=Cluster(RedisEngine(REDIS), name="agent"))


@server.on_handshake
def identify(handshake: Handshake) -> None:
    handshake.state["thread"] = handshake.query.get("thread", "")
    if not re.fullmatch("[0-9a-f-]{36}", handshake.state["thread"]):
        handshake.reject(400, "?thread= is missing or not valid")
    cookies = SimpleCookie(handshake.headers.get("cookie", ""))
    if "user" not in cookies:
        handshake.reject(401, "the page sets a cookie")
    handshake.principal = cookies["user"].value  # the keys of a user are of no use to others


def tabs_of(peer: Peer) -> Room:
    """Return the room of the user's tabs that show the same conversation."""
    return server.room(f"{peer.principal}/{peer.state['thread']}")


@server.on("open")
def enter(peer: Peer) -> None:
    tabs_of(peer).add(peer)


# An answer is kept for 10 minutes after its end. If no page has read it for a minute, the model is stopped.
@server.on("generate", keep=Keep(600, unread=60))
async def generate(peer: Peer, run: agui.RunAgentInput) -> AsyncGenerator[agui.Event]:
    """Answer the last message. What is yielded are the events of a run of AG-UI."""
    tabs = tabs_of(peer)
    yield agui.RunStarted(run.thread_id, run.run_id)
    messages = run.messages
    while messages[-1].role != "assistant":
        answer = agui.Message(new_id(), "assistant", tool_calls=[])
        async for part in think(messages, run.tools):
            if isinstance(part, agui.ToolCall):
                answer.tool_calls.append(part)
                continue
            if not answer.content:
                yield agui.TextMessageStart(answer.id)
            answer.content += part
            yield agui.TextMessageContent(answer.id, part)
        if answer.content:
            yield agui.TextMessageEnd(answer.id)
        messages.append(answer)
        for call in answer.tool_calls:
            yield agui.ToolCallStart(call.id, call.function.name, answer.id)
            yield agui.ToolCallArgs(call.id, call.function.arguments)
            yield agui.ToolCallEnd(call.id)
            result = agui.Message(new_id(), "tool", await use_tool(tabs, call), tool_call_id=call.id)
            yield agui.ToolCallResult(result.id, call.id, result.content)
            messages.append(result)
    yield agui.RunFinished(run.thread_id, run.run_id)


@server.on("chat", keep=Keep(600, unread=60))
async def chat(peer: Peer, asked: aisdk.Chat) -> AsyncIterator[dict[str, str]]:
    """Answer the last message. What is yielded are the chunks of a message of the AI SDK."""
    async with aclosing(generate(peer, asked.run())) as events:
        async for event in events:
            yield aisdk.chunk_of(event)


async def use_tool(tabs: Room, call: agui.ToolCall) -> str:
    """Run a tool in all tabs of the conversation, and return the first answer. A page that is reloaded asks again."""
    try:
        arguments = json.loads(call.function.arguments or "{}")
        return await tabs.of("tools").request(call.function.name, arguments, within=120, returns=str)
    except (ValueError, WsrpcError) as error:
        return f"The tool has failed: {error}"  # for the model


def new_id() -> str:
    return uuid.uuid4().hex


# ---------------------------------------------------------------- the application

app = FastAPI(lifespan=lifespan(server))
app.mount("/wsrpc", StaticFiles(packages=[("wsrpc", "browser")]))  # the client for pages

User = Annotated[str | None, Cookie()]


@app.get("/")
async def index(user: User = None) -> FileResponse:
    """Send the page, and know its user from now on. A real application has a login."""
    response = FileResponse(HERE / "index.html")
    response.set_cookie("user", user or new_id(), httponly=True, samesite="strict")
    return response


@app.get("/page.js")
async def script() -> FileResponse:
    return FileResponse(HERE / "page.js")


app.mount("/http", routes(server, runs=["chat"]))  # for the AI SDK


@app.websocket("/ws")
async def ws(websocket: WebSocket) -> None:
    await serve_websocket(server, websocket)
