"""Every way to dial, through a `Client`, to the default server and to raw peers."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import threading
from contextlib import AsyncExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from dialings import DIALINGS, Dialing
from proxies import Proxy, http
from raw_websocket import CLOSE, TEXT, accept_response, raw_server
from recorder import Recorder
from served import LIMITS, PEM, echo_server, tls

from wsrpc import Client, ConnectionLost, Handshake, HandshakeRejected, Reconnect, Server, is_transient
from wsrpc.types import RawConnection

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
async def test_the_subprotocol_of_web_pages_is_accepted(dialing: Dialing) -> None:
    """A server answers ``wsrpc.resume``, and waits for a message with the session. picows refused its answer."""
    async with echo_server().listen() as listener:
        async with Client(listener.url, dial=dialing.dial, subprotocols=["wsrpc.resume"], limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1
            assert client.peer.info.subprotocol == "wsrpc.resume"


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


@dialings
@pytest.mark.parametrize(
    ("status", "name", "hint"),
    [
        ("404 Not Found", "nginx/1.25", "nginx/1.25 answered at {}: are host and path right?"),
        ("414 Too Long", "", "a server without a name answered at {}: the URL is too long"),
        ("431 Too Large", "", "a server without a name answered at {}: a header is too long, such as a cookie"),
    ],
)
async def test_what_answered_where_is_noted_with_a_final_refusal(
    dialing: Dialing, status: str, name: str, hint: str
) -> None:
    """After 414 and 431, the client dialed without an end. "HTTP 404: Not Found" did not say which URL had nothing."""
    async with raw_server() as server:
        client = Client(f"{server.url}?token=secret", dial=dialing.dial, limits=LIMITS)
        connecting = asyncio.create_task(client.connect())
        await server.refuse("307 Go", "", "Location: /other")
        await server.refuse(status, "No", *([f"Server: {name}"] if name else []))
        with pytest.raises(HandshakeRejected) as caught:
            await connecting
        assert caught.value.__notes__ == [hint.format(f"'ws://127.0.0.1:{server.port}/other'")]


async def test_a_response_that_is_too_large_ends_dialing() -> None:
    """The client dialed without an end, and did not say that the response exceeds a limit."""
    async with raw_server() as server:
        connecting = asyncio.create_task(Client(server.url, limits=LIMITS).connect())
        await server.accept("Set-Cookie: " + "x" * 9000)
        with pytest.raises(OSError, match=r"^the response is too large: .*; to raise the limit, set WEBSOCKETS_"):
            await connecting


NOT_URLS = ["http://x/", "ws:///nothing", "ws://[::1", "ws://x/\r\nX-Evil: 1", "ws://x/#a", f"ws://{'ö' * 100}/"]


@dialings
@pytest.mark.parametrize("url", NOT_URLS)
async def test_a_url_that_is_not_valid_is_not_tried_again(dialing: Dialing, url: str) -> None:
    with pytest.raises(ValueError) as caught:
        await dialing.dial(url, limits=LIMITS)
    assert not is_transient(caught.value)
    with pytest.raises(ValueError):
        await Client(lambda: url, dial=dialing.dial, limits=LIMITS).connect()


@dialings
@pytest.mark.parametrize("proxy", ["ftp://127.0.0.1/", "127.0.0.1:3128", "http://127.0.0.1:99999"])
async def test_a_proxy_that_is_not_valid_is_not_tried_again(
    dialing: Dialing, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ws_proxy", proxy)
    for setting in (True, proxy):
        with pytest.raises(ValueError) as caught:
            await dialing.dial("ws://192.0.2.1/", proxy=setting, limits=LIMITS)
        assert not is_transient(caught.value)


@pytest.mark.parametrize(
    ("dialing", "secure"),
    # aiohttp has read the certificates that it trusts before the test names one.
    [
        (each, secure)
        for each in DIALINGS
        for secure in ("server", "proxy")
        if (each.name, secure) != ("aiohttp", "proxy")
    ],
    ids=str,
)
async def test_over_tls_reading_goes_on_after_a_pause(
    dialing: Dialing, secure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With picows, what was received, but not yet decrypted, waited for the next packet."""
    monkeypatch.setenv("SSL_CERT_FILE", str(PEM))
    context, trusting = tls()
    server = Server(limits=LIMITS)
    texts = [f"{number:1000}" for number in range(400)]
    loop = asyncio.get_running_loop()

    @server.serve_raw
    async def writes(connection: RawConnection) -> None:
        await connection.receive()
        for text in texts:
            await connection.send(text)
        await connection.wait_closed()

    def pause(_: bytes) -> None:
        transport.pause_receiving()
        loop.call_soon(transport.resume_receiving)

    async with AsyncExitStack() as stack:
        if secure == "server":
            listener = await stack.enter_async_context(server.listen("localhost", ssl=context))
            url, proxy = f"wss://localhost:{listener.port}/", None
        else:
            listener = await stack.enter_async_context(server.listen("localhost"))
            relaying = await stack.enter_async_context(Proxy(http()).running(context))
            url, proxy = f"ws://localhost:{listener.port}/", f"https://localhost:{relaying.port}"
        transport = await dialing.dial(url, ssl=None if proxy else trusting, proxy=proxy, limits=LIMITS)
        recorder = Recorder(pause)
        transport.start(recorder)
        transport.send(b"begin")
        transport.flush()
        await recorder.until(lambda: len(recorder.messages) == len(texts))
        assert recorder.texts == texts
        await transport.close()


