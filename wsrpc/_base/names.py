"""Names for types that several modules speak of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypeAlias, TypeVar

from msgspec import UNSET

__all__ = [
    "RAW",
    "RESERVED_EVENTS",
    "ChannelRef",
    "F",
    "Offline",
    "OnChannel",
    "Profile",
    "Redact",
    "StrPath",
    "check_event",
    "check_name",
    "check_offline",
    "check_timeout",
]

F = TypeVar("F", bound=Callable[..., Any])
"""A handler; decorators return it unchanged, so that it keeps its own signature."""

ChannelRef = str | int | None
"""A named channel, an anonymous one by its id, or the main one."""

RAW = 0
"""In the place of a channel, for what is no protocol message. Nothing from the wire can name it: channels' names are
text, and ids begin at 1."""

Offline = Literal["queue", "fail"]
"""What becomes of a message while there is no connection: it waits for the next one, or is refused."""

StrPath: TypeAlias = str | PathLike[str]
"""The path of a file."""

Profile = Literal["go"]
"""What the other side is, if it is less than ws-wrapper's description asks for."""

Redact: TypeAlias = Callable[[Literal["in", "out"], str, Sequence[Any]], Any]
"""``redact(direction, event, args)`` gives what the log shows in place of ``args``."""

RESERVED_EVENTS: Mapping[str, tuple[str, ...]] = {
    "open": ("peer",),
    "connect": ("peer",),
    "close": ("peer", "info"),
    "disconnect": ("peer", "info"),
    "error": ("peer", "error"),
    "message": ("peer", "message"),
}
"""Names that report on the connection, with what their handlers are called with. On the main channel they never
travel (API.md of ws-wrapper)."""


class OnChannel:
    """Something that stands for one channel; None is the main one."""

    __slots__ = ()

    _channel_name: ChannelRef

    def _check_open(self) -> None:
        """Overridden by what can be closed."""


def check_event(name: Any) -> None:
    """Refuse what cannot name an event.

    Raises:
        TypeError: for anything but a string; ``""`` is one, as in ws-wrapper.
        ValueError: for one that cannot be sent.
    """
    if not isinstance(name, str):
        raise TypeError(f"an event's name is a string, got {name!r}")
    if not can_be_sent(name):
        raise ValueError(f"an event's name is text that can be sent, got {name!r}, which has half of a surrogate pair")


def check_name(what: str, name: Any) -> None:
    """Refuse what cannot name a channel: ws-wrapper refuses ``""``, Go reads it as the main channel.

    Raises:
        TypeError: for anything but a non-empty string.
        ValueError: for one that cannot be sent.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"{what} is a non-empty string, got {name!r}")
    if not can_be_sent(name):
        raise ValueError(f"{what} is text that can be sent, got {name!r}, which has half of a surrogate pair")


def can_be_sent(text: str) -> bool:
    """Whether UTF-8 has an encoding of ``text``: it has none of half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_offline(offline: Any) -> None:
    """Refuse what ``offline=`` does not take.

    Raises:
        ValueError: for anything but ``"queue"`` and ``"fail"``.
    """
    if offline not in ("queue", "fail"):
        raise ValueError(f'offline= is "queue" (wait for the next connection) or "fail" (refuse), got {offline!r}')


def check_timeout(timeout: Any, name: str = "timeout", *, more_than_0: bool = False) -> None:
    """Refuse what the option ``timeout=``, or one of another ``name``, does not take.

    Raises:
        TypeError, ValueError: for anything but None, UNSET and a number that is large enough.
    """
    if timeout is None or timeout is UNSET:
        return
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not is_number or not (timeout > 0 if more_than_0 else timeout >= 0):
        least = "more than 0" if more_than_0 else "0 or more"
        text = f"{name}= is a number of seconds, {least}, or None for no limit; got {timeout!r}"
        raise ValueError(text) if is_number else TypeError(text)
