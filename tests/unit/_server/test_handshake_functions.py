"""Functions that decide, such as those of `on_handshake`: what fails, never ends, or bounds a connection; and tokens.

tests/adapters/test_host_handshake.py has the rules for each host.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future
from typing import Any

import pytest
from core_driver import Blocked
from waiting import settled

from wsrpc import Client, ConnectionLost, Handshake, HandshakeRejected, Limits, MessageTooBig, Peer, RemoteError, Server
from wsrpc._base import logs
from wsrpc.testing import connect

TOKEN = "hidden-5e3a"


def gated(function: Callable[..., Any], **options: Any) -> Server:
    server = Server(**options)
    server.on("echo", lambda value: value)
    server.on_handshake(function)
    return server


# ---------------------------------------------------------------- those that fail


def reject(*args: Any, **kwargs: Any) -> Callable[[Handshake], None]:
    return lambda handshake: handshake.reject(*args, **kwargs)


def sets(name: str, value: Any) -> Callable[[Handshake], None]:
    return lambda handshake: setattr(handshake, name, value)


def answers(name: Any, value: Any) -> Callable[[Handshake], None]:
    return lambda handshake: handshake.response_headers.__setitem__(name, value)


def returns(value: Any) -> Callable[[Handshake], Any]:
    return lambda handshake: value


async def later(handshake: Handshake) -> bool:
    await asyncio.sleep(0)
    return True


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (reject(101), "status of a refusal must be from 400 to 599, got 101"),
        (reject(401, "\ud800"), "has lone surrogates"),
        (answers(5, "a"), "the name of a header is a word"),
        (answers("X-A", 5), "'X-A' must be text, got int"),
        (answers("upgrade", "h2c"), "belongs to the handshake itself"),
        (sets("limits", {"message": 5}), "handshake.limits must be a wsrpc.Limits"),
        (sets("expires", "soon"), "handshake.expires is a time in seconds"),
        (sets("expires", 3600), "such as time.time() + 3600, got 3600"),
        (sets("expires", 10**400), "such as time.time() + 3600, got 1000"),
        (sets("principle", "ada"), "handshake.principle does not exist: for values of your own, use"),
        (returns(False), "got bool: to refuse a connection, call handshake.reject(401, ...)"),
        (returns(HandshakeRejected(401, "no")), "on_handshake returns None, got HandshakeRejected: to refuse"),
        (later, "on_handshake returns None, got bool: to refuse"),
        (sets("response_headers", {"X-A": "token\r\nX-B: b"}), "'X-A' has a character that cannot be sent"),
    ],
)
async def test_what_cannot_be_answered_is_said_here_and_refuses_with_500(
    function: Callable[[Handshake], Any], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(HandshakeRejected) as refused:
        async with connect(gated(function), headers={"Sec-WebSocket-Protocol": "a, b"}):
            pytest.fail("let in")
    assert (refused.value.status, refused.value.body) == (500, "internal error\n")
    assert "x-b" not in refused.value.headers
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "on_handshake failed" in record.getMessage()
    assert record.exc_info is not None and text in str(record.exc_info[1])
    assert "token" not in str(record.exc_info[1])


async def test_a_refusal_that_is_alone_in_a_group_is_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    """It was answered with 500, and logged with its traceback."""

    async def look_up(handshake: Handshake) -> None:
        await asyncio.sleep(0)
        handshake.reject(401, "who are you?\n")

    async def decide(handshake: Handshake) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(look_up(handshake))
            group.create_task(asyncio.Event().wait())

    with pytest.raises(HandshakeRejected) as refused:
        async with connect(gated(decide)):
            pytest.fail("let in")
    assert (refused.value.status, refused.value.body) == (401, "who are you?\n")
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []


# ---------------------------------------------------------------- which clients are refused, and why


async def test_refusals_are_counted_by_reason_and_logged_once_for_each_reason_and_client(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MOST_LOGGED", 40)

    def decide(handshake: Handshake) -> None:
        handshake.address = handshake.headers.get("who")
        handshake.reject(401, handshake.headers.get("why", ""))

    server = gated(decide)

    async def come(host: str, why: str, **headers: str) -> list[str]:
        """The lines that a client causes twice, the second time from another port."""
        before = len(caplog.records)
        for port in (1, 2):
            with pytest.raises(HandshakeRejected):
                await server.handshake(Handshake("/", {"why": why, **headers}, remote=(host, port)))
        return [f"{record.levelname} {record.getMessage()}" for record in caplog.records[before:]]

    text = (
        "WARNING on_handshake refused <Handshake '/' from 10.0.0.1:1>: 401 token expired (further ones of this "
        "client are"
    )
    [line] = await come("10.0.0.1", "token expired\nat noon")
    assert line.startswith(text) and vars(caplog.records[-1])["remote"] == "10.0.0.1:1"
    assert len(await come("10.0.0.2", "token expired")) == 1 and len(await come("10.0.0.2", "")) == 1
    assert await come("10.0.0.1", "token expired\nat noon") == []
    for lock in ("lock-1", "lock-2"):  # both from one host, as behind a router
        [line] = await come("10.0.0.1", "token expired\nat noon", who=lock)
        assert f"from 10.0.0.1:1> ('{lock}'): 401" in line and vars(caplog.records[-1])["address"] == lock
    assert len(await come("10.0.0.1", "", origin="http://elsewhere")) == 1
    assert len(await come("10.0.0.2", "", origin="http://elsewhere")) == 1
    assert server.stats().refusals == {"401 token expired": 10, "401": 2, "403 this origin is not allowed": 4}

    for number in range(50):  # clients may choose a part of the text
        await come("10.0.0.3", f"no user {number}")
    refusals = server.stats().refusals
    assert len(refusals) == 33 and refusals["others"] == 2 * (50 - 29)
    assert len([each for each in caplog.records if "10.0.0.3" in each.getMessage()]) == 29 + 1

    told = [len(await come(f"10.0.1.{number}", "token expired")) for number in (*range(41), 40, 0)]
    assert told == [*41 * [1], 0, 1], "it is known of the latest hosts that they were logged"
    assert server.stats().refused == {401: sum(server.stats().refusals.values()) - 4, 403: 4}


async def test_the_principals_that_were_refused_last_are_counted_by_name() -> None:
    server = Server()

    @server.on_handshake
    def refuse(handshake: Handshake) -> None:
        handshake.principal = None if handshake.path == "/" else handshake.path
        handshake.reject(403)

    async def come(*names: object) -> None:
        for name in names:
            with pytest.raises(HandshakeRejected):
                await server.handshake(Handshake(f"/{name}", {}))

    await come("", 0, 0, *range(1, 99), 0)  # as many as are kept
    assert len(server.stats().refused_by_principal) == 100 and server.stats().refused_by_principal["/0"] == {"403": 3}
    await come("a", "b", "b")
    found = server.stats().refused_by_principal
    assert (found["others"], found["/0"], found["/b"], len(found)) == ({"403": 2}, {"403": 3}, {"403": 2}, 101)
    assert "unknown" not in found and "/1" not in found


# ---------------------------------------------------------------- those that never end


async def test_a_server_that_closes_meanwhile_waits_for_nobody() -> None:
    """Nor is somebody let in who was asked about before the server was opened again."""
    stuck = Blocked()
    server = gated(stuck)
    waiting = asyncio.create_task(server.handshake(Handshake("/", {})))
    await settled()
    await server.close()
    await server.open()
    with pytest.raises(HandshakeRejected, match="503"):
        await waiting
    assert server.stats().refused == {}, "it was of the run before"
    assert len(stuck.cancelled) == 1


# ---------------------------------------------------------------- bounds of one connection


@pytest.mark.parametrize("slowly", [False, True])
@pytest.mark.parametrize("extensions", [False, True])
async def test_open_may_change_the_size(slowly: bool, extensions: bool) -> None:
    """And a handler may, at any time."""
    server = Server()
    server.on("size", lambda value: len(value))

    @server.on("take")
    def take(size: int, peer: Peer) -> None:
        peer.limits = peer.limits.replace(message_bytes=size)

    @server.on("open")
    async def opened(peer: Peer) -> None:
        if slowly:
            await settled()  # its client is welcomed meanwhile
        peer.limits = peer.limits.replace(message_bytes=1000)

    async with connect(server, client=Client(extensions=extensions)) as client:
        await client.request("size", "")  # what says that it opened comes after what says the size
        for size in (1000, 512, 50_000, 700) if extensions else (1000,):
            if size != 1000:
                await client.request("take", size)
            assert await client.request("size", "x" * (size - 50)) == size - 50
            with pytest.raises(MessageTooBig if extensions else ConnectionLost) as caught:
                await client.request("size", "x" * size)
            assert extensions or getattr(caught.value, "code", None) == 1009  # a plain client does not know it


async def test_a_client_may_too_for_one_connection() -> None:
    """Other bounds are settled when it has opened."""
    server, client, wrong = Server(), Client(), list[Any]()

    @server.on("push")
    async def push(size: int, peer: Peer) -> bool:
        try:
            await peer.emit("news", "x" * size)
        except MessageTooBig:
            return False
        return True

    # Before the welcome, which only then says that the other side can be told.
    client.once("open", lambda peer: setattr(peer, "limits", peer.limits.replace(message_bytes=1000)))
    async with connect(server, client=client):
        peer = client.peer
        assert peer.limits.message_bytes == 1000
        assert [await client.request("push", size) for size in (500, 1000)] == [True, False]
        wrong += [(peer.limits.replace(message_bytes=5000, running=5), "only message_bytes= may"), (5, "is a wsrpc")]
        for limits, text in wrong:
            with pytest.raises((ValueError, TypeError), match=text):
                peer.limits = limits
        assert peer.limits.message_bytes == 1000
    with pytest.raises(ConnectionLost):
        peer.limits = Limits()
    async with connect(server, client=client):
        assert client.peer.limits == Limits()
        assert await client.request("push", 1000)


# ---------------------------------------------------------------- bearer tokens


@pytest.mark.parametrize(
    ("target", "headers", "token"),
    [
        ("/", {}, None),
        ("/", {"authorization": f"bearer   {TOKEN} "}, TOKEN),
        ("/", {"Authorization": "Basic dXNlcjpwYXNz"}, None),
        ("/", {"Authorization": "Bearer "}, None),
        ("/?access_token=a%2Bb%20c", {}, "a+b c"),
        ("/?access_token=", {}, None),
        ("/", {"Sec-WebSocket-Protocol": f"json, bearer.{TOKEN}"}, TOKEN),
        ("/?access_token=second", {"Authorization": "Bearer first", "Sec-WebSocket-Protocol": "bearer.third"}, "first"),
    ],
)
def test_where_it_is_found(target: str, headers: dict[str, str], token: str | None) -> None:
    assert Handshake(target, headers).bearer_token == token


@pytest.mark.parametrize(
    ("path", "options"),
    [("/", {"auth": TOKEN}), (f"/?access_token={TOKEN}", {}), ("/", {"subprotocols": [f"bearer.{TOKEN}", "json"]})],
    ids=["header", "query", "subprotocol"],
)
@pytest.mark.parametrize("refused", [False, True])
async def test_it_is_in_no_log_and_in_no_repr(
    path: str, options: dict[str, Any], refused: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "wsrpc")
    reprs: list[str] = []
    server = Server()

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        reprs.append(repr(handshake))
        assert handshake.bearer_token == TOKEN
        if refused:
            handshake.reject(401, "bad token")

    client = Client(f"ws://here{path}", reconnect=None, **options)
    try:
        async with connect(server, client=client):
            (peer,) = server.peers
            reprs += map(repr, (peer, peer.info, client, client.peer.info, peer.transport, server))
    except HandshakeRejected as caught:
        reprs += [repr(client), str(caught), repr(caught)]
    assert len(reprs) == (4 if refused else 7)
    assert TOKEN not in "".join(reprs) + caplog.text


@pytest.mark.parametrize("offered", [f"bearer.{TOKEN}", f"base64url.BEARER.authorization.example.{TOKEN}"])
async def test_a_subprotocol_with_a_token_is_not_chosen(offered: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nor does an error say it, where a function chooses what is not offered, such as the whole header."""
    server, client = Server(), Client(subprotocols=[offered, "json"])
    async with connect(server, client=client):
        assert client.peer.info.subprotocol == "json"
    server.on_handshake(lambda handshake: setattr(handshake, "subprotocol", f"json, {offered}"))
    with pytest.raises(HandshakeRejected, match="500"):
        async with connect(server, client=Client(subprotocols=["json", offered])):
            pass
    assert "the client offers the subprotocols ['json', 'bearer.…'], not 'bearer.…'" in caplog.text
    assert TOKEN not in caplog.text


