"""`wsrpc.testing`: what users test their applications with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from core_driver import start
from leftovers import nothing_left as nothing_left
from waiting import until

from wsrpc import Client, CloseInfo, Handshake, Key, Peer, Reconnect, Retry, Server, local_client
from wsrpc.errors import ConnectionLost, HandshakeRejected
from wsrpc.testing import Line, ScriptedTransport, VirtualTimeLoop, _virtual_time, connect, memory_transports

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---------------------------------------------------------------- connect


CALLS: dict[str, Callable[[Client], Awaitable[Any]]] = {
    "request": lambda client: client.request("add", 1),
    "request with a key": lambda client: client.request("add", 1, key="k"),
    "request that is repeated": lambda client: client.request("add", 1, retry=Retry()),
    "stream": lambda client: anext(client.stream("count")),
    "upload": lambda client: client.request("store", send=[1, 2]),
    "conversation": lambda client: client.request("chat", timeout=None),
    "event": lambda client: client.emit("log"),
    "room": lambda client: client.room("lobby").join(),
    "reader": lambda client: client.wait_for("news"),
    "connection": lambda client: client.wait_connected(),
}


@pytest.mark.parametrize("code", [1008, 1012, 4001])
@pytest.mark.parametrize("when", ["later", "in open"])
@pytest.mark.parametrize("made", ["by connect", "by the test", "by local_client", "bound"])
async def test_a_client_that_gets_no_other_connection_gives_up(made: str, when: str, code: int) -> None:
    """Its calls waited for a connection that nobody would make."""
    server = Server()

    @server.on("open")
    async def opened(peer: Peer) -> None:
        if when == "in open":
            await peer.close(code, "go away")

    async with AsyncExitStack() as stack:
        if made == "bound":
            client = Client(reconnect=None)
            ours, theirs = memory_transports()
            accepting = start(server.accept(theirs))
            await client.bind(ours)
            await accepting
            stack.push_async_callback(client.close)
        elif made == "by local_client":
            client = await stack.enter_async_context(local_client(server))
        else:
            given = Client() if made == "by the test" else None
            client = await stack.enter_async_context(connect(server, client=given))
        if when == "later":
            await server.peers[0].close(code, "go away")
        calls = CALLS.values() if client.state == "connected" else ()
        waiting = [asyncio.ensure_future(call(client)) for call in calls]
        await until(lambda: client.state != "connected")
        assert client.state == "closed"
        for call in (*waiting, *(call(client) for call in CALLS.values())):
            with pytest.raises(ConnectionLost) as caught:
                await call
            assert (caught.value.code, caught.value.reason) == (code, "go away")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"path": "ws"}, ValueError, "a path begins with a slash, got 'ws'"),
        ({"headers": {"X A": "1"}}, ValueError, "the name of a header is a word"),
        ({"headers": {"Origin": "https://evil.example"}}, HandshakeRejected, "403"),
        ({"client": lambda: Client(headers=lambda: 5)}, ValueError, "headers= is a mapping"),  # type: ignore[arg-type]
        ({"client": lambda: Client(subprotocols="json")}, TypeError, "subprotocols= is a list"),
        ({"client": lambda: Client(auth=lambda: 5)}, ValueError, "auth= is a token"),  # type: ignore[arg-type]
        ({"client": lambda: Client(auth="a\nb")}, ValueError, "a character that cannot be sent"),
    ],
)
async def test_what_a_real_dial_refuses(options: dict[str, Any], error: type[Exception], text: str) -> None:
    server = Server()
    with pytest.raises(error, match=text):
        async with connect(server, **{name: v() if callable(v) else v for name, v in options.items()}):
            pytest.fail("connected")
    assert server.peers == ()
    async with connect(server, headers={"Origin": "http://localhost"}):
        assert len(server.peers) == 1


USER = Key[str]("user")


async def test_state_principal_and_certificate_are_there_in_on_handshake_and_after() -> None:
    server, seen = Server(), list[object]()

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        seen.append((dict(handshake.state), handshake.principal, handshake.certificate))
        handshake.state["more"] = 1
        handshake.principal = "by on_handshake"

    given: dict[Any, Any] = {USER: "Ada", "plan": "pro"}
    certificate = {"subject": ((("commonName", "Ada"),),)}
    async with connect(server, state=given, principal="ada", certificate=certificate):
        [peer] = server.peers
        assert peer.state == {"user": "Ada", "plan": "pro", "more": 1} and peer.principal == "by on_handshake"
    async with connect(server):
        pass
    assert given == {USER: "Ada", "plan": "pro"}, "it is copied"
    assert seen == [({"user": "Ada", "plan": "pro"}, "ada", certificate), ({}, None, None)]


@pytest.mark.parametrize("half_open", [False, True])
async def test_a_line_is_cut_and_half_open_where_only_the_client_notices(half_open: bool) -> None:
    server, ends = Server(), list[CloseInfo]()
    line = Line(server)
    server.on("add", lambda a, b: a + b)
    server.on_detach(lambda peer, info: ends.append(info))
    async with Client("ws://server/", dial=line.dial, reconnect=Reconnect(initial=0.001)) as client:
        assert await client.request("add", 1, 2) == 3
        line.down = True
        line.cut(half_open=half_open)
        await until(lambda: client.state == "detached")
        assert [peer.detached for peer in server.peers] == [not half_open] and len(ends) == (not half_open)
        line.down = False
        assert await client.request("add", 3, 4) == 7
        assert len(server.peers) == 1, "the session goes on"
    await server.close()


# ---------------------------------------------------------------- virtual time


def test_a_wait_that_nothing_can_end_fails_and_says_which_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It hung."""
    monkeypatch.setattr(_virtual_time, "OTHER_THREAD_TIMEOUT", 0.0)

    async def forgotten() -> None:
        await asyncio.sleep(3600)
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        for _ in range(2):
            with pytest.raises(
                RuntimeError, match=r"nothing is left .*forgotten\(\) running at .*test_testing\.py:\d+"
            ):
                runner.run(forgotten())
        assert runner.get_loop().time() == 7200 and runner.run(asyncio.sleep(1, "goes on")) == "goes on"


