"""Inboxes of events, and the conversion of an event's arguments to the one value that its readers get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

import msgspec
from msgspec import UNSET

from ..wire.messages import Decode, WireMessage
from .inbox import Inbox, ReadableChannel

Keep: TypeAlias = Literal["all", "newest"]
"""Which unread events wait for a reader."""

Waits: TypeAlias = Keep | Literal["first"]
"""As `Keep`, or ``"first"`` for a reader that wants one event only."""

ToValue = Callable[[list[Any]], Any]
"""Makes the value of ``[event, *arguments]``. Raises `msgspec.ValidationError` if the arguments do not fit."""


def value_of(returns: Any, converter: Callable[[Any], Callable[[Any], Any]]) -> ToValue:
    """Return a function that converts an event's arguments to ``returns``. ``converter`` compiles a type.

    Raises:
        TypeError: ``returns`` is not a type that can be converted to.
    """
    if returns is UNSET:
        return _unconverted
    convert = converter(returns)
    return (lambda a: convert(a[1:])) if _is_fixed_tuple(returns) else (lambda a: convert(_only_one(a)))


def _unconverted(a: list[Any]) -> Any:
    # A tuple, so that several arguments differ from one argument that is a list.
    return a[1] if len(a) == 2 else tuple(a[1:]) or None


def _only_one(a: list[Any]) -> Any:
    if len(a) != 2:
        raise msgspec.ValidationError(f"expected 1 argument, got {len(a) - 1} (returns=tuple[...] takes several)")
    return a[1]


def _is_fixed_tuple(returns: Any) -> bool:
    """Return whether ``returns`` is a tuple type of fixed length."""
    while True:
        if get_origin(returns) is Annotated:
            returns = get_args(returns)[0]
        elif type(returns).__name__ == "TypeAliasType":  # Python 3.12's `type` statement
            returns = returns.__value__
        else:
            return get_origin(returns) is tuple and Ellipsis not in get_args(returns)


def check_keep(keep: Any) -> None:
    """Refuse a value that ``keep=`` does not take.

    Raises:
        ValueError: ``keep`` is neither ``"all"`` nor ``"newest"``.
    """
    if keep not in ("all", "newest"):
        raise ValueError(
            f'keep= is "all" (up to Limits.stream_queue_bytes bytes) or "newest" (one event), got {keep!r}'
        )


class EventInbox(Inbox):
    """Queue of the events of one name.

    Args:
        newest: keep at most one event; the next one takes its place.
    """

    __slots__ = ("newest",)

    def __init__(self, channel: ReadableChannel, event: str, *, newest: bool = False) -> None:
        self.newest = newest
        super().__init__(channel, event)

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        if self.newest and self.queue and not self.over:
            self._drop_oldest()
        self._add(message.a, message.i, payload, decode)

    def count_misfit(self, why: Exception) -> None:
        """Count an event that was read, and is dropped because its arguments do not fit the type that is wanted."""
        self.channel.count_misfit(self._event, why)

    def _stop_if_abandoned(self, label: str) -> None:
        unread = len(self.queue) if self.abandoned and not self.channel.over else 0
        super()._stop_if_abandoned(label)
        if unread:
            self.channel.count_dropped(unread)


class NextEvent(EventInbox):
    """Queue of a reader that wants one event. The queue receives nothing after the first event that fits.

    Args:
        value_of: makes the value of an event.
    """

    __slots__ = ("_value_of",)

    def __init__(self, channel: ReadableChannel, event: str, value_of: ToValue) -> None:
        self._value_of = value_of
        super().__init__(channel, event)

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        super().receive(message, payload, decode)
        if not self.over and self._fits(message.a):
            # Now, not when the event is read: events that arrive with it are for the next reader.
            self.end()
            self.channel.remove_recipient(self._event, self)

    def _fits(self, a: list[Any]) -> bool:
        try:
            self._value_of(a)
        except msgspec.ValidationError:
            return False
        return True
