"""`on_handshake` functions of every kind, and what becomes of those that fail or never end."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import ask
from raw_websocket import handshake as request_for

from wsrpc import Client, Handshake, HandshakeRejected, Limits, Server, dial
from wsrpc.headers import ResponseHeaders
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)


def gated(function: Callable[..., Any], **options: Any) -> Server:
    server = Server(**{"limits": LIMITS, **options})
    server.on("echo", lambda value: value)
    server.on_handshake(function)
    return server


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno == logging.ERROR]


# ---------------------------------------------------------------- kinds of functions


def let_in(handshake: Handshake) -> None:
    handshake.state["by"] = "me"


async def let_in_later(handshake: Handshake) -> None:
    await asyncio.sleep(0)
    handshake.state["by"] = "me"


class Gate:
    __call__ = method = lambda self, handshake: let_in(handshake)

    async def later(self, handshake: Handshake) -> None:
        await let_in_later(handshake)


class LaterGate:
    async def __call__(self, handshake: Handshake) -> None:
        await let_in_later(handshake)


@pytest.mark.parametrize(
    ("function", "waits"),
    [
        (let_in, False),
        (let_in_later, True),
        (Gate(), False),
        (Gate().method, False),
        (Gate().later, True),
        (LaterGate(), True),
        (functools.partial(let_in), False),
        (functools.partial(let_in_later), True),
        (lambda handshake: let_in_later(handshake), False),  # nobody can see that it waits
        (lambda handshake: handshake.state.setdefault("by", "me"), False),  # what it returns does not matter
    ],
)
async def test_any_callable_will_do(function: Callable[..., Any], waits: bool) -> None:
    server = gated(function)
    assert server.handshakes_wait is waits
    async with server.listen() as listener:
        async with Client(listener.url, limits=LIMITS, proxy=None) as client, connect(server):
            assert await client.request("echo", 1) == 1
            assert [peer.state for peer in server.peers] == [{"by": "me"}] * 2


def test_another_one_replaces_it_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    assert server.on_handshake(let_in) is let_in
    server.on_handshake(let_in)  # the same again is no surprise
    assert not caplog.records
    server.on_handshake(let_in_later)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().count("test_handshake_functions.py:") == 2
    assert server.handshakes_wait


# ---------------------------------------------------------------- those that fail


class Odd(BaseException):
    pass


def raises(make: Callable[[], BaseException]) -> Callable[[Handshake], None]:
    def function(handshake: Handshake) -> None:
        raise make()

    return function


def reject(*args: Any, **kwargs: Any) -> Callable[[Handshake], None]:
    return lambda handshake: handshake.reject(*args, **kwargs)


def sets(name: str, value: Callable[[], Any]) -> Callable[[Handshake], None]:
    return lambda handshake: setattr(handshake, name, value())


def answers(name: Any, value: Any) -> Callable[[Handshake], None]:
    return lambda handshake: handshake.response_headers.__setitem__(name, value)


def builds(given: Any) -> Callable[[Handshake], None]:
    return sets("response_headers", lambda: ResponseHeaders(given))


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (raises(lambda: LookupError("of mine")), "of mine"),
        (raises(lambda: asyncio.CancelledError("of something else")), "of something else"),
        (raises(Odd), ""),
        (raises(TimeoutError), ""),
        (raises(lambda: OSError(5, "x")), "x"),
        (lambda handshake: False, "to refuse a connection, call handshake.reject(401, ...)"),
        (reject(200), "status of a refusal must be from 400 to 599, got 200"),
        (reject(101), "status of a refusal must be from 400 to 599, got 101"),
        (reject(600), "status of a refusal must be from 400 to 599, got 600"),
        (reject("401"), "status of a refusal must be from 400 to 599, got '401'"),
        (reject(401, b"bytes"), "the body of a refusal must be text"),
        (reject(401, "\ud800"), "has lone surrogates"),
        (reject(401, headers={"X-A": "a\r\nX-B: b"}), "'x-a' has a character that cannot be sent"),
        (reject(401, headers={"X A": "a"}), "the name of a header is a word"),
        (answers("X-A", "token\nX-B: b"), "'X-A' has a character that cannot be sent"),
        (answers("X-A", "\u20ac"), "'X-A' has a character that cannot be sent"),
        (answers("X-A\r\n", "a"), "the name of a header is a word"),
        (answers("", "a"), "the name of a header is a word"),
        (answers(5, "a"), "the name of a header is a word"),
        (answers("X-A", 5), "'X-A' must be text, got int"),
        (answers("Sec-WebSocket-Accept", "a"), "belongs to the handshake itself"),
        (answers("upgrade", "h2c"), "belongs to the handshake itself"),
        (sets("limits", lambda: None), "handshake.limits must be a wsrpc.Limits"),
        (sets("limits", lambda: {"message": 5}), "handshake.limits must be a wsrpc.Limits"),
        (sets("subprotocol", lambda: "c"), "offers the subprotocols"),
        *((sets("expires", lambda each=each: each), "handshake.expires is a time") for each in ("soon", math.nan)),
        *((sets("expires", lambda each=each: 10**each), "handshake.expires is a time") for each in (400, 5000)),
        (builds([("X-A", "token\r\nX-B: b")]), "'X-A' has a character that cannot be sent"),
        (builds({"X-A": "token\u20ac"}), "'X-A' has a character that cannot be sent"),
        (builds(["ab"]), "headers are a mapping of names to values, or a list of pairs"),
    ],
)
@pytest.mark.parametrize("later", [False, True])
async def test_what_cannot_be_answered_is_said_here_and_refuses_with_500(
    function: Callable[[Handshake], Any], text: str, later: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def waits(handshake: Handshake) -> Any:
        await asyncio.sleep(0)
        return function(handshake)

    server = gated(waits if later else function)
    async with server.listen() as listener:
        answer = await ask(listener.port, request_for("/", "Sec-WebSocket-Protocol: a, b"))
    assert answer.startswith(b"HTTP/1.1 500 ") and answer.endswith(b"\r\n\r\ninternal error\n")
    assert b"X-B" not in answer and server.peers == ()
    [record] = errors(caplog)
    assert "on_handshake failed" in record.getMessage()
    assert record.exc_info is not None and text in str(record.exc_info[1])
    assert "token" not in str(record.exc_info[1])


async def test_a_client_in_memory_is_refused_in_the_same_way() -> None:
    with pytest.raises(HandshakeRejected) as refused:
        async with connect(gated(raises(Odd))):
            pytest.fail("let in")
    assert (refused.value.status, refused.value.body) == (500, "internal error\n")


async def test_the_signals_of_the_process_pass() -> None:
    for stop in (KeyboardInterrupt, SystemExit):
        with pytest.raises(stop):
            await gated(raises(stop)).handshake(Handshake("/", {}))


async def test_a_library_that_cannot_wait_lets_nobody_in_unasked(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TypeError, match="make it a plain function"):
        gated(let_in_later).handshake_nowait(Handshake("/", {}))
    with pytest.raises(HandshakeRejected) as caught:
        gated(lambda handshake: let_in_later(handshake)).handshake_nowait(Handshake("/", {}))
    assert caught.value.status == 500
    assert "on_handshake failed" in caplog.text and "it returns an awaitable" in caplog.text
    gated(let_in).handshake_nowait(asked := Handshake("/", {}))
    assert asked.state == {"by": "me"}


# ---------------------------------------------------------------- those that never end


class Stuck:
    """Never ends by itself; ``begun`` and ``ended`` count."""

    def __init__(self) -> None:
        self.begun = self.ended = 0

    async def __call__(self, handshake: Handshake) -> None:
        if handshake.path == "/quick":
            return
        self.begun += 1
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.ended += 1
            if handshake.path == "/late":
                handshake.reject(429, "too many of you")


@pytest.mark.parametrize(("path", "status"), [("/?access_token=hidden", b"503"), ("/late", b"429")])
async def test_one_that_never_ends_is_answered_with_503_and_holds_up_nobody(
    path: str, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A refusal in the last moment counts."""
    stuck = Stuck()
    server = gated(stuck, limits=LIMITS.replace(open_timeout=0.2))
    async with server.listen() as listener:
        waiting = asyncio.create_task(ask(listener.port, request_for(path)))
        await turns_until(lambda: stuck.begun)
        async with Client(listener.url + "quick", limits=LIMITS, proxy=None) as client:
            assert await client.request("echo", 1) == 1
        assert (await waiting).startswith(b"HTTP/1.1 " + status)
    assert stuck.ended == 1
    said = ["on_handshake did not finish within 0.2 s" in record.getMessage() for record in errors(caplog)]
    assert said == ([True] if status == b"503" else [])
    assert "hidden" not in caplog.text


