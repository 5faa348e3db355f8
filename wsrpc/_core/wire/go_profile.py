"""``profile="go"``: refuses messages for which ws-server-wrapper-go would close the connection, before they are sent.

With any profile, wsrpc sends the types that Go expects: ids are integers, a missing channel name is absent instead of
empty, and the flag of an error is 1 or absent. This module handles sizes, numbers that do not fit into a double, raw
messages, and Go's error for a wrong number of arguments. The profile is a separate codec, so that it costs nothing for
other peers.
"""

from __future__ import annotations

import json
import math
import re
import sys
from typing import Any

from ...errors import BadArguments, RemoteError
from ...limits import Limits
from .codecs import Codec, JsonCodec
from .messages import Event, Request
from .rejections import error_from_wire

LARGEST = 32 * 1024
"""Bytes of the largest message that coder/websocket reads, unless the program calls SetReadLimit."""

MISCOUNTED = "incorrect number of arguments"
"""Go's rejection of any wrong number of arguments, for any handler."""

_MAY_BE_HUGE = re.compile(rb"\d{309}|[eE]\+?\d{3}")


class GoCodec(JsonCodec):
    """JSON without numbers that Go cannot read.

    Arguments are not checked. Go decodes each argument into the type of the handler's parameter, which may be text or a
    big.Int, and rejects the request if the argument does not fit. Go decodes all other numbers into doubles.
    """

    def __init__(self, json: JsonCodec) -> None:
        super().__init__(enc_hook=json.enc_hook)
        encode = self.encode

        def encode_for_go(message: Any) -> bytes:
            payload = encode(message)
            cls = message.__class__
            if cls is Request or cls is Event:
                if not message.a[0]:
                    raise ValueError('profile="go": Go ignores an event whose name is "": give it a name')
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
    """Return the bytes of the largest message that may be sent before the other side has announced its limits."""
    if limits.sent_message_bytes is not None:
        return limits.sent_message_bytes
    return LARGEST if codec.__class__ is GoCodec else sys.maxsize


def rejection_from(e: Any, flag: Any, codec: Codec, event: str, count: int) -> RemoteError:
    """Return the error that a rejection raises at the caller, which has sent ``count`` arguments."""
    error = error_from_wire(e, flag)
    if codec.__class__ is GoCodec and error.message == MISCOUNTED:
        return BadArguments(
            f"{event}() was sent {count} arguments, but its handler in Go has another number of parameters: pass one "
            "argument for each parameter, and None for one that is to be left out; if its last parameter is variadic "
            "(...), do not call it, because that ends the Go program"
        )
    return error
