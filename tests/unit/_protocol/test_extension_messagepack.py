"""MessagePack between two wsrpc peers that agreed on it."""

from __future__ import annotations

from typing import Any

import pytest
from core_driver import Driven, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import agreed, decoded, item, welcome

from wsrpc.codecs import MsgpackCodec
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
