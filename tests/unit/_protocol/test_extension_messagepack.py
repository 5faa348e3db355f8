"""MessagePack between two wsrpc peers that agreed on it."""

from __future__ import annotations

import enum
from collections import deque
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from core_driver import Driven, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import agreed, collect, decoded, item, welcome

from wsrpc import Client, Peer, Server
from wsrpc.codecs import MsgpackCodec
from wsrpc.testing import connect
from wsrpc.types import Message

pytestmark = pytest.mark.usefixtures("nothing_left")


ALL = ("credit", "msgpack")


def pack(message: Any) -> bytes:
    return MsgpackCodec().encode(message)


async def test_messagepack_is_used_from_welcome_on_and_text_is_still_read() -> None:
    d = Driven(dialer=True, extensions=True)
    d.take()
    early, i = await d.asks("q", 1)
    d.feed(welcome(*ALL))
    await d.peer.emit("e", b"\x00\xff", {"k": [None, 1.5]})
    [sent] = d.take()
    assert isinstance(sent, bytes) and decoded([sent]) == [{"a": ["e", b"\x00\xff", {"k": [None, 1.5]}]}]
    d.peer.on("echo", lambda value: value)
    answers = await d.fed({"i": 2, "a": ["echo", "text"]}, pack({"i": 4, "a": ["echo", b"\x01"]}))
    assert all(isinstance(answer, bytes) for answer in answers)
    assert decoded(answers) == [{"i": 2, "d": "text"}, {"i": 4, "d": b"\x01"}]
    await d.fed(pack({"i": i, "d": b"late"}))
    assert early.result() == b"late"


async def test_integers_beyond_64_bits_travel_as_json() -> None:
    d = Driven(extensions=True)
    await agreed(d, *ALL)
    d.peer.on("power", lambda n: 2**n)
    assert await d.fed({"i": 1, "a": ["power", 64]}) == [{"i": 1, "d": 2**64}]
    assert decoded(await d.fed({"i": 3, "a": ["power", 63]})) == [{"i": 3, "d": 2**63}]
    await d.peer.emit("e", -(2**100))
    d.expect({"a": ["e", -(2**100)]})


class Blob(enum.Enum):
    FIRST = b"\xff"


@pytest.mark.parametrize("key", [b"\xff", Blob.FIRST], ids=repr)
async def test_keys_that_are_bytes_travel_as_json(key: Any) -> None:
    server = Server()
    seen: list[Any] = []

    async def count(numbers: dict[bytes, int]) -> Any:
        seen.append(numbers)
        return {key: 2}

    server.on("count", count)
    async with connect(server) as client:
        for _ in range(2):  # the first is JSON anyway
            assert await client.request("count", {key: 1}, returns=dict[bytes, int]) == {b"\xff": 2}
        with pytest.raises(TypeError, match="encoded"):
            await client.request("count", {(): 1})
    assert seen == [{b"\xff": 1}] * 2


async def test_bytes_arrive_as_bytes_both_ways_and_everywhere() -> None:
    server = Server()
    blob = bytes(range(256))
    seen: list[Any] = []

    async def blobs() -> Any:
        yield blob

    async def joined(chunks: Any) -> Any:
        return chunks

    server.on("echo", lambda value: value)
    server.on("blobs", blobs)
    server.on("note", seen.append)

    @server.on("back")
    async def back(peer: Peer) -> Any:
        return await peer.request("echo", blob)

    async with connect(server) as client:
        client.on("echo", lambda value: value)
        client.on("note", seen.append)
        await client.request("echo", None)  # welcome is here now
        assert await client.request("echo", blob) == blob
        assert await client.request("echo", [{"k": blob}]) == [{"k": blob}]
        assert await client.request("back") == blob
        assert await collect(client.stream("blobs")) == [blob]
        await client.emit("note", blob)
        await server.emit("note", blob)
        await client.request("echo", None)
        await turns()
    assert seen == [blob, blob]


async def test_binary_messages_are_foreign_until_it_is_agreed() -> None:
    d = Driven(extensions=True)
    seen: list[Any] = []
    d.peer.on("e", seen.append)
    await d.fed(pack({"a": ["e", 1]}))
    await agreed(d, "credit")
    await d.fed(pack({"a": ["e", 2]}))
    assert seen == [] and d.ignored == {"foreign": 2} and d.peer.connected


@pytest.mark.parametrize("features", [(), ("credit",), ("drain", "resume", "time travel"), ("msgpack",)], ids=repr)
async def test_only_what_both_can_do_is_used(features: tuple[str, ...]) -> None:
    d = Driven(dialer=True, extensions=True)
    d.take()
    await d.fed(welcome(*features))
    stream = d.peer.stream("s")
    reading = start(anext(stream))
    await turns()
    [request] = decoded(sent := d.take())
    assert isinstance(sent[0], bytes) == ("msgpack" in features)
    started = decoded(await d.fed({"i": request["i"], "h": 1}))
    assert started[-1] == {"h": request["i"], "a": ["start"]}
    assert len(started) == 1 + ("credit" in features)
    await d.fed(item(request["i"], 1))
    assert await reading == 1
    await stream.aclose()


