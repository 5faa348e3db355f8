"""The codecs, alone."""

from __future__ import annotations

import itertools
import json
import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from wsrpc._core.wire import counting
from wsrpc._core.wire.codecs import BRACE, NegotiatedCodec, strict_decoder
from wsrpc._core.wire.counting import json_nests_deeper
from wsrpc._core.wire.go_profile import GoCodec
from wsrpc._core.wire.messages import Event, WireMessage
from wsrpc.codecs import Codec, JsonCodec, MsgpackCodec

CODECS: list[Codec] = [JsonCodec(), MsgpackCodec()]


def test_what_codecs_claim() -> None:
    json, msgpack = CODECS
    assert [json.claims(payload) for payload in (b"{", b" \r\n\t{x", b"", b"[{", b"x{", b"  ")] == [True] * 2 + [
        False
    ] * 4
    assert all(msgpack.claims(payload) for payload in (b"\x80", b"\x8f", b"\xde\x00", b"\xdf"))
    assert not any(msgpack.claims(payload) for payload in (b"", b"\x90", b"\xc0", b"\x01", b"\xa1a", b"{"))


def test_the_outline_of_a_message() -> None:
    codec = JsonCodec()
    saved = codec.outline(rb'{"i":3,"a":["e","\ud800"],"other":1}')
    assert saved is not None and saved.i == 3 and saved.a and saved.x is UNSET
    saved = codec.outline(b'{"i":3,"d":NaN,"ws-wrapper":false}')
    assert saved is not None and saved.i == 3 and saved.ours is False and saved.a is UNSET
    saved = codec.outline(b'{"h":3,"x":{"k":[-Infinity,1e400,' + b"9" * 10_000 + b"]}}")
    assert saved is not None and saved.h == 3 and saved.x is not UNSET and saved.i is UNSET
    for empty in (b'{"a":[],"d":NaN}', b'{"a":[ \n],"d":NaN}', b'{"a":{"0":1},"d":NaN}', b'{"a":null,"d":NaN}'):
        saved = codec.outline(empty)
        assert saved is not None and saved.a is not UNSET and not saved.a


HALVES = (r"\ud83d", r"\ude00", r"\uD900", r"\uDFFF", r"\\", r"\"", r"\n", "a", "ud83d", "ude00")


@pytest.mark.parametrize("first", HALVES)
def test_json_with_any_halves_of_surrogate_pairs_has_an_outline(first: str) -> None:
    codec = JsonCodec()
    for rest in itertools.product(HALVES, repeat=3):
        payload = f'{{"a":["{first}{"".join(rest)}"],"\\ud869":7,"i":1}}'.encode()
        json.loads(payload)
        saved = codec.outline(payload)
        assert saved is not None and saved.i == 1 and saved.a, payload


@pytest.mark.parametrize("payload", [b"", b"[1]", b"null", b'{"i":1,}', b'{"a":' * 100_000, rb'{"a":["\x"]}'])
def test_what_is_not_well_formed_has_no_outline(payload: bytes) -> None:
    assert JsonCodec().outline(payload) is None


@pytest.mark.parametrize("field", WireMessage.__struct_encode_fields__)
@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_depth_is_counted_in_each_field(codec: Codec, field: str) -> None:
    value: Any = 1
    for _ in range(9):
        value = [value]
    payload = (msgspec.json if codec.text else msgspec.msgpack).encode({field: value})
    message = codec.decode(payload)
    assert not codec.nests_deeper(payload, message, 10) and codec.nests_deeper(payload, message, 9)


@dataclass
class Node:
    next: Any


def node(levels: int) -> Any:
    value: Any = None
    for _ in range(levels):
        value = Node(value)
    return value


def array(levels: int) -> Any:
    value: Any = math.nan  # MessagePack between peers writes null for it
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "around", [lambda value: value, lambda value: [*range(70_000), "x" * 9000, value, b"\x93" * 600]]
)
@pytest.mark.parametrize("make", [node, array])
@pytest.mark.parametrize(
    "codec", [*CODECS, NegotiatedCodec(JsonCodec()), GoCodec(JsonCodec())], ids=lambda codec: type(codec).__name__
)
def test_what_is_nested_more_than_512_levels_deep_is_not_encoded(codec: Codec, make: Any, around: Any) -> None:
    """Python's own limit is another one in each version."""
    others = 2 + isinstance(around(0), list)  # the message, its arguments
    message = Event(("e", around(make(512 - others))))
    payload = codec.encode(message)
    decoded = (msgspec.json if payload[0] == BRACE else msgspec.msgpack).decode(payload, type=WireMessage)
    reader = JsonCodec() if payload[0] == BRACE else MsgpackCodec()
    assert reader.nests_deeper(payload, decoded, 511) and not reader.nests_deeper(payload, decoded, 512)
    for levels in (513 - others, 800):
        with pytest.raises(RecursionError, match="nested more than 512 levels deep"):
            codec.encode(Event(("e", around(make(levels)))))


