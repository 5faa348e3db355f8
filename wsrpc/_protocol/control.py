"""Control messages: what two wsrpc peers send each other besides ws-wrapper's messages. Plain peers ignore them.

Each is one JSON text message ``{"ws-wrapper": false, "wsrpc": {...}}`` with exactly these two keys and of less than
4 KiB, whatever the codec. JavaScript takes the boolean ``false`` for "not mine" (4.3.1, observed), and so does Go.

The client sends `Hello` before anything else and goes on without waiting. The server answers with `Welcome` before
anything else that it sends after reading the hello; a plain peer never answers. Then both know the features and the
limits of the other side; `Changed` announces new limits. A consumer sends `Credit` to tell a producer how many items it
may send. A server that is about to close sends `Drain`, and its client answers with the same message once it starts
nothing new.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from ..limits import Limits

__all__ = [
    "BATCHES",
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
"""Bytes of the largest control message."""

BATCHES = "batches"
"""The feature of a consumer that takes several items of a stream in one message."""
CREDIT = "credit"
DRAIN = "drain"
MSGPACK = "msgpack"


class Announced(Struct, frozen=True):
    """The limits of the sender of a hello or welcome. The other side keeps within them by itself."""

    message: int = 2**53
    running: int = 2**53
    waiting: int = 2**53
    waiting_bytes: int = 2**53
    values: int = 2**53
    running_bytes: int = 2**53


class Hello(Struct, tag_field="t", tag="hello"):
    """The first message of a client: its version of this protocol, its features and its limits."""

    v: int
    features: list[str]
    limits: Announced


class Welcome(Struct, tag_field="t", tag="welcome"):
    """The answer to a hello."""

    features: list[str]
    limits: Announced


class Changed(Struct, tag_field="t", tag="limits"):
    """The limits of the sender have changed since its hello or welcome."""

    limits: Announced


class Credit(Struct, tag_field="t", tag="credit"):
    """Grants ``n`` items of ``bytes`` bytes in all on channel ``h``, counted from its beginning."""

    h: int
    n: int
    bytes: int


class Drain(Struct, tag_field="t", tag="drain"):
    """From a server: it closes after ``after_ms`` at the latest. From its client, with 0: it starts nothing new."""

    after_ms: int


class _Control(Struct, forbid_unknown_fields=True):
    ours: bool = msgspec.field(name="ws-wrapper")
    wsrpc: Hello | Welcome | Changed | Credit | Drain


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Control).decode


def announce(limits: Limits) -> Announced:
    """Return those of our limits that the other side has to know."""
    return Announced(
        limits.message, limits.running, limits.waiting, limits.waiting_bytes, limits.values, limits.running_bytes
    )


def write_control(message: Hello | Welcome | Changed | Credit | Drain) -> bytes:
    """Return the JSON text of a control message."""
    return _encode(_Control(False, message))


def read_control(payload: bytes | bytearray) -> Any:
    """Return the control message in a text; None if it holds none that is known here."""
    if len(payload) >= LARGEST or b'"wsrpc"' not in payload:
        return None
    try:
        control = _decode(payload)
    except (msgspec.DecodeError, RecursionError):  # a `ValidationError` is one: newer fields, other kinds
        return None
    return None if control.ours else control.wsrpc
