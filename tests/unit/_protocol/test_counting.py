"""`Limits.values`: what holds too many values is refused before it is decoded."""

from __future__ import annotations

import json
import struct
import tracemalloc
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
from core_driver import Driven, turns
from hypothesis import given
from hypothesis import strategies as st
from leftovers import nothing_left as nothing_left
from stream_driver import agreed, control

from wsrpc import Client, KeepLatest, Limits, MessageTooBig, Peer, Server, Service
from wsrpc._protocol import counting
from wsrpc._protocol.counting import ARRAY_KEYS, NUMBER_KEYS, SHARE, SLOW_FLOATS
from wsrpc._protocol.messages import WireMessage
from wsrpc._sending.checks import Objections
from wsrpc.codecs import Codec, JsonCodec, MsgpackCodec
from wsrpc.testing import ScriptedTransport, connect, pair

pytestmark = pytest.mark.usefixtures("nothing_left")

CODECS: list[Codec] = [JsonCodec(), MsgpackCodec()]
BOTH = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
VALUES = 4000
FEW = Limits(values=VALUES)
TEXT = '\\",[{:]}\\\\'


def encode(codec: Codec, **message: Any) -> bytes:
    return msgspec.json.encode(message) if codec.text else msgspec.msgpack.encode(message)


# ---------------------------------------------------------------- counting


