"""`wsrpc.testing`: what users test their applications with."""

from __future__ import annotations

import asyncio

import pytest
from leftovers import nothing_left as nothing_left

from wsrpc import (
    Client,
    CloseInfo,
    ConnectionLost,
    HandshakeRejected,
    JsonCodec,
    Limits,
    MsgpackCodec,
    Peer,
    RequestTimeout,
    Server,
)
from wsrpc._scheduler import LoopScheduler
from wsrpc._settings import Settings
from wsrpc.testing import Clock, ScriptedTransport, connect, memory_transports, pair

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---------------------------------------------------------------- connect


async def test_connect_gives_a_client_in_memory() -> None:
    server = Server()
    server.on("add", lambda a, b: a + b)
    async with connect(server) as client:
        assert await client.request("add", 1, 2) == 3
        assert len(server.peers) == 1
    assert server.peers == ()
    assert client.state == "closed"


async def test_connect_with_path_and_headers() -> None:
    server = Server()

    @server.on("info")
    def info(peer: Peer) -> list[object]:
        return [peer.info.path, dict(peer.info.query), peer.info.headers["authorization"]]

    async with connect(server, path="/ws?token=x&y=%20", headers={"Authorization": "Bearer z"}) as client:
        assert await client.request("info") == ["/ws", {"token": "x", "y": " "}, "Bearer z"]


async def test_connect_with_a_client_that_has_handlers() -> None:
    server = Server()

    @server.on("open")
    async def opened(peer: Peer) -> None:
        peer.state["name"] = await peer.request("name")

    server.on("who", lambda: None)

    @server.on("who")
    def who(peer: Peer) -> str:
        return str(peer.state["name"])

    client = Client()
    client.on("name", lambda: "Ada")
    async with connect(server, client=client) as same:
        assert same is client
        assert await client.request("who") == "Ada"


async def test_connect_several_at_once() -> None:
    server = Server()
    server.on("echo", lambda value: value)
    async with connect(server) as one, connect(server) as two:
        assert await asyncio.gather(one.request("echo", 1), two.request("echo", 2)) == [1, 2]
        report = await server.emit("hello")
        assert report.sent == 2


async def test_connect_closes_also_after_an_exception() -> None:
    server = Server()
    infos: list[CloseInfo] = []
    server.on("close", lambda peer, info: infos.append(info))
    with pytest.raises(RuntimeError, match="mine"):
        async with connect(server):
            raise RuntimeError("mine")
    assert [info.code for info in infos] == [1000]


async def test_connect_to_a_closed_server_is_refused() -> None:
    server = Server()
    await server.close()
    with pytest.raises(HandshakeRejected, match="503: the server is closing"):
        async with connect(server):
            pytest.fail("connected")


async def test_connect_uses_the_server_s_codec() -> None:
    server = Server(codec=MsgpackCodec())
    server.on("echo", lambda value: value)
    async with connect(server) as client:
        assert await client.request("echo", b"\x00\xff") == b"\x00\xff"


async def test_the_server_may_close_it() -> None:
    server = Server()
    async with connect(server) as client:
        await server.close()
        await client.peer.wait_closed()
        assert not client.connected


# ---------------------------------------------------------------- pair


async def test_pair_is_symmetric() -> None:
    async with pair() as (left, right):
        left.on("who", lambda: "left")
        right.on("who", lambda: "right")
        assert await left.request("who") == "right"
        assert await right.request("who") == "left"
    assert not left.connected and not right.connected


async def test_pair_with_codec_and_limits() -> None:
    async with pair(codec=MsgpackCodec(), limits=Limits(timeout=None)) as (left, right):
        right.on("echo", lambda value: value)
        assert await left.request("echo", b"x") == b"x"


async def test_pair_with_a_clock() -> None:
    clock = Clock()
    async with pair(clock=clock) as (left, right):
        started = asyncio.Event()

        @right.on("wait")
        async def wait() -> None:
            started.set()
            await asyncio.Event().wait()

        request = asyncio.create_task(left.request("wait", timeout=30.0))
        await started.wait()
        assert clock.next_deadline == 30.0
        clock.advance(29.999)
        await asyncio.sleep(0)
        assert not request.done()
        clock.advance(0.001)
        with pytest.raises(RequestTimeout):
            await request