def test_messagepack_depth_counts_keys() -> None:
    """MessagePack allows arrays as keys, which become tuples."""
    payload = b"\x81\xa1a\x92\xa1e\x81" + b"\x91" * 100 + b"\x01\x01"
    assert MsgpackCodec().nests_deeper(payload, MsgpackCodec().decode(payload), 64)


USUAL: list[dict[str, Any]] = [
    *({"a": ["say", 1]}, {"i": 1, "a": ["say", *range(64)], "c": "room"}, {"i": 2**53 - 1, "d": None}, {}),
    *({"i": 5, "e": {"message": "no"}, "_": 1}, {"i": 5, "h": 1}, {"h": 5, "x": "no"}, {"h": None, "c": None, "i": 5}),
]
UNUSUAL: list[dict[str, Any]] = [
    *({"a": a} for a in ([], "say", ["say", *range(65)])),
    *({"i": i, "d": 1} for i in (0, -1, 2**53, 1.0, True, "1", None)),
    *({"h": h, "x": 1} for h in (0, -1, 2**53, 1.0, True, "1")),
    *({"a": ["say"], key: False} for key in ("ws-wrapper", "other")),
]


@pytest.mark.parametrize("codec", [JsonCodec(), MsgpackCodec()], ids=["json", "msgpack"])
def test_the_strict_decoder_reads_usual_messages_as_the_tolerant_one_does_and_refuses_others(
    codec: JsonCodec | MsgpackCodec,
) -> None:
    decode = strict_decoder(codec)
    for message in USUAL:
        payload = codec.encode(message)
        strict, tolerant = decode(payload), codec.decode(payload)
        assert all(getattr(strict, field) == getattr(tolerant, field) for field in WireMessage.__struct_fields__)
    for message in UNUSUAL:
        with pytest.raises(msgspec.ValidationError):
            decode(codec.encode(message))


def test_a_message_that_is_decoded_strictly_is_utf_8_throughout() -> None:
    codec = JsonCodec()
    decode = strict_decoder(codec)
    texts = (b'"x"', '"ü\\n漢"'.encode(), b'"\xff"', b'"\xed\xa0\x80"', b'"\xc3\\u00a9"', b"\xc3\xa9", b'{"\xc3":1}')
    keys = (b'"c"', b'"e"', b'"_"', b'"i"', b'"ws-wrapper"', b'"z"', '"ü"'.encode(), b'"\xff"')
    proved = 0
    for key, other, text, after in itertools.product(keys, keys, texts, (b"", b" ", "ü".encode())):
        payload = b'{"d":1,' + key + b":" + text + b"," + other + b":" + text + b"}" + after
        expected: WireMessage | None = None
        with suppress(ValueError):
            expected = codec.decode(payload)
        valid = True
        try:
            payload.decode()
        except UnicodeDecodeError:
            valid = False
        try:
            message = decode(payload)
        except msgspec.ValidationError:
            continue  # an unusual message
        except ValueError:
            assert expected is None or not valid
        else:
            proved += 1
            assert valid and expected is not None
            assert all(getattr(message, field) == getattr(expected, field) for field in WireMessage.__struct_fields__)
    assert proved > 30


PIECES = ("", " ", "{", "}", "[", "]", '"', "\\", ",", "1e5", "x" * 100)


@pytest.mark.parametrize("depth", [2, 3])
def test_the_fast_paths_for_long_json_and_the_count_of_its_brackets_agree(
    depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = 0
    for chosen in itertools.product(PIECES, repeat=4):
        payload = ('{"a":["' + "".join(chosen) + '"]}').encode()
        with monkeypatch.context() as patch:
            patch.setattr(counting, "LONG", 10**6)
            patch.setattr(counting, "_LEVELS", 0)
            deeper = json_nests_deeper(payload, depth)
        monkeypatch.setattr(counting, "LONG", 0)
        assert json_nests_deeper(payload, depth) is deeper, payload
        outside = counting._outside_few_texts(payload)
        if outside is not None:
            fast += 1
            assert outside.translate(None, counting._NOT_BRACKETS) == b"".join(
                counting._outside_texts(payload, counting._NOT_BRACKETS)
            )
    assert fast > 1000, "some have no escaped quote"


def test_looking_at_depth_takes_time_in_proportion() -> None:
    """Texts that would make a careless regular expression try everything twice, and twice again."""
    for piece in (rb"\\", rb"\"", b"[", b'"",', rb'"\\",'):
        JsonCodec().nests_deeper(b'["' + piece * 200_000 + b'"]' + b"[" * 70, WireMessage(), 64)
