"""The language model: a simulated one or, if OPENAI_API_KEY is set, a real one.

`think(messages, tools)` yields pieces of text, and calls of tools.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from agui import Function, Message, Tool, ToolCall

# ---------------------------------------------------------------- a simulated one

ADVICE = """\
I am a simulated model, and I write slowly, so that you can try things. Reload this page now: I go on writing \
meanwhile, and the page continues where it was. Open the address of this page in a second tab: it shows this answer \
from its first word, and stays in step. Press Stop in either of them, and I stop in both. Close both, and I stop after \
a minute, because nobody reads. When you ask me about a color, the time or an email, I use a tool, which runs in your \
page and in the second tab: answer in one of them, and the other one asks no more. You may reload the page also while \
it asks you something: it will ask again. And if you kill the worker that I run in, this text ends with an error that \
says so, and what I have written is still here."""

WORDS = {"color": "pick_color", "time": "current_time", "email": "confirm"}
"""Which word of a prompt lets the simulated model use which tool."""


async def simulated(messages: list[Message], tools: list[Tool]) -> AsyncIterator[str | ToolCall]:
    last = messages[-1]
    if last.role == "tool":
        text = f"You said: {last.content}. Thank you!"
    else:
        there = [tool.name for tool in tools]
        used = [tool for word, tool in WORDS.items() if word in last.content.lower() and tool in there]
        text = "Let me ask your page." if used else ADVICE
        for name in used:
            arguments = json.dumps({"question": last.content})
            yield ToolCall(uuid.uuid4().hex, Function(name, arguments))
    for word in text.split(" "):
        await asyncio.sleep(0.05)
        yield f"{word} "


# ---------------------------------------------------------------- a real one


async def real(messages: list[Message], tools: list[Tool]) -> AsyncIterator[str | ToolCall]:
    """Ask OpenAI, or the server that OPENAI_BASE_URL names."""
    from openai import AsyncOpenAI

    functions = [{"type": "function", "function": msgspec.to_builtins(tool)} for tool in tools]
    chunks = await AsyncOpenAI().chat.completions.create(
        model=os.environ.get("OPENAI_MODEL", "gpt-5-mini"),
        messages=[for_openai(message) for message in messages],
        stream=True,
        **({"tools": functions} if functions else {}),  # an empty list is refused
    )
    calls: list[ToolCall] = []
    async for chunk in chunks:
        for choice in chunk.choices:
            if choice.delta.content:
                yield choice.delta.content
            for part in choice.delta.tool_calls or ():
                if part.id:  # the first part of a call
                    calls.append(ToolCall(part.id, Function(part.function.name, "")))
                calls[-1].function.arguments += part.function.arguments or ""
    for call in calls:
        yield call


def for_openai(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        fields["tool_calls"] = msgspec.to_builtins(message.tool_calls)
    if message.tool_call_id:
        fields["tool_call_id"] = message.tool_call_id
    return fields


think = real if os.environ.get("OPENAI_API_KEY") else simulated
