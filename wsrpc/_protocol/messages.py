"""The shapes that travel: one struct for each that we send, one tolerant struct for what arrives.

Those that can hold users' values are tracked by the garbage collector: an argument may refer to the exception or the
context of its own call, and these refer to the message.

Source: PROTOCOL.md of ws-wrapper 4.3.1, and what its JavaScript and Go implementations were seen to do.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType, field

__all__ = [
    "MAX_ID",
    "Cancellation",
    "ChannelAbort",
    "ChannelCreated",
    "Event",
    "Inbound",
    "Item",
    "ItemsFailed",
    "NoMoreItems",
    "Raw",
    "Rejection",
    "Request",
    "Resolution",
    "channel_id",
    "event_on",
    "is_id",
    "place_on",
    "request_on",
]

MAX_ID = 2**53 - 1
"""Largest integer that JavaScript holds exactly."""


class Inbound(Struct):
    """Whatever arrived. Each field has the type that JSON gave it: who reads one checks it.

    A wrong type in a field that does not matter for the message must not make it unreadable, and a
    second, lenient decoding would be a second truth. ``UNSET`` means absent where that is not the same as
    ``null``: ``{i}`` is an answer, ``{i, e: null}`` a rejection. For ``c`` and ``h`` it is the same.
    """

    a: Any = UNSET
    i: Any = UNSET
    c: Any = None
    h: Any = None
    d: Any = UNSET
    e: Any = UNSET
    x: Any = UNSET
    flag: Any = field(default=UNSET, name="_")
    ours: Any = field(default=UNSET, name="ws-wrapper")


class Event(Struct):
    """``a[0]`` is the event's name, the rest its arguments; ``c`` names a channel, ``h`` is an anonymous one's id."""

    a: tuple[Any, ...]
    c: str | UnsetType = UNSET
    h: int | UnsetType = UNSET


class Request(Struct):
    """An event that wants an answer, under the id ``i``."""

    i: int
    a: tuple[Any, ...]
    c: str | UnsetType = UNSET
    h: int | UnsetType = UNSET


class Resolution(Struct):
    """The answer to request ``i``."""

    i: int
    d: Any


class Rejection(Struct):
    """Request ``i`` failed with ``e``; the flag says that ``e`` is an error object with a ``message``."""

    i: int
    e: Any
    flag: int | UnsetType = field(default=UNSET, name="_")


class Cancellation(Struct):
    """Whoever sent request ``i`` no longer waits, because of ``x``."""

    i: int
    x: Any
    flag: int | UnsetType = field(default=UNSET, name="_")


class Raw(Struct, gc=False):
    """What is no protocol message, as it is sent."""

    payload: bytes
    text: bool
    h: UnsetType = UNSET


class ChannelCreated(Struct, gc=False):
    """The answer to request ``i`` is an anonymous channel, whose id is ``i``."""

    i: int
    h: int = 1


class ChannelAbort(Struct):
    """Anonymous channel ``h`` is over, because of ``x``."""

    h: int
    x: Any
    flag: int | UnsetType = field(default=UNSET, name="_")


class Item(Struct):
    """The argument of ``next``: one item of a stream (ws-wrapper's iterator protocol)."""

    value: Any
    done: bool = False


class NoMoreItems(Struct, gc=False):
    """The argument of the last ``next``; JavaScript sends no value with it either."""

    done: bool = True


class ItemsFailed(Struct):
    """The argument of the last ``next`` on a named channel, which has no abort: ``e`` and the flag as in a `Rejection`.

    JavaScript's iterator takes it for a plain end.
    """

    e: Any
    flag: int | UnsetType = field(default=UNSET, name="_")
    done: bool = True


def is_id(value: Any) -> bool:
    """Whether ``value`` can be a request's id: an integer (``True`` is not one) from 1 to 2^53-1."""
    return value.__class__ is int and 0 < value <= MAX_ID


def channel_id(value: Any) -> int | None:
    """An anonymous channel's id: a number, or the digit string that old JavaScript clients send."""
    if value.__class__ is str and value.isdecimal() and value.isascii() and len(value) <= 16:
        value = int(value)
    return value if is_id(value) else None


def place_on(message: Inbound, h: int | None) -> None:
    """Make a message one of anonymous channel ``h``.

    The name that it may have besides counts for nothing, as in JavaScript: middleware goes by names.
    """
    message.h = h
    message.c = None


def event_on(channel: str | int | None, a: tuple[Any, ...]) -> Event:
    """An event on a named channel, on an anonymous one by its id, or on the main one."""
    if channel is None:
        return Event(a)
    return Event(a, UNSET, channel) if isinstance(channel, int) else Event(a, channel)


def request_on(i: int, channel: str | int | None, a: tuple[Any, ...]) -> Request:
    """The same, as a request."""
    if channel is None:
        return Request(i, a)
    return Request(i, a, UNSET, channel) if isinstance(channel, int) else Request(i, a, channel)
