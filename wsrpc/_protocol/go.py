"""``profile="go"``: what ws-server-wrapper-go would close the connection for is refused here, before it is sent.

What wsrpc sends has the types that Go asks for, whatever the profile: ids and channels are integers, a channel's name
is absent rather than empty, the flag of an error is 1 or absent. What is left is in this module: sizes, numbers that no
double holds, messages that are not the protocol's; and what Go says of a wrong number of arguments. The codec stands
for the profile, so that messages of peers without it take the same way as ever.
"""

from __future__ import annotations

import json
import math
import re
import sys
from typing import Any

from ..errors import BadArguments, RemoteError
from ..limits import Limits
from .codecs import Codec, JsonCodec
from .messages import Event, Request
from .rejections import error_from_wire

__all__ = ["GoCodec", "largest_sent", "refuse_raw", "rejection_from"]

LARGEST = 32 * 1024
"""Bytes that coder/websocket reads in one message, unless the program calls SetReadLimit."""

MISCOUNTED = "incorrect number of arguments"
"""What Go rejects with, whatever the number and the handler."""

_MAY_BE_HUGE = re.compile(rb"\d{309}|[eE]\+?\d{3}")


class GoCodec(JsonCodec):
    """JSON as ``json`` makes it, without numbers that Go cannot read.

    Arguments are exempt: Go decodes each into what its handler takes, which may be text or a big.Int, and rejects the
    request if it does not fit. Everything else is decoded at once, into doubles.
    """

    def __init__(self, json: JsonCodec) -> None:
        super().__init__(enc_hook=json.enc_hook)
        encode = self.encode

        def encode_for_go(message: Any) -> bytes:
            payload = encode(message)
            cls = message.__class__
            if cls is Request or cls is Event:
                if not message.a[0]:
                    raise ValueError('profile="go": Go takes a message whose event is "" for none: give it a name')
            elif _MAY_BE_HUGE.search(payload):
                _check_numbers(payload)
            return payload

        self.encode = encode_for_go


def _check_numbers(payload: bytes) -> None:
    json.loads(payload, parse_int=_check_number, parse_float=_check_number)


def _check_number(digits: str) -> None:
    if math.isinf(float(digits)):
        raise ValueError(
            f"{digits[:20]}… is a number of {len(digits)} digits, and Go, which reads numbers as doubles, would close "
            "the connection: send it as text"
        )


def largest_sent(limits: Limits, codec: Codec) -> int:
    """Bytes that a message may have here, before the other side has said what it takes."""
    if limits.sent_message is not None:
        return limits.sent_message
    return LARGEST if codec.__class__ is GoCodec else sys.maxsize


def refuse_raw(codec: Codec) -> None:
    """Refuse what is no message of the protocol, if ``codec`` is for Go.

    Raises:
        ValueError: says why.
    """
    if codec.__class__ is GoCodec:
        raise ValueError(
            'profile="go": ws-server-wrapper-go reads every WebSocket message as one of the protocol and closes the '
            "connection for any other, so there are no raw messages: emit an event instead"
        )


def rejection_from(e: Any, flag: Any, codec: Codec, event: str, count: int) -> RemoteError:
    """What a rejection raises at the caller, who has sent ``count`` arguments."""
    error = error_from_wire(e, flag)
    if codec.__class__ is GoCodec and error.message == MISCOUNTED:
        return BadArguments(
            f"{event}() was sent {count} arguments, and its handler in Go takes another number: it takes all of its "
            "parameters, no more and no fewer; None stands for one that is left out"
        )
    return error