async def test_too_large_a_message_closes_with_1009_as_over_a_network() -> None:
    async with pair(limits=Limits(message=1024)) as (left, right):
        infos: dict[str, int] = {}
        heard: list[str] = []
        left.on("close", lambda peer, info: infos.update(left=info.code))
        right.on("close", lambda peer, info: infos.update(right=info.code))
        right.on("say", heard.append)
        await left.emit("say", "small")
        await left.emit("say", "x" * 1024)
        await left.emit("say", "not looked at")
        await left.wait_closed()
        await right.wait_closed()
        assert infos == {"left": 1009, "right": 1009}
        assert heard == ["small"]


async def test_hold_and_release() -> None:
    ours, theirs = memory_transports()
    settings = Settings(JsonCodec(), Limits())
    left = Peer(settings, dialer=True, loop=LoopScheduler())
    right = Peer(settings, dialer=False, loop=LoopScheduler())
    heard: list[int] = []
    right.on("n", heard.append)
    right.on("sync", lambda: None)
    left.bind(ours)
    right.bind(theirs)
    await left.request("sync")
    ours.hold()
    for number in range(3):
        await left.emit("n", number)
    for _ in range(10):
        await asyncio.sleep(0)
    assert heard == []
    assert ours.sent == 4
    ours.release()
    await left.request("sync")
    assert heard == [0, 1, 2]
    await left.close()


# ---------------------------------------------------------------- from a script


def scripted() -> tuple[Peer, ScriptedTransport]:
    peer = Peer(Settings(JsonCodec(), Limits()), dialer=False, loop=Clock())
    transport = ScriptedTransport()
    peer.bind(transport)
    return peer, transport


async def test_a_script_needs_no_turn_of_the_loop() -> None:
    peer, transport = scripted()
    peer.on("add", lambda a, b: a + b)
    transport.feed({"i": 1, "a": ["add", 1, 2]}, {"a": ["nobody"]}, '{"i":2,"a":["add",3,4]}')
    transport.expect({"i": 1, "d": 3}, {"i": 2, "d": 7})
    transport.expect()
    transport.feed({"i": 3, "a": ["add", 1, 1]})
    with pytest.raises(AssertionError, match="expected"):
        transport.expect({"i": 3, "d": 3})


async def test_a_script_takes_text_bytes_and_lone_surrogates() -> None:
    peer, transport = scripted()
    transport.feed(b"\x00binary", "not json", r'{"i":1,"a":["x","\ud800"]}')
    assert peer.ignored["foreign"] == 2
    assert [answer["i"] for answer in transport.take()] == [1]
    assert transport.closed is None
    transport.feed('{"a":["x","\ud800"]}')  # not escaped, which is no UTF-8
    await asyncio.sleep(0)
    assert transport.closed is not None and transport.closed.code == 1007


async def test_a_script_ends() -> None:
    peer, transport = scripted()
    infos: list[CloseInfo] = []
    peer.on("close", lambda peer, info: infos.append(info))
    transport.lose(CloseInfo(1001, "gone", was_clean=True))
    transport.lose()
    transport.abort()
    await transport.close()
    assert [(info.code, info.reason) for info in infos] == [(1001, "gone")]
    with pytest.raises(ConnectionLost) as caught:
        transport.send(b"x")
    assert caught.value.outcome == "not_sent"


async def test_a_script_refuses_what_may_not_be_sent() -> None:
    transport = ScriptedTransport()
    with pytest.raises(ValueError):
        await transport.close(1006)
    assert transport.closed is None


# ---------------------------------------------------------------- time


def test_the_clock_runs_timers_in_order_each_at_its_time() -> None:
    clock = Clock(100.0)
    seen: list[tuple[str, float]] = []

    def note(name: str) -> None:
        seen.append((name, clock.time()))

    clock.call_at(103.0, lambda: note("c"))
    clock.call_at(101.0, lambda: note("a"))
    clock.call_at(101.0, lambda: note("a2"))
    clock.call_at(102.0, lambda: clock.call_at(102.5, lambda: note("nested")))
    clock.call_at(99.0, lambda: note("late"))
    cancelled = clock.call_at(101.5, lambda: note("never"))
    cancelled.cancel()
    assert clock.next_deadline == 99.0
    clock.advance(2.75)
    assert seen == [("late", 100.0), ("a", 101.0), ("a2", 101.0), ("nested", 102.5)]
    assert clock.time() == 102.75
    assert clock.next_deadline == 103.0
    clock.advance(0.25)
    assert seen[-1] == ("c", 103.0)
    assert clock.next_deadline is None


def test_a_timer_may_cancel_another() -> None:
    clock = Clock()
    seen: list[str] = []
    second = clock.call_at(2.0, lambda: seen.append("second"))
    clock.call_at(1.0, second.cancel)
    clock.advance(10)
    assert seen == []
