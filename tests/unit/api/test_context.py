"""`Context` and `Message`: what a handler, and what an observer, can ask."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from core_driver import Driven, turns

from wsrpc.types import Message

# ---------------------------------------------------------------- messages


async def observed(*payloads: bytes | dict[str, Any]) -> list[Message]:
    """What an observer gets of these messages."""
    d = Driven()
    seen: list[Message] = []
    d.peer.on("message", lambda peer, message: seen.append(message))
    for payload in payloads:
        d.raw(payload if isinstance(payload, bytes) else msgspec.json.encode(payload))
    await turns()
    return seen


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"a": ["say", 1], "i": 7, "c": "room"}, "request #7 room: say(1)"),
        ({"a": None, "i": True}, "malformed message, 19 bytes"),
        ({"i": 7}, "result #7, 7 bytes"),
        ({"i": 7, "h": 1}, "channel #7, 13 bytes"),
    ],
)
async def test_a_message_in_words(message: Any, words: str) -> None:
    [seen] = await observed(message)
    assert str(seen) == words and repr(seen) == f"<Message {words}>"


async def test_a_message_in_the_log_is_one_line() -> None:
    hostile = "x\n2024-01-01 ERROR forged\r\x1b[31m"
    for a in (["say", hostile], [hostile], ["e", [hostile]], ["say"]):
        [message] = await observed({"a": a} if a != ["say"] else {"a": a, "c": hostile})
        assert str(message).isprintable() and repr(message).isprintable()


async def test_long_arguments_are_cut_and_secrets_can_be_left_out() -> None:
    [message] = await observed({"a": ["login", "ada", "x" * 1_000_000, ["y" * 1000]]})
    assert len(str(message)) < 300 and str(message).endswith("…)")
    assert len(message.describe(limit=20)) < 60
    assert message.describe(redact=lambda event, args: (*args[:1], "***")) == "event login('ada', '***')"
    assert message.args[1] == "x" * 1_000_000