@pytest.mark.parametrize("secure", ["server", "proxy"])
@pytest.mark.parametrize("dialing", [one for one in DIALINGS if one.name != "aiohttp"], ids=repr)
async def test_all_dials_share_one_tls_context_which_a_thread_makes(
    dialing: Dialing, secure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each dial read all authorities in the event loop: 100 clients that lost their server held it for 4 seconds.

    (aiohttp makes its context when it is imported.)
    """
    (tmp_path / "ca.pem").write_bytes(PEM.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))  # no earlier dial had this one
    made_in: list[int] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is ssl.create_default_context.__code__:
            made_in.append(threading.get_ident())

    async with AsyncExitStack() as stack:
        context, server = tls()[0], echo_server()
        listener = await stack.enter_async_context(server.listen("localhost", ssl=context))
        relaying = await stack.enter_async_context(Proxy(http()).running(context))
        proxy = None if secure == "server" else f"https://localhost:{relaying.port}"
        url = f"wss://localhost:{listener.port}/"
        threading.setprofile(profile)
        sys.setprofile(profile)
        try:
            for _ in range(2):
                dials = [dialing.dial(url, proxy=proxy, limits=LIMITS) for _ in range(3)]
                for transport in await asyncio.gather(*dials):
                    transport.abort()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    assert len(made_in) == 1 and made_in != [threading.get_ident()]


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
    context, trusting = tls()
    server = echo_server()
    async with server.listen(ssl=context) as listener:
        url = f"wss://localhost:{listener.port}/"
        async with Client(url, dial=dialing.dial, ssl=trusting, limits=LIMITS) as client:
            assert await client.request("echo", "x" * 300_000) == "x" * 300_000
        with pytest.raises(ssl.SSLError) as caught:
            await dialing.dial(url, limits=LIMITS)
        assert not is_transient(caught.value)


@dialings
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", id="without TLS"),
        pytest.param(b"\x15\x03\x03\0\x02\x02\x50", id="alert"),
    ],
)
async def test_a_failed_tls_handshake_is_tried_again(dialing: Dialing, answer: bytes) -> None:
    """A load balancer that restarts ended a running client for good."""
    async with raw_server() as server:
        dialed = asyncio.create_task(dialing.dial(f"wss://localhost:{server.port}/", ssl=tls()[1], limits=LIMITS))
        loop, sock = asyncio.get_running_loop(), await server.accept_tcp()
        assert await loop.sock_recv(sock, 1 << 16)
        await loop.sock_sendall(sock, answer)
        with pytest.raises(ssl.SSLError) as caught:
            await dialed
        assert is_transient(caught.value)


@pytest.mark.parametrize("dialing", [one for one in DIALINGS if one.name != "aiohttp"], ids=repr)
async def test_through_a_proxy_of_the_environment_or_of_one_s_own(
    dialing: Dialing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiohttp has rules of its own."""
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "ws_proxy"):
        monkeypatch.delenv(name, raising=False)
    loop = asyncio.get_running_loop()
    async with raw_server() as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        for setting in (True, f"http://127.0.0.1:{proxy.port}"):
            dialed = asyncio.create_task(dialing.dial("ws://192.0.2.1/", proxy=setting, limits=LIMITS))
            sock = await proxy.accept_tcp()
            assert (await loop.sock_recv(sock, 1000)).startswith(b"CONNECT 192.0.2.1:80 HTTP/1.1\r\n")
            await loop.sock_sendall(sock, b"HTTP/1.1 200 OK\r\n\r\n")
            await loop.sock_sendall(sock, accept_response(await loop.sock_recv(sock, 1000)))
            (await dialed).abort()
            sock.close()


@dialings
async def test_nothing_that_a_server_says_keeps_the_connection_open(dialing: Dialing) -> None:
    """A number of 200 digits made the close reason too long for a Close frame, and closing raised an exception."""
    welcome = {"t": "welcome", "features": ["resume"], "limits": {}, "sid": "a.b", "token": "t", "ttl": 60}
    async with asyncio.timeout(8), raw_server() as server:
        once = Reconnect(retry=lambda error: False)
        client = Client(server.url, dial=dialing.dial, limits=LIMITS, reconnect=once)
        connecting = asyncio.create_task(client.connect())
        raw = await server.accept()
        await connecting
        request = asyncio.create_task(client.request("anything", timeout=None))
        for control in (welcome, {"t": "ack", "n": 10**200, "bytes": 0}):
            await raw.send(raw.frame(TEXT, json.dumps({"ws-wrapper": False, "wsrpc": control})))
        frame = await raw.next_of(CLOSE)
        assert (frame.code, len(frame.reason)) == (4400, 123)
        raw.drop()
        with pytest.raises(ConnectionLost) as caught:
            await request
        assert (caught.value.code, caught.value.reason) == (4400, frame.reason)
        await client.close()
