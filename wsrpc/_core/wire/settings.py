"""`Settings` that all connections of one client or one server share, and the `Terms` of one connection."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import cached_property
from typing import Any

import msgspec

from ..._base.misuse import check_flag, check_no_yield
from ..._base.names import Profile, Redact
from ...limits import Limits
from .codecs import BRACE, Codec, JsonCodec, NegotiatedCodec
from .control import BATCHES, CREDIT, STOP, Announced
from .counting import SHARE
from .go_profile import GoCodec, largest_sent
from .nodes import NODE

UNLIMITED = Announced(*(sys.maxsize,) * len(Announced.__struct_fields__))
"""What a plain peer accepts, as far as is known."""


KINDS = 16
"""Kinds of remote peers whose terms are shared. Their number is bounded because remote peers choose what they say."""


class Terms(msgspec.Struct, frozen=True):
    """How messages are encoded on one connection, and what the remote peer accepts, as far as it has said so."""

    encode: Callable[[Any], bytes]
    text: bool | None
    """Whether messages are text. None: a negotiated codec chooses for each message, and its own ones are binary."""
    largest: int
    """The bytes that a message may have."""
    unchecked: int
    """The bytes of the largest message that is sent without a call of `SessionWriter.refusal`."""
    plain: bool = True
    """Whether the remote peer is not wsrpc, as far as is known. A wsrpc peer keeps to credit when it produces. A peer
    without that feature may still have sessions: a web page with ws-wrapper on a connection that resumes."""
    batches: bool = False
    """Whether the remote peer takes several items of a stream in one message."""
    stop: bool = False
    """Whether the remote peer answers ``stop`` when it produces on a named channel."""
    announced: Announced = UNLIMITED
    """The limits that the remote peer has announced."""
    room_for_any: int = sys.maxsize
    """While no more bytes of requests than this are in flight, the remote peer has room for any message."""

    def is_text(self, payload: bytes) -> bool:
        """Return whether an encoded message is text."""
        return payload[0] == BRACE if self.text is None else self.text

    def agreed(self, announced: Announced, codec: NegotiatedCodec | None, common: frozenset[str]) -> Terms:
        """Return the terms once the remote peer has said what it supports.

        Args:
            codec: the codec that both support for binary messages. None if only the codec of this side is used.
            common: the features that both have.
        """
        largest = min(announced.message, self.largest)
        plain = CREDIT not in common
        return Terms(
            self.encode if codec is None else codec.encode,
            self.text if codec is None else None,
            largest,
            min(largest, announced.values // SHARE),
            plain,
            BATCHES in common,
            STOP in common,
            announced,
            max(0, announced.running_bytes - announced.message),
        )

    def within(self, announced: Announced, most: int) -> Terms:
        """Return these terms with other limits of the remote peer. ``most``: the bytes that this side may send."""
        largest = min(announced.message, most)
        return msgspec.structs.replace(
            self,
            largest=largest,
            unchecked=min(largest, announced.values // SHARE),
            announced=announced,
            room_for_any=max(0, announced.running_bytes - announced.message),
        )


class Settings(msgspec.Struct, frozen=True, dict=True):
    """The settings that all peers of a server, or all connections of a client, share."""

    codec: Codec
    limits: Limits
    expose_errors: bool | Callable[[BaseException], bool] = False
    extensions: bool = False
    """Whether to send control messages to peers that understand them."""
    binary: NegotiatedCodec | None = None
    """The codec to use with peers that also have it."""
    between_nodes: bool = False
    """Whether these are connections between two nodes of a cluster, see ``_core.wire.nodes``."""
    log_payloads: bool | Redact = False
    """Whether each message is logged, or a function that says which arguments are shown."""

    @property
    def can_resume(self) -> bool:
        """Whether sessions with other wsrpc peers can resume on another connection."""
        return self.extensions and self.limits.replay_bytes > 0

    @cached_property
    def terms(self) -> Terms:
        """The terms of a connection on which nothing was negotiated. All peers with these settings share them."""
        largest = largest_sent(self.limits, self.codec)
        return Terms(self.codec.encode, self.codec.text, largest, largest)

    def agreed(self, announced: Announced, codec: NegotiatedCodec | None, common: frozenset[str]) -> Terms:
        """Return the terms of a connection whose remote peer has said what it supports; see `Terms.agreed`.

        Peers that say the same share them, so that a broadcast looks at them once. Beyond `KINDS` each has its own.
        """
        kinds = self._kinds
        terms = kinds.get((announced, codec, common))
        if terms is None:
            terms = self.terms.agreed(announced, codec, common)
            if len(kinds) < KINDS:
                kinds[announced, codec, common] = terms
        return terms

    @cached_property
    def _kinds(self) -> dict[tuple[Announced, NegotiatedCodec | None, frozenset[str]], Terms]:
        return {}


def make_settings(
    limits: Limits | None,
    codec: Codec | None,
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
    limits_option: Any = limits
    if limits_option is not None and not isinstance(limits_option, Limits):
        raise TypeError(f"limits= takes a wsrpc.Limits, got {limits_option!r}")
    if codec is not None and not callable(getattr(codec, "decode", None)):
        raise TypeError(f"codec= takes a codec such as wsrpc.codecs.JsonCodec(), got {codec!r}")
    asked: Any = log_payloads
    if not isinstance(asked, bool) and (not callable(asked) or inspect.iscoroutinefunction(asked)):
        raise TypeError(f"log_payloads= is True, False or a plain function(direction, event, args), got {asked!r}")
    check_flag("extensions", extensions)
    asked = expose_errors
    if not isinstance(asked, bool) and not callable(asked):
        raise TypeError(f"expose_errors= is True, False or a function of the exception, got {asked!r}")
    if inspect.iscoroutinefunction(asked):
        raise TypeError(f"expose_errors= takes a plain function, not an async one like {asked!r}")
    check_no_yield("expose_errors=", asked)
    codec = codec or JsonCodec()
    if profile is not None and profile != NODE:
        if profile != "go":
            raise ValueError(f'profile= is "go" (ws-server-wrapper-go) or None, got {profile!r}')
        if type(codec) is not JsonCodec:
            raise ValueError(f"profile={profile!r} speaks JSON in text messages, and codec= is {codec!r}: leave it out")
        codec, extensions = GoCodec(codec), False
    # A codec of the user's own has been set on both sides; it is never replaced by another one.
    binary = NegotiatedCodec(codec) if extensions and type(codec) is JsonCodec else None
    return Settings(
        codec,
        limits or Limits(),
        expose_errors,
        extensions,
        binary,
        between_nodes=profile == NODE,
        log_payloads=log_payloads,
    )
