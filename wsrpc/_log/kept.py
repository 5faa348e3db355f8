"""What is kept in a log, as bytes and back, and the names under which it is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from .._core.wire.codecs import Codec, JsonCodec, MsgpackCodec, NegotiatedCodec, enc_hook_of
from ..errors import BadArguments, made_here

T = TypeVar("T")
Encode = Callable[[Any], bytes]

FORMAT = 2
"""Version of what processes share: logs in a store, and messages between nodes. They must have the same one."""

UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""Errors of what is kept, but is not what it should be, or was written by a later version."""

_digest = msgspec.msgpack.Encoder(order="deterministic").encode


def encoder_of(codec: Codec) -> Encode:
    """Return the function that encodes what is kept, so that it later arrives as with this codec."""
    if isinstance(codec, JsonCodec):
        return NegotiatedCodec(codec).encode
    return MsgpackCodec(enc_hook=enc_hook_of(codec)).encode


def hash_of(value: Any) -> str:
    """Return a text that is equal for equal values.

    Raises:
        BadArguments: the values are such as only JSON has, an integer of 30 digits for example.
    """
    try:
        encoded = _digest(value)
    except (OverflowError, TypeError, ValueError) as exc:
        raise made_here(BadArguments(f"arguments of a call with a key cannot be compared: {exc}")) from None
    return hashlib.sha256(encoded).hexdigest()[:48]


def read_kept(stored: bytes, kind: type[T]) -> T:
    """Decode what was kept. What MessagePack cannot express is JSON: no array or map begins with this byte."""
    decode = msgspec.json.decode if stored.startswith((b"[", b"{")) else msgspec.msgpack.decode
    return decode(stored, type=kind)
