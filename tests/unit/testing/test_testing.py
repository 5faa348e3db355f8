"""`wsrpc.testing`: what users test their applications with."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left

from wsrpc import (
    Client,
    CloseInfo,
    ConnectionLost,
    Handshake,
    HandshakeRejected,
    Key,
    Limits,
    Peer,
    RequestTimeout,
    Server,
)
from wsrpc._base.scheduler import LoopScheduler
from wsrpc._protocol.settings import Settings
from wsrpc.codecs import JsonCodec, MsgpackCodec
from wsrpc.testing import Clock, ScriptedTransport, connect, memory_transports, pair
from wsrpc.types import RawConnection

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)


# ---------------------------------------------------------------- connect


async def test_connect_gives_a_client_in_memory() -> None:
    server = Server()
    server.on("add", lambda a, b: a + b)
    async with connect(server) as client:
        assert await client.request("add", 1, 2) == 3
        assert len(list(server.peers)) == 1
    assert list(server.peers) == []
    assert client.state == "closed"


async def test_connect_with_path_and_headers() -> None:
    server = Server()

    @server.on("info")
    def info(peer: Peer) -> list[object]:
        return [peer.info.path, dict(peer.info.query), peer.info.headers["authorization"]]

    async with connect(server, path="/ws?token=x&y=%20", headers={"Authorization": "Bearer z"}) as client:
        assert await client.request("info") == ["/ws", {"token": "x", "y": " "}, "Bearer z"]


# What a real dial sends is compared, but for what differs from one connection to the next.
CHANGING = {"host", "sec-websocket-key"}


async def test_connect_asks_as_a_real_dial_does() -> None:
    server = Server(compression=True)
    asked: list[Handshake] = []

    @server.on_handshake
    async def gate(handshake: Handshake) -> None:
        asked.append(handshake)
        handshake.subprotocol = handshake.subprotocols[1]

    async def token() -> str:
        return "the token"

    options: dict[str, Any] = {
        "auth": token,
        "headers": lambda: {"X-Tenant": "blue", "User-Agent": "me"},
        "subprotocols": ["a", "b"],
        "compression": True,
        "limits": LIMITS,
    }
    async with server.listen() as listener:
        base = listener.url.rstrip("/")
        async with Client(f"{base}/ws?q=%20x&q=y&e=", **options) as client:
            real = asked[-1], client.peer.info
        async with connect(server, client=Client(**options), path="/ws?q=%20x&q=y&e=") as client:
            without_url = asked[-1], client.peer.info
        async with connect(server, client=Client(f"{base}/ws?q=%20x&q=y&e=", **options)) as client:
            with_url = asked[-1], client.peer.info
        assert with_url[0].host == real[0].host
        assert without_url[0].host == "localhost"
    for here, info in (without_url, with_url):
        there, real_info = real
        for name in ("path", "query", "origin", "secure", "subprotocols", "bearer_token", "compression"):
            assert getattr(here, name) == getattr(there, name), name
        headers = [
            {name: value for name, value in each.headers.items() if name not in CHANGING} for each in (here, there)
        ]
        assert headers[0] == headers[1]
        assert here.headers.keys() == there.headers.keys()
        assert (info.path, info.query, info.subprotocol) == (real_info.path, real_info.query, real_info.subprotocol)
    assert real[0].bearer_token == "the token" and real[0].headers["x-tenant"] == "blue"


async def test_connect_evaluates_what_is_a_function_each_time() -> None:
    server = Server()
    tokens = iter(["one", "two"])
    client = Client(auth=lambda: next(tokens), headers={"X-Number": "1"})
    for expected in ("one", "two"):
        async with connect(server, client=client):
            [peer] = server.peers
            assert peer.info.headers["authorization"] == f"Bearer {expected}"
            assert peer.info.headers["x-number"] == "1"


async def test_headers_of_connect_replace_those_of_the_client() -> None:
    server = Server()
    client = Client(auth="mine", headers={"X-A": "1", "x-b": "1"}, subprotocols=["json"])
    async with connect(server, client=client, headers={"x-a": "2", "AUTHORIZATION": "Basic eA==", "Host": "here:1"}):
        headers = server.peers[0].info.headers
        assert (headers["x-a"], headers["x-b"], headers["host"]) == ("2", "1", "here:1")
        assert headers["authorization"] == "Basic eA=="
        assert headers["sec-websocket-protocol"] == "json"


async def test_what_a_url_tells_counts() -> None:
    server = Server()
    asked: list[Handshake] = []
    server.on_handshake(asked.append)
    for url in ("wss://ada:secret@example.com/ws?token=x", lambda: "wss://ada:secret@example.com/ws?token=x"):
        async with connect(server, client=Client(url, reconnect=None)):
            handshake = asked.pop()
            assert (handshake.path, dict(handshake.query), handshake.host) == ("/ws", {"token": "x"}, "example.com")
            assert handshake.secure
            assert handshake.headers["authorization"] == "Basic YWRhOnNlY3JldA=="
        async with connect(server, client=Client(url, reconnect=None), path="/other"):
            handshake = asked.pop()
            assert (handshake.path, dict(handshake.query), handshake.host) == ("/other", {}, "example.com")
    async with connect(server, client=Client("ws://example.com")):
        assert asked.pop().path == "/"


async def test_a_page_of_the_same_host_may_connect_and_another_may_not() -> None:
    server = Server()
    async with connect(server, headers={"Origin": "http://localhost"}):
        pass
    with pytest.raises(HandshakeRejected, match="403"):
        async with connect(server, headers={"Origin": "https://evil.example"}):
            pytest.fail("connected")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"path": "ws"}, ValueError, "a path begins with a slash, got 'ws'"),
        ({"headers": {"X A": "1"}}, ValueError, "the name of a header is a word"),
        ({"client": Client(headers=lambda: 5)}, TypeError, "headers= is a mapping"),  # type: ignore[arg-type]
        ({"client": Client(auth=lambda: 5)}, TypeError, "auth= is a token"),  # type: ignore[arg-type]
        ({"client": Client(auth="a\nb")}, ValueError, "a character that cannot be sent"),
    ],
)
async def test_what_a_real_dial_refuses(options: dict[str, Any], error: type[Exception], text: str) -> None:
    server = Server()
    with pytest.raises(error, match=text):
        async with connect(server, **options):
            pytest.fail("connected")
    assert server.stats().accepted == 0


def test_options_of_a_client_without_a_url_are_checked_where_they_are_given() -> None:
    with pytest.raises(TypeError, match="headers= is a mapping"):
        Client(headers=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="subprotocols= is a list"):
        Client(subprotocols="json")


async def test_a_refusal_by_the_client_s_token() -> None:
    server = Server()

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        if handshake.bearer_token != "good":
            handshake.reject(401, "bad token")

    for auth in ("bad", None):
        with pytest.raises(HandshakeRejected, match="401: bad token"):
            async with connect(server, client=Client(auth=auth)):
                pytest.fail("connected")
    async with connect(server, client=Client(auth="good")):
        pass


USER = Key[str]("user")


async def test_state_and_principal_are_there_in_on_handshake_and_after() -> None:
    server = Server()
    seen: list[tuple[object, object]] = []

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        seen.append((dict(handshake.state), handshake.principal))
        handshake.state["more"] = 1
        if handshake.principal == "changed":
            handshake.principal = "by on_handshake"

    given: dict[Any, Any] = {USER: "Ada", "plan": "pro"}
    async with connect(server, state=given, principal="ada"):
        [peer] = server.peers
        assert peer.state == {"user": "Ada", "plan": "pro", "more": 1} and peer.state[USER] == "Ada"
        assert all(type(key) is str for key in peer.state)
        assert peer.principal == "ada"
        assert given == {USER: "Ada", "plan": "pro"}, "it is copied"
    async with connect(server, principal="changed"):
        assert server.peers[0].principal == "by on_handshake"
    async with connect(server):
        assert dict(server.peers[0].state) == {"more": 1}
        assert [peer.principal for peer in server.peers] == [None]
    assert seen == [({"user": "Ada", "plan": "pro"}, "ada"), ({}, "changed"), ({}, None)]


async def test_state_of_a_raw_connection() -> None:
    server = Server()
    found: list[Any] = []

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        found.append(connection.state[USER])

    async with connect(server, state={USER: "Ada"}) as client:
        await client.peer.wait_closed()
    assert found == ["Ada"]


async def test_a_clock_rules_the_deadlines_of_both_ends() -> None:
    server = Server()
    clock = Clock()
    asked = asyncio.Queue[str]()
    tell_client: asyncio.Queue[BaseException] = asyncio.Queue()

    @server.on("ask back")
    async def ask_back(peer: Peer) -> None:
        try:
            await peer.request("park", timeout=30)
        except RequestTimeout as exc:
            tell_client.put_nowait(exc)

    async def park(*args: object) -> None:
        asked.put_nowait("parked")
        await asyncio.Event().wait()

    client = Client()
    client.on("park", park)
    server.on("park", park)
    for round_ in range(2):
        async with connect(server, client=client, clock=clock):
            request = asyncio.create_task(client.request("park", timeout=60))
            await client.emit("ask back")
            assert [await asked.get(), await asked.get()] == ["parked", "parked"]
            before = clock.time()
            clock.advance(29.9)
            await asyncio.sleep(0)
            assert not request.done() and tell_client.empty()
            clock.advance(0.2)
            assert isinstance(await tell_client.get(), RequestTimeout)
            assert not request.done()
            clock.advance(30)
            with pytest.raises(RequestTimeout):
                await request
            assert clock.time() == pytest.approx(before + 60.1), round_
    # Afterwards the client lives in real time again.
    async with connect(server, client=client):
        with pytest.raises(RequestTimeout):
            await client.request("park", timeout=0.01)


async def test_a_clock_is_of_one_connection() -> None:
    server = Server()
    server.on("park", asyncio.Event().wait)
    clock = Clock()
    async with connect(server, clock=clock), connect(server) as other:
        with pytest.raises(RequestTimeout):
            await other.request("park", timeout=0.01)
        assert clock.time() == 0


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
        assert [*await asyncio.gather(one.request("echo", 1), two.request("echo", 2))] == [1, 2]
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


@pytest.mark.parametrize("how", ["abort", "vanish"])
async def test_nothing_arrives_in_memory_after_what_an_abort_has_dropped(how: str) -> None:
    ours, theirs = memory_transports()
    heard: list[Any] = []
    peer = Peer(Settings(JsonCodec(), Limits()), dialer=False, loop=LoopScheduler())
    peer.on("n", heard.append)
    peer.bind(theirs)
    ours.send(b'{"a":["n",1]}')
    await asyncio.sleep(0)
    ours.send(b'{"a":["n",2]}')
    getattr(ours, how)()
    with pytest.raises(ConnectionLost):
        ours.send(b'{"a":["n",3]}')
    for _ in range(5):
        await asyncio.sleep(0)
    assert heard == [1]
    theirs.abort()
    await peer.wait_closed()


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