# ---------------------------------------------------------------- mistakes: what each returns counts as true


async def refuse(subject: object, room: str = "") -> bool:
    return False


def with_yield(subject: object, room: str = "") -> Generator[bool]:
    yield False


class WithYield:
    async def __call__(self, subject: object, room: str = "") -> AsyncGenerator[bool]:
        yield False


async def forgets_await(subject: object, room: str = "") -> object:
    return refuse(subject)


def returns_a_generator(subject: object, room: str = "") -> object:
    return with_yield(subject)


def returns_a_future(subject: object, room: str = "") -> object:
    later = Future[bool]()  # as ThreadPoolExecutor.submit does
    later.set_result(False)
    return later


# ---------------------------------------------------------------- the functions that decide


GATES: dict[str, Callable[[Server, Any], object]] = {
    "on_handshake": lambda server, function: server.on_handshake(function),
    "allow": lambda server, function: server.room("prices", allow=function),
    "on_join": lambda server, function: server.on_join(function),
    "offer_description": lambda server, function: server.offer_description(allow=function),
}
PLAIN, MAYBE_ASYNC = ["origins", "expose_errors"], [*GATES, "admin"]


def fail() -> None:
    raise KeyError("secret")


def guarded(gate: str, function: Any) -> Server:
    """A server with a function that decides."""
    server = Server(**{} if gate in GATES else {gate: function})
    if gate in GATES:
        GATES[gate](server, function)
    server.on("fail", fail)
    return server


