"""`Limits.values`: what holds too many values is refused before it is decoded."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from leftovers import nothing_left as nothing_left
from stream_driver import hello

from wsrpc import Limits, Server
from wsrpc._core.wire import counting
from wsrpc._core.wire.control import CREDIT, Announced
from wsrpc._core.wire.counting import ARRAY_KEYS, NUMBER_KEYS, SHARE, SLOW_FLOATS
from wsrpc._core.wire.settings import KINDS, make_settings
from wsrpc.codecs import Codec, JsonCodec, MsgpackCodec
from wsrpc.testing import ScriptedTransport

pytestmark = pytest.mark.usefixtures("nothing_left")

CODECS: list[Codec] = [JsonCodec(), MsgpackCodec()]
BOTH = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
VALUES = 4000
TEXT = '\\",[{:]}\\\\'


def encode(codec: Codec, **message: Any) -> bytes:
    return msgspec.json.encode(message) if codec.text else msgspec.msgpack.encode(message)


# ---------------------------------------------------------------- counting


@BOTH
@pytest.mark.parametrize(
    ("value", "count"),
    [
        pytest.param(lambda n: [0] * n, 1, id="numbers"),
        pytest.param(lambda n: [TEXT] * n, 1, id="texts"),
        pytest.param(lambda n: ["x" * 40] * n, SHARE, id="long texts"),
        pytest.param(lambda n: {f"{TEXT}{i}": i for i in range(n)}, 2, id="keys and values"),
        pytest.param(lambda n: [[]] * n, SHARE, id="arrays"),
        pytest.param(lambda n: [[0] * 20, {"k": 1}] * (n // 2), 12, id="filled ones"),
    ],
)
def test_values_are_counted_outside_of_texts(codec: Codec, value: Any, count: int) -> None:
    """``count``: of how many values each piece is, as far as the bound is concerned."""
    if codec.text and value(1) == ["x" * 40]:
        count = 1  # only MessagePack's texts take time to step over
    most = VALUES // count
    assert codec.objection(encode(codec, a=["e", value(most * 9 // 10)]), VALUES) is None
    objection = codec.objection(encode(codec, a=["e", value(most * 11 // 10 + 10)]), VALUES)
    assert objection is not None and "Limits.values" in objection


HONEST: dict[str, Callable[[], Any]] = {
    "a grey picture of a million points": lambda: [[n % 256 for n in range(1024)] for _ in range(1000)],
    "commas": lambda: "," * (4 * 1024 * 1024 - 100),
    "brackets in text": lambda: "[" * 10 * VALUES + '","' * 10 * VALUES + "\\" * 10 * VALUES + "\x90" * 10 * VALUES,
    "small floats": lambda: [n * 1.23456789e-7 for n in range(20_000)] + [n * 1.23456789e-270 for n in range(20_000)],
    "text like slow floats": lambda: ["3e308e308e308e308", '",5e-324,"'] * 20_000 + ["1e308," * 20_000],
    "100,000 texts as keys": lambda: {str(n): n for n in range(100_000)},
    "arrays in large maps": lambda: {str(n): [n, [n]] for n in range(1000)},
    "numbers like maps of arrays": lambda: [struct.unpack("!d", b"\xde\x91\x92\x93" * 2)[0]] * 2000,
    "arrays below number keys": lambda: {n: {"k": [n] * 16} for n in range(1000)},
}


@BOTH
@pytest.mark.parametrize("what", HONEST)
def test_what_honest_peers_send_passes(codec: Codec, what: str) -> None:
    payload = encode(codec, a=["e", HONEST[what]()])
    assert codec.objection(payload, Limits().values) is None
    codec.decode(payload)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**32) | st.floats(allow_nan=False) | st.text(max_size=60),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(alphabet='",:[{]}\\ab', max_size=5), inner),
)


def shape(value: Any) -> tuple[int, int, int]:
    """How many values are in it (keys among them), arrays and objects, and separators when it is JSON."""
    if isinstance(value, dict):
        parts = [shape(each) for each in value.values()]
        own = (2 * len(value), 1, max(0, 2 * len(value) - 1))
    elif isinstance(value, list):
        parts = [shape(each) for each in value]
        own = (len(value), 1, max(0, len(value) - 1))
    else:
        return 0, 0, 0
    values, containers, separators = (sum(column) for column in zip(own, *parts, strict=True))
    return values, containers, separators


@given(JSON, st.integers(1, 40))
def test_a_count_is_that_of_what_decodes(value: Any, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_CHUNK", chunk)
        values, containers, separators = shape(value)
        for payload in (msgspec.json.encode(value), json.dumps(value).encode()):
            most = max(SHARE * containers, containers + separators)
            assert not counting._exceeds_outside_texts(payload, most)
            assert not most or counting._exceeds_outside_texts(payload, most - 1)
        packed = msgspec.msgpack.encode(value)
        assert not counting._walk(packed, max(1, values, SHARE * (containers + packed.count(b"\xd9") + 1)))[0]
        assert values == 0 or counting._walk(packed, values - 1)[0]


@given(JSON | st.binary(max_size=60) | st.dictionaries(st.integers(0, 9), st.binary(max_size=9)), st.integers(1, 60))
def test_the_fast_path_for_few_values_and_the_general_one_agree(value: Any, values: int) -> None:
    packed = msgspec.msgpack.encode(value)
    large = b"\x82\xa1b\xc6\x00\x00\x10\x00" + b"\xde\xdf\x90\xdc" * 1024 + b"\xa1v" + packed
    long_map = b"\xde\x00\x14" + packed * 40
    for payload in (packed, large, large[:-1], long_map, long_map + large, b"\xdf" + packed):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(counting, "_FEW", 0)
            general = counting.msgpack_objection(payload, values)
        assert counting.msgpack_objection(payload, values) == general


def arrays(count: int, each: bytes = b"\x90", claimed: int | None = None) -> bytes:
    head = struct.pack("!I", count if claimed is None else claimed)
    return b"\x82\xa1i\x07\xa1a\x92\xa1e\xdd" + head + each * count


FORMS = [b"\x90", b"\xdc\x00\x00", b"\xdd" + bytes(4), b"\x80", b"\xde\x00\x00", b"\xdf" + bytes(4)]


@pytest.mark.parametrize("form", [*FORMS, b"\xd9\x00", b"\xc4\x00"])
def test_each_form_of_a_container_or_a_text_counts_alike(form: bytes) -> None:
    for count, passes in ((VALUES // SHARE - 10, True), (VALUES // SHARE + 10, False)):
        assert (MsgpackCodec().objection(arrays(count, form), VALUES) is None) is passes


MEBI = 1024 * 1024
SOME = 100_000
"""A bound where memory is traced: tracing makes each value that is counted cost 30 times as much."""
HOSTILE = [
    pytest.param(MsgpackCodec(), arrays(4 * MEBI - 100), id="empty arrays"),
    pytest.param(MsgpackCodec(), arrays(4 * MEBI - 100, b"\xe0"), id="numbers"),
    pytest.param(MsgpackCodec(), arrays(SOME, b"\xdb\x00\x00\x00\x00", claimed=1000), id="texts of a long form"),
    pytest.param(MsgpackCodec(), arrays(4 * MEBI // 6, b"\xde\x00\x01\x91\x05\x00"), id="maps"),
    pytest.param(MsgpackCodec(), b"\x82\xa1i\x07\xa1a" + b"\xdc\x80\x00\xcb" * MEBI, id="heads that lie"),
    pytest.param(JsonCodec(), b'{"i":7,"a":["e"' + b",[]" * (4 * MEBI // 3 - 10) + b"]}", id="[]"),
    pytest.param(JsonCodec(), b'{"i":7,"a":["e"' + b',""' * (4 * MEBI // 3 - 10) + b"]}", id='""'),
    pytest.param(JsonCodec(), b'{"i":7,"a":["e"' + b',[","]' * (4 * MEBI // 6 - 10) + b"]}", id='[","]'),
]


@pytest.mark.parametrize(
    ("codec", "head", "piece"),
    [
        *((JsonCodec(), b'{"a":["', piece) for piece in (b'"', b"\\", b'\\"', b'",', b'","', b",", b"[", b'"\\",')),
        (MsgpackCodec(), b"\x81\xa1a", b"\xdd\x00\x0f\xff\xff\xcb" + bytes(8)),
        (MsgpackCodec(), b"\x81\xa1a", b"\xdc\xff\xff\xcb" + bytes(8)),
        (MsgpackCodec(), b"\x81\xa1a", b"\x91"),
        (MsgpackCodec(), b"\x81\xa1a", b"\xdf\x00\x00\x00\x01"),
    ],
)
def test_counting_takes_time_in_proportion(codec: Codec, head: bytes, piece: bytes) -> None:
    """A count that looked at everything twice, and twice again, would never end."""
    codec.objection(head + piece * (MEBI // 2 // len(piece)), 2**53)


@pytest.mark.parametrize(("codec", "payload"), HOSTILE)
def test_what_costs_too_much_is_refused_and_takes_no_memory_to_speak_of(codec: Codec, payload: bytes) -> None:
    """Ten times the message would be what decoding begins with."""
    assert codec.objection(payload, Limits().values) is not None
    tracemalloc.start()
    try:
        assert codec.objection(payload, SOME) is not None
        assert tracemalloc.get_traced_memory()[1] < 4 * len(payload)
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- slow floats


def floats(text: str, count: int) -> bytes:
    return b'{"i":7,"a":["e",[0' + f",{text}".encode() * count + b"]]}"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("5e-324", id="the least"),
        pytest.param("2.2250738585072011E-308", id="subnormal"),
        pytest.param("1.7976931348623157e+308", id="the largest"),
        pytest.param("0." + "0" * 30 + "1e-280", id="zeros before"),
        pytest.param("5e-00324", id="zeros in the exponent"),
        pytest.param("1.2345000000000000148029736616688e-40", id="halfway"),
        pytest.param("1e9999", id="too large"),
    ],
)
def test_many_floats_that_take_long_to_read_are_refused(text: str) -> None:
    codec, values = JsonCodec(), Limits().values
    assert codec.objection(floats(text, SLOW_FLOATS), values) is None
    objection = codec.objection(floats(text, SLOW_FLOATS + 200), values)
    assert objection is not None and "floats" in objection


# ---------------------------------------------------------------- numbers as keys


def walking_keys(full: int, walkers: int, width: int = 15) -> bytes:
    """A map whose first keys fill a chain of slots of a dict, and whose other keys all pass along it.

    2**61 has the hash of 1, so that it looks in the same slots as 1 does, one after the other.
    """
    chain, slot = [], 1
    for _ in range(full):
        chain.append(slot)
        slot = (slot * 5 + 1) % 2**width
    keys = [*chain, *[2**61] * walkers]
    return b"\xdf" + struct.pack("!I", len(keys)) + b"".join(msgspec.msgpack.encode(key) + b"\xc0" for key in keys)


def with_argument(encoded: bytes) -> bytes:
    return b"\x82\xa1i\x07\xa1a\x92\xa1e" + encoded


# ---------------------------------------------------------------- arrays and timestamps as keys


def colliding_keys(count: int) -> bytes:
    """A message whose argument is a map with that many keys, all of the same hash."""
    size = 2**64
    factor, multiplier, seed = 11400714785074694791, 14029467366897019727, 2870177450012600261
    inverse = pow(multiplier, -1, size)
    keys: list[bytes] = []
    first = 0
    while len(keys) < count:
        first += 1
        lane = (seed + first * multiplier) % size
        lane = ((lane << 31 | lane >> 33) % size) * factor % size
        second = (12345 - lane) * inverse % size
        if second < 2**61 - 1:
            keys.append(struct.pack("!BBIBQ", 0x92, 0xCE, first, 0xCF, second))
        elif 2 < size - second < 2**61 - 1:
            keys.append(struct.pack("!BBIBq", 0x92, 0xCE, first, 0xD3, second - size))
    return b"\x82\xa1i\x07\xa1a\x92\xa1e\xdf" + struct.pack("!I", count) + b"".join(key + b"\xc0" for key in keys)


def large_map(*entries: bytes) -> bytes:
    return with_argument(b"\xdf" + struct.pack("!I", len(entries)) + b"".join(entries))


STAMP = b"\xd6\xff\x00\x00\x00\x01"
HALF = NUMBER_KEYS // 2
KEYS: dict[str, tuple[Callable[[int], bytes], int]] = {
    # a message with so many keys that may collide, and how many may be in it
    "numbers that collide": (lambda n: with_argument(walking_keys(HALF, n - HALF)), NUMBER_KEYS),
    **{
        f"{key!r}": (lambda n, key=key: large_map(*[msgspec.msgpack.encode(key) + b"\xcb" + bytes(8)] * n), NUMBER_KEYS)  # type: ignore[misc]
        for key in (2**40, 0.5, None)
    },
    # Maps share the bound by the square of their keys, since that is what the time grows with.
    "many maps": (lambda n: encode(MsgpackCodec(), a=["e", [dict.fromkeys(range(HALF // 2))] * n]), 16),
    "many maps in a map": (lambda n: encode(MsgpackCodec(), a=["e", {"k": [dict.fromkeys(range(HALF // 2))] * n}]), 16),
    "arrays that collide": (lambda n: colliding_keys(n), ARRAY_KEYS),
    "timestamps": (lambda n: large_map(*[STAMP + b"\xc0"] * n), ARRAY_KEYS),
    "arrays in arrays": (lambda n: large_map(*[b"\x91\x91\x91\x05\xc0"] * n), ARRAY_KEYS // 3),
    "timestamps in arrays": (lambda n: large_map(*[b"\x92\x05" + STAMP + b"\xc0"] * n), ARRAY_KEYS // 2),
    "long arrays": (lambda n: large_map(*[b"\xdc\x00\x64" + b"\x05" * 100 + b"\xc0"] * n), ARRAY_KEYS // 7),
}


@pytest.mark.parametrize("what", KEYS)
def test_many_keys_are_refused_because_their_hashes_may_collide(what: str) -> None:
    assert hash(2**61) == hash(1), "they do in this Python"
    assert len({hash(key) for key in MsgpackCodec().decode(colliding_keys(100)).a[1]}) == 1
    make, most = KEYS[what]
    assert MsgpackCodec().objection(make(most), Limits().values) is None
    objection = MsgpackCodec().objection(make(most + 1), Limits().values)
    assert (objection is not None and " keys of " in objection) or "as keys" in str(objection)


@pytest.mark.parametrize("keys", [colliding_keys(10_000), with_argument(walking_keys(NUMBER_KEYS, 1))])
def test_a_map_that_is_cut_off_is_refused_like_a_whole_one(keys: bytes) -> None:
    """The decoder puts its keys into a dict before it finds the end."""
    start = keys.index(b"\xdf") + 1
    (count,) = struct.unpack_from("!I", keys, start)
    for claimed in (count + 1, len(keys), 2 * len(keys), 2**32 - 1):
        payload = keys[:start] + struct.pack("!I", claimed) + keys[start + 4 :]
        assert MsgpackCodec().objection(payload, Limits().values) is not None, claimed


# ---------------------------------------------------------------- what the other side sees


@pytest.mark.parametrize("same", [True, False])
async def test_a_message_to_many_is_looked_through_a_few_times_whatever_they_announce(same: bool) -> None:
    looks: list[int] = []

    class Noting(JsonCodec):
        def objection(self, payload: bytes | bytearray, values: int, /) -> str | None:
            looks.append(values)
            return super().objection(payload, values)

    server = Server(codec=Noting())
    for number in range(200):
        line = ScriptedTransport()
        await server.accept(line)
        line.feed(hello(values=VALUES if same else 1000 + 100 * number))
    report = await server.emit("count", [0] * 9000)
    assert len(report.errors) == (200 if same else 81)
    assert len(looks) == 1 if same else len(looks) <= 64
    await server.close()


FEATURES = frozenset({CREDIT})


def test_remote_peers_cannot_fill_the_memory_with_terms() -> None:
    settings = make_settings(Limits(), None)
    for size in range(1000, 1000 + 3 * KINDS):
        assert settings.agreed(Announced(message=size), None, FEATURES).largest == size
    again = [settings.agreed(Announced(message=size), None, FEATURES) for size in range(1000, 1000 + 3 * KINDS)]
    shared = [settings.agreed(terms.announced, None, FEATURES) is terms for terms in again]
    assert shared == [True] * KINDS + [False] * 2 * KINDS


def test_a_look_at_bytes_that_begin_large_maps_elsewhere_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk through 300 nested records takes twice as long as decoding them."""
    codec = MsgpackCodec()
    records = [{"id": n, "tags": ["a", str(n)], "at": {"x": n / 2, "zip": 3000 + n}} for n in range(300)]
    payload = encode(codec, a=["e", records])
    assert b"\xde" in payload and b"\xdf" in payload
    walked: list[int | None] = []
    walk = counting._walk

    def watched(payload: bytes, values: int, visits: int | None = None) -> tuple[bool, int]:
        walked.append(visits)
        return walk(payload, values, visits)

    monkeypatch.setattr(counting, "_walk", watched)
    assert codec.objection(payload, Limits().values) is None
    assert None not in walked
