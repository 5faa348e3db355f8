"""The part of AG-UI that this example uses: what a run gets, and the events that it yields. See https://docs.ag-ui.com.

AG-UI is a protocol between agents and pages. `agui.js` is the other side, for pages that use AG-UI's own client.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import msgspec
from language_model import Part, Words, messages_of, reply
from msgspec import Meta, Struct

# ---------------------------------------------------------------- what a run gets


class Function(Struct):
    name: str
    arguments: str
    """JSON."""


class ToolCall(Struct):
    id: str
    function: Function
    type: Literal["function"] = "function"


class Message(Struct, rename="camel", omit_defaults=True):
    id: str
    role: Literal["assistant", "developer", "system", "tool", "user"]
    content: str = ""
    tool_calls: list[ToolCall] = []
    """Of an assistant."""
    tool_call_id: str | None = None
    """Of a tool."""


class Tool(Struct):
    name: str
    description: str
    parameters: dict[str, Any]
    """JSON Schema."""


class RunAgentInput(Struct, rename="camel"):
    thread_id: str
    run_id: str
    messages: Annotated[list[Message], Meta(min_length=1)]
    tools: list[Tool]
    """The tools that the page has."""


# ---------------------------------------------------------------- what it yields


def type_of(name: str) -> str:
    """Return the type of an event: RUN_STARTED for RunStarted."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()


class Event(Struct, rename="camel", tag_field="type", tag=type_of):
    pass


class RunStarted(Event):
    thread_id: str
    run_id: str


class TextMessageStart(Event):
    message_id: str
    role: str = "assistant"


class TextMessageContent(Event):
    message_id: str
    delta: str


class TextMessageEnd(Event):
    message_id: str


class ToolCallStart(Event):
    tool_call_id: str
    tool_call_name: str
    parent_message_id: str


class ToolCallArgs(Event):
    tool_call_id: str
    delta: str


class ToolCallEnd(Event):
    tool_call_id: str


class ToolCallResult(Event):
    message_id: str
    tool_call_id: str
    content: str


class RunFinished(Event):
    thread_id: str
    run_id: str


async def events(run: RunAgentInput, earlier: list[dict[str, Any]], words: Words) -> AsyncGenerator[Event]:
    """Answer the last message, or go on with these events."""
    parts, answer, before = parts_of(earlier)
    if not earlier:
        yield RunStarted(run.thread_id, run.run_id)
    elif earlier[-1]["type"] == "RUN_FINISHED":
        return
    tools = [{"type": "function", "function": msgspec.to_builtins(tool)} for tool in run.tools]
    messages = [*map(for_model, run.messages), *messages_of(parts)]
    async with aclosing(reply(messages, tools, words)) as new:
        async for part in new:
            if "text" in part:
                if not answer:
                    yield TextMessageStart(answer := uuid.uuid4().hex)
                yield TextMessageContent(answer, part["text"])
                continue
            if answer:
                yield TextMessageEnd(answer)
                answer, before = "", answer
            if "tool" in part:
                id, function = part["tool"]["id"], part["tool"]["function"]
                start, args = ToolCallStart(id, function["name"], before), ToolCallArgs(id, function["arguments"])
                for event in (start, args, ToolCallEnd(id)):
                    if msgspec.to_builtins(event) not in earlier:
                        yield event
            else:
                yield ToolCallResult(uuid.uuid4().hex, part["of"], part["result"])
    if answer:
        yield TextMessageEnd(answer)
    yield RunFinished(run.thread_id, run.run_id)


def parts_of(events: list[dict[str, Any]]) -> tuple[list[Part], str, str]:
    """Return what the model has yielded, the id of the message that is being written, and of the one before."""
    parts: list[Part] = []
    answer = before = name = ""
    for event in events:
        match event["type"]:
            case "TEXT_MESSAGE_START":
                answer = event["messageId"]
            case "TEXT_MESSAGE_CONTENT":
                parts.append({"text": event["delta"]})
            case "TEXT_MESSAGE_END":
                answer, before = "", answer
            case "TOOL_CALL_START":
                name = event["toolCallName"]
            case "TOOL_CALL_ARGS":
                function = {"name": name, "arguments": event["delta"]}
                parts.append({"tool": {"id": event["toolCallId"], "type": "function", "function": function}})
            case "TOOL_CALL_RESULT":
                parts.append({"result": event["content"], "of": event["toolCallId"]})
    return parts, answer, before


def for_model(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        fields["tool_calls"] = msgspec.to_builtins(message.tool_calls)
    if message.tool_call_id:
        fields["tool_call_id"] = message.tool_call_id
    return fields
