"""`Settings` that all connections of one client or one server share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from .._base.closing import CloseInfo
from .._base.misuse import check_flag, check_function
from .._base.names import Profile, Redact
from .._conversion.convert import EncHook
from ..limits import Limits
from .codecs import Codec, JsonCodec, NegotiatedCodec
from .go import GoCodec

__all__ = ["Settings", "make_settings"]


def _never(info: CloseInfo) -> bool:
    """No session outlives its connection."""
    return False


class Settings(msgspec.Struct, frozen=True):
    """The settings that all peers of a server, or all connections of a client, share."""

    codec: Codec
    limits: Limits
    expose_errors: bool | Callable[[BaseException], bool] = False
    extensions: bool = False
    """Whether to send control messages to peers that understand them."""
    binary: NegotiatedCodec | None = None
    """The codec to use with peers that also have it."""
    log_payloads: bool | Redact = False
    """Whether each message is logged, or a function that says which arguments are shown."""
    keeps_session: Callable[[CloseInfo], bool] = _never
    """Whether a session waits for another link after its connection has ended so."""


def make_settings(
    limits: Limits | None,
    codec: Codec | None,
    enc_hook: EncHook | None,
    expose_errors: bool | Callable[[BaseException], bool] = False,
    extensions: bool = True,
    log_payloads: bool | Redact = False,
    profile: Profile | None = None,
) -> Settings:
    """Make the settings of a client or a server.

    Raises:
        TypeError: an option is of a wrong type.
        ValueError: two options exclude each other, or the profile is unknown.
    """
    given: Any = limits
    if given is not None and not isinstance(given, Limits):
        raise TypeError(f"limits= takes a wsrpc.Limits, got {given!r}")
    if codec is not None and not callable(getattr(codec, "decode", None)):
        raise TypeError(f"codec= takes a codec such as wsrpc.JsonCodec(), got {codec!r}")
    if codec is not None and enc_hook is not None:
        raise ValueError("enc_hook= belongs to the codec that you pass: JsonCodec(enc_hook=...)")
    asked: Any = log_payloads
    if not isinstance(asked, bool) and (not callable(asked) or inspect.iscoroutinefunction(asked)):
        raise TypeError(f"log_payloads= is True, False or a plain function(direction, event, args), got {asked!r}")
    check_function("enc_hook", enc_hook)
    check_flag("extensions", extensions)
    asked = expose_errors
    if not isinstance(asked, bool) and not callable(asked):
        raise TypeError(f"expose_errors= is True, False or a function of the exception, got {asked!r}")
    codec = codec or JsonCodec(enc_hook=enc_hook)
    if profile is not None:
        if profile != "go":
            raise ValueError(f'profile= is "go" (the other side is ws-server-wrapper-go) or None, got {profile!r}')
        if type(codec) is not JsonCodec:
            raise ValueError(f"profile={profile!r} speaks JSON in text messages, and codec= is {codec!r}: leave it out")
        codec, extensions = GoCodec(codec), False
    # A codec of the user's own has been set on both sides; it is never replaced by another one.
    binary = NegotiatedCodec(codec) if extensions and type(codec) is JsonCodec else None
    return Settings(codec, limits or Limits(), expose_errors, extensions, binary, log_payloads)
