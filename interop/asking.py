"""A handler that uses a tool of the page, for clients of the AI SDK and of AG-UI."""

from __future__ import annotations

import json
from asyncio import Semaphore
from collections.abc import AsyncGenerator
from typing import Any

from wsrpc import Context


async def asking(ctx: Context, asked: dict[str, Any], question: str, steps: Semaphore) -> AsyncGenerator[Any]:
    """Ask the page, yield what it has said, and after a step, words. Go on from what was yielded before."""
    earlier = (await ctx.earlier()).items
    called: dict[str, Any] = {"toolCallId": "call-1"}
    is_agent = "threadId" in asked
    if is_agent:
        args = json.dumps({"question": question})
        call = [
            {"type": "TOOL_CALL_START", **called, "toolCallName": "ask_user"},
            *({"type": "TOOL_CALL_ARGS", **called, "delta": part} for part in (args[:5], args[5:])),
            {"type": "TOOL_CALL_END", **called},
        ]
    else:
        call = [{"type": "tool-input-available", **called, "toolName": "ask_user", "input": {"question": question}}]
    for event in call[len(earlier) :]:
        yield event
    if question == "Ask in a message!":
        return
    result = (await anext(aiter(ctx.inbox(Any)))).value
    if is_agent:
        results = [{"type": "TOOL_CALL_RESULT", "messageId": "m-1", **called, "content": json.dumps(result)}]
    else:
        results = [{"type": "tool-output-available", **called, "output": result}, {"type": "start-step"}]
    for event in results[max(0, len(earlier) - len(call)) :]:
        yield event
    await steps.acquire()
    yield f"You said {result}."
