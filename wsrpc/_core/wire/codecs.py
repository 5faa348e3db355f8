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
from ...errors import short
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
"""The first byte of a message in JSON. No message in MessagePack begins with this byte."""


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
    """A message whose values are skipped instead of decoded."""

    a: Raw = Raw()
    i: Raw = Raw()
    h: Raw = Raw()
    x: Raw = Raw()
    ours: Raw = msgspec.field(default=Raw(), name="ws-wrapper")


LONGEST_ID = 64
"""Bytes of the longest encoded id or flag."""
_NO_ID = 0
"""Replaces an id or flag in an outline, if it is longer than `LONGEST_ID` or cannot be decoded."""


def _outliner(
    decode: Callable[[bytes | bytearray], _Outline],
    decode_value: Callable[[Raw], Any],
    has_items: Callable[[bytes], bool],
) -> Callable[[bytes | bytearray], WireMessage | None]:
    """Return a function that reads the outline of a message: its ids, and whether it is an event or request.

    Args:
        decode_value: decodes an id or flag.
        has_items: returns whether an encoded value is a list that is not empty.
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
    """Return a payload of the same shape, without texts that other encoders write and msgspec refuses.

    JavaScript escapes half of a surrogate pair, and Python's json writes NaN. To distinguish halves from pairs would
    take a second for a message full of surrogates. Therefore all surrogates are replaced by private characters, which
    no key contains.
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
    """Decode a message. With any Python version, a malformed message that nests too deep raises `RecursionError`."""
    try:
        return _read_msgpack(payload)
    except ValueError:
        if msgpack_nests_deeper(payload, DEEPEST):
            raise RecursionError(_TOO_DEEP) from None
        raise


def _name_of_part(message: Any, encode: Callable[[Any], bytes]) -> str:
    """Return what the part of a message is for its sender that has text that cannot be encoded."""
    for number, part in enumerate(getattr(message, "a", ())):
        try:
            encode(part)
        except UnicodeEncodeError:
            name = f"argument {number} of {short(message.a[0])}" if number else "the name of the event"
            return "the item" if part.__class__ is Item else name
    names = {"d": "the result", "e": "the error", "x": "the reason"}
    return next((name for field, name in names.items() if hasattr(message, field)), "the value")


def _bounded(encode: Callable[[Any], bytes], nests_deeper: Callable[[bytes, int], bool]) -> Callable[[Any], bytes]:
    """Return a function that encodes like ``encode``, and refuses values that are nested too deep.

    Each level takes at least one byte, so for short messages the check is one comparison. If text cannot be encoded,
    the error says where it is: Python's own error shows one character.
    """

    def encode_bounded(message: Any) -> bytes:
        try:
            payload = encode(message)
        except UnicodeEncodeError as exc:
            if exc.reason == "surrogates not allowed":  # otherwise the user's hook has raised it
                part = _name_of_part(message, encode)
                exc.reason = f"{part} has half of a surrogate pair in {short(exc.object)}: replace it, or send bytes"
            raise
        if len(payload) > DEEPEST and nests_deeper(payload, DEEPEST):
            raise RecursionError(_TOO_DEEP)
        return payload

    return encode_bounded


def _value_nests_deeper(value: Any, depth: int) -> bool:
    """Return whether a message, or a container of built-in values, has more than ``depth`` levels.

    The function of the garbage collector finds the values of a level in half the time of a loop.
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
    """Return a function that decodes strict messages like ``codec.decode``, and raises an error for all other messages.

    For a codec of the user the function refuses all messages, because such a codec does not know `StrictMessage`.
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
        # MessagePack has lengths instead of brackets, so the decoded values are checked.
        return _value_nests_deeper(message, depth)


def enc_hook_of(codec: Codec) -> EncHook | None:
    """Return the user's hook of a codec. None without a hook, and for a codec of the user."""
    return codec.enc_hook if isinstance(codec, JsonCodec | MsgpackCodec) else None


def json_text(codec: Codec, value: object) -> str:
    """Encode a value as JSON, with ``codec`` if it is a JSON codec."""
    json = codec if isinstance(codec, JsonCodec) else JsonCodec(enc_hook=enc_hook_of(codec))
    return json.encode(value).decode()


SAME = frozenset({int, str, bool, bytes, bytearray, memoryview, type(None), NoMoreItems})
"""Types whose values arrive equal in both formats. Floats do, too, except NaN and the infinities."""
FROZEN = SAME - {bytearray, memoryview} | {float}
"""Types whose values do not change."""
AT_A_GLANCE = 8
"""Items of the largest container that is checked item by item. Up to this size, that is faster than a conversion."""
_BYTES = (bytes, bytearray, memoryview)


class NegotiatedCodec(MsgpackCodec):
    """MessagePack between two wsrpc peers that otherwise speak JSON.

    Bytes are sent unchanged. All other values arrive as they would in JSON. Pure MessagePack would keep datetimes, NaN
    and keys that are not text. A handler without annotations would then get different values after the two peers have
    agreed on MessagePack.

    Values that MessagePack cannot express are sent as JSON. Text messages are always JSON, and binary messages are
    always MessagePack.
    """

    def __init__(self, json: JsonCodec) -> None:
        super().__init__(enc_hook=json.enc_hook)
        hook = make_enc_hook(json.enc_hook)
        encode, encode_json = msgspec.msgpack.Encoder(enc_hook=hook).encode, json.encode

        def encode_either(message: Any) -> bytes:
            try:
                # A quick check of the values often shows that they arrive equal in MessagePack and in JSON. The check
                # is inline, because for a small message a call would take as long as the check.
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
                plain = msgspec.to_builtins(message, builtin_types=_BYTES, str_keys=True, enc_hook=hook)
                payload = encode(plain)
                if may_nest_deeper(payload, DEEPEST) and _value_nests_deeper(plain, DEEPEST):
                    raise RecursionError(_TOO_DEEP)
                # Searching for two bytes takes far less time than checking each value.
                return encode(_finite(plain)) if _EXTREME.search(payload) else payload
            except (OverflowError, TypeError, UnicodeEncodeError):
                pass  # an integer of more than 64 bits, keys that are bytes, or text that JSON refuses with a reason
            # If JSON cannot encode the message either, this raises. It is outside of `except`, so that a log shows only
            # one error.
            return encode_json(message)

        self.encode = encode_either


_EXTREME = re.compile(rb"\xcb[\x7f\xff]")
"""The first bytes of NaN and the infinities in MessagePack. Numbers beyond 1e303, and parts of other values, also
match."""


def _finite(value: Any) -> Any:
    """Return a value with None instead of NaN and the infinities, which JSON does not have."""
    if value.__class__ is float:
        return value if isfinite(value) else None
    # Up to Python 3.11, a comprehension counts as a call, and 512 levels of two calls each are too many.
    if value.__class__ is dict:
        return dict(zip(value, map(_finite, value.values()), strict=True))
    if value.__class__ in _ARRAYS:
        return list(map(_finite, value))
    return value


_ARRAYS = frozenset({list, tuple})
_UNKNOWN = (object(),)
"""Stands for the values of other kinds of messages. It fails the quick check, so all their values are examined."""


def _is_alike(value: Any) -> bool:
    """Return whether a value is a float or a small flat container, and arrives equal in both formats."""
    # Written as loops. With `all` over a generator, and with a function for floats, the check takes 50 % longer.
    if value.__class__ is dict and len(value) <= AT_A_GLANCE:
        for key in value:  # for most dicts, `items()` takes longer than a lookup of each value
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
