"""The language model: a simulated one or, if OPENAI_API_KEY is set, a real one.

`think(messages, tools)` yields pieces of text, and calls of tools, whose ids are the same when it is asked again.
`reply(messages, tools, use_tool)` lets it use them. Messages and tools have the form of OpenAI's chat completions.
If the last message is of the assistant, both go on with it.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

Message = dict[str, Any]
Part = dict[str, Any]
"""``{"text": piece}``, ``{"tool": call}`` before a tool runs, and ``{"result": text, "of": call["id"]}`` after it."""
UseTool = Callable[[Message], Awaitable[str]]


async def reply(messages: list[Message], tools: list[Message], use_tool: UseTool) -> AsyncGenerator[Part]:
    """Answer the last message, or go on with the answer that it has begun."""
    calls: list[Message] = messages[-1].get("tool_calls", [])
    while True:
        for call in calls:
            yield {"tool": call}
            result = await use_tool(call)
            yield {"result": result, "of": call["id"]}
            messages.append({"role": "tool", "content": result, "tool_call_id": call["id"]})
        answer: Message = {"role": "assistant", "content": ""}
        calls = []
        async for part in think(messages, tools):
            if isinstance(part, str):
                answer["content"] += part
                yield {"text": part}
            else:
                calls.append(part)
        if not calls:
            return
        messages.append(answer | {"tool_calls": calls})


def messages_of(parts: list[Part]) -> list[Message]:
    """Return the messages of an answer that another attempt has begun."""
    found: list[Message] = []
    for part in parts:
        if "of" in part:
            found.append({"role": "tool", "content": part["result"], "tool_call_id": part["of"]})
            continue
        if not found or found[-1]["role"] == "tool":
            found.append({"role": "assistant", "content": ""})
        if "text" in part:
            found[-1]["content"] += part["text"]
        else:
            found[-1]["tool_calls"] = [part["tool"]]
    return found


def number_of(messages: list[Message]) -> int:
    """Return the number of the next call, which an answer that was begun does not change."""
    return sum(message["role"] != "assistant" for message in messages)


# ---------------------------------------------------------------- a simulated one

ADVICE = """\
I am a simulated model, and I write slowly, so that you can try things. Reload this page now: I go on writing \
meanwhile, and the page shows all of it. Open the address of this page in a second tab: it shows this answer \
from its first word, and stays in step. Press Stop in either of them, and I stop in both. Close both, and I stop after \
a minute, because nobody reads. When you write about an email, I ask you something, in all your tabs: answer in one of \
them, and the other one asks no more. You may reload the page also while it asks. And if you kill the worker that I \
run in, another one goes on with this answer, within a second or so."""

WORDS = {"email": "ask_user", "color": "pick_color"}
"""Which word of a message lets the simulated model use which tool, if it has it."""


async def simulated(messages: list[Message], tools: list[Message]) -> AsyncIterator[str | Message]:
    last, written = messages[-1], 0
    if last["role"] == "assistant":
        last, written = messages[-2:][0], len(last["content"])
    if last["role"] == "tool":
        text = f"You said: {last['content']}. Thank you!"
    else:
        there = [tool["function"]["name"] for tool in tools]
        used = [tool for word, tool in WORDS.items() if word in last["content"].lower() and tool in there]
        text = "Let me ask you." if used else ADVICE
        for name in used:
            function = {"name": name, "arguments": json.dumps({"question": last["content"]})}
            yield {"id": f"call-{number_of(messages)}", "type": "function", "function": function}
    for word in text[written:].split():
        await asyncio.sleep(0.05)
        yield f"{word} "


# ---------------------------------------------------------------- a real one


async def real(messages: list[Message], tools: list[Message]) -> AsyncIterator[str | Message]:
    """Ask OpenAI, or the server that OPENAI_BASE_URL names."""
    from openai import AsyncOpenAI

    number = number_of(messages)
    if messages[-1]["role"] == "assistant":
        messages = [*messages, {"role": "user", "content": "Go on with the next word. Repeat nothing."}]
    chunks = await AsyncOpenAI().chat.completions.create(
        model=os.environ.get("OPENAI_MODEL", "gpt-5-mini"),
        messages=messages,
        stream=True,
        **({"tools": tools} if tools else {}),  # an empty list is refused
    )
    calls: list[Message] = []
    async for chunk in chunks:
        for choice in chunk.choices:
            if choice.delta.content:
                yield choice.delta.content
            for part in choice.delta.tool_calls or ():
                if part.id:  # the first part of a call. Another attempt has other ids, so calls get their own
                    function = {"name": part.function.name, "arguments": ""}
                    id = f"call-{number}-{len(calls)}"
                    calls.append({"id": id, "type": "function", "function": function})
                calls[-1]["function"]["arguments"] += part.function.arguments or ""
    for call in calls:
        yield call


think = real if os.environ.get("OPENAI_API_KEY") else simulated
