"""Making the steps that a rewritten recording has."""

from __future__ import annotations

from typing import Any

from .scenario import Step

MAX_ID = 2**53 - 1


def is_id(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_ID


def with_plain_id(message: Any) -> Any:
    """Return a message with its id as wsrpc reads it: ``null`` means no id, and ``1.0`` is 1."""
    if not isinstance(message, dict):
        return message
    i = message.get("i")
    if i is None:
        return {key: value for key, value in message.items() if key != "i"}
    return {**message, "i": int(i)} if isinstance(i, float) and i.is_integer() else message


def frame(content: dict[str, Any]) -> Step:
    return {"sent": content}


def outcome(kind: str, **fields: Any) -> Step:
    return {"outcome": {"type": kind, **fields}}


def error(name: str, message: Any, /, **fields: Any) -> dict[str, Any]:
    return {"$error": {"class": name, "message": message, **fields}}


def says(key: str, message: Any) -> dict[str, Any]:
    """An error that wsrpc words, as ``e`` or ``x`` of a message."""
    return {key: {"message": message}, "_": 1}


def wire(key: str, reason: Any, default: str | None = None) -> dict[str, Any]:
    """A reason as ``e`` or ``x`` of a message; ``default`` is the text if ``reason`` is None."""
    if isinstance(reason, dict) and "$error" in reason:
        return says(key, reason["$error"]["message"])
    return {key: reason} if reason is not None or default is None else says(key, default)


CONNECTION_LOST = error("ConnectionLost", "unknown")


def lost(ref: str) -> Step:
    return outcome("rejected", ref=ref, error=CONNECTION_LOST)


def told(step: Step) -> dict[str, Any]:
    """The outcome that a step is; empty for a frame."""
    content: dict[str, Any] = step.get("outcome", {})
    return content


def has_lone_surrogate(value: Any) -> bool:
    left = [value]  # a list instead of recursion, because recordings nest deeper than Python calls
    while left:
        part = left.pop()
        if isinstance(part, str):
            if any(0xD800 <= ord(character) < 0xE000 for character in part):
                return True
        elif isinstance(part, list):
            left += part
        elif isinstance(part, dict):
            left += part
            left += part.values()
    return False
