"""Codecs, which encode messages to bytes and decode them: JSON and MessagePack.

All connections of a server share one codec, so a codec has no state of a connection.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from gc import get_referents
from math import isfinite
from typing import Any, Protocol

import msgspec
from msgspec import UNSET, Raw, Struct

from ..._base.misuse import check_function
from ..._values.convert import EncHook, make_enc_hook
from ...limits import DEEPEST
from .counting import json_nests_deeper, json_objection, may_nest_deeper, msgpack_nests_deeper, msgpack_objection
from .messages import (
    CONTAINERS,
    Event,
    Item,
    NoMoreItems,
    Request,
    Resolution,
    StrictMessage,
    WireMessage,
)

BRACE = ord("{")
"""The first byte of a message in JSON. No message in MessagePack begins with it."""


class Codec(Protocol):
    """Encoding of messages. If you write your own codec, `JsonCodec` is a good base class.

    If ``text`` is true, the codec uses text WebSocket messages. Otherwise, the codec uses binary WebSocket messages.
    Messages of the other kind do not belong to the wsrpc protocol.
    """

    @property
    def name(self) -> str: ...

    @property
    def text(self) -> bool: ...

    def encode(self, message: Any, /) -> bytes:
        """Encode ``message``, a `msgspec.Struct` of wsrpc. The names of its fields become keys of the encoded message.

        Raises:
            TypeError, ValueError, OverflowError, RecursionError: a value cannot be encoded. The method that sends the
                value raises the same exception.
        """
        ...

    def decode(self, payload: bytes | bytearray, /) -> WireMessage:
        """Decode a payload. An exception of any type means that the payload is not a message of this codec."""
        ...

    def objection(self, payload: bytes | bytearray, values: int, /) -> str | None:
        """Return the reason why a payload must not be decoded, or None if it can be decoded.

        For example, a payload must not be decoded if it contains more than ``values`` values. This method is called
        before `decode`, for payloads of more than 4 KiB for which `claims` returns true. `JsonCodec` and `MsgpackCodec`
        count the values. A codec that cannot count values without decoding the payload returns None, and does not
        protect against too many values.
        """
        ...

    def outline(self, payload: bytes | bytearray, /) -> WireMessage | None:
        """Return the message in a payload, without its values. Return None if the payload is malformed.

        This method is called for payloads that `objection` or `decode` refuses, for example because JavaScript has sent
        a string with half of a surrogate pair. If this method returns a message, the message is counted and the
        connection stays open. If the message is a request, wsrpc rejects it; if the message is a response, the request
        of this side fails. If this method returns None, the message counts as malformed. wsrpc uses only the
        fields ``i``, ``h`` and ``ours``, and checks whether ``x`` and a non-empty list ``a`` are present.
        """
        ...

    def claims(self, payload: bytes | bytearray, /) -> bool:
        """Return whether a payload looks like a message of the wsrpc protocol, without decoding it.

        Payloads that do not look like messages and cannot be decoded are ignored.
        """
        ...

    def nests_deeper(self, payload: bytes | bytearray, message: WireMessage, depth: int, /) -> bool:
        """Return whether the arrays and objects of a payload are nested more than ``depth`` levels deep.

        ``message`` is the decoded payload, or the result of `outline`.
        """
        ...


class _Outline(Struct):
    """A message whose values are skipped instead of decoded, whatever their size."""

    a: Raw = Raw()
    i: Raw = Raw()
    h: Raw = Raw()
    x: Raw = Raw()
    ours: Raw = msgspec.field(default=Raw(), name="ws-wrapper")


LONGEST_ID = 64
"""Bytes of the longest encoded id or flag."""
_NO_ID = 0
"""In an outline, an id or flag that is longer, or does not decode."""


def _outliner(
    decode: Callable[[bytes | bytearray], _Outline],
    decode_value: Callable[[Raw], Any],
    has_items: Callable[[bytes], bool],
) -> Callable[[bytes | bytearray], WireMessage | None]:
    """Return a function that reads the outline of a message: its keys, its ids, and whether it is an event or request.

    Args:
        decode_value: decodes an id or flag.
        has_items: whether an encoded value is a list that is not empty.
    """

    def short(value: Raw) -> Any:
        if not len(value):
            return UNSET
        try:
            return decode_value(value) if len(value) <= LONGEST_ID else _NO_ID
        except ValueError:
            return _NO_ID

    def outline(payload: bytes | bytearray) -> WireMessage | None:
        try:
            found = decode(payload)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            return None
        h = short(found.h)
        message = WireMessage(i=short(found.i), h=None if h is UNSET else h, ours=short(found.ours))
        if len(found.a):
            message.a = [None] if has_items(bytes(found.a)) else None
        if len(found.x):
            message.x = None
        return message

    return outline


def _json_has_items(value: bytes) -> bool:
    return value.startswith(b"[") and len(value) > 2 and not value[1:-1].isspace()


def _msgpack_has_items(value: bytes) -> bool:
    return 0x90 < value[0] < 0xA0 or value[0] == 0xDC or value[0] == 0xDD


_outline_of_json = _outliner(msgspec.json.Decoder(_Outline).decode, msgspec.json.decode, _json_has_items)
_outline_of_msgpack = _outliner(msgspec.msgpack.Decoder(_Outline).decode, msgspec.msgpack.decode, _msgpack_has_items)

_REPLACED = [
    *((b"\\ud" + digit.encode(), b"\\ue0") for digit in "89abcdefABCDEF"),
    (b"NaN", b"0  "),
    (b"Infinity", b"0       "),
]


def _harmless(payload: bytes | bytearray) -> bytes | bytearray:
    """Return a payload of the same shape without texts that other encoders write and msgspec refuses.

    JavaScript escapes half of a surrogate pair, and Python's json writes NaN. Telling halves from pairs takes a second
    if a message is full of them, so all are replaced by private characters, which none of the used keys contains.
    """
    payload = payload.replace(b"\\uD", b"\\ud")
    for found, harmless in _REPLACED:
        payload = payload.replace(found, harmless)
    return payload


_decode_json = msgspec.json.Decoder(WireMessage).decode
_decode_json_strictly = msgspec.json.Decoder(StrictMessage).decode
_read_msgpack = msgspec.msgpack.Decoder(WireMessage).decode
_decode_msgpack_strictly = msgspec.msgpack.Decoder(StrictMessage).decode


_TOO_DEEP = f"the message is nested more than {DEEPEST} levels deep, which no peer reads: make its values flatter"


def _decode_msgpack(payload: bytes | bytearray) -> WireMessage:
    """Decode a message. A malformed one raises `RecursionError` if it is nested too deep, whatever the Python."""
    try:
        return _read_msgpack(payload)
    except ValueError:
        if msgpack_nests_deeper(payload, DEEPEST):
            raise RecursionError(_TOO_DEEP) from None
        raise


def _bounded(encode: Callable[[Any], bytes], nests_deeper: Callable[[bytes, int], bool]) -> Callable[[Any], bytes]:
    """Return a function that encodes as ``encode`` does, and refuses values that are nested too deep.

    Each level takes a byte at least, so short messages cost no more than a comparison.
    """

    def encode_bounded(message: Any) -> bytes:
        payload = encode(message)
        if len(payload) > DEEPEST and nests_deeper(payload, DEEPEST):
            raise RecursionError(_TOO_DEEP)
        return payload

    return encode_bounded


def _value_nests_deeper(value: Any, depth: int) -> bool:
    """Whether a message, or a container of built-in values, has more than ``depth`` levels.

    They are walked one by one. The function of the garbage collector finds a level in half the time of a loop.
    """
    level: list[Any] = [value]
    for _ in range(depth):
        level = [value for value in get_referents(*level) if value.__class__ in CONTAINERS]
        if not level:
            return False
    return True


def _encoded_nests_deeper(payload: bytes, depth: int) -> bool:
    return may_nest_deeper(payload, depth) and _value_nests_deeper(msgspec.msgpack.decode(payload), depth)


def strict_decoder(codec: Codec) -> Callable[[bytes | bytearray], WireMessage]:
    """Return a function that decodes a `StrictMessage` as ``codec.decode`` does, and raises an error for any other one.

    It refuses all messages if the codec is a user's, which knows no strict messages.
    """
    if codec.decode is _decode_json:
        return _decode_json_strictly
    if codec.decode is _decode_msgpack:
        return _decode_msgpack_strictly
    return _refuse


def _refuse(payload: bytes | bytearray) -> WireMessage:
    raise msgspec.ValidationError("a user's codec knows no strict messages")


class JsonCodec:
    """Codec for JSON in text messages. It uses msgspec.

    NaN and infinities become ``null``, because JSON does not have them. Bytes become base64 strings. Datetimes, UUIDs,
    Decimals and enums are encoded in msgspec's format. ``enc_hook`` converts values of other types to types that can be
    encoded.
    """

    name = "json"
    text = True

    def __init__(self, *, enc_hook: EncHook | None = None) -> None:
        check_function("enc_hook", enc_hook)
        self.enc_hook = enc_hook
        encode = msgspec.json.Encoder(enc_hook=make_enc_hook(enc_hook)).encode
        self.encode: Callable[[Any], bytes] = _bounded(encode, json_nests_deeper)
        self.decode: Callable[[bytes | bytearray], WireMessage] = _decode_json

    @staticmethod
    def claims(payload: bytes | bytearray, /) -> bool:
        return payload.lstrip()[:1] == b"{"

    objection = staticmethod(json_objection)

    @staticmethod
    def outline(payload: bytes | bytearray, /) -> WireMessage | None:
        return _outline_of_json(payload) or _outline_of_json(_harmless(payload))

    @staticmethod
    def nests_deeper(payload: bytes | bytearray, message: WireMessage, depth: int, /) -> bool:
        return json_nests_deeper(payload, depth)


class MsgpackCodec:
    """Codec for MessagePack in binary messages. It uses msgspec. Both sides must use this codec.

    Bytes are sent unchanged.
    """

    name = "msgpack"
    text = False

    def __init__(self, *, enc_hook: EncHook | None = None) -> None:
        check_function("enc_hook", enc_hook)
        self.enc_hook = enc_hook
        encode = msgspec.msgpack.Encoder(enc_hook=make_enc_hook(enc_hook)).encode
        self.encode: Callable[[Any], bytes] = _bounded(encode, _encoded_nests_deeper)
        self.decode: Callable[[bytes | bytearray], WireMessage] = _decode_msgpack

    @staticmethod
    def claims(payload: bytes | bytearray, /) -> bool:
        # A MessagePack map: fixmap, map 16, map 32.
        return bool(payload) and (payload[0] & 0xF0 == 0x80 or payload[0] in (0xDE, 0xDF))

    objection = staticmethod(msgpack_objection)
    outline = staticmethod(_outline_of_msgpack)

    @staticmethod
    def nests_deeper(payload: bytes | bytearray, message: WireMessage, depth: int, /) -> bool:
        # MessagePack has lengths instead of brackets, so the decoded values are walked.
        return _value_nests_deeper(message, depth)


def enc_hook_of(codec: Codec) -> EncHook | None:
    """Return the user's hook of a codec; None if there is none, or the codec is not one of wsrpc's classes."""
    return codec.enc_hook if isinstance(codec, JsonCodec | MsgpackCodec) else None


def json_text(codec: Codec, value: object) -> str:
    """Encode a value as JSON, as ``codec`` does if it is of JSON."""
    json = codec if isinstance(codec, JsonCodec) else JsonCodec(enc_hook=enc_hook_of(codec))
    return json.encode(value).decode()


SAME = frozenset({int, str, bool, bytes, bytearray, memoryview, type(None), NoMoreItems})
"""Types whose values arrive equal by both formats. Floats do, too, except NaN and the infinities."""
AT_A_GLANCE = 8
"""Items of the largest container that is checked item by item, which up to this size is faster than converting it."""
_BYTES = (bytes, bytearray, memoryview)


class NegotiatedCodec(MsgpackCodec):
    """MessagePack between two wsrpc peers that otherwise speak JSON.

    Bytes travel as they are; all other values arrive as they would by JSON. MessagePack by itself would keep datetimes,
    NaN and keys that are not text, so that a handler without annotations would get other values once the two peers have
    agreed on it.

    Values that MessagePack cannot express travel as JSON: at any time text messages are JSON and binary ones
    MessagePack.
    """

    def __init__(self, json: JsonCodec) -> None:
        super().__init__(enc_hook=json.enc_hook)
        hook = make_enc_hook(json.enc_hook)
        encode, encode_json = msgspec.msgpack.Encoder(enc_hook=hook).encode, json.encode

        def encode_either(message: Any) -> bytes:
            try:
                # A quick look at the values often shows that they arrive equal by MessagePack and by JSON. It is made
                # here, because for a small message a call would take as long as the look.
                cls = message.__class__
                if cls is Event or cls is Request:
                    parts = message.a
                    if (last := parts[-1]).__class__ is Item:  # the only argument of "next"
                        parts = (last.value,)
                elif cls is Resolution:
                    if message.d.__class__ in SAME:
                        return encode(message)
                    parts = (message.d,)
                else:
                    parts = _UNKNOWN
                for part in parts:
                    if part.__class__ not in SAME and not _is_alike(part):
                        break
                else:
                    return encode(message)
                message = msgspec.to_builtins(message, builtin_types=_BYTES, str_keys=True, enc_hook=hook)
                payload = encode(message)
                if may_nest_deeper(payload, DEEPEST) and _value_nests_deeper(message, DEEPEST):
                    raise RecursionError(_TOO_DEEP)
                # Searching for two bytes takes far less time than checking each value.
                return encode(_finite(message)) if _EXTREME.search(payload) else payload
            except (OverflowError, TypeError):
                pass  # an integer of more than 64 bits, or keys that are bytes
            # If nothing can encode it, this fails, too. That is outside of `except`, so that a log shows one error.
            return encode_json(message)

        self.encode = encode_either


_EXTREME = re.compile(rb"\xcb[\x7f\xff]")
"""The first bytes of NaN and the infinities in MessagePack. Numbers beyond 1e303 and parts of others match, too."""


def _finite(value: Any) -> Any:
    """Return a value with None in place of NaN and infinities, for which JSON has no number."""
    if value.__class__ is float:
        return value if isfinite(value) else None
    # Up to Python 3.11 a comprehension counts as a call, and 512 levels of two calls are too many.
    if value.__class__ is dict:
        return dict(zip(value, map(_finite, value.values()), strict=True))
    if value.__class__ in _ARRAYS:
        return list(map(_finite, value))
    return value


_ARRAYS = frozenset({list, tuple})
_UNKNOWN = (object(),)
"""In place of the values of a message of another kind, so that they are looked through."""


def _is_alike(value: Any) -> bool:
    """Whether a value arrives equal by both formats, if it is a float or a small flat container; else False."""
    # Loops and comparisons by hand: `all` over a generator, and a function for floats, take half as long again.
    if value.__class__ is dict and len(value) <= AT_A_GLANCE:
        for key in value:  # of a dict as small as most, `items()` takes longer than looking each value up
            if key.__class__ is not str:
                return False
            item = value[key]
            if item.__class__ not in SAME and not (item.__class__ is float and isfinite(item)):
                return False
        return True
    if value.__class__ is list and len(value) <= AT_A_GLANCE:
        for item in value:
            if item.__class__ not in SAME and not (item.__class__ is float and isfinite(item)):
                return False
        return True
    return value.__class__ is float and isfinite(value)