@BOTH
@pytest.mark.parametrize(
    ("value", "count"),
    [
        pytest.param(lambda n: [0] * n, 1, id="numbers"),
        pytest.param(lambda n: [0.5] * n, 1, id="floats"),
        pytest.param(lambda n: [200, 1.5, -7, None, True] * (n // 5), 1, id="a mixture"),
        pytest.param(lambda n: [TEXT] * n, 1, id="texts"),
        pytest.param(lambda n: [""] * n, 1, id="empty texts"),
        pytest.param(lambda n: ["x" * 40] * n, SHARE, id="long texts"),
        pytest.param(lambda n: {f"{TEXT}{i}": i for i in range(n)}, 2, id="keys and values"),
        pytest.param(lambda n: [[]] * n, SHARE, id="arrays"),
        pytest.param(lambda n: [{}] * n, SHARE, id="objects"),
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


@BOTH
def test_text_is_no_value_whatever_it_looks_like(codec: Codec) -> None:
    for text in ("[" * 10 * VALUES, "," * 10 * VALUES, '","' * 10 * VALUES, "\\" * 10 * VALUES, "\x90" * 10 * VALUES):
        payload = encode(codec, a=["e", text, text])
        assert codec.objection(payload, VALUES) is None
        assert codec.decode(payload).a == ["e", text, text]


@BOTH
def test_what_honest_peers_send_in_four_mebibytes_passes(codec: Codec) -> None:
    values = Limits().values
    for value in (
        [[n % 256 for n in range(1024)] for _ in range(1000)],  # a grey picture of a million points
        [[0.123456789 * n for n in range(1536)] for _ in range(250)],  # embeddings
        [[12.345678, 48.123456]] * 180_000,  # coordinates
        [{"id": n, "name": "Somebody", "price": 12.5} for n in range(80_000)],  # rows of a table
        [[n % 100, n % 97] for n in range(270_000)],  # the edges of a graph
        [{"x": 12.5, "y": 7.25}] * (210_000 if codec.text else 180_000),  # points
        [n % 10 for n in range(1_100_000)],  # the labels of an image
        "," * (4 * 1024 * 1024 - 100),
        ["word"] * 500_000,
    ):
        payload = encode(codec, a=["e", value])
        assert codec.objection(payload, values) is None, str(value)[:100]


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


@given(st.binary(max_size=200), st.integers(1, 50))
def test_counting_survives_anything(payload: bytes, values: int) -> None:
    for codec in CODECS:
        codec.objection(payload, values)
        codec.objection(bytearray(payload), values)
        codec.outline(payload)
    counting._walk(payload, values)
    counting._colliding_keys(payload)
    counting._has_slow_floats(payload)
    assert JsonCodec().nests_deeper(payload, WireMessage(), 3) in (True, False)


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


def test_random_bytes_take_the_fast_path() -> None:
    payload = encode(MsgpackCodec(), a=["e", bytes(range(256)) * 256])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_may_collide", lambda _: pytest.fail("it looked at all of the bytes"))
        assert MsgpackCodec().objection(payload, Limits().values) is None


def arrays(count: int, each: bytes = b"\x90", claimed: int | None = None) -> bytes:
    head = struct.pack("!I", count if claimed is None else claimed)
    return b"\x82\xa1i\x07\xa1a\x92\xa1e\xdd" + head + each * count


MEBI = 1024 * 1024
SOME = 100_000
"""A bound where memory is traced: tracing makes each value that is counted cost 30 times as much."""
HOSTILE = [
    pytest.param(MsgpackCodec(), arrays(4 * MEBI - 100), id="empty arrays"),
    pytest.param(MsgpackCodec(), arrays(4 * MEBI - 100, b"\xe0"), id="numbers"),
    pytest.param(MsgpackCodec(), arrays(MEBI, b"\xdb\x00\x00\x00\x00", claimed=1000), id="texts of a long form"),
    pytest.param(MsgpackCodec(), arrays(MEBI, b"\x91\x90"), id="arrays in arrays"),
    pytest.param(MsgpackCodec(), arrays(4 * MEBI // 6, b"\xde\x00\x01\x91\x05\x00"), id="maps"),
    pytest.param(MsgpackCodec(), b"\x82\xa1i\x07\xa1a" + b"\xdc\x80\x00\xcb" * MEBI, id="heads that lie"),
    pytest.param(JsonCodec(), b'{"i":7,"a":["e"' + b",[]" * (4 * MEBI // 3 - 10) + b"]}", id="[]"),
    pytest.param(JsonCodec(), b'{"i":7,"a":["e"' + b',""' * (4 * MEBI // 3 - 10) + b"]}", id='""'),
    pytest.param(JsonCodec(), b'{"i":7,"a":["e"' + b',[","]' * (4 * MEBI // 6 - 10) + b"]}", id='[","]'),
    pytest.param(JsonCodec(), b'{"i":7,"a":["e"' + b",7" * (2 * MEBI - 10) + b"]}", id="7"),
]


@pytest.mark.parametrize(("codec", "payload"), HOSTILE)
def test_what_costs_too_much_is_refused_by_default(codec: Codec, payload: bytes) -> None:
    assert codec.objection(payload, Limits().values) is not None


@pytest.mark.parametrize(("codec", "payload"), HOSTILE)
def test_what_is_refused_takes_no_memory_to_speak_of(codec: Codec, payload: bytes) -> None:
    """Ten times the message would be what decoding begins with."""
    tracemalloc.start()
    try:
        assert codec.objection(payload, SOME) is not None
        assert tracemalloc.get_traced_memory()[1] < 4 * len(payload)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("piece", [b'"', b"\\", b'\\"', b'",', b'","', b",", b"[", b'"\\",'])
def test_counting_takes_time_in_proportion(piece: bytes) -> None:
    """A count that looked at everything twice, and twice again, would never end."""
    JsonCodec().objection(b'{"a":["' + piece * (4 * MEBI // len(piece)) + b'"]}', VALUES * 10**6)


@pytest.mark.parametrize("head", [b"\xdd\x00\x0f\xff\xff\xcb", b"\xdc\xff\xff\xcb", b"\x91", b"\xdf\x00\x00\x00\x01"])
def test_walking_takes_time_in_proportion(head: bytes) -> None:
    payload = b"\x81\xa1a" + (head + b"\x00" * (8 if head.endswith(b"\xcb") else 0)) * 200_000
    MsgpackCodec().objection(payload, 2**53)


@pytest.mark.parametrize(
    "payload", [b"\x81\xa1a\xdd", b"\x81\xa1a\xdd\xff", b"\x81\xa1a\xda\xff", b"\x81\xa1a\xc7", b""]
)
def test_a_length_that_lies_ends_the_count(payload: bytes) -> None:
    assert MsgpackCodec().objection(payload, 100) is None


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
        pytest.param("1" + "0" * 30 + "e-345", id="zeros behind"),
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


def test_what_looks_like_slow_floats_and_is_something_else_passes() -> None:
    codec = JsonCodec()
    for value in (
        [n * 1.23456789e-7 for n in range(20_000)],
        [n * 1.23456789e-270 for n in range(20_000)],
        ["3e308e308e308e308"] * 20_000,
        "1e308," * 20_000,
        ['",5e-324,"'] * 20_000,
        {f"5e-{n}": n for n in range(20_000)},
    ):
        payload = encode(codec, a=["e", value])
        assert codec.objection(payload, Limits().values) is None
        codec.decode(payload)


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


def test_many_numbers_as_keys_are_refused_because_their_hashes_may_collide() -> None:
    codec, values = MsgpackCodec(), Limits().values
    assert hash(2**61) == hash(1), "they do in this Python"
    half = NUMBER_KEYS // 2
    assert codec.objection(with_argument(walking_keys(half, half)), values) is None
    objection = codec.objection(with_argument(walking_keys(half, half + 1)), values)
    assert objection is not None and "numbers as keys" in objection
    hidden = b"\x93\x81\x05\xc0" + b"\x91" * 20 + b"\xc0" + walking_keys(half, half + 1)
    assert codec.objection(with_argument(hidden), values) is not None


@pytest.mark.parametrize("key", [-1, 2**40, 0.5, None, True])
def test_every_kind_of_number_counts_as_a_key(key: Any) -> None:
    pair = msgspec.msgpack.encode(key) + msgspec.msgpack.encode(2.5)
    for head, count in ((b"\xde", struct.pack("!H", NUMBER_KEYS + 1)), (b"\xdf", struct.pack("!I", NUMBER_KEYS + 1))):
        payload = with_argument(head + count + pair * (NUMBER_KEYS + 1))
        assert MsgpackCodec().objection(payload, Limits().values) is not None


def test_maps_share_the_bound_by_the_square_of_their_keys() -> None:
    """Since that is what the time grows with."""
    codec, values = MsgpackCodec(), Limits().values
    quarter = {n: n for n in range(NUMBER_KEYS // 4)}
    assert codec.objection(encode(codec, a=["e", [quarter] * 16]), values) is None
    assert codec.objection(encode(codec, a=["e", [quarter] * 17]), values) is not None
    assert codec.objection(encode(codec, a=["e", {"k": [quarter] * 17}]), values) is not None


def test_what_honest_peers_send_as_numbers_in_keys_passes() -> None:
    codec = MsgpackCodec()
    for value in (
        dict.fromkeys(range(8000), "row"),
        [{1000 * n + k: 0.5 for k in range(40)} for n in range(4000)],  # sparse vectors
        {str(n): n for n in range(100_000)},
        {b"%d" % n: n for n in range(100_000)},
        [{f"field{k}": k for k in range(20)} for n in range(5000)],
        [n / 7 for n in range(100_000)],
    ):
        payload = encode(codec, a=["e", value])
        assert codec.objection(payload, Limits().values) is None
        codec.decode(payload)


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


def test_many_arrays_as_keys_are_refused_because_their_hashes_may_collide() -> None:
    codec = MsgpackCodec()
    collide = codec.decode(colliding_keys(100)).a[1]
    assert len({hash(key) for key in collide}) == 1, "they do in this Python"
    assert codec.objection(colliding_keys(ARRAY_KEYS), Limits().values) is None
    assert codec.objection(colliding_keys(ARRAY_KEYS + 1), Limits().values) is not None
    hidden = b"\x82\xa1i\x07\xa1a\x92\xa1e\x92" + b"\x91" * 20 + b"\xc0" + colliding_keys(ARRAY_KEYS + 1)
    assert codec.objection(hidden, Limits().values) is not None


def test_timestamps_and_what_is_inside_of_keys_count_too() -> None:
    codec, values = MsgpackCodec(), Limits().values
    stamp = b"\xd6\xff\x00\x00\x00\x01"
    long = b"\xdc\x00\x64" + b"\x05" * 100
    for key, most in (
        (stamp, ARRAY_KEYS),
        (b"\xc7\x0c\xff" + bytes(12), ARRAY_KEYS),
        (b"\x91\x91\x91\x05", ARRAY_KEYS // 3),
        (b"\x92\x05" + stamp, ARRAY_KEYS // 2),
        (long, ARRAY_KEYS // 7),
    ):
        for count, passes in ((most, True), (most + 1, False)):
            encoded = b"\xde" + struct.pack("!H", 400) + (key + b"\xc0") * count + b"\xa1k\xc0" * (400 - count)
            assert (codec.objection(with_argument(encoded), values) is None) == passes, (key[:4], count)
            if passes:
                codec.decode(with_argument(encoded))


@pytest.mark.parametrize("keys", [colliding_keys(10_000), with_argument(walking_keys(NUMBER_KEYS, 1))])
def test_a_map_that_is_cut_off_is_refused_like_a_whole_one(keys: bytes) -> None:
    """The decoder puts its keys into a dict before it finds the end."""
    start = keys.index(b"\xdf") + 1
    (count,) = struct.unpack_from("!I", keys, start)
    for claimed in (count + 1, len(keys), 2 * len(keys), 2**32 - 1):
        payload = keys[:start] + struct.pack("!I", claimed) + keys[start + 4 :]
        assert MsgpackCodec().objection(payload, Limits().values) is not None, claimed


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


def test_what_looks_like_arrays_as_keys_and_is_something_else_passes() -> None:
    codec = MsgpackCodec()
    for value in (
        {str(n): [n, [n]] for n in range(1000)},
        [struct.unpack("!d", b"\xde\x91\x92\x93" * 2)[0]] * 2000,
        bytes(range(256)) * 100,
        {n: {"k": [n] * 16} for n in range(1000)},
        [{(1, n): 1} for n in range(1000)],
    ):
        payload = encode(codec, a=["e", value])
        assert codec.objection(payload, Limits().values) is None
        codec.decode(payload)


# ---------------------------------------------------------------- what the other side sees

MANY: list[list[Any]] = [[]] * VALUES


async def test_another_wsrpc_side_refuses_to_send_what_holds_too_much() -> None:
    async with pair(limits=FEW) as (a, b):
        b.on("count", len)
        b.on("make", lambda count: [[]] * count)
        assert await a.request("count", MANY[:900]) == 900  # they have agreed
        for send in (a.request, a.emit):
            with pytest.raises(MessageTooBig, match=r"more than 4000 values.* the other side takes no more"):
                await send("count", MANY)
        with pytest.raises(Exception, match="more than 4000 values"):
            await a.request("make", VALUES)
        assert not a.ignored and not b.ignored


async def test_emitting_to_many_reports_who_does_not_take_so_many_values() -> None:
    server, limits = Server(), (FEW, Limits(), FEW)
    async with AsyncExitStack() as stack:
        heard: list[int] = []
        for few in limits:
            client = await stack.enter_async_context(connect(server, client=Client(limits=few)))
            client.on("count", lambda values: heard.append(len(values)))
            assert client.peer is not None
        room = server.room("all")
        for peer in server.peers:
            room.add(peer)
        for emit in (server.emit, room.emit, server.room("all", slow=KeepLatest()).emit):
            report = await emit("count", MANY)
            assert [error.peer for error in report.errors] == [server.peers[0], server.peers[2]]
            for error in report.errors:
                assert isinstance(error.__cause__, MessageTooBig)
                assert "more than 4000 values" in str(error) and "the other side takes no more" in str(error)
            assert (report.sent, report.dropped) == (1, 0)
            assert len(room) == 3, "nothing is wrong with their connections"
        await turns()
        assert heard == [len(MANY)] * 3
        assert not any(peer.ignored for peer in server.peers)
        report = await server.send_raw(json.dumps(MANY))
        assert (report.sent, report.errors) == (3, ()), "the other side does not decode it"


async def test_a_message_to_many_is_looked_through_once() -> None:
    looks: list[int] = []

    class Noting(JsonCodec):
        def objection(self, payload: bytes | bytearray, values: int, /) -> str | None:
            looks.append(values)
            return super().objection(payload, values)

    server = Server(codec=Noting())
    async with AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(connect(server, client=Client(limits=FEW)))
        await turns()
        assert len((await server.emit("count", MANY)).errors) == 5
        assert (await server.emit("count", [0] * 2000)).sent == 5
        assert looks == [VALUES, VALUES]


@given(count=st.integers(0, 10**7), bounds=st.lists(st.integers(1, 2**40), max_size=200))
def test_a_message_to_many_is_looked_through_a_few_times_whatever_they_announce(count: int, bounds: list[int]) -> None:
    looks: list[int] = []

    def objection(payload: bytes | bytearray, values: int) -> str | None:
        looks.append(values)
        return None if count <= values else f"more than {values} values"

    objections = Objections(b"", objection)
    for bound in bounds:
        assert (objections.to(bound) is None) is (count <= bound)
    assert len(looks) <= 64
    if len(set(bounds)) == 1:
        assert len(looks) == 1


async def test_what_a_server_announces_is_its_own_bound() -> None:
    d = Driven(extensions=True)
    await agreed(d, values=100)
    with pytest.raises(MessageTooBig, match="more than 100 values"):
        await d.peer.emit("e", [0] * 200)
    d.feed(control("limits", limits={"values": 1000}))
    await d.peer.emit("e", [0] * 200)
    assert len(d.take()) == 1


def test_hello_says_how_many_values() -> None:
    d = Driven(extensions=True, dialer=True, limits=FEW)
    assert d.take()[0]["wsrpc"]["limits"]["values"] == VALUES


async def test_a_request_is_rejected_without_being_decoded() -> None:
    for codec, payload in ((p.values[0], p.values[1]) for p in HOSTILE):
        assert isinstance(payload, bytes) and isinstance(codec, JsonCodec | MsgpackCodec)
        d = Driven(codec=codec, limits=Limits(values=SOME))
        d.peer.on("e", lambda *_: pytest.fail("it ran"))
        tracemalloc.start()
        try:
            d.raw(payload, codec.text)
            assert tracemalloc.get_traced_memory()[1] < 6 * len(payload)
        finally:
            tracemalloc.stop()
        await turns()
        assert d.close_code is None


async def test_messages_that_are_not_the_protocols_are_not_counted() -> None:
    d = Driven(limits=FEW)
    got: list[Any] = []
    d.peer.on_raw(lambda peer, message: got.append(message))
    foreign = ["1,2\n" * VALUES, json.dumps([[]] * VALUES), json.dumps({"ws-wrapper": False, "v": [[]] * VALUES})]
    foreign += [json.dumps({"v": [[]] * VALUES})]
    for text in foreign:
        d.raw(text.encode())
        await turns()
    assert got == foreign


async def test_json_beside_the_protocol_is_counted_too() -> None:
    got: list[int] = []

    class Plain(Service):
        def on_json(self, value: list[Any]) -> None:
            got.append(len(value))

    server = Server(limits=FEW)
    server.add_service(Plain)
    line = ScriptedTransport()
    peer = await server.accept(line)
    assert isinstance(peer, Peer)
    line.feed(MANY)
    line.feed(MANY[:900])
    await turns()
    assert got == [900] and peer.ignored == {"malformed": 1}
    await server.close()
