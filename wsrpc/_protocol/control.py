"""What two wsrpc peers say to each other besides ws-wrapper's messages, and plain peers ignore.

Each is one JSON text message ``{"ws-wrapper": false, "wsrpc": {...}}`` with exactly these two keys and of less than
4 KiB, whatever the codec. JavaScript takes the boolean ``false`` for "not mine" (4.3.1, observed), Go likewise.

The dialer says `Hello` first of all and goes on without waiting; the acceptor answers `Welcome` before anything else
that it sends after reading it. A plain peer never answers. After that both know what the other can do and what it
accepts; `Changed` says that this has changed. A consumer says `Credit` to tell a producer how far it may go. A server
that is about to close says `Drain`, and its client answers with the same once it begins nothing new.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from ..limits import Limits

__all__ = [
    "CREDIT",
    "DRAIN",
    "MSGPACK",
    "Announced",
    "Changed",
    "Credit",
    "Drain",
    "Hello",
    "Welcome",
    "announce",
    "read_control",
    "write_control",
]

LARGEST = 4096

CREDIT = "credit"
DRAIN = "drain"
MSGPACK = "msgpack"


class Announced(Struct, frozen=True):
    """The bounds of whoever says hello or welcome: the other side keeps to them by itself."""

    message: int = 2**53
    running: int = 2**53
    waiting: int = 2**53
    waiting_bytes: int = 2**53
    values: int = 2**53
    running_bytes: int = 2**53


class Hello(Struct, tag_field="t", tag="hello"):
    v: int
    features: list[str]
    limits: Announced


class Welcome(Struct, tag_field="t", tag="welcome"):
    features: list[str]
    limits: Announced


class Changed(Struct, tag_field="t", tag="limits"):
    """The bounds of whoever says it have changed since its hello or welcome."""

    limits: Announced


class Credit(Struct, tag_field="t", tag="credit"):
    """``n`` items of ``bytes`` bytes are granted on channel ``h``, counted from its beginning."""

    h: int
    n: int
    bytes: int


class Drain(Struct, tag_field="t", tag="drain"):
    """From a server: it closes in ``after_ms`` at the latest. From its client, with 0: nothing new comes any more."""

    after_ms: int


class _Control(Struct, forbid_unknown_fields=True):
    ours: bool = msgspec.field(name="ws-wrapper")
    wsrpc: Hello | Welcome | Changed | Credit | Drain


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Control).decode


def announce(limits: Limits) -> Announced:
    """What of our own bounds the other side should know."""
    return Announced(
        limits.message, limits.running, limits.waiting, limits.waiting_bytes, limits.values, limits.running_bytes
    )


def write_control(message: Hello | Welcome | Changed | Credit | Drain) -> bytes:
    """The JSON text of a control message."""
    return _encode(_Control(False, message))


def read_control(payload: bytes | bytearray) -> Any:
    """The control message that a text holds; None if it holds none that is known here."""
    if len(payload) >= LARGEST or b'"wsrpc"' not in payload:
        return None
    try:
        control = _decode(payload)
    except (msgspec.DecodeError, RecursionError):  # or a `ValidationError`, which is one: newer fields, other kinds
        return None
    return None if control.ours else control.wsrpc
