"""Codecs: messages to bytes and back.

A codec is shared by all connections of a server, so it keeps no state of a connection.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import accumulate
from typing import Any, Protocol

import msgspec

from ._convert import EncHook, make_enc_hook
from ._messages import Event, Inbound, Item, NoMoreItems, Request, Resolution

__all__ = ["BRACE", "Codec", "JsonCodec", "MsgpackCodec", "NegotiatedCodec", "json_nests_deeper"]

BRACE = ord("{")
"""What a message in JSON begins with, and none in MessagePack."""


class Codec(Protocol):
    """What a peer needs of an encoding. `JsonCodec` is a good base for one of your own.

    ``text`` says whether messages travel in text or in binary WebSocket messages; messages of the
    other kind are foreign to the peer.
    """

    @property
    def name(self) -> str: ...

    @property
    def text(self) -> bool: ...

    def encode(self, message: Any, /) -> bytes:
        """Encode a message: a struct of wsrpc, whose field names are the wire's keys.

        Raises:
            TypeError, ValueError, OverflowError, RecursionError: for a value that cannot be encoded;
                it reaches whoever gave the value.
        """
        ...

    def decode(self, payload: bytes | bytearray, /) -> Inbound:
        """Decode what arrived. Any exception means: not a message of this codec."""
        ...

    def claims(self, payload: bytes | bytearray, /) -> bool:
        """Whether a payload that did not decode was meant to be a message (else it is foreign and ignored)."""
        ...

    def rescue(self, payload: bytes | bytearray, /) -> Inbound | None:
        """What can be told of a payload that did not decode, so that whoever waits for an answer gets one."""
        ...

    def nests_deeper(self, payload: bytes | bytearray, message: Inbound, depth: int, /) -> bool:
        """Whether a payload that decoded to ``message`` has arrays and objects nested more than ``depth`` deep."""
        ...


_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_CONTAINERS = (list, dict, tuple)  # arrays that are keys of a map become tuples
_NOT_BRACKETS = bytes(set(range(256)) - set(_STEP))


class JsonCodec:
    """JSON in text messages, by msgspec.

    NaN and infinities become ``null`` (JSON has none), bytes become base64 text, datetimes, UUIDs,
    Decimals and enums become what msgspec makes of them; ``enc_hook`` turns other types into those.
    """

    name = "json"
    text = True

    def __init__(self, *, enc_hook: EncHook | None = None) -> None:
        self.enc_hook = enc_hook
        # Bound methods of C objects: nothing of Python's own stands between a peer and msgspec.
        self.encode: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=make_enc_hook(enc_hook)).encode
        self.decode: Callable[[bytes | bytearray], Inbound] = msgspec.json.Decoder(Inbound).decode

    @staticmethod
    def claims(payload: bytes | bytearray, /) -> bool:
        return payload.lstrip()[:1] == b"{"

    def rescue(self, payload: bytes | bytearray, /) -> Inbound | None:
        # The standard library reads what msgspec refuses: lone surrogates, numbers out of range.
        try:
            fields: Any = json.loads(payload.decode(), parse_int=_small_int, parse_float=_no_number)
        except (ValueError, RecursionError):
            return None
        if fields.__class__ is not dict:
            return None
        names = {"a", "i", "c", "h", "d", "e", "x"} & fields.keys()
        return Inbound(**{name: fields[name] for name in names}, ours=fields.get("ws-wrapper"))

    def nests_deeper(self, payload: bytes | bytearray, message: Inbound, depth: int, /) -> bool:
        return json_nests_deeper(payload, depth)


def json_nests_deeper(payload: bytes | bytearray, depth: int) -> bool:
    """Whether arrays and objects in JSON text are nested more than ``depth`` deep."""
    # Nearly every message has fewer brackets than that, and counting them is all it costs.
    if payload.count(b"[") + payload.count(b"{") <= depth:
        return False
    brackets = _STRING.sub(b"", payload).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > depth


def _small_int(digits: str) -> int | None:
    return int(digits) if len(digits) <= 20 else None


def _no_number(_digits: str) -> None:
    return None


class MsgpackCodec:
    """MessagePack in binary messages, by msgspec; bytes stay bytes. Set it on both ends."""

    name = "msgpack"
    text = False

    def __init__(self, *, enc_hook: EncHook | None = None) -> None:
        self.encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder(enc_hook=make_enc_hook(enc_hook)).encode
        self.decode: Callable[[bytes | bytearray], Inbound] = msgspec.msgpack.Decoder(Inbound).decode

    @staticmethod
    def claims(payload: bytes | bytearray, /) -> bool:
        # A MessagePack map: fixmap, map 16, map 32.
        return bool(payload) and (payload[0] & 0xF0 == 0x80 or payload[0] in (0xDE, 0xDF))

    def rescue(self, payload: bytes | bytearray, /) -> Inbound | None:
        return None

    def nests_deeper(self, payload: bytes | bytearray, message: Inbound, depth: int, /) -> bool:
        # Lengths are part of the format, so only what was read tells; walk it level by level.
        level: list[Any] = [
            part for part in (message.a, message.d, message.e, message.x) if part.__class__ in _CONTAINERS
        ]
        for _ in range(depth - 1):  # the message itself is the first
            inside: list[Any] = []
            for container in level:
                inside.extend(container)
                if container.__class__ is dict:
                    inside.extend(container.values())
            level = [item for item in inside if item.__class__ in _CONTAINERS]
            if not level:
                return False
        return bool(level)


_SAME = frozenset({int, str, bool, bytes, type(None), float, NoMoreItems})
"""Values that both formats carry alike, as far as each can."""
AT_A_GLANCE = 8


class NegotiatedCodec(MsgpackCodec):
    """MessagePack between two wsrpc peers that speak JSON otherwise.

    Bytes travel as they are, and everything else so that it arrives as it does by JSON. MessagePack by itself would
    keep datetimes and keys that are no text, and whoever has no annotation would get one or the other, depending on
    when the two had agreed. (NaN and infinities stay what they are: JSON has none.)

    What MessagePack cannot express travels as JSON: text is JSON, binary is MessagePack, at any time.
    """

    def __init__(self, json: JsonCodec) -> None:
        super().__init__(enc_hook=json.enc_hook)
        encode, encode_json = self.encode, json.encode
        hook = make_enc_hook(json.enc_hook)

        def encode_either(message: Any) -> bytes:
            if not _travels_alike(message):
                message = msgspec.to_builtins(message, builtin_types=(bytes,), str_keys=True, enc_hook=hook)
            try:
                return encode(message)
            except OverflowError:  # an integer of more than 64 bits
                return encode_json(message)

        self.encode = encode_either


def _travels_alike(message: Any) -> bool:
    """Whether MessagePack makes the same of a message as JSON does, as far as can be seen at a glance."""
    cls = message.__class__
    if cls is Resolution:
        return message.d.__class__ in _SAME or _is_alike(message.d)
    if cls is not Event and cls is not Request:
        return False
    for part in message.a:
        if part.__class__ is Item:
            part = part.value
        if part.__class__ not in _SAME and not _is_alike(part):
            return False
    return True


def _is_alike(value: Any) -> bool:
    """The same for a small flat container. Looking through more would take longer than converting it."""
    if value.__class__ is dict and len(value) <= AT_A_GLANCE:
        for key in value:  # noqa: SIM110 - `all` over a generator takes half as long again
            if key.__class__ is not str or value[key].__class__ not in _SAME:
                return False
        return True
    if value.__class__ is list and len(value) <= AT_A_GLANCE:
        return all(item.__class__ in _SAME for item in value)
    return False
