"""Chats for unmodified clients of other protocols, whose model writes a word when the test allows it, in Redis."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from wsrpc import Context, Handshake, Keep, RpcError, Server
from wsrpc_adapters import agui, aisdk
from wsrpc_adapters.asgi import lifespan
from wsrpc_adapters.redis import RedisStore

logging.basicConfig(level=logging.INFO, format="[%(process)d] %(message)s")

WORDS = ["It", " depends", " on", " the", " context", "."]
store = RedisStore(os.environ["REDIS"], lease=1)
server = Server(store=store)


@server.on_handshake
def log_in(handshake: Handshake) -> None:
    handshake.principal = "ada"


async def allowed(question: str) -> AsyncGenerator[None]:
    """Yield for each word that the model may write, also if another process has written it."""
    async with Redis.from_url(os.environ["REDIS"], socket_timeout=None) as redis:
        latest = b"0"
        while True:
            found: Any = await redis.xread({f"words of {question}": latest}, count=1, block=0)
            latest = found[0][1][0][0]
            yield


def tool_of_page(*, is_agent: bool) -> list[dict[str, Any]]:
    if not is_agent:
        called = {"toolCallId": "call-1", "toolName": "color"}
        return [{"type": "tool-input-available", **called, "input": {}}]
    called = {"toolCallId": "call-1"}
    return [{"type": "TOOL_CALL_START", **called, "toolCallName": "color"}, {"type": "TOOL_CALL_END", **called}]


@server.on("answer", keep=Keep(600, attempts=3))
async def answer(ctx: Context, asked: dict[str, Any]) -> AsyncIterator[Any]:
    earlier = (await ctx.earlier()).items
    is_agent, last = "threadId" in asked, asked["messages"][-1]
    question = last.get("content") or next((part["text"] for part in last.get("parts", []) if "text" in part), "")
    logging.info("attempt %d answers %r", ctx.attempt, question)
    if last["role"] != "user":
        yield "You like "
        await anext(allowed("Which color?"))
        yield f"{last['content'] if is_agent else last['parts'][-1]['output']}."
        return
    if question == "Which color?":
        yield "Let me ask. "
        for event in tool_of_page(is_agent=is_agent):
            yield event
        return
    words = allowed(question)
    for number, word in enumerate(WORDS):
        await anext(words)
        if number >= len(earlier):
            yield word
    if question == "Fail!":
        raise RpcError("the model is tired")


async def page(request: Request) -> Response:
    return FileResponse(Path(__file__).with_name("page_blank.html"))


async def script(request: Request) -> Response:
    return FileResponse(Path(os.environ["CHAT_DATABASE"]).with_name("page.js"))


async def stored(request: Request) -> Response:
    """Store the messages of the chat, or return them."""
    async with Redis.from_url(os.environ["REDIS"]) as redis:
        if request.method == "PUT":
            await redis.set("messages", await request.body())
        return Response(await redis.get("messages") or b"[]")


app = Starlette(
    routes=[
        Route("/", page),
        Route("/page.js", script),
        Route("/stored", stored, methods=["GET", "PUT"]),
        Route("/api/chat{path:path}", aisdk.chat(server, "answer")),
        Route("/api/agent{path:path}", agui.agent(server, "answer")),
    ],
    lifespan=lifespan(server),
)
