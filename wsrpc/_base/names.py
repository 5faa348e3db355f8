"""Names for types that several modules share, and checks of names and options."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from os import PathLike
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypeVar

from msgspec import UNSET

F = TypeVar("F", bound=Callable[..., Any])
"""A handler; decorators return it unchanged, so that it keeps its own signature."""

ChannelRef = str | int | None
"""A named channel, an anonymous one by its id, or the main one."""

RAW = 0
"""Stands in place of a channel for messages that are not protocol. No message can name it: names of channels are text,
and ids begin at 1."""

Offline = Literal["queue", "fail"]
"""Whether a message waits for the next connection or is refused while there is none."""

UNTYPED: Any = UNSET
"""The default of ``returns=``: the value as decoded."""

Source: TypeAlias = AsyncIterable[Any] | Iterable[Any]
"""The argument ``send=``: items that are sent one by one, as the remote peer reads them."""

StrPath: TypeAlias = str | PathLike[str]
"""The path of a file."""

Profile = Literal["go"]
"""The implementation on the other side, if it lacks some of what ws-wrapper 4 has."""

Redact: TypeAlias = Callable[[Literal["in", "out"], str, Sequence[Any]], Any]
"""Function for ``log_payloads=``. ``redact(direction, event, args)`` returns what the log shows instead of ``args``."""

LONGEST_NAME = 256
"""Bytes of the name of an event or a channel. Remote peers may use no longer ones, so none can be registered."""

LONGEST_ADDRESS = 256
"""Bytes of a peer's address."""

STREAM_EVENTS = frozenset({"start", "next", "pull", "stop"})
"""Events and requests of which a stream consists. On an anonymous channel without a stream they are a user's own."""

RESERVED_EVENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "open": ("peer",),
        "connect": ("peer",),
        "close": ("peer", "info"),
        "disconnect": ("peer", "info"),
        "error": ("peer", "error"),
        "message": ("peer", "message"),
    }
)
"""Names of the lifecycle events, each with the names of its handlers' arguments.

On the main channel, these names are reserved: emitting or requesting one of them raises `ReservedEvent`. To check a
name, use ``name in wsrpc.types.RESERVED_EVENTS``.
"""


class OnChannel:
    """Base class of objects that stand for one channel; None is the main channel."""

    __slots__ = ()

    _channel_name: ChannelRef

    def _check_open(self) -> None:
        """Refuse use after the end; overridden by classes that can be closed."""


def check_event(name: Any) -> None:
    """Refuse values that cannot name an event.

    Raises:
        TypeError: it is not a string; ``""`` is allowed, as in ws-wrapper.
        ValueError: it cannot be sent, or is too long.
    """
    if not isinstance(name, str):
        raise TypeError(f"an event's name is a string, got {name!r}")
    if not can_be_sent(name):
        raise ValueError(f"an event's name is text that can be sent, got {name!r}, which has half of a surrogate pair")
    _check_length("an event's name", name)


def check_channel(name: Any) -> None:
    """Refuse values that cannot name a channel: ws-wrapper refuses ``""``, Go reads it as the main channel.

    Raises:
        TypeError: it is not a non-empty string.
        ValueError: it cannot be sent, or is too long.
    """
    check_name("a channel's name", name)
    _check_length("a channel's name", name)


def _check_length(what: str, name: str) -> None:
    if (size := len(name.encode())) > LONGEST_NAME:
        raise ValueError(f"{what} has at most {LONGEST_NAME} bytes of UTF-8, got {size}: {name[:40]!r}...")


def check_name(what: str, name: Any) -> None:
    """Refuse values that cannot name anything.

    Raises:
        TypeError: it is not a non-empty string.
        ValueError: it cannot be sent.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"{what} is a non-empty string, got {name!r}")
    if not can_be_sent(name):
        raise ValueError(f"{what} is text that can be sent, got {name!r}, which has half of a surrogate pair")


def check_address(what: str, address: Any) -> None:
    """Refuse values that cannot be the address of a peer.

    Raises:
        TypeError: it is not a non-empty string.
        ValueError: it is not one line, or too long.
    """
    check_name(what, address)
    if len(address.encode()) > LONGEST_ADDRESS or not address.isprintable():
        raise ValueError(f"{what} is one line of at most {LONGEST_ADDRESS} bytes, got {address[:LONGEST_ADDRESS]!r}")


def can_be_sent(text: str) -> bool:
    """Whether ``text`` can be encoded as UTF-8; half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_offline(offline: Any) -> None:
    """Refuse values that ``offline=`` does not take.

    Raises:
        ValueError: it is neither ``"queue"`` nor ``"fail"``.
    """
    if offline not in ("queue", "fail"):
        raise ValueError(f'offline= is "queue" (wait for the next connection) or "fail" (refuse), got {offline!r}')


def check_timeout(timeout: Any, name: str = "timeout", *, more_than_0: bool = False) -> None:
    """Refuse values that ``timeout=``, or the option called ``name``, does not take.

    Raises:
        TypeError: it is not None, UNSET or a number.
        ValueError: the number is too small.
    """
    if timeout is None or timeout is UNSET:
        return
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not is_number or not (timeout > 0 if more_than_0 else timeout >= 0):
        least = "more than 0" if more_than_0 else "0 or more"
        text = f"{name}= is a number of seconds, {least}, or None for no limit; got {timeout!r}"
        raise ValueError(text) if is_number else TypeError(text)
