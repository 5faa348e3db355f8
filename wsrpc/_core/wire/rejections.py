"""Encoding and decoding of errors and reasons.

In a message, an error or reason is either an error object (flagged, with at least ``message``) or a bare value. Fields
of a remote error never become attributes, and never choose a class by name. Only wsrpc's own codes choose a class.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from msgspec import UNSET, UnsetType

from ...errors import (
    BadArguments,
    Draining,
    HandlerFailed,
    HandlerTimeout,
    ItemsGone,
    KeyReused,
    NotRead,
    Overloaded,
    RemoteError,
    RpcError,
    RunLost,
    UnknownEvent,
    as_text,
    one_line,
    short,
)

_CLASSES: dict[Any, type[RemoteError]] = {
    cls.code: cls
    for cls in (
        BadArguments,
        UnknownEvent,
        Overloaded,
        Draining,
        HandlerFailed,
        HandlerTimeout,
        KeyReused,
        NotRead,
        ItemsGone,
        RunLost,
    )
}

_CLASSES_OF_REASONS: dict[Any, type[RemoteError]] = {
    cls.code: cls for cls in (HandlerFailed, HandlerTimeout, ItemsGone, RunLost)
}
"""The classes for reasons of cancellations and aborts. The other classes of rejections mean that no handler has run."""

ABORTED = "Request aborted"
"""The message that ws-wrapper sends when no reason was given."""

_FINISHED_CODE = "wsrpc.closed"

BAD_ITEM = "wsrpc.bad_item"
"""The code of the rejection if the handler ran, and then read an item of the wrong type."""

STOPPED = "wsrpc.stopped"
"""The code of the end of a call with a key whose handler was stopped."""

DESCRIPTION_CHANGED = "wsrpc.description_changed"
"""The code of the rejection if a cursor does not belong to the present description."""

NOT_ALLOWED_CODE = "wsrpc.not_allowed"
"""The code of the rejection if a client may not do what it asks for as an operator."""

FINISHED_REASON = RemoteError("closed", _FINISHED_CODE)
"""The reason of an abort that ends a channel in good order."""

Flag = int | UnsetType


def error_to_wire(error: RpcError) -> tuple[Any, Flag]:
    """Return the ``e`` and ``_`` of a rejection."""
    if error.plain:
        return error.data, UNSET
    fields: dict[str, Any] = dict(error.fields)
    fields["message"] = as_text(error.message or str(error))  # a subclass may assign anything to `message`
    if error.code is not None:
        fields["code"] = error.code
    if error.data is not None:
        fields["data"] = error.data
    return fields, 1


def error_from_wire(e: Any, flag: Any, classes: dict[Any, type[RemoteError]] = _CLASSES) -> RemoteError:
    """Return the exception that a rejection raises at the caller.

    ``e: null`` is a rejection in JavaScript; here it becomes the default error. The flag is ignored if ``e`` is not an
    object, so that no text is lost (JavaScript loses it).
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
        text = "" if message is None else as_text(message)
        return classes.get(code, RemoteError)(text, code, data, fields)
    return RemoteError.of_value(e)


def reason_to_wire(reason: object) -> tuple[Any, Flag]:
    """Return the ``x`` and ``_`` of a cancellation or an abort. Without a reason, they are ws-wrapper's default."""
    if reason is None:
        return {"message": ABORTED}, 1
    if isinstance(reason, RpcError):
        return error_to_wire(reason)
    if isinstance(reason, BaseException):
        return {"message": as_text(reason)}, 1
    return reason, UNSET


def reason_from_wire(x: Any, flag: Any) -> object:
    """Return the reason of a cancellation or an abort: a `RemoteError` for an error object, or the bare value."""
    if flag is not UNSET and flag and x.__class__ is dict:
        return error_from_wire(x, flag, _CLASSES_OF_REASONS)
    return x


def reason_of(error: BaseException | None) -> Any:
    """Return the argument of `Task.cancel` if ``error`` is a cancellation. Otherwise return None.

    The text of other errors is not for the remote peer.
    """
    return error.args[0] if isinstance(error, asyncio.CancelledError) and error.args else None


def bounded_reason(reason: Any) -> Any:
    """Return the reason of a cancellation for a `CancelledError`: unchanged, or as one short line if it is long.

    Python shows the argument as it is if the exception ends a program or is logged.
    """
    if isinstance(reason, str):
        return one_line(reason)
    if reason.__class__ in (list, dict, bytes):
        shown = short(reason)
        return shown if "..." in shown or "…" in shown else reason  # part of it is missing
    return reason


def of_started_call(error: RemoteError) -> RemoteError:
    """Return the error for the caller if a message that belongs to its running call was refused.

    The class of ``error`` may say that no handler ran. That is true of the message, but not of the call.
    """
    if error.__class__ in (RemoteError, HandlerFailed, HandlerTimeout):
        return error
    return RemoteError(error.message, error.code, error.data, error.fields)


def is_finished(x: Any, flag: Any) -> bool:
    """Return whether the reason of an abort is `FINISHED_REASON`."""
    return flag is not UNSET and bool(flag) and x.__class__ is dict and x.get("code") == _FINISHED_CODE


def is_stopped(reason: object) -> bool:
    """Return whether a channel has ended because its handler was stopped."""
    return isinstance(reason, RemoteError) and reason.code == STOPPED


def text_for_peer(error: BaseException) -> str:
    """Return the complete, unchanged text of ``error`` for the other side."""
    return error.message if isinstance(error, RpcError) and error.message else str(error)


def without_data(error: RpcError, why: object, most: int = 200) -> RpcError:
    """Return ``error`` without its data and fields, which cannot be sent, and with ``most`` characters of its text."""
    what = "shortened" if error.data is None and not error.fields else "data and fields left out"
    small = RpcError(f"{as_text(error.message)[:most]} ({what}: {why})")
    small.code = error.code if not isinstance(error.code, str) else error.code[:100]
    return small


def shortened(reason: object, why: object) -> Iterator[RpcError]:
    """Yield smaller and smaller replacements for an error or a reason that is too big to send.

    The last replacement fits into the smallest limit that a remote peer may announce. The caller tries one after the
    other, because a codec may use up to 12 bytes for a character.
    """
    if isinstance(reason, RpcError):
        most = 200
        while most:
            yield without_data(reason, why, most)
            most //= 2
    yield RpcError(ABORTED)
