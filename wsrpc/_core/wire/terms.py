"""`Terms`: what was negotiated on one connection, which decides how messages are encoded and checked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from msgspec import UNSET, Struct
from msgspec.structs import replace

from ...errors import MessageTooBig
from .codecs import BRACE, Codec, MsgpackCodec, NegotiatedCodec
from .control import BATCHES, CONTEXT, CREDIT, Announced
from .counting import SHARE
from .messages import Event, Request

UNLIMITED = Announced(running_bytes=sys.maxsize)
"""The limits of a plain peer, which does not announce limits."""


class Objections:
    """Objections of a codec to one payload, for receivers with different ``Limits.values``.

    A payload that is within one limit is within each greater limit. The codec therefore examines the payload at most 64
    times, however many different limits the receivers announce, and only once if all limits are the same.
    """

    __slots__ = ("_exceeds", "_fits", "_objection", "_payload", "_why")

    def __init__(self, payload: bytes, objection: Callable[[bytes, int], str | None]) -> None:
        self._payload = payload
        self._objection = objection
        self._exceeds = 0
        """The greatest limit that is known to be too small."""
        self._fits = sys.maxsize
        """The smallest limit that is known to be enough."""
        self._why: str | None = None

    def to(self, values: int) -> str | None:
        """Return why a receiver that accepts so many ``values`` would refuse the payload. None if it would not."""
        first = values if self._why is None and self._fits == sys.maxsize else None
        while self._exceeds < values < self._fits:
            # Each step after the first one halves the unknown range.
            limit = first or (self._exceeds + self._fits) // 2
            first = None
            why = self._objection(self._payload, limit)
            if why is None:
                self._fits = limit
            else:
                self._exceeds, self._why = limit, why
        return self._why if values <= self._exceeds else None


class Terms(Struct, frozen=True):
    """The encoding and the checks of messages on one connection, by what the remote peer has announced."""

    codec: Codec
    """The codec of this side."""
    encode: Callable[[Any], bytes]
    text: bool | None
    """Whether messages are text. None if a negotiated codec chooses JSON or MessagePack for each message."""
    largest: int
    """Bytes of the largest message that may be sent."""
    unchecked: int
    """Bytes of the largest message that is sent without a call of `check`."""
    own_largest: int
    """Bytes of the largest message that this side sends, whatever the remote peer accepts."""
    own_limit: str
    """What sets ``own_largest``, for error messages."""
    plain: bool = True
    """Whether the remote peer has not announced the credit of wsrpc peers. Such a peer may still have sessions: a web
    page with ws-wrapper on a connection that resumes."""
    batches: bool = False
    """Whether the remote peer accepts several items of a stream in one message."""
    context: bool = False
    """Whether the remote peer accepts a `CallContext`."""
    announced: Announced = UNLIMITED
    """The limits that the remote peer has announced."""
    room_for_any: int = sys.maxsize
    """Maximum bytes of requests in flight up to which the remote peer has room for any message."""
    names_rooms: bool = False
    """Whether the events of a room without a log name it, too."""
    known: bool = True
    """Whether it is known if the remote peer is a wsrpc peer. Until then it gets contexts, which plain peers ignore."""

    def is_text(self, payload: bytes) -> bool:
        """Return whether an encoded message is text."""
        return payload[0] == BRACE if self.text is None else self.text

    def encode_call(self, message: Event | Request) -> bytes:
        """Encode an event or a request, without its context if the remote peer does not accept one."""
        if message.ctx is not UNSET and not (self.context or self.names_rooms):
            message = replace(message, ctx=UNSET)
        return self.encode(message)

    def agreed(self, announced: Announced, codec: NegotiatedCodec | None, common: frozenset[str]) -> Terms:
        """Return the terms after the remote peer has announced its limits and features.

        Args:
            codec: the codec that both sides use for binary messages. None if all messages use the codec of this side.
            common: the features that both sides have.
        """
        return replace(
            self.within(announced),
            encode=self.encode if codec is None else codec.encode,
            text=self.text if codec is None else None,
            plain=CREDIT not in common,
            batches=BATCHES in common,
            context=CONTEXT in common,
            known=True,
        )

    def within(self, announced: Announced) -> Terms:
        """Return these terms with other limits of the remote peer."""
        largest = min(announced.message, self.own_largest)
        return replace(
            self,
            largest=largest,
            unchecked=min(largest, announced.values // SHARE),
            announced=announced,
            room_for_any=max(0, announced.running_bytes - announced.message),
        )

    def check(self, payload: bytes, known: dict[bytes, Objections] | None = None) -> None:
        """Check that the remote peer accepts an encoded message.

        Args:
            known: for a message to many peers, the objections to each payload that are known so far. It is updated.

        Raises:
            MessageTooBig: the remote peer does not accept the message. The error says why.
        """
        size, values = len(payload), self.announced.values
        if size > self.largest:
            limit = f"and the other side takes at most {self.largest} (its Limits.message_bytes)"
            if self.largest == self.own_largest:
                limit = f"and at most {self.largest} may be sent ({self.own_limit})"
            raise MessageTooBig(
                f"the message has {size} bytes encoded, {limit}: send less at once, as a stream of small items for "
                "instance"
            )
        if size <= self.unchecked or not self.known:
            return
        is_negotiated = self.text is None and not self.is_text(payload)
        objection = MsgpackCodec.objection if is_negotiated else self.codec.objection
        if known is None:
            why = objection(payload, values)
        else:
            if payload not in known:
                known[payload] = Objections(payload, objection)
            why = known[payload].to(values)
        if why is not None:
            raise MessageTooBig(
                f"the message holds {why}, and the other side takes no more (it has announced {values} values): send "
                "less at once, as a stream of small items for instance, or numbers as bytes"
            )
