"""Errors and reasons, to the wire and back.

On the wire either is an error object (flagged, with at least ``message``) or a bare value. Fields of a
remote error never become attributes and never choose a class by name: only wsrpc's own codes do.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from ..errors import (
    BadArguments,
    Draining,
    HandlerFailed,
    HandlerTimeout,
    Overloaded,
    RemoteError,
    RpcError,
    UnknownEvent,
    as_text,
    one_line,
    short,
)

__all__ = [
    "ABORTED",
    "BAD_ITEM",
    "CLOSED",
    "error_from_wire",
    "error_to_wire",
    "is_closed",
    "of_what_began",
    "reason_from_wire",
    "reason_to_wire",
    "shortened",
    "text_of",
    "told",
]

_CLASSES: dict[Any, type[RemoteError]] = {
    cls.code: cls for cls in (BadArguments, UnknownEvent, Overloaded, Draining, HandlerFailed, HandlerTimeout)
}

_CLASSES_OF_REASONS: dict[Any, type[RemoteError]] = {cls.code: cls for cls in (HandlerFailed, HandlerTimeout)}
"""The others say that a handler did not run, which is never so where something that was begun comes to its end."""

ABORTED = "Request aborted"
"""What ws-wrapper says when no reason was given."""

_CLOSED_CODE = "wsrpc.closed"

BAD_ITEM = "wsrpc.bad_item"
"""The code of a request whose handler ran until it read an item that does not fit."""

CLOSED = RemoteError("closed", _CLOSED_CODE)
"""The reason of an abort by which one side says that the channel has come to its end in good order."""

Flag = int | UnsetType


def error_to_wire(error: RpcError) -> tuple[Any, Flag]:
    """The ``e`` and ``_`` of a rejection."""
    if error.plain:
        return error.data, UNSET
    fields: dict[str, Any] = dict(error.fields)
    fields["message"] = as_text(error.message or str(error))  # a subclass may have assigned anything
    if error.code is not None:
        fields["code"] = error.code
    if error.data is not None:
        fields["data"] = error.data
    return fields, 1


def error_from_wire(e: Any, flag: Any, classes: dict[Any, type[RemoteError]] = _CLASSES) -> RemoteError:
    """The exception that a rejection raises at the caller.

    ``e: null`` rejects in JavaScript; here it becomes the default error. A flag on something that is no
    object is ignored, so that no text is lost (JavaScript loses it).
    """
    if flag is not UNSET and flag and e.__class__ is dict:
        fields = dict(e)
        message = fields.pop("message", None)
        code = fields.get("code")
        if code.__class__ is str or code.__class__ is int:
            del fields["code"]
        else:
            code = None
        data = fields.pop("data", None)
        text = message if message.__class__ is str else ""
        return classes.get(code, RemoteError)(text, code, data, fields)
    return RemoteError.of_value(e)


def reason_to_wire(reason: object) -> tuple[Any, Flag]:
    """The ``x`` and ``_`` of a cancellation or an abort; no reason becomes ws-wrapper's own default."""
    if reason is None:
        return {"message": ABORTED}, 1
    if isinstance(reason, RpcError):
        return error_to_wire(reason)
    if isinstance(reason, BaseException):
        return {"message": as_text(reason)}, 1
    return reason, UNSET


def reason_from_wire(x: Any, flag: Any) -> object:
    """A `RemoteError` for an error object, else the bare value."""
    if flag is not UNSET and flag and x.__class__ is dict:
        return error_from_wire(x, flag, _CLASSES_OF_REASONS)
    return x


def told(reason: Any) -> Any:
    """What a `CancelledError` says for the reason of a cancellation: the same, unless that is no short line.

    Python writes it as it is where such an exception ends a program, or is logged.
    """
    if isinstance(reason, str):
        return one_line(reason)
    if reason.__class__ in (list, dict, bytes):
        shown = short(reason)
        return shown if "..." in shown or "…" in shown else reason  # something of it is left out
    return reason


def of_what_began(error: RemoteError) -> RemoteError:
    """The error for the caller, when a message that belongs to its call was refused.

    A subclass may say that no handler ran, which is true of the message, and not of the call.
    """
    if error.__class__ in (RemoteError, HandlerFailed, HandlerTimeout):
        return error
    return RemoteError(error.message, error.code, error.data, error.fields)


def is_closed(x: Any, flag: Any) -> bool:
    """Whether the reason of an abort is `CLOSED`."""
    return flag is not UNSET and bool(flag) and x.__class__ is dict and x.get("code") == _CLOSED_CODE


def text_of(error: BaseException) -> str:
    """What ``error`` says, for the other side: all of it, as it is."""
    return error.message if isinstance(error, RpcError) and error.message else str(error)


def shortened(error: RpcError, why: object) -> RpcError:
    """``error`` without its data and fields, which cannot be sent."""
    small = RpcError(f"{as_text(error.message)[:200]} (data and fields left out: {why})")
    small.code = error.code if not isinstance(error.code, str) else error.code[:100]
    return small