async def passes(gate: str, function: Any) -> bool:
    """Whether a client gets what the gate is there to keep."""
    server = guarded(gate, function)
    try:
        async with connect(server, headers={"Origin": "https://a.example"} if gate == "origins" else {}) as client:
            channel = client.of("wsrpc")
            if gate == "expose_errors":
                await client.request("fail")
            elif gate == "offer_description":
                await channel.request("describe")
            elif gate == "admin":
                assert [row async for row in channel.stream("peers")]
            elif gate in ("allow", "on_join"):
                await client.of("rooms").request("join", "prices")
    except HandshakeRejected as refusal:
        return refusal.status != 500
    except RemoteError as error:
        return "secret" in str(error)
    return True


@pytest.mark.parametrize("gate", [*PLAIN, *MAYBE_ASYNC])
@pytest.mark.parametrize("function", [with_yield, WithYield()])
def test_a_function_with_a_yield_is_refused_at_once(gate: str, function: Any) -> None:
    with pytest.raises(TypeError, match="takes a function without a `yield`"):
        guarded(gate, function)


CALLED = [("allow", r"allow= .*\(peer\)"), ("on_join", r"on_join .*\(peer, room\)"), ("on_handshake", "on_handshake")]
CALLED += [("offer_description", r"allow= .*\(peer\)"), ("admin", r"admin= .*\(peer, action\)")]


