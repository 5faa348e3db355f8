"""The part of the AI SDK's protocol that this example uses: answers of text. See https://ai-sdk.dev, "stream protocol".

`aisdk.js` is the other side, for pages that use the AI SDK's own chat.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Literal

import agui
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

    def run(self) -> agui.RunAgentInput:
        """Return the chat as `generate` gets it."""
        messages = [agui.Message(m.id, m.role, "".join(part.text for part in m.parts)) for m in self.messages]
        return agui.RunAgentInput(self.id, uuid.uuid4().hex, messages, tools=[])


# ---------------------------------------------------------------- what it gets


def chunk_of(event: agui.Event) -> dict[str, str]:
    """Return a chunk of the message that answers. All readers of a run give this message the same id."""
    match event:
        case agui.RunStarted():
            return {"type": "start", "messageId": event.run_id}
        case agui.TextMessageStart():
            return {"type": "text-start", "id": event.message_id}
        case agui.TextMessageContent():
            return {"type": "text-delta", "id": event.message_id, "delta": event.delta}
        case agui.TextMessageEnd():
            return {"type": "text-end", "id": event.message_id}
        case _:
            return {"type": "finish"}
