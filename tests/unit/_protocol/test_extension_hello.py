"""hello and welcome: what two wsrpc peers say first, and that plain peers never notice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import Driven, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import Feed, agreed, collect, control, decoded, emptied, hello, item, welcome

from wsrpc import Client, Context, Limits, RemoteError, RpcError, Server
from wsrpc.errors import UnexpectedChannel
from wsrpc.testing import connect

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
    assert said.keys() == {"t", "v", "features", "limits"}
    assert (said["t"], said["v"], sorted(said["features"])) == (
        "hello",
        1,
        ["batches", "credit", "drain", "msgpack", "stop"],
    )
    assert said["limits"]["message"] == Limits().message
    assert len(json.dumps(first)) < 4096


async def test_the_acceptor_is_silent_until_spoken_to_and_answers_before_anything_else() -> None:
    d = Driven(extensions=True)
    d.peer.on("q", lambda: 1)
    await turns()
    d.expect()
    answer, *others = await d.fed(hello("credit"), {"i": 7, "a": ["q"]})
    assert answer["wsrpc"]["t"] == "welcome" and answer.keys() == {"ws-wrapper", "wsrpc"}
    assert answer["wsrpc"].keys() == {"t", "features", "limits"} | ({"v"} & answer["wsrpc"].keys())
    assert others == [{"i": 7, "d": 1}]


async def test_what_was_sent_before_hello_was_plain() -> None:
    d = Driven(extensions=True)
    d.peer.on("q", lambda: b"\x00")
    assert await d.fed({"i": 7, "a": ["q"]}) == [{"i": 7, "d": "AA=="}]
    await agreed(d, *ALL)
    assert decoded(await d.fed({"i": 9, "a": ["q"]})) == [{"i": 9, "d": b"\x00"}]


@pytest.mark.parametrize("dialer", [True, False], ids=["dialer", "acceptor"])
async def test_without_extensions_nothing_is_said_and_nothing_understood(dialer: bool) -> None:
    d = Driven(dialer=dialer)
    d.peer.on("q", lambda: b"\x00")
    assert await d.fed(hello(*ALL), welcome(*ALL)) == []
    assert d.ignored == {"foreign": 2}
    assert await d.fed({"i": 7, "a": ["q"]}) == [{"i": 7, "d": "AA=="}]


async def test_a_plain_peer_never_answers_and_all_goes_on_as_with_one() -> None:
    d = Driven(dialer=True, extensions=True)
    d.take()
    task, i = await d.asks("q", "AA==")
    await d.fed({"i": i, "d": 1})
    assert task.result() == 1
    d.peer.on("feed", Feed(limit=1).__call__)
    await d.fed({"i": 5, "a": ["feed"]})
    [first] = await d.fed({"h": 5, "a": ["start"]})
    assert first == item(5, 0, first["i"]), "items are requests"
    await d.fed({"h": 5, "x": "bye"})
    d.assert_empty()


@pytest.mark.parametrize(
    "message",
    [
        control("hello"),
        control("hello", v=1, features=["credit"]),
        control("hello", v=1, limits={}),
        control("hello", features=[], limits={}),
        control("hello", v="1", features=[], limits={}),
        control("hello", v=1, features="credit", limits={}),
        control("hello", v=1, features=[1], limits={}),
        control("hello", v=1, features=[], limits=[]),
        control("hello", v=1, features=[], limits={"message": "big"}),
        control("hello", v=1, features=[], limits=None),
        control("hello", v=1, features=["x" * 4096], limits={}),
        control("greeting", v=1, features=[], limits={}),
        {"ws-wrapper": False, "wsrpc": None},
        {"ws-wrapper": False, "wsrpc": []},
        {"ws-wrapper": False, "wsrpc": {}},
        {**hello("credit"), "more": 1},
        {**hello("credit"), "a": ["e"]},
        {"ws-wrapper": False},
        json.dumps(hello("credit")).encode(),
    ],
    ids=lambda message: str(message)[:60],
)
async def test_a_malformed_hello_is_ignored_and_counted(message: Any) -> None:
    d = Driven(extensions=True)
    ran: list[Any] = []
    d.peer.on("e", lambda: ran.append(1))
    for _ in range(30):
        assert await d.fed(message) == []
    assert sum(d.ignored.values()) == 30 and d.peer.connected and ran == []
    await agreed(d, "credit")


TOO_SMALL = [
    {"message": -1},
    {"message": 511},
    {"running": 0},
    {"waiting": -1},
    {"waiting_bytes": -1},
    {"values": -1},
    {"values": 5},
    {"values": 63},
    {"running_bytes": 0},
]
LEAST = {"message": 512, "running": 1, "waiting": 0, "waiting_bytes": 0, "values": 64, "running_bytes": 1}


@pytest.mark.parametrize("later", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("dialer", [True, False], ids=["dialer", "acceptor"])
@pytest.mark.parametrize("limits", TOO_SMALL, ids=str)
async def test_limits_that_make_no_sense_close_the_connection(
    limits: dict[str, int], dialer: bool, later: bool
) -> None:
    d = Driven(dialer=dialer, extensions=True)
    d.take()
    first: dict[str, Any] = {"t": "welcome" if dialer else "hello", "v": 1, "features": [*ALL]}
    if later:
        await d.fed(control(**first, limits=LEAST), control("limits", limits=LEAST))
        assert d.close_code is None, "the smallest limits are accepted"
        d.take()
        first = {"t": "limits"}
    await d.fed(control(**first, limits=limits), {"i": 7, "a": ["q"]})
    [(name, value)] = limits.items()
    closed = d.transport.closed
    assert closed is not None and closed.code == 1007
    assert closed.reason == f"the limit {name!r} is announced as {value}, and must be at least {LEAST[name]}"
    assert d.take() == [], "nothing that comes after is answered"


async def test_everything_goes_on_with_the_smallest_limits() -> None:
    """Also what this side sends by itself: credit, the ends of streams, and errors."""
    server = Server()
    smallest = Limits(message=512, running=1, waiting=0, values=64)

    @server.on("total")
    async def total(numbers: AsyncIterator[int]) -> int:
        return sum([number async for number in numbers])

    @server.on("first")
    async def first(numbers: AsyncIterator[int]) -> int:
        return await anext(numbers)

    @server.on("fails")
    async def fails(numbers: AsyncIterator[int]) -> int:
        raise RpcError("no", code="app.no")

    feed = Feed(limit=200)
    server.on("feed", feed.__call__)
    async with asyncio.timeout(20), connect(server, client=Client(limits=smallest)) as client:
        assert await client.request("total", send=range(200)) == sum(range(200))
        assert await client.request("first", send=range(200)) == 0
        with pytest.raises(RemoteError, match="no"):
            await client.request("fails", send=range(200))
        assert await collect(client.stream("feed")) == list(range(200))
        await emptied(*server.peers)


async def test_fields_and_features_of_the_future_do_not_matter() -> None:
    d = Driven(extensions=True)
    message = hello("credit", "resume", v=2, message=1000, telepathy=5)
    message["wsrpc"]["sid"] = "x"
    [answer] = await d.fed(message)
    assert answer["wsrpc"]["t"] == "welcome"


@pytest.mark.parametrize("flag", [0, True, None, "false"], ids=repr)
async def test_only_the_boolean_false_makes_it_the_extension(flag: Any) -> None:
    d = Driven(extensions=True)
    assert await d.fed({**hello("credit"), "ws-wrapper": flag}) == []
    assert sum(d.ignored.values()) == 1


async def test_hello_twice_and_welcome_out_of_place() -> None:
    d = Driven(extensions=True)
    assert await d.fed(welcome(*ALL)) == []
    await agreed(d, "credit")
    assert await d.fed(hello(*ALL), welcome(*ALL), hello()) == []
    assert d.ignored == {"control message out of place": 4}
    d.peer.on("q", lambda: 1)
    assert await d.fed({"i": 7, "a": ["q"]}) == [{"i": 7, "d": 1}], "what was agreed first stays"

    d = Driven(dialer=True, extensions=True)
    d.take()
    assert await d.fed(hello(*ALL)) == []
    await d.fed(welcome(), welcome(*ALL), hello(*ALL))
    await d.peer.emit("e")
    d.expect({"a": ["e"]})
    assert d.ignored == {"control message out of place": 3}


async def test_message_handlers_do_not_see_control_messages() -> None:
    d = Driven(extensions=True)
    seen: list[str] = []
    d.peer.on("message", lambda peer, message: seen.append(message.describe()))
    await agreed(d, "credit")
    await d.fed(control("credit", h=5, n=1, bytes=1), {"a": ["e", 1]})
    assert seen == ["event e(1)"]


async def test_after_a_reconnect_everything_is_negotiated_anew() -> None:
    d = Driven(dialer=True, extensions=True, keeps_offline=True)
    await d.fed(welcome(*ALL, message=1000))
    await d.peer.emit("e")
    assert isinstance(d.take()[-1], bytes)
    d.transport.lose()
    waiting = start(d.peer.emit("offline", b"\x00"))
    await turns()
    d.rebind()
    await turns()
    said, *others = d.take()
    assert said["wsrpc"]["t"] == "hello"
    assert others == [{"a": ["offline", "AA=="]}]
    await waiting
    await d.peer.emit("e", "x" * 2000)  # this side takes it, as far as is known
    d.expect({"a": ["e", "x" * 2000]})
    await d.fed(welcome(*ALL))
    await d.peer.emit("e")
    assert decoded(d.take()) == [{"a": ["e"]}]


async def test_another_connection_may_be_to_a_plain_peer() -> None:
    d = Driven(extensions=True)
    await agreed(d, *ALL)
    d.rebind()
    d.peer.on("feed", Feed(limit=1).__call__)
    assert await d.fed({"i": 5, "a": ["feed"]}) == [{"i": 5, "h": 1}]
    [first] = await d.fed({"h": 5, "a": ["start"]})
    assert first == item(5, 0, first["i"])
    await d.fed({"h": 5, "x": "bye"})
    d.assert_empty()


@pytest.mark.parametrize(("here", "there"), [(True, False), (False, True), (False, False), (True, True)])
async def test_either_side_may_have_it_off(here: bool, there: bool) -> None:
    server = Server(extensions=there)
    feed = Feed(limit=200)
    server.on("feed", feed.__call__)

    async def blob() -> bytes:
        return b"\x00"

    def by_hand(ctx: Context) -> Any:
        return ctx.channel()

    server.on("blob", blob)
    server.on("by_hand", by_hand)
    async with connect(server, client=Client(extensions=here)) as client:
        async with asyncio.timeout(20):
            assert await client.request("blob", returns=bytes) == b"\x00"
            assert await client.request("blob") == (b"\x00" if here and there else "AA==")
            assert await collect(client.stream("feed")) == list(range(200))
            if here and there:
                with pytest.raises(UnexpectedChannel):
                    await client.request("by_hand")
            else:
                assert await client.request("by_hand") is None, "as JavaScript means it"
            await emptied(*server.peers)
            unread_hello = {"foreign": 1} if here and not there else {}
            assert server.peers[0].ignored == unread_hello
