"""The part of the AI SDK's protocol that this example uses: answers of text. See https://ai-sdk.dev, "stream protocol".

`aisdk.js` is the other side, for pages that use the AI SDK's own chat.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Literal

import language_model
from msgspec import Meta, Struct

# ---------------------------------------------------------------- what a chat sends


class Part(Struct):
    type: str
    text: str = ""


class Message(Struct):
    id: str
    role: Literal["assistant", "system", "user"]
    parts: list[Part]


class Chat(Struct):
    id: str
    messages: Annotated[list[Message], Meta(min_length=1)]


# ---------------------------------------------------------------- what it gets


async def chunks(asked: Chat, earlier: list[dict[str, str]]) -> AsyncGenerator[dict[str, str]]:
    """Answer the last message, or go on with these chunks. All readers of a run give the answer the same id."""
    messages = [{"role": m.role, "content": "".join(part.text for part in m.parts)} for m in asked.messages]
    if written := "".join(chunk.get("delta", "") for chunk in earlier):
        messages.append({"role": "assistant", "content": written})
    for chunk in [{"type": "start", "messageId": uuid.uuid4().hex}, {"type": "text-start", "id": "text"}][
        len(earlier) :
    ]:
        yield chunk
    if {"type": "finish"} in earlier:
        return
    if {"type": "text-end", "id": "text"} not in earlier:
        async with aclosing(language_model.think(messages, [])) as parts:
            async for part in parts:
                yield {"type": "text-delta", "id": "text", "delta": str(part)}
        yield {"type": "text-end", "id": "text"}
    yield {"type": "finish"}