# ---------------------------------------------------------------- from a script


async def test_a_script_needs_no_turn_of_the_loop() -> None:
    transport, infos = ScriptedTransport(), list[CloseInfo]()
    peer: Any = await Server().accept(transport)
    peer.on("add", lambda a, b: a + b)
    transport.feed({"i": 1, "a": ["add", 1, 2]}, {"a": ["nobody"]}, '{"i":2,"a":["add",3,4]}')
    transport.expect({"i": 1, "d": 3}, {"i": 2, "d": 7})
    transport.expect()
    transport.feed({"i": 3, "a": ["add", 1, 1]})
    with pytest.raises(AssertionError, match="expected"):
        transport.expect({"i": 3, "d": 3})
    peer.on("close", lambda peer, info: infos.append(info))
    with pytest.raises(ValueError):
        await transport.close(1006)
    assert transport.closed is None, "it refuses what may not be sent"
    transport.lose(CloseInfo(1001, "gone", was_clean=True))
    transport.abort()
    await until(lambda: infos)
    assert [(info.code, info.reason) for info in infos] == [(1001, "gone")]
    with pytest.raises(ConnectionLost) as caught:
        transport.send(b"x")
    assert caught.value.outcome == "not_sent"


async def test_headers_of_connect_replace_those_of_the_client() -> None:
    server, tokens = Server(), iter(["mine", "other"])
    client = Client(auth=lambda: next(tokens), headers={"X-A": "1", "x-b": "1"}, subprotocols=["json"])
    for given in ({"x-a": "2", "AUTHORIZATION": "Basic eA==", "Host": "here:1"}, {}):
        async with connect(server, client=client, headers=given):
            sent = server.peers[0].info.headers
            authorization = given.get("AUTHORIZATION", "Bearer other")  # what is a function is called each time
            assert (sent["x-a"], sent["x-b"], sent["authorization"]) == (given.get("x-a", "1"), "1", authorization)
            assert (sent["host"], sent["sec-websocket-protocol"]) == (given.get("Host", "localhost"), "json")
