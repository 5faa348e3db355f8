"""What every connection of one client or one server has in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ._codec import Codec, JsonCodec
from ._convert import EncHook
from .limits import Limits

__all__ = ["Settings", "make_settings"]


class Settings(msgspec.Struct, frozen=True):
    """What all peers of a server, or all connections of a client, have in common."""

    codec: Codec
    limits: Limits
    expose_errors: bool | Callable[[BaseException], bool] = False


def make_settings(
    limits: Limits | None,
    codec: Codec | None,
    enc_hook: EncHook | None,
    expose_errors: bool | Callable[[BaseException], bool],
) -> Settings:
    """The settings of a client or a server.

    Raises:
        TypeError, ValueError: an option is of another kind, or two do not go together.
    """
    given: Any = limits
    if given is not None and not isinstance(given, Limits):
        raise TypeError(f"limits= takes a wsrpc.Limits, got {given!r}")
    if codec is not None and not callable(getattr(codec, "decode", None)):
        raise TypeError(f"codec= takes a codec such as wsrpc.JsonCodec(), got {codec!r}")
    if codec is not None and enc_hook is not None:
        raise ValueError("enc_hook= belongs to the codec that you pass: JsonCodec(enc_hook=...)")
    return Settings(codec or JsonCodec(enc_hook=enc_hook), limits or Limits(), expose_errors)
