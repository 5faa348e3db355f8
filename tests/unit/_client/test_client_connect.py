"""`Client` dials: the first connection, what it is refused with, TLS."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import raw_server
from tenacity import stop_after_attempt

from wsrpc import (
    Client,
    CloseInfo,
    ConnectFailed,
    ConnectionLost,
    HandshakeRejected,
    Limits,
    Peer,
    Reconnect,
    Server,
)
from wsrpc.testing import memory_transports

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)
AT_ONCE = Reconnect(initial=0.001, max=0.001)

NOBODY = "ws://127.0.0.1:1/"

PEM = Path(__file__).parents[2] / "adapters" / "localhost.pem"
"""A key and a certificate that it signed itself, for localhost and 127.0.0.1, valid for a hundred years."""


async def never() -> str:
    """The URL of a client whose attempts do not end by themselves."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def leap(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Put the clock of the event loop forward."""
    loop = asyncio.get_running_loop()
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + seconds)


def server() -> Server:
    made = Server(limits=LIMITS)
    made.on("echo", lambda value: value)
    return made


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port that nobody listens on, and that nobody else gets meanwhile."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def attempts_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "wsrpc" and record.levelno == logging.WARNING and "could not connect" in record.getMessage()
    ]


async def test_a_port_that_nobody_listens_on(deaf_port: int, caplog: pytest.LogCaptureFixture) -> None:
    reconnect = Reconnect(initial=0.001, max=0.001, stop=stop_after_attempt(3))
    client = Client(f"ws://127.0.0.1:{deaf_port}/", reconnect=reconnect)
    with pytest.raises(ConnectFailed) as caught:
        await client.connect()
    error = caught.value
    assert error.attempts == 3
    assert isinstance(error.last_error, ConnectionRefusedError)
    assert isinstance(error, ConnectionError)
    assert "3 attempts" in str(error)
    assert client.state == "closed"
    warnings = attempts_in(caplog)
    assert len(warnings) == 2  # the third is in the line that says that the client gives up
    assert all("ConnectionRefusedError" in warning for warning in warnings)
    await client.close()


async def test_giving_up_ends_what_was_waiting(deaf_port: int) -> None:
    client = Client(f"ws://127.0.0.1:{deaf_port}/", reconnect=AT_ONCE, connect_timeout=0.05)
    request = asyncio.create_task(client.request("x"))
    await asyncio.sleep(0)
    with pytest.raises(ConnectFailed):
        await client.connect()
    with pytest.raises(ConnectionLost) as caught:
        await request
    assert caught.value.outcome == "not_sent"
    assert "gave up: could not connect in" in caught.value.reason
    with pytest.raises(ConnectionLost, match=r"no connection \(1006 the client gave up: could not connect in"):
        await client.request("x")
    with pytest.raises(ConnectFailed):
        await client.wait_connected()
    with pytest.raises(ConnectionLost):
        await client.emit("nobody will come")
    await client.close()


async def test_the_block_is_not_entered_when_there_is_no_connection(deaf_port: int) -> None:
    with pytest.raises(ConnectFailed):
        async with Client(f"ws://127.0.0.1:{deaf_port}/", reconnect=AT_ONCE, connect_timeout=0.02):
            pytest.fail("entered")


async def test_a_server_that_accepts_and_says_nothing() -> None:
    async with raw_server() as raw:
        client = Client(raw.url, limits=Limits(open_timeout=0.03), reconnect=AT_ONCE, connect_timeout=0.2)
        with pytest.raises(ConnectFailed) as caught:
            await client.connect()
        assert isinstance(caught.value.last_error, TimeoutError)
        await client.close()


async def test_connect_timeout_cuts_an_attempt_short() -> None:
    async with raw_server() as raw:
        client = Client(raw.url, connect_timeout=0.05)
        with pytest.raises(ConnectFailed) as caught:
            await client.connect()
        assert caught.value.attempts == 1
        await client.close()