@pytest.mark.parametrize("seen", [False, True], ids=["not-seen", "seen"])
async def test_a_client_that_goes_away_meanwhile_gets_no_peer(seen: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Whether or not the server has seen that it is gone when the function has judged."""
    opened: list[object] = []
    begun, go = asyncio.Event(), asyncio.Event()

    async def gate(handshake: Handshake) -> None:
        begun.set()
        await go.wait()

    server = gated(gate)
    server.on("open", opened.append)
    async with server.listen(path="/gone") as listener:
        before = asyncio.all_tasks()
        with socket.socket() as sock:
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, ("127.0.0.1", listener.port))
            await loop.sock_sendall(sock, request_for("/gone"))
            await begun.wait()
            # With a reset, so that there is no doubt.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        [connection] = asyncio.all_tasks() - before - {asyncio.current_task()}
        for _ in range(2 if seen else 0):  # what came before these answers has been read
            with pytest.raises(HandshakeRejected, match="404"):
                await dial(listener.url + "/not", limits=LIMITS, proxy=None)
        go.set()
        await asyncio.wait([connection])
        assert errors(caplog) == opened == []


async def test_a_server_that_closes_meanwhile_waits_for_nobody() -> None:
    stuck = Stuck()
    server = gated(stuck, limits=LIMITS.replace(open_timeout=1000.0))
    async with server.listen() as listener:
        waiting = asyncio.create_task(ask(listener.port, request_for()))
        in_memory = asyncio.create_task(server.handshake(Handshake("/", {})))
        await turns_until(lambda: stuck.begun == 2)
    assert stuck.ended == 2
    assert not (await waiting).startswith(b"HTTP/1.1 101")
    for asked in (in_memory, server.handshake(Handshake("/quick", {}))):
        with pytest.raises(HandshakeRejected) as caught:
            await asked
        assert caught.value.status == 503


async def test_cancelling_the_caller_is_cancelling() -> None:
    stuck = Stuck()
    asking = asyncio.create_task(gated(stuck).handshake(Handshake("/", {})))
    await turns_until(lambda: stuck.begun)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert stuck.ended == 1
