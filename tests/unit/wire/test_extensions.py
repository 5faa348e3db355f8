"""hello and welcome: what two wsrpc peers say first, and that plain peers never notice."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from core_driver import Driven, redialing, start
from leftovers import nothing_left as nothing_left
from stream_driver import agreed, control, decoded, hello, welcome
from waiting import settled

from wsrpc import Limits, MessageTooBig, WsrpcError

pytestmark = pytest.mark.usefixtures("nothing_left")


ALL = ("credit", "msgpack")


async def test_the_dialer_says_hello_first_and_goes_on_without_waiting() -> None:
    d = Driven(dialer=True, extensions=True, bind=False)
    d.peer.on("open", lambda peer: peer.emit_nowait("from open"))
    d.peer.bind(d.transport)
    await d.peer.emit("after")
    first, *others = d.take()
    assert others == [{"a": ["from open"]}, {"a": ["after"]}]
    assert first.keys() == {"ws-wrapper", "wsrpc"} and first["ws-wrapper"] is False
    said = first["wsrpc"]
    assert said.keys() == {"t", "v", "features", "limits"} and (said["t"], said["v"]) == ("hello", 1)
    assert sorted(said["features"]) == ["batches", "context", "credit", "drain", "msgpack", "parts"]
    assert said["limits"]["message"] == Limits().message_bytes and len(json.dumps(first)) < 4096


async def test_the_acceptor_is_silent_until_spoken_to_and_answers_before_anything_else() -> None:
    d = Driven(extensions=True)
    d.peer.on("q", lambda: 1)
    await settled()
    d.expect()
    answer, *others = await d.fed(hello("credit"), {"i": 7, "a": ["q"]})
    assert answer["wsrpc"]["t"] == "welcome" and answer.keys() == {"ws-wrapper", "wsrpc"}
    assert answer["wsrpc"].keys() == {"t", "features", "limits"} | ({"v"} & answer["wsrpc"].keys())
    assert others == [{"i": 7, "d": 1}]


# ---------------------------------------------------------------- large messages before the welcome

LARGE = b"\xff" * 60_000
"""Bytes of which JSON with base64 has more than 64 KiB."""


def called(sent: list[Any]) -> list[Any]:
    """The names and arguments of the events and requests that were sent."""
    return [message["a"] for message in decoded(sent) if "a" in message]


async def passed(d: Driven, seconds: float) -> list[Any]:
    """What is sent when so much time has passed."""
    await asyncio.sleep(seconds)
    return called(d.take())


@pytest.mark.parametrize("queued", [False, True], ids=["connected", "queued"])
async def test_a_large_message_waits_for_the_welcome_and_later_ones_behind_it(queued: bool) -> None:
    d, value = redialing(extensions=True, bind=not queued), bytearray(LARGE)
    await d.peer.emit("before")
    calls = [start(d.peer.emit("large", value)), start(d.peer.request("asks")), start(d.peer.emit("last"))]
    await settled()
    value[0] = 0  # what waits has the arguments of its call
    if queued:
        d.peer.bind(d.transport)
        await settled()
    assert called(d.take()) == [["before"]]
    assert await passed(d, 1.9) == []
    sent = await d.fed(welcome("msgpack"))
    assert called(sent) == [["large", LARGE], ["asks"], ["last"]]
    assert queued or all(isinstance(message, bytes) for message in sent)
    await d.fed({"i": decoded(sent)[1]["i"], "d": 1})
    await asyncio.gather(*calls)
    d.assert_empty()


@pytest.mark.parametrize("call", ["emit", "request"])
@pytest.mark.parametrize("queued", [False, True], ids=["connected", "queued"])
@pytest.mark.parametrize("value", [LARGE, [0] * 40_000], ids=["message", "values"])
async def test_the_first_message_is_checked_against_the_limits_of_the_server(
    call: str, queued: bool, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    d = redialing(extensions=True, bind=not queued)
    waits = start(getattr(d.peer, call)("large", value))
    await settled()
    if queued:
        d.peer.bind(d.transport)
    d.take()
    assert called(await d.fed(welcome("msgpack", message=50_000, values=30_000))) == []
    if queued and call == "emit":
        await waits
        assert "an event that waited for a connection was not sent: the message h" in caplog.text
    else:
        with pytest.raises(MessageTooBig, match="the other side takes") as caught:
            await waits
        assert caught.value.outcome == "not_sent"
    d.assert_empty()


async def test_a_server_that_says_nothing_gets_a_large_message_soon_and_a_larger_one_later() -> None:
    d = Driven(dialer=True, extensions=True, limits=Limits(message_bytes=100_000))
    d.take()
    calls = [start(d.peer.emit("large", "x" * 90_000)), start(d.peer.emit("larger", "x" * 110_000))]
    await settled()
    d.peer.emit_nowait("does not wait", "x" * 110_000)
    assert [name for name, _ in await passed(d, 1.9)] == ["does not wait"]
    assert [name for name, _ in await passed(d, 0.2)] == ["large"]
    assert await passed(d, 7.7) == []
    assert [name for name, _ in await passed(d, 0.3)] == ["larger"]
    await asyncio.gather(*calls)


async def test_what_waits_for_the_welcome_is_sent_before_this_side_closes() -> None:
    d = redialing(extensions=True, bind=False)
    pays = start(d.peer.request("pay", key="k"))
    await d.peer.emit("large", "x" * 90_000)
    d.peer.bind(d.transport)
    await settled()
    assert called(d.take()) == []
    await d.peer.close()
    assert [name for name, _ in called(d.take())] == ["large"]
    with pytest.raises(WsrpcError) as caught:
        await pays
    assert caught.value.outcome == "not_sent"


IGNORED: list[Any] = [
    control("hello", v=1, features=["credit"]),
    *(control("hello", v=v, features=features, limits={}) for v, features in (("1", []), (1, [1]), (1, ["x" * 4096]))),
    control("hello", v=1, features=[], limits={"message": "big"}),
    control("greeting", v=1, features=[], limits={}),
    *({"ws-wrapper": False}, {"ws-wrapper": False, "wsrpc": None}, {"ws-wrapper": False, "wsrpc": {}}),
    *({**hello("credit"), **more} for more in ({"more": 1}, {"a": ["e"]}, {"ws-wrapper": 0}, {"ws-wrapper": True})),
    json.dumps(hello("credit")).encode(),
    welcome(*ALL),
]


@pytest.mark.parametrize("message", IGNORED, ids=lambda message: str(message)[:60])
async def test_a_malformed_hello_is_ignored_and_counted(message: Any) -> None:
    d = Driven(extensions=True)
    d.peer.on("e", pytest.fail)
    for _ in range(30):
        assert await d.fed(message) == []
    assert sum(d.ignored.values()) == 30 and d.peer.connected
    await agreed(d, "credit")


@pytest.mark.parametrize("dialer", [True, False], ids=["dialer", "acceptor"])
async def test_what_was_agreed_first_stays(dialer: bool) -> None:
    d = Driven(dialer=dialer, extensions=True)
    d.take()
    await d.fed(welcome("credit") if dialer else {**hello("credit", "telepathy", v=2, aura=5)})
    d.take()
    assert await d.fed(hello(*ALL), welcome(*ALL), hello()) == []
    assert d.ignored == {"control message out of place": 3}
    await d.peer.emit("e")
    d.expect({"a": ["e"]})


# ---------------------------------------------------------------- limits


LEAST = {"message": 512, "running": 1, "waiting": 0, "waiting_bytes": 0, "values": 64, "running_bytes": 1}


@pytest.mark.parametrize("later", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("name", LEAST)
async def test_limits_that_make_no_sense_close_the_connection(name: str, later: bool) -> None:
    d = Driven(extensions=True)
    first: dict[str, Any] = {"t": "hello", "v": 1, "features": [*ALL]}
    if later:
        await d.fed(control(**first, limits=LEAST), control("limits", limits=LEAST))
        assert d.close_code is None, "the smallest limits are accepted"
        first = {"t": "limits"}
    value = LEAST[name] - 1
    assert await d.fed(control(**first, limits={name: value}), {"i": 7, "a": ["q"]}) == []
    closed = d.transport.closed
    assert closed is not None and closed.code == 1007
    assert closed.reason == f"the limit {name!r} is announced as {value}, and must be at least {LEAST[name]}"


async def test_the_limit_is_the_other_sides_and_exact() -> None:
    d = Driven(extensions=True, limits=Limits(message_bytes=1024))
    await agreed(d, "credit", message=1000)
    room = 1000 - len('{"a":["e",""]}')
    await d.peer.emit("e", "x" * room)
    assert len(d.take()) == 1
    with pytest.raises(MessageTooBig, match="1001 bytes"):
        await d.peer.emit("e", "x" * (room + 1))
    d.feed(control("limits", limits={"message": 1001, "values": 100}))
    await d.peer.emit("e", "x" * (room + 1))
    with pytest.raises(MessageTooBig, match="more than 100 values"):
        await d.peer.emit("e", [0] * 200)
    assert len(d.take()) == 1