async def test_a_codec_of_the_users_own_is_kept() -> None:
    d = Driven(dialer=True, codec=MsgpackCodec(), extensions=True)
    [said] = d.take()
    assert said["wsrpc"]["features"] == ["batches", "credit", "drain", "stop"]
    await d.fed(welcome(*ALL))
    await d.peer.emit("e", 2**63)
    assert decoded(d.take()) == [{"a": ["e", 2**63]}]
    with pytest.raises(OverflowError):
        await d.peer.emit("e", 2**64)


async def test_message_handlers_see_binary_messages() -> None:
    d = Driven(extensions=True)
    seen: list[Message] = []
    d.peer.on("message", lambda peer, message: seen.append(message))
    await agreed(d, *ALL)
    d.peer.on("e", print_nothing)
    await d.fed(pack({"a": ["e", b"\x00"]}), {"a": ["e", 1]})
    assert [(message.text, message.args) for message in seen] == [(False, (b"\x00",)), (True, (1,))]


def print_nothing(*args: Any) -> None: ...


async def test_a_codec_set_on_both_ends_needs_no_extensions() -> None:
    server = Server(codec=MsgpackCodec())
    server.on("echo", lambda value: value)
    async with connect(server, client=Client(codec=MsgpackCodec(), extensions=False)) as client:
        assert await client.request("echo", b"\x00") == b"\x00"


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 1, 2, tzinfo=UTC),
        datetime(2026, 1, 2),
        {1: "x"},
        UUID(int=5),
        Decimal("1.50"),
        {"s"},
        NAN,
        -INFINITY,
        [1.5, INFINITY],
        {"a": NAN},
        [[{"a": (NAN, 1.5, 1e308, -1e308)}]],
        [float(i) for i in range(20)] + [NAN],
        range(3),
        {"a": 1}.keys(),
        {"a": 1}.values(),
        {"a": 1}.items(),
        deque([1, 2]),
        MappingProxyType({"a": range(2)}),
    ],
    ids=repr,
)
async def test_but_for_bytes_an_untyped_handler_gets_the_same_before_and_after_welcome(value: Any) -> None:
    server = Server()
    seen: list[Any] = []
    server.on("note", seen.append)
    for extensions in (False, True):
        async with connect(server, client=Client(extensions=extensions)) as client:
            server.on("sync", lambda: None)
            await client.request("sync")
            await client.emit("note", value)
            await client.request("sync")
    assert seen[0] == seen[1] and type(seen[0]) is type(seen[1])


async def test_nan_arrives_as_null_on_every_way() -> None:
    server = Server()
    server.on("give", lambda: {"deep": [[NAN]]})
    server.on("items", lambda: iter([NAN, 1.5, [INFINITY]]))
    server.on("none", lambda values: [value is None for value in values])
    async with connect(server) as client:
        client.on("give", lambda: NAN)
        await client.request("none", [])  # welcome is here now
        assert await client.request("give") == {"deep": [[None]]}
        assert await client.request("none", (NAN, INFINITY, 1e308)) == [True, True, False]
        assert await collect(client.stream("items")) == [None, 1.5, [None]]
        [peer] = server.peers
        assert await peer.request("give") is None


async def test_what_only_looks_like_nan_arrives_as_it_is() -> None:
    server = Server()
    server.on("echo", lambda value: value)
    async with connect(server) as client:
        await client.request("echo", None)
        for value in (b"\xcb\x7f\xff", [[b"\xcb\xff", 1e308]], [["\u02ff", 0xCB7F]]):
            assert await client.request("echo", value) == value


@pytest.mark.parametrize("value", [bytearray(b"\x00\xff"), memoryview(b"\x00\xff")], ids=["bytearray", "memoryview"])
async def test_what_is_like_bytes_travels_as_bytes_do(value: Any) -> None:
    server = Server()
    server.on("echo", lambda given: given)

    @server.on("size")
    def size(given: bytearray) -> int:
        assert type(given) is bytearray
        return len(given)

    for client, arrives in ((Client(extensions=False), "AP8="), (Client(), b"\x00\xff")):
        async with connect(server, client=client):
            await client.request("echo", None)
            for sent, expected in ((value, arrives), ([value], [arrives]), ([{"k": (value,)}], [{"k": [arrives]}])):
                assert await client.request("echo", sent) == expected
            assert await client.request("echo", value, returns=bytes) == b"\x00\xff"
            assert await client.request("size", value) == 2
