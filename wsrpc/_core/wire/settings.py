"""`Settings` that all connections of one client or one server share."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property, partial
from typing import Any
from uuid import UUID

import msgspec

from ..._base.misuse import check_flag, check_no_yield
from ..._base.names import Profile, Redact
from ..._base.threads import Threads
from ..._values.convert import make_enc_hook
from ...limits import DEFAULT_LIMITS, Limits
from .codecs import BRACE, FROZEN, Codec, JsonCodec, MsgpackCodec, NegotiatedCodec, enc_hook_of
from .control import Announced
from .go_profile import GoCodec, largest_sent
from .messages import Event
from .nodes import NODE
from .terms import Terms

AS_THEY_ARE = (bytes, bytearray, memoryview, datetime, date, time, timedelta, Decimal, UUID)
"""Types, besides those of JSON, that the codecs encode each in its own way."""

OURS = {JsonCodec, MsgpackCodec, NegotiatedCodec, GoCodec}
"""Codecs that decode what they have encoded."""

UNGREETED_BYTES = 64 * 1024
"""Bytes of the largest message that a client sends before it knows whether the server is a wsrpc server."""

KINDS = 16
"""Maximum number of shared `Terms`. It is limited because remote peers choose what they announce."""


PROGRAM = re.compile("[ -~]{1,64}").fullmatch
"""Whether a text can name a program."""


class Settings(msgspec.Struct, frozen=True, dict=True):
    """The settings that all peers of a server, or all connections of a client, share."""

    codec: Codec
    limits: Limits
    expose_errors: bool | Callable[[BaseException], bool] = False
    extensions: bool = False
    """Whether to send control messages to peers that understand them."""
    binary: NegotiatedCodec | None = None
    """The codec for binary messages with peers that also have it."""
    between_nodes: bool = False
    """Whether the connections are between two nodes of a cluster, see ``_core.wire.nodes``."""
    local: bool = False
    """Whether the client is in this process. The log then has little of it, and events of all rooms name their room."""
    log_payloads: bool | Redact = False
    """Whether each message is logged, or a function that returns what the log shows of the arguments."""
    program: str = ""
    """The program that this side announces. Empty if it announces none."""
    contract: Callable[[], str] = str
    """Function that returns the contract that this side announces. Empty if it announces none, as from ``str()``."""
    threads: Threads = msgspec.field(default_factory=Threads)
    """The threads of the handlers of all peers."""

    @property
    def can_resume(self) -> bool:
        """Whether sessions with other wsrpc peers can resume on another connection."""
        return self.extensions and self.limits.replay_bytes > 0

    def copied(self, a: tuple[Any, ...], payload: bytes = b"") -> tuple[Any, ...]:
        """Return a copy of the name and the arguments of a call that waits, because its caller may change them.

        A codec of the user may be unable to decode what it has encoded, so the call is only checked.

        Args:
            payload: the call, if it was encoded.
        """
        codec = self.binary or self.codec
        payload = payload or codec.encode(Event(a))
        if type(codec) not in OURS:
            return a
        return tuple((self.codec if payload[0] == BRACE else codec).decode(payload).a)

    @cached_property
    def copy(self) -> Callable[[Any], Any] | None:
        """Function that copies a value, in a form that is encoded like the value. None with a codec of the user.

        It raises an exception for some values that can be encoded. It does not copy a bytearray inside of a value.
        """
        if type(self.codec) not in OURS:
            return None
        hook = make_enc_hook(enc_hook_of(self.codec))
        to_builtins = partial(msgspec.to_builtins, builtin_types=AS_THEY_ARE, enc_hook=hook)

        def copy_value(value: Any) -> Any:
            if value.__class__ is dict and FROZEN.issuperset(map(type, value.values())):  # a row, in half of the time
                return value.copy()
            return bytes(value) if value.__class__ in (bytearray, memoryview) else to_builtins(value)

        return copy_value

    @cached_property
    def terms(self) -> Terms:
        """The terms of a connection on which nothing was negotiated. All peers with these settings share the object."""
        codec, largest = self.codec, largest_sent(self.limits, self.codec)
        limit = 'Limits.sent_message_bytes, 32768 with profile="go"'
        if self.between_nodes:
            limit = "what the engine of the cluster takes, such as max_payload of NATS"
        known = self.between_nodes or not self.extensions
        unchecked, context = (largest, self.between_nodes) if known else (min(UNGREETED_BYTES, largest), True)
        sizes = (largest, unchecked, largest, limit)
        return Terms(codec, codec.encode, codec.text, *sizes, context=context, known=known, names_rooms=self.local)

    def agreed(self, announced: Announced, codec: NegotiatedCodec | None, common: frozenset[str]) -> Terms:
        """Return the terms after the remote peer has announced its limits and features; see `Terms.agreed`.

        Remote peers with the same announcement share one object, so that a broadcast is checked once for all of them.
        If there are more than `KINDS` announcements, each further remote peer has its own object.
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
    program: str | None = None,
    contract: Callable[[], str] = str,
) -> Settings:
    """Make the settings of a client or a server.

    Args:
        contract: as in `Settings`. It is called only if there is a ``program``.

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
    asked = program
    if asked is not None and not (isinstance(asked, str) and PROGRAM(asked)):
        raise ValueError(f"program= is a text of 1 to 64 printable ASCII characters, got {program!r}")
    codec = codec or JsonCodec()
    if profile is not None and profile != NODE:
        if profile != "go":
            raise ValueError(f'profile= is "go" (ws-server-wrapper-go) or None, got {profile!r}')
        if type(codec) is not JsonCodec:
            raise ValueError(f"profile={profile!r} speaks JSON in text messages, and codec= is {codec!r}: leave it out")
        codec, extensions = GoCodec(codec), False
    # A codec of the user is never replaced, because the user has set it on both sides.
    binary = NegotiatedCodec(codec) if extensions and type(codec) is JsonCodec else None
    return Settings(
        codec,
        limits or DEFAULT_LIMITS,
        expose_errors,
        extensions,
        binary,
        between_nodes=profile == NODE,
        log_payloads=log_payloads,
        program=program or "",
        contract=contract if program else str,
        threads=Threads((limits or DEFAULT_LIMITS).server_threads),
    )
