"""Every way to dial, through a `Client`, to the default server and to raw peers."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from dialings import DIALINGS, Dialing
from raw_websocket import raw_server
from served import LIMITS, echo_server

from wsrpc import Client, ConnectFailed, Handshake, HandshakeRejected, Server, is_transient

PEM = Path(__file__).parent / "localhost.pem"

dialings = pytest.mark.parametrize("dialing", DIALINGS, ids=repr)


@dialings
async def test_headers_auth_and_subprotocols_arrive(dialing: Dialing) -> None:
    server = Server(limits=LIMITS)

    @server.on_handshake
    def gate(given: Handshake) -> None:
        given.subprotocol = "b"
        given.response_headers["X-Served-By"] = "me"

    options: dict[str, Any] = {"headers": {"X-Name": "Ada", "User-Agent": "mine"}, "auth": "token"}
    async with server.listen() as listener:
        async with Client(listener.url, dial=dialing.dial, subprotocols=["a", "b"], limits=LIMITS, **options) as client:
            [peer] = server.peers
            seen = peer.info.headers
            assert (seen["x-name"], seen["user-agent"], seen["authorization"]) == ("Ada", "mine", "Bearer token")
            assert seen["host"] == f"127.0.0.1:{listener.port}"
            assert client.peer.info.subprotocol == peer.info.subprotocol == "b"


@dialings
async def test_a_refused_handshake_has_status_body_and_headers(dialing: Dialing) -> None:
    server = Server(limits=LIMITS)

    @server.on_handshake
    def gate(given: Handshake) -> None:
        given.reject(401, "no töken", {"WWW-Authenticate": "Bearer"})

    async with server.listen() as listener:
        with pytest.raises(HandshakeRejected) as caught:
            await dialing.dial(listener.url, limits=LIMITS)
        error = caught.value
        assert (error.status, error.body, error.headers["www-authenticate"]) == (401, "no töken", "Bearer")
        with pytest.raises(HandshakeRejected):
            await Client(listener.url, dial=dialing.dial, limits=LIMITS).connect()


@dialings
async def test_what_answers_but_is_no_websocket_server(dialing: Dialing) -> None:
    async with raw_server() as server:
        for status in ("200 OK", "101 Switching Protocols"):
            dialed = asyncio.create_task(dialing.dial(server.url, limits=LIMITS))
            await server.refuse(status, "hello" if status < "2" else "")
            with pytest.raises(Exception) as caught:
                await dialed
            assert not isinstance(caught.value, AssertionError) and str(caught.value)


@dialings
async def test_nobody_there_is_an_os_error_and_worth_another_attempt(dialing: Dialing) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with pytest.raises(OSError) as caught:
        await dialing.dial(f"ws://127.0.0.1:{port}/", limits=LIMITS)
    assert is_transient(caught.value)


@dialings
async def test_whoever_says_nothing_is_given_up_after_open_timeout(dialing: Dialing) -> None:
    async with raw_server() as server:
        with pytest.raises(TimeoutError):
            await dialing.dial(server.url, limits=LIMITS.replace(open_timeout=0.1))


@dialings
async def test_a_connection_that_ends_in_the_handshake(dialing: Dialing) -> None:
    async with raw_server() as server:

        async def end_all() -> None:
            while True:  # aiohttp tries a second time
                (await server.accept_tcp()).close()

        ending = asyncio.create_task(end_all())
        with pytest.raises(Exception) as caught:
            await dialing.dial(server.url, limits=LIMITS)
        assert is_transient(caught.value)
        ending.cancel()
        await asyncio.wait([ending])


NOT_URLS = [
    "http://x/",
    "ws:///nothing",
    "x",
    "ws://",
    "ws://127.0.0.1:99999/",
    "ws://127.0.0.1:port/",
    "ws://[::1",
    "ws://x/a b",
    "ws://x/\r\nX-Evil: 1",
    "ws://x/#fragment",
    f"ws://{'ö' * 100}/",
]


@dialings
@pytest.mark.parametrize("url", NOT_URLS)
async def test_a_url_that_is_none_is_not_tried_again(dialing: Dialing, url: str) -> None:
    with pytest.raises(ValueError) as caught:
        await dialing.dial(url, limits=LIMITS)
    assert not is_transient(caught.value)
    asked: list[str] = []

    def ask() -> str:
        asked.append(url)
        return url

    client = Client(ask, dial=dialing.dial, limits=LIMITS)
    with pytest.raises(ValueError):
        await client.connect()
    assert len(asked) == 1 and client.state == "closed"


@dialings
@pytest.mark.parametrize("proxy", ["ftp://127.0.0.1/", "127.0.0.1:3128", "http://", "http://127.0.0.1:99999"])
@pytest.mark.parametrize("environment", [True, False])
async def test_a_proxy_that_is_none_is_not_tried_again(
    dialing: Dialing, proxy: str, environment: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if environment:
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("ws_proxy", proxy)
    with pytest.raises(ValueError) as caught:
        await dialing.dial("ws://192.0.2.1/", proxy=True if environment else proxy, limits=LIMITS)
    assert not is_transient(caught.value)


@dialings
async def test_cancelling_leaves_nothing(dialing: Dialing) -> None:
    async with raw_server() as server:
        dialed = asyncio.create_task(dialing.dial(server.url, limits=LIMITS))
        await server.accept_tcp()
        dialed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialed


@dialings
async def test_tls(dialing: Dialing) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    server = echo_server()
    async with server.listen(ssl=context) as listener:
        url = f"wss://localhost:{listener.port}/"
        trusting = ssl.create_default_context(cafile=str(PEM))
        async with Client(url, dial=dialing.dial, ssl=trusting, limits=LIMITS) as client:
            assert await client.request("echo", "x" * 300_000) == "x" * 300_000
        with pytest.raises(ssl.SSLError) as caught:
            await dialing.dial(url, limits=LIMITS)
        assert not is_transient(caught.value)
        with pytest.raises((ConnectFailed, ssl.SSLError)):
            await Client(url, dial=dialing.dial, limits=LIMITS).connect()
