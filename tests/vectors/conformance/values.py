"""The recordings' values to Python's and back, and what counts as equal."""

from __future__ import annotations

import asyncio
import base64
import math
from datetime import datetime
from typing import Any

from wsrpc import ChannelClosed, ConnectionLost, QueueFull, RemoteError, RequestTimeout, RpcError
from wsrpc.errors import ChannelNotReady, ReservedEvent

SAFE = 2**53


class JsError(Exception):
    """A JavaScript Error that a recorded program throws, or cancels with."""

    def __init__(self, message: str, name: str = "Error", props: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.name = name
        self.props = props or {}


def to_python(value: Any) -> Any:
    """A recorded value as a Python program would have it."""
    if isinstance(value, list):
        return [to_python(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > SAFE:
        return float(value)  # all numbers of JavaScript are doubles
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and (special := _special(value)) is not _NOTHING:
        return special
    # An object's undefined member is one that is not there.
    return {key: to_python(item) for key, item in value.items() if item != {"$undefined": True}}


_NOTHING = object()


def _special(value: dict[str, Any]) -> Any:
    (key, content), *_ = value.items()
    match key:
        case "$undefined":
            return None
        case "$number":
            return float(content)
        case "$error":
            return JsError(content["message"], content.get("name", content["class"]), to_python(content.get("props")))
        case "$bigint":
            return int(content)
        case "$date":
            return datetime.fromisoformat(content)
        case "$bytes":
            return base64.b64decode(content)
        case "$function":
            return lambda: None
        case "$map":
            return {}
        case "$circular":
            circle: dict[str, Any] = {}
            circle["self"] = circle
            return circle
        case _:
            return _NOTHING


def raised_by(value: Any, *, with_props: bool = False) -> BaseException:
    """What a Python handler raises where the JavaScript one throws ``value``."""
    thrown = to_python(value)
    if not isinstance(thrown, JsError):
        return RpcError.of_value(thrown)
    if with_props:  # JavaScript's errorToJSON option; in Python an RpcError says more than its text
        return RpcError(str(thrown), thrown.props.get("code"), thrown.props.get("data"))
    return thrown


# ---------------------------------------------------------------- as the recordings have them

_JAVASCRIPT_TEXTS = {
    "Cannot emit on a closed channel": "ChannelClosed",
    "Cannot send request on a closed channel": "ChannelClosed",
    "Channel namespace must not be an empty string": "TypeError",
    "WebSocket is not connected and send queue is full": "QueueFull",
    "socket must be a WebSocket-like object": "TypeError",
    "Do not know how to serialize a BigInt": "NotEncodable",
}
"""What this side did wrong: the language's own class counts there, not the text."""

_NOT_ENCODABLE = (TypeError, ValueError, OverflowError, RecursionError)
MISUSE = (ChannelClosed, ChannelNotReady, QueueFull, ReservedEvent, *_NOT_ENCODABLE)


def recorded_misuse(error: Any) -> Any:
    """A synchronous exception of JavaScript, named as Python does."""
    text = error["$error"]["message"] if isinstance(error, dict) and "$error" in error else error
    if isinstance(text, str) and text.startswith("Converting circular structure"):
        return "NotEncodable"
    return _JAVASCRIPT_TEXTS.get(text, error)


def misuse(error: BaseException) -> str:
    """The name for an exception that this side's own call raised."""
    if isinstance(error, TypeError) and "is a non-empty string" in str(error):
        return "TypeError"
    if isinstance(error, ChannelNotReady):
        return "ChannelClosed"  # JavaScript's text is the same for both
    if isinstance(error, _NOT_ENCODABLE) and not isinstance(error, ReservedEvent):
        return "NotEncodable"
    return type(error).__name__


def recorded(value: Any) -> Any:
    """A recorded value in the form that `observed` gives."""
    if isinstance(value, list):
        return [recorded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value == {"$undefined": True}:
        return None
    if value.keys() == {"$number"}:
        return float(value["$number"])
    if value.keys() == {"$error"}:
        error = value["$error"]
        if error["class"] == "DOMException":
            return None  # the runtime's reason where none was given
        shown = {"name": error.get("name", error["class"]), "message": error["message"]}
        if error.get("props"):
            shown["props"] = recorded(error["props"])
        if "reason" in error:
            shown["reason"] = recorded(error["reason"])
        return {"$error": shown}
    return {key: recorded(item) for key, item in value.items()}


def observed(value: Any) -> Any:
    """What a Python peer gave, in the recordings' notation."""
    if isinstance(value, (list, tuple)):
        return [observed(item) for item in value]
    if isinstance(value, dict):
        return {key: observed(item) for key, item in value.items()}
    if isinstance(value, RpcError) and value.plain:
        return observed(value.data)
    if isinstance(value, BaseException):
        return {"$error": _error(value)}
    return value


def _error(error: BaseException) -> dict[str, Any]:
    match error:
        case asyncio.CancelledError():
            reason = observed(error.args[0]) if error.args else None
            return {"name": "RequestAbortedError", "message": "Request aborted", "reason": reason}
        case RequestTimeout():
            return {"name": "RequestTimeoutError", "message": "Request timed out"}
        case ConnectionLost():
            return {"name": "ConnectionLost", "message": error.outcome}
        case ChannelClosed():
            return {"name": "ChannelClosed", "message": "", "reason": observed(error.reason)}
        case RemoteError():
            props = dict(error.fields)
            name = props.pop("name", "Error")
            if error.code is not None and not str(error.code).startswith("wsrpc."):
                props["code"] = error.code
            if error.data is not None:
                props["data"] = error.data
        case JsError():
            name, props = error.name, error.props
        case _:
            name, props = type(error).__name__, {}
    shown: dict[str, Any] = {"name": name, "message": str(error)}
    if props:
        shown["props"] = observed(props)
    return shown


def same(left: Any, right: Any) -> bool:
    """Equality as JSON has it: key order is nothing, numbers are doubles, and True is not 1.

    ``{"$text": part}`` on the left stands for any text that has the part.
    """
    if isinstance(left, dict) and left.keys() == {"$text"}:
        return isinstance(right, str) and left["$text"] in right
    if isinstance(left, bool) or isinstance(right, bool) or left is None or right is None:
        return left is right
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return float(left) == float(right) or (math.isnan(left) and math.isnan(right))
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return type(left) is type(right) and bool(left == right)
