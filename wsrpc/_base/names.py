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

Offline = Literal["queue", "fail"]
"""Whether a message waits for the next connection, or is refused while there is no connection."""

UNTYPED: Any = UNSET
"""The default of ``returns=``: the decoded value, without conversion."""

Source: TypeAlias = AsyncIterable[Any] | Iterable[Any]
"""The argument ``send=``: items that are sent one by one while the remote peer reads them."""

StrPath: TypeAlias = str | PathLike[str]
"""The path of a file."""

Profile = Literal["go"]
"""The implementation on the remote side, if it lacks features of ws-wrapper 4."""

Redact: TypeAlias = Callable[[Literal["in", "out"], str, Sequence[Any]], Any]
"""Function for ``log_payloads=``. ``redact(direction, event, args)`` returns what the log shows instead of ``args``."""

LONGEST_NAME = 256
"""Maximum bytes of the name of an event or a channel. Longer names can neither be sent nor registered."""

LONGEST_ADDRESS = 256
"""Maximum bytes of a peer's address."""

STREAM_EVENTS = frozenset({"start", "next", "stop"})
"""The events and requests of a stream. On an anonymous channel without a stream, these names are free for users."""

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
    """Base class of objects for one channel. The name None is the main channel."""

    __slots__ = ()

    _channel_name: ChannelRef

    def _check_open(self) -> None:
        """Raise an exception if the channel has ended. Classes that can be closed override this method."""


def check_event(name: Any) -> None:
    """Refuse values that cannot be the name of an event. (``""`` is allowed, as in ws-wrapper.)

    Raises:
        TypeError: the name is not a string.
        ValueError: the name cannot be sent, or is too long.
    """
    if not isinstance(name, str):
        raise TypeError(f"an event's name is a string, got {name!r}")
    if not can_be_sent(name):
        raise ValueError(f"an event's name is text that can be sent, got {name!r}, which has half of a surrogate pair")
    _check_length("an event's name", name)


def check_channel(name: Any) -> None:
    """Refuse values that cannot be the name of a channel. (ws-wrapper refuses ``""``. In Go, it is the main channel.)

    Raises:
        TypeError: the name is not a non-empty string.
        ValueError: the name cannot be sent, or is too long.
    """
    check_name("a channel's name", name)
    _check_length("a channel's name", name)


def _check_length(what: str, name: str) -> None:
    if (size := len(name.encode())) > LONGEST_NAME:
        raise ValueError(f"{what} has at most {LONGEST_NAME} bytes of UTF-8, got {size}: {name[:40]!r}...")


def check_name(what: str, name: Any) -> None:
    """Refuse values that cannot be a name.

    Raises:
        TypeError: the name is not a non-empty string.
        ValueError: the name cannot be sent.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"{what} is a non-empty string, got {name!r}")
    if not can_be_sent(name):
        raise ValueError(f"{what} is text that can be sent, got {name!r}, which has half of a surrogate pair")


def check_address(what: str, address: Any) -> None:
    """Refuse values that cannot be the address of a peer.

    Raises:
        TypeError: the address is not a non-empty string.
        ValueError: the address is not one line, or is too long.
    """
    check_name(what, address)
    if len(address.encode()) > LONGEST_ADDRESS or not address.isprintable():
        raise ValueError(f"{what} is one line of at most {LONGEST_ADDRESS} bytes, got {address[:LONGEST_ADDRESS]!r}")


def can_be_sent(text: str) -> bool:
    """Whether ``text`` can be encoded as UTF-8. (Half of a surrogate pair cannot be encoded.)"""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_offline(offline: Any) -> None:
    """Refuse values that are not valid for ``offline=``.

    Raises:
        ValueError: the value is neither ``"queue"`` nor ``"fail"``.
    """
    if offline not in ("queue", "fail"):
        raise ValueError(f'offline= is "queue" (wait for the next connection) or "fail" (refuse), got {offline!r}')


def check_timeout(timeout: Any, name: str = "timeout", *, more_than_0: bool = False) -> None:
    """Refuse values that are not valid for ``timeout=``, or for the option ``name``.

    Raises:
        TypeError: the value is not None, UNSET or a number.
        ValueError: the number is too small.
    """
    if timeout is None or timeout is UNSET:
        return
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not is_number or not (timeout > 0 if more_than_0 else timeout >= 0):
        least = "more than 0" if more_than_0 else "0 or more"
        text = f"{name}= is a number of seconds, {least}, or None for no limit; got {timeout!r}"
        raise ValueError(text) if is_number else TypeError(text)
