"""examples/ai_chat with a page that drives two tabs of it, and a model that uses a tool of the page."""

from __future__ import annotations

import json
import logging
from asyncio import Semaphore
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from ai_chat import server
from fastapi import Request
from fastapi.responses import FileResponse
from web_app import app

from interop.asking import asking
from wsrpc import Context, Keep
from wsrpc_adapters import agui, aisdk


@app.get("/drive")
async def drive() -> FileResponse:
    return FileResponse(Path(__file__).with_name("page_drives_chat.html"))


@app.post("/report")
async def report(request: Request) -> None:
    """Write into the log what the page has seen."""
    logging.info("report: %s", json.dumps(await request.json()))


@server.on("asking", keep=Keep(600, attempts=3, inbox=Any))
async def ask(ctx: Context, asked: dict[str, Any]) -> AsyncGenerator[Any]:
    last = asked["messages"][-1]
    question = last["content"] if "threadId" in asked else last["parts"][0]["text"]
    async with aclosing(asking(ctx, asked, question, Semaphore(1))) as events:
        async for event in events:
            yield event


# Pages with a connection use no URL.
app.mount("/api/asking", agui.agent(server, "asking"))
app.mount("/api/asked", aisdk.chat(server, "asking"))
