"""The language model: a simulated one or, if OPENAI_API_KEY is set, a real one.

`think(messages, tools)` yields pieces of text, and calls of tools, whose ids are the same when it is asked again.
`reply(messages, tools, words)` lets the user answer the calls, and say more. Messages and tools have the form of
OpenAI's chat completions. If the last message is of the assistant, both go on with it.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from msgspec import Struct

from wsrpc.types import InboxMessage

Message = dict[str, Any]
Part = dict[str, Any]
"""``{"text": piece}``, ``{"tool": call}``, which the user has to answer, and ``{"result": text, "of": call["id"]}``.

What the user says meanwhile is a piece with ``"said"`` and the ``"id"`` of its message.
"""


class Word(Struct):
    """What the user says while the model answers: the result of the call ``of``, or something more."""

    text: str
    of: str = ""


class Words:
    """Listens to what the user says while the model answers, in the inbox of a run.

    Args:
        earlier: what the attempts before have yielded. An inbox begins with the first message in each attempt.
    """

    def __init__(self, inbox: AsyncIterator[InboxMessage[Word]], earlier: list[Part]) -> None:
        self.more: list[Part] = []
        """What the model does not know yet."""
        self._known = {part["id"] for part in earlier if "said" in part}
        self._results = defaultdict[str, asyncio.Future[str]](asyncio.Future)
        self._listening = asyncio.ensure_future(self._listen(inbox))

    async def _listen(self, inbox: AsyncIterator[InboxMessage[Word]]) -> str:
        async for message in inbox:
            text, of = message.value.text, message.value.of
            if not of and message.id not in self._known:
                self.more.append({"text": f"\n\n> {text}\n\n", "said": text, "id": message.id})
            elif of and not self._results[of].done():
                self._results[of].set_result(text)
        raise AssertionError

    async def result_of(self, call: str) -> str:
        """Wait until the user has answered a call. Return the first answer."""
        result = self._results[call]
        await asyncio.wait((result, self._listening), return_when=asyncio.FIRST_COMPLETED)
        return await (result if result.done() else self._listening)  # which has failed

    def close(self) -> None:
        self._listening.cancel()


async def reply(messages: list[Message], tools: list[Message], words: Words) -> AsyncGenerator[Part]:
    """Answer the last message, or go on with the answer that it has begun."""
    calls: list[Message] = messages[-1].get("tool_calls", [])
    while True:
        for call in calls:
            yield {"tool": call}
            result = await words.result_of(call["id"])
            yield {"result": result, "of": call["id"]}
            messages.append({"role": "tool", "content": result, "tool_call_id": call["id"]})
        while words.more:
            yield (said := words.more.pop(0))
            messages.append({"role": "user", "content": said["said"]})
        answer: Message = {"role": "assistant", "content": ""}
        calls = []
        async with aclosing(think(messages, tools)) as parts:
            async for part in parts:
                if isinstance(part, str):
                    answer["content"] += part
                    yield {"text": part}
                else:
                    calls.append(part)
                if words.more:  # it learns this at once
                    break
        if not calls and not words.more:
            return
        messages.append(answer | ({"tool_calls": calls} if calls else {}))


def messages_of(parts: list[Part]) -> list[Message]:
    """Return the messages of an answer that another attempt has begun."""
    found: list[Message] = []
    for part in parts:
        if "of" in part:
            found.append({"role": "tool", "content": part["result"], "tool_call_id": part["of"]})
            continue
        if "said" in part:
            found.append({"role": "user", "content": part["said"]})
            continue
        if not found or found[-1]["role"] != "assistant":
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
from its first word, and stays in step. Press Stop in either of them, and I stop in both. Close both, and I go on, \
although nobody reads. Ask me for something shorter, and I break off. When you write about an email, I ask you \
something, in all your tabs: answer in one of them, now or tomorrow, and the other one asks no more. And if you kill \
the worker that I run in, another one goes on with this answer, within a second or so."""


async def simulated(messages: list[Message], tools: list[Message]) -> AsyncGenerator[str | Message]:
    last, written = messages[-1], 0
    if last["role"] == "assistant":
        last, written = messages[-2:][0], len(last["content"])
    if last["role"] == "tool":
        text = f"You said: {last['content']}. Thank you!"
    else:
        asks = tools and "email" in last["content"].lower()
        text = "Let me ask you." if asks else "In short: I go on." if "short" in last["content"].lower() else ADVICE
        if asks:
            function = {"name": "ask_user", "arguments": json.dumps({"question": last["content"]})}
            yield {"id": f"call-{number_of(messages)}", "type": "function", "function": function}
    for word in text[written:].split():
        await asyncio.sleep(0.05)
        yield f"{word} "


# ---------------------------------------------------------------- a real one


async def real(messages: list[Message], tools: list[Message]) -> AsyncGenerator[str | Message]:
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