@pytest.mark.parametrize("connect_timeout", [None, 30.0])
async def test_without_reconnect_there_is_one_attempt(
    deaf_port: int, connect_timeout: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[int] = []

    def url() -> str:
        asked.append(1)
        return f"ws://127.0.0.1:{deaf_port}/"

    client = Client(url, reconnect=None, connect_timeout=connect_timeout, limits=LIMITS)
    for attempts in (1, 2):
        queued = asyncio.create_task(client.request("echo", 1))
        with pytest.raises(ConnectFailed) as caught:
            await client.connect()
        assert caught.value.attempts == 1
        assert isinstance(caught.value.last_error, ConnectionRefusedError)
        assert caught.value.__cause__ is caught.value.last_error
        assert str(caught.value).startswith("could not connect in 1 attempt; the last one: ConnectionRefusedError: ")
        assert (client.state, len(asked)) == ("closed", attempts)
        with pytest.raises(ConnectionLost) as lost:
            await queued
        assert lost.value.outcome == "not_sent"
    with pytest.raises(ConnectFailed):
        await client.wait_connected()
    assert "next attempt" not in caplog.text
    await client.close()


async def test_an_attempt_after_a_drop_that_connect_raises_is_no_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server(limits=LIMITS)
    async with server.listen() as listener:
        client = Client(listener.url, reconnect=None, limits=LIMITS)
        await client.connect()
    await client.peer.wait_closed()
    with pytest.raises(ConnectFailed):
        await client.connect()
    assert "gives up" not in caplog.text
    await client.close()


async def test_without_reconnect_a_refusal_is_raised_as_it_is() -> None:
    async with raw_server() as raw:
        client = Client(raw.url, reconnect=None, limits=LIMITS)
        connecting = asyncio.create_task(client.connect())
        await raw.refuse("403 Forbidden")
        with pytest.raises(HandshakeRejected) as fatal:
            await connecting
        assert fatal.value.status == 403
        connecting = asyncio.create_task(client.connect())
        await raw.refuse("503 Service Unavailable")
        with pytest.raises(ConnectFailed) as failed:
            await connecting
        assert isinstance(failed.value.last_error, HandshakeRejected)
        await client.close()


async def test_without_reconnect_a_connection_that_ends_while_it_opens_is_not_dialed_again() -> None:
    server = Server(limits=LIMITS)
    opened: list[Peer] = []

    @server.on("open")
    async def leave(peer: Peer) -> None:
        opened.append(peer)
        await peer.close(4000, "not now")

    async with server.listen() as listener:
        client = Client(listener.url, reconnect=None, limits=LIMITS)
        ready = asyncio.Event()
        client.on("open", ready.wait)
        with pytest.raises(ConnectionLost) as caught:
            await client.connect()
        assert (caught.value.code, caught.value.reason, client.state) == (4000, "not now", "closed")
        await client.close()
    assert len(opened) == 1


@pytest.mark.parametrize("connect_timeout", [None, 20.0])
async def test_it_connects_once_somebody_listens(deaf_port: int, connect_timeout: float | None) -> None:
    urls = [f"ws://127.0.0.1:{deaf_port}/"]
    attempts: asyncio.Queue[str] = asyncio.Queue()

    def url() -> str:
        attempts.put_nowait(urls[0])
        return urls[0]

    client = Client(url, reconnect=AT_ONCE, connect_timeout=connect_timeout, limits=LIMITS)
    connecting = asyncio.create_task(client.connect())
    waiting = asyncio.create_task(client.wait_connected())
    for _ in range(3):
        await attempts.get()
        assert client.state in ("connecting", "waiting")
    async with server().listen() as listener:
        urls[0] = listener.url
        await connecting
        await waiting
        assert await client.request("echo", 1) == 1
        await client.close()


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_fatal_refusals_are_not_tried_again(status: int) -> None:
    async with raw_server() as raw:
        client = Client(raw.url, reconnect=AT_ONCE)
        connecting = asyncio.create_task(client.connect())
        await raw.refuse(f"{status} No", "and this is why")
        with pytest.raises(HandshakeRejected) as caught:
            await connecting
        assert caught.value.status == status
        assert caught.value.body == "and this is why"
        assert isinstance(caught.value, ConnectionError)
        assert "and this is why" in str(caught.value) and str(status) in str(caught.value)
        with pytest.raises(HandshakeRejected):
            await client.wait_connected()
        await client.close()


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_other_refusals_are_tried_again(status: int, caplog: pytest.LogCaptureFixture) -> None:
    async with raw_server() as raw:
        client = Client(raw.url, reconnect=AT_ONCE, limits=LIMITS)
        connecting = asyncio.create_task(client.connect())
        await raw.refuse(f"{status} Later")
        await raw.refuse(f"{status} Later")
        peer = await raw.accept()
        await connecting
        warnings = attempts_in(caplog)
        assert len(warnings) == 2
        assert str(status) in warnings[0]
        peer.drop()
        await client.close()


@pytest.mark.parametrize("location", ["http://portal.example/login", "https://portal.example/", "mailto:a@b"])
async def test_a_redirect_to_what_is_no_websocket_is_tried_again(
    location: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The network of a hotel, which wants to be logged into first."""
    async with raw_server() as raw:
        client = Client(raw.url + "?token=secret", reconnect=AT_ONCE, limits=LIMITS)
        connecting = asyncio.create_task(client.connect())
        await raw.refuse("302 Found", "", f"Location: {location}")
        peer = await raw.accept()
        await connecting
        peer.drop()
        await client.close()
    [warning] = attempts_in(caplog)
    assert "HTTP 302" in warning
    assert "secret" not in warning


async def test_garbage_instead_of_a_handshake_is_tried_again() -> None:
    async with raw_server() as raw:
        client = Client(raw.url, reconnect=AT_ONCE, limits=LIMITS)
        connecting = asyncio.create_task(client.connect())
        for garbage in (b"SSH-2.0-OpenSSH_9.6\r\n", b"\x00" * 100 + b"\r\n", b""):
            sock = await raw.accept_tcp()
            await asyncio.get_running_loop().sock_sendall(sock, garbage)
            sock.close()
        peer = await raw.accept()
        await connecting
        peer.drop()
        await client.close()


async def test_values_are_used_for_each_attempt() -> None:
    async with raw_server() as raw:
        client = Client(raw.url + "ws?x=1", headers={"X-One": "1"}, auth="secret", reconnect=AT_ONCE, limits=LIMITS)
        connecting = asyncio.create_task(client.connect())
        requests = [await raw.refuse("503 Later"), (peer := await raw.accept()).request]
        await connecting
        for request in requests:
            assert request.startswith(b"GET /ws?x=1 HTTP/1.1\r\n")
            assert b"\r\nX-One: 1\r\n" in request + b"\r\n"
            assert b"\r\nAuthorization: Bearer secret\r\n" in request + b"\r\n"
        assert client.peer.info.path == "/ws"
        assert client.peer.info.query == {"x": "1"}
        peer.drop()
        await client.close()


@pytest.mark.parametrize("kind", ["function", "coroutine"])
async def test_functions_are_asked_at_each_attempt(kind: str) -> None:
    asked: list[str] = []

    def number(what: str) -> str:
        asked.append(what)
        return f"{what}{asked.count(what)}"

    async with raw_server() as raw:
        if kind == "function":
            client = Client(
                lambda: raw.url + number("url"),
                headers=lambda: {"X-Number": number("header")},
                auth=lambda: number("auth"),
                reconnect=AT_ONCE,
                limits=LIMITS,
            )
        else:

            async def url() -> str:
                await asyncio.sleep(0)
                return raw.url + number("url")

            async def headers() -> dict[str, str]:
                await asyncio.sleep(0)
                return {"X-Number": number("header")}

            async def auth() -> str:
                await asyncio.sleep(0)
                return number("auth")

            client = Client(url, headers=headers, auth=auth, reconnect=AT_ONCE, limits=LIMITS)
        assert asked == []
        connecting = asyncio.create_task(client.connect())
        requests = [await raw.refuse("500 Oops"), (peer := await raw.accept()).request]
        await connecting
        for count, request in enumerate(requests, 1):
            assert request.startswith(f"GET /url{count} ".encode())
            assert f"X-Number: header{count}".encode() in request
            assert f"Authorization: Bearer auth{count}".encode() in request
        assert sorted(asked) == sorted(["url", "header", "auth"] * 2)
        peer.drop()
        await client.close()


async def test_a_function_that_fails_is_an_attempt_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    calls = 0

    def auth() -> str:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise RuntimeError("no token yet")
        return "token"

    async with server().listen() as listener:
        async with Client(listener.url, auth=auth, reconnect=AT_ONCE, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1
    assert ["no token yet" in warning for warning in attempts_in(caplog)] == [True, True]


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "nonsense", "ws:x", ""])
def test_a_url_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="ws://"):
        Client(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "nonsense", "ws://", "", 5, None])
async def test_a_url_that_is_none_is_not_tried_again(url: Any, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(lambda: url, reconnect=AT_ONCE, connect_timeout=1.0)
    with pytest.raises(ValueError, match="ws://"):
        await client.connect()
    assert attempts_in(caplog) == []
    await client.close()


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_a_connect_timeout_that_is_none_is_refused_at_once(seconds: float) -> None:
    with pytest.raises(ValueError, match="connect_timeout= is a number of seconds, more than 0"):
        Client(NOBODY, connect_timeout=seconds)


async def test_headers_that_are_none_say_what_headers_are(caplog: pytest.LogCaptureFixture) -> None:
    wrong: Any = "Authorization: x"
    with pytest.raises(TypeError, match="mapping of names to values"):
        Client(NOBODY, headers=wrong)
    client = Client(NOBODY, headers=lambda: wrong, reconnect=AT_ONCE, connect_timeout=0.05)
    with pytest.raises(ConnectFailed, match="mapping of names to values"):
        await client.connect()
    await client.close()


async def test_subprotocols_are_offered_and_the_choice_is_known() -> None:
    async with raw_server() as raw:
        client = Client(raw.url, subprotocols=["one", "two"], limits=LIMITS)
        connecting = asyncio.create_task(client.connect())
        peer = await raw.accept("Sec-WebSocket-Protocol: two")
        await connecting
        assert b"Sec-WebSocket-Protocol: one, two" in peer.request
        assert client.peer.info.subprotocol == "two"
        peer.drop()
        await client.close()


async def test_cancelling_connect_leaves_nothing_behind(deaf_port: int) -> None:
    urls = [f"ws://127.0.0.1:{deaf_port}/"]
    client = Client(lambda: urls[0], connect_timeout=None, limits=LIMITS)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.connect()
    assert len(asyncio.all_tasks()) == 1
    assert client.state not in ("connecting", "waiting", "connected")
    async with server().listen() as listener:
        urls[0] = listener.url
        await client.connect()
        assert await client.request("echo", 1) == 1
        await client.close()


async def test_cancelling_connect_does_not_strand_somebody_who_waits(deaf_port: int) -> None:
    client = Client(f"ws://127.0.0.1:{deaf_port}/", connect_timeout=None)
    connecting = asyncio.create_task(client.connect())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(client.wait_connected())
    await asyncio.sleep(0)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert client.state in ("connecting", "waiting")  # it goes on, for whoever waits
    await client.close()
    with pytest.raises(ConnectionLost):
        async with asyncio.timeout(5):
            await waiting


async def test_cancelling_one_connect_leaves_the_other_one_dialing() -> None:
    async with raw_server() as raw:
        client = Client(raw.url, reconnect=AT_ONCE, limits=LIMITS)
        stays = asyncio.create_task(client.connect())
        leaves = asyncio.create_task(client.connect())
        await raw.refuse("503 Later")
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        peer = await raw.accept()
        await stays
        assert client.connected
        peer.drop()
        await client.close()


async def test_connect_twice_is_one_connection() -> None:
    made = server()
    async with made.listen() as listener:
        client = Client(listener.url, limits=LIMITS)
        await asyncio.gather(client.connect(), client.connect())
        await client.connect()
        assert len(made.peers) == 1
        await client.close()


async def test_wait_connected_after_close_says_so() -> None:
    client = Client("ws://127.0.0.1:1/")
    await client.close()
    with pytest.raises(ConnectionLost, match="the client was closed"):
        await client.wait_connected()
    with pytest.raises(ConnectionLost, match=r"no connection \(1000 closed on this side\); nothing was sent"):
        await client.request("x")


# ---------------------------------------------------------------- TLS


def tls_server() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    return context


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(PEM))


async def test_tls() -> None:
    made = server()
    async with made.listen(ssl=tls_server(), path="/ws") as listener:
        assert listener.url == f"wss://127.0.0.1:{listener.port}/ws"
        async with Client(listener.url, ssl=trusting(), limits=LIMITS) as client:
            assert await client.request("echo", "x" * 300_000) == "x" * 300_000
            (peer,) = made.peers
            assert peer.info.underlying.transport.get_extra_info("ssl_object") is not None


async def test_tls_abort_and_drop() -> None:
    made = server()
    lost: asyncio.Queue[int] = asyncio.Queue()
    made.on("close", lambda peer, info: lost.put_nowait(info.code))
    async with made.listen(ssl=tls_server()) as listener:
        client = Client(listener.url, ssl=trusting(), limits=LIMITS, reconnect=AT_ONCE)
        back = asyncio.Event()
        client.on_reconnect(lambda info: back.set())
        async with client:
            client.peer.info.underlying.transport.abort()
            assert await lost.get() == 1006
            await back.wait()
            assert await client.request("echo", 1) == 1


async def test_a_certificate_that_is_not_trusted_is_fatal(caplog: pytest.LogCaptureFixture) -> None:
    async with server().listen(ssl=tls_server()) as listener:
        client = Client(listener.url, reconnect=AT_ONCE, limits=LIMITS)
        with pytest.raises(ssl.SSLCertVerificationError):
            await client.connect()
        assert attempts_in(caplog) == []
        assert client.state == "closed"
        await client.close()


async def test_a_certificate_for_another_name_is_fatal(caplog: pytest.LogCaptureFixture) -> None:
    async with server().listen("127.0.0.2", ssl=tls_server()) as listener:
        client = Client(listener.url, ssl=trusting(), reconnect=AT_ONCE, limits=LIMITS)
        with pytest.raises(ssl.SSLCertVerificationError):
            await client.connect()
        assert attempts_in(caplog) == []
        await client.close()


async def test_connect_timeout_bounds_a_server_that_closes_while_open_handlers_run() -> None:
    closing = Server(limits=LIMITS)

    @closing.on("open")
    async def refuse(peer: Peer) -> None:
        await peer.close(4401, "who are you?")

    async with closing.listen() as listener:
        client = Client(listener.url, reconnect=AT_ONCE, connect_timeout=0.5, limits=LIMITS)

        @client.on("open")
        async def log_in(peer: Peer) -> None:
            await peer.request("log in")

        endings: list[CloseInfo] = []
        client.on("close", lambda peer, info: endings.append(info))
        async with asyncio.timeout(8):
            with pytest.raises(ConnectFailed) as caught:
                await client.connect()
        assert isinstance(caught.value.last_error, ConnectionLost) and caught.value.last_error.code == 4401
        assert caught.value.__cause__ is caught.value.last_error
        assert caught.value.attempts >= len(endings) > 0
        assert client.state == "closed"
        await client.close()


async def test_connect_timeout_bounds_open_handlers() -> None:
    listening = server()
    ended: asyncio.Queue[CloseInfo] = asyncio.Queue()
    listening.on("close", lambda peer, info: ended.put_nowait(info))
    async with listening.listen() as listener:
        client = Client(listener.url, connect_timeout=0.5, limits=LIMITS.replace(open_handlers=3600.0))
        cancelled: list[bool] = []
        errors: list[Exception] = []
        client.on("error", lambda peer, error: errors.append(error))

        @client.on("open")
        async def log_in(peer: Peer) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(True)

        waits = asyncio.create_task(client.request("x"))
        async with asyncio.timeout(8):
            with pytest.raises(ConnectFailed, match=r"1 attempt.*`open` handlers.*connect_timeout=0\.5 s"):
                await client.connect()
            assert client.state == "closed" and not client.connected
            with pytest.raises(ConnectionLost) as lost:
                await waits
            assert lost.value.outcome == "not_sent"
            assert (await ended.get()).code == 1001
        assert (cancelled, errors) == ([True], [])
        await client.close()


async def test_connect_timeout_bounds_a_connect_on_the_way_back_which_goes_on() -> None:
    async with raw_server() as raw:
        client = Client(raw.url, reconnect=AT_ONCE, connect_timeout=0.5, limits=LIMITS)
        connecting = asyncio.create_task(client.connect())
        peer = await raw.accept()
        await connecting
        peer.drop()
        await client.peer.wait_closed()
        with pytest.raises(ConnectFailed) as caught:
            await client.connect()
        assert isinstance(caught.value.last_error, ConnectionLost)
        assert client.state == "connecting"
        peer = await raw.accept()
        await client.wait_connected()
        peer.drop()
        await client.close()


async def test_connect_timeout_bounds_a_connect_whose_dialing_was_stopped_by_bind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the connection that was bound ends before its `open` handlers are done, and the client dials again."""
    client = Client(never, reconnect=AT_ONCE, connect_timeout=30.0, limits=LIMITS)
    client.on("open", asyncio.Event().wait)
    connecting = asyncio.create_task(client.connect())
    await turns_until(lambda: client.state == "connecting")
    transport, _ = memory_transports()
    binding = asyncio.create_task(client.bind(transport))
    await turns_until(lambda: client.state == "opening")
    transport.abort()
    with pytest.raises(ConnectionLost):
        await binding
    leap(monkeypatch, 31.0)
    async with asyncio.timeout(8):
        with pytest.raises(ConnectFailed):
            await connecting
    assert client.state in ("waiting", "connecting")
    await client.close()


async def test_connect_timeout_bounds_a_connect_that_waits_for_the_open_handlers_after_bind() -> None:
    client = Client(never, connect_timeout=0.1, limits=Limits(close_timeout=0.05, open_handlers=3600.0))
    client.on("open", asyncio.Event().wait)
    transport, _ = memory_transports()
    binding = asyncio.create_task(client.bind(transport))
    await turns_until(lambda: client.state == "opening")
    async with asyncio.timeout(8):
        with pytest.raises(ConnectFailed, match=r"0 attempts: TimeoutError: the `open` handlers.*connect_timeout=0\.1"):
            await client.connect()
    assert client.state == "opening"
    await client.close()
    with pytest.raises(ConnectionLost):
        await binding


async def test_connect_returns_where_the_connection_comes_in_the_turn_in_which_its_time_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with raw_server() as raw:
        client = Client(raw.url, reconnect=AT_ONCE, connect_timeout=30.0, limits=LIMITS)
        client.on_reconnect(lambda: leap(monkeypatch, 31.0))  # as a function that takes so long

        connecting = asyncio.create_task(client.connect())
        peer = await raw.accept()
        await connecting
        peer.drop()
        await client.peer.wait_closed()
        connecting = asyncio.create_task(client.connect())
        peer = await raw.accept()
        await connecting
        assert client.state == "connected"
        peer.drop()
        await client.close()


async def test_cancelling_connect_after_a_drop_in_the_open_handlers_stops_dialing() -> None:
    async with raw_server() as raw:
        client = Client(raw.url, reconnect=Reconnect(initial=3600.0, max=3600.0), limits=LIMITS)
        client.on("open", asyncio.Event().wait)
        connecting = asyncio.create_task(client.connect())
        peer = await raw.accept()
        await turns_until(lambda: client.state == "opening")
        peer.drop()
        await turns_until(lambda: client.state == "waiting")
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        assert client.state == "idle"
        await client.close()