@pytest.mark.parametrize(("gate", "text"), CALLED)
def test_what_cannot_be_called_is_refused_at_once(gate: str, text: str) -> None:
    with pytest.raises(TypeError, match=f"{text}, got" if gate != "on_handshake" else text):
        guarded(gate, lambda a, b, c: True)


@pytest.mark.parametrize("gate", PLAIN)
def test_an_async_one_is_refused_at_once_where_nothing_waits(gate: str) -> None:
    with pytest.raises(TypeError, match="takes a plain function, not an async one"):
        guarded(gate, refuse)


@pytest.mark.parametrize(
    ("gate", "function"),
    [(gate, function) for gate in (*PLAIN, *MAYBE_ASYNC) for function in (returns_a_generator, returns_a_future)]
    + [(gate, lambda subject, room="": refuse) for gate in (*PLAIN, *MAYBE_ASYNC)]
    + [(gate, lambda subject, room="": refuse(subject)) for gate in PLAIN]
    + [(gate, forgets_await) for gate in MAYBE_ASYNC],
)
async def test_what_has_not_run_lets_nobody_pass(gate: str, function: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert not await passes(gate, function)
    assert "which has not run: was an `await` or a call forgotten" in caplog.text


@pytest.mark.parametrize("gate", MAYBE_ASYNC[1:])
@pytest.mark.parametrize("decision", ["denied", (False, "no"), 1])
async def test_what_is_neither_true_nor_false_lets_nobody_pass(
    gate: str, decision: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert not await passes(gate, lambda subject, room="": decision)
    text = f" returned {type(decision).__name__}, which is only logged once: return True or False"
    assert caplog.text.count(text) == 1


@pytest.mark.parametrize("gate", [*PLAIN, *MAYBE_ASYNC])
async def test_one_that_decides_is_asked(gate: str) -> None:
    """So that the tests above refuse because of the mistake."""
    allows = None if gate == "on_handshake" else True
    assert await passes(gate, lambda subject, room="": allows)
