"""Dialing, through a `Client`, to the default server and to raw peers."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from client_driver import leap
from hosts import CERTIFICATE, KEY
from proxies import Proxy, http, socks5
from raw_websocket import raw_server
from recorder import Recorder
from served import AT_ONCE, LIMITS, PEM, echo_server, tls
from tenacity import stop_after_attempt

from wsrpc import Client, ConnectFailed, Handshake, HandshakeRejected, Limits, Reconnect, Server, dial, is_transient
from wsrpc.types import RawConnection

TWICE = Reconnect(initial=0.001, max=0.001, stop=stop_after_attempt(2))


async def test_headers_auth_and_subprotocols_arrive() -> None:
    server = Server(limits=LIMITS)
    server.on_handshake(lambda given: setattr(given, "subprotocol", "b"))
    options: dict[str, Any] = {"headers": {"X-Name": "Ada", "User-Agent": "mine"}, "auth": "token"}
    async with server.listen() as listener:
        async with Client(listener.url, dial=dial, subprotocols=["a", "b"], limits=LIMITS, **options) as client:
            [peer] = server.peers
            seen = peer.info.headers
            assert (seen["x-name"], seen["user-agent"], seen["authorization"]) == ("Ada", "mine", "Bearer token")
            assert seen["host"] == f"127.0.0.1:{listener.port}"
            assert client.peer.info.subprotocol == peer.info.subprotocol == "b"


NOBODY = "a server without a name"
MOVED = "it redirects to 'ws://127.0.0.1:1/there…'; redirects are not followed"
REFUSALS = [
    ("404 Not Found", "Server: nginx/1.25", "nginx/1.25 answered at {}: are host and path right?"),
    ("414 Too Long", "X-A: 1", f"{NOBODY} answered at {{}}: the URL is too long"),
    ("431 Too Large", "X-A: 1", f"{NOBODY} answered at {{}}: a header is too long, such as a cookie"),
    *((status, "Location: ws://127.0.0.1:1/there?token=s3cr3t", MOVED) for status in ("301 Moved", "308 Permanent")),
]


@pytest.mark.parametrize(("status", "header", "hint"), REFUSALS)
async def test_a_final_refusal_notes_what_answered_where(status: str, header: str, hint: str) -> None:
    """After 414 and 431, the client dialed without an end. "HTTP 404: Not Found" did not say which URL had nothing.

    No redirect is followed, so that no other server gets credentials.
    """
    async with raw_server() as server:
        client = Client(f"{server.url}?token=s3cr3t", dial=dial, auth="s3cr3t", limits=LIMITS, reconnect=None)
        connecting = asyncio.create_task(client.connect())
        await server.refuse(status, "No", header)
        with pytest.raises(HandshakeRejected, match=f"HTTP {status[:3]}: No") as caught:
            await connecting
        assert is_transient(caught.value) is (hint is MOVED)
        [note] = caught.value.__notes__
        assert hint.format(f"'ws://127.0.0.1:{server.port}/…'") in note
        assert "s3cr3t" not in f"{caught.value} {caught.value!r} {note}"


NOT_URLS = ["http://x/", "ws:///nothing", "ws://[::1", "ws://x/\r\nX-Evil: 1", "ws://x/#a", f"ws://{'ö' * 100}/"]
NO_PROXIES = ["ftp://127.0.0.1/", "127.0.0.1:3128", "http://127.0.0.1:99999"]


@pytest.mark.parametrize(
    ("url", "proxy"), [*((url, None) for url in NOT_URLS), *(("ws://192.0.2.1/", proxy) for proxy in NO_PROXIES)]
)
async def test_a_url_that_is_not_valid_is_not_tried_again(url: str, proxy: str | None) -> None:
    with pytest.raises(ValueError) as caught:
        await dial(url, proxy=proxy, limits=LIMITS)
    assert not is_transient(caught.value)
    with pytest.raises(ValueError):
        await Client(lambda: url, dial=dial, proxy=proxy, limits=LIMITS).connect()


async def test_over_tls_reading_goes_on_after_a_pause() -> None:
    server, (context, trusting) = Server(limits=LIMITS), tls()
    texts = [f"{number:1000}" for number in range(400)]

    @server.serve_raw
    async def writes(connection: RawConnection) -> None:
        for text in texts:
            await connection.send(text)
        await connection.wait_closed()

    def pause(_: bytes) -> None:
        transport.pause_receiving()
        asyncio.get_running_loop().call_soon(transport.resume_receiving)

    async with server.listen("localhost", ssl=context) as listener:
        transport = await dial(f"wss://localhost:{listener.port}/", ssl=trusting, limits=LIMITS)
        recorder = Recorder(pause)
        transport.start(recorder)
        await recorder.count(len(texts))
        assert recorder.texts == texts
        await transport.close()


async def test_all_dials_share_one_tls_context_of_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each dial read all authorities in the event loop: 100 clients that lost their server held it for 4 seconds.

    (aiohttp makes its context when it is imported.)
    """
    (tmp_path / "ca.pem").write_bytes(PEM.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))  # no earlier dial had this one
    made_in: list[int] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is ssl.create_default_context.__code__:
            made_in.append(threading.get_ident())

    context, server = tls()[0], echo_server()
    async with server.listen("localhost", ssl=context) as listener, Proxy(http()).running(context) as relaying:
        threading.setprofile(profile)
        sys.setprofile(profile)
        try:
            for proxy in (None, f"https://localhost:{relaying.port}"):
                dials = [dial(f"wss://localhost:{listener.port}/", proxy=proxy, limits=LIMITS) for _ in range(3)]
                for transport in await asyncio.gather(*dials):
                    transport.abort()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    assert len(made_in) == 1 and made_in != [threading.get_ident()]


async def test_cancelling_leaves_nothing() -> None:
    async with raw_server() as server:
        dialed = asyncio.create_task(dial(server.url, limits=LIMITS))
        await server.accept_tcp()
        dialed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialed


async def test_tls() -> None:
    context, trusting = tls()
    async with echo_server().listen(ssl=context) as listener:
        url = f"wss://localhost:{listener.port}/"
        async with Client(url, dial=dial, ssl=trusting, limits=LIMITS) as client:
            assert await client.request("echo", "x" * 300_000) == "x" * 300_000
        with pytest.raises(ssl.SSLError) as caught:
            await dial(url, limits=LIMITS)
        assert not is_transient(caught.value)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", b"\x15\x03\x03\0\x02\x02\x50"])
async def test_a_failed_tls_handshake_is_tried_again(answer: bytes) -> None:
    """A load balancer that restarts ended a running client for good."""
    async with raw_server() as server:
        dialed = asyncio.create_task(dial(f"wss://localhost:{server.port}/", ssl=tls()[1], limits=LIMITS))
        loop, sock = asyncio.get_running_loop(), await server.accept_tcp()
        assert await loop.sock_recv(sock, 1 << 16)
        await loop.sock_sendall(sock, answer)
        with pytest.raises(ssl.SSLError) as caught:
            await dialed
        assert is_transient(caught.value)


@contextmanager
def dead_addresses(monkeypatch: pytest.MonkeyPatch, port: int, *, alive: bool = True) -> Iterator[None]:
    """``localhost`` has 40 addresses where packets are dropped, all before one where a server is, if ``alive``.

    Linux drops the packets that open a connection while a listening socket has as many as it may.
    """
    with socket.create_server(("::1", port), family=socket.AF_INET6, backlog=0) as full:
        filling = [socket.socket(socket.AF_INET6) for _ in range(3)]
        for sock in filling:
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.connect(full.getsockname())
        real, loop = socket.getaddrinfo, asyncio.get_running_loop()

        def addresses(host: Any, port: Any, *args: Any, **options: Any) -> list[Any]:
            if host not in ("localhost", b"localhost") or options.get("flags", 0) & socket.AI_NUMERICHOST:
                return real(host, port, *args, **options)
            found: list[Any] = [(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("::1", port, 0, 0))] * 40
            return found + real("127.0.0.1", port, type=socket.SOCK_STREAM) if alive else found

        async def in_loop(*args: Any, **options: Any) -> list[Any]:
            return addresses(*args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", addresses)
        monkeypatch.setattr(loop, "getaddrinfo", in_loop)  # uvloop asks the system itself
        try:
            yield
        finally:
            for sock in filling:
                sock.close()


@pytest.mark.parametrize("way", ["ws", "wss", "wss through a proxy"])
async def test_dead_addresses_delay_by_a_moment(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a name had an IPv6 address that leads nowhere, the client never connected."""
    context, trusting = tls()
    options: dict[str, Any] = {"dial": dial, "limits": Limits(open_timeout=60.0, close_timeout=60.0)}
    async with AsyncExitStack() as stack:
        serving = echo_server().listen("127.0.0.1", ssl=None if way == "ws" else context)
        port = (await stack.enter_async_context(serving)).port
        url, options["ssl"] = f"{way[:3]}://localhost:{port}/", None if way == "ws" else trusting
        if way != way[:3]:
            port = (await stack.enter_async_context(Proxy(http()).running())).port
            options["proxy"] = f"http://localhost:{port}"
        with dead_addresses(monkeypatch, port):
            async with Client(url, reconnect=None, **options) as client:
                assert await client.request("echo", 1) == 1


async def test_the_time_limit_is_that_of_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        port = sock.getsockname()[1]
    with dead_addresses(monkeypatch, port, alive=False):
        with pytest.raises(TimeoutError, match=r"within open_timeout=0\.6 s$"):
            await dial(f"ws://localhost:{port}/", limits=LIMITS.replace(open_timeout=0.6))


@pytest.mark.asyncio_loop
async def test_each_step_of_a_handshake_has_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wss:// was reached with round trips of 3.5 seconds: a connection, TLS and the response take one each."""

    def pass_time(*_: object) -> None:
        leap(monkeypatch, 0.7 * LIMITS.open_timeout)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, int] | None:
        pass_time()
        return await socks5()(reader, writer)

    context, trusting = tls()
    context.sni_callback = pass_time
    server = echo_server()
    server.on_handshake(pass_time)
    async with server.listen("127.0.0.1", ssl=context) as listener, Proxy(accept).running() as proxy:
        url, through = f"wss://localhost:{listener.port}/", f"socks5://127.0.0.1:{proxy.port}"
        async with Client(url, ssl=trusting, proxy=through, reconnect=None, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1


# ---------------------------------------------------------------- proxies


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names none."""
    for kind in ("no", "all", "http", "https", "ws", "wss"):
        monkeypatch.delenv(f"{kind}_proxy", raising=False)
        monkeypatch.delenv(f"{kind}_proxy".upper(), raising=False)


@pytest.mark.parametrize(("answer", "transient"), [("407 Who Are You", False), ("502 Bad Gateway", True)])
async def test_a_proxy_that_refuses_names_itself(
    answer: str, transient: bool, no_proxies: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first dial went on without an end, and did not say which proxy, and which variable names it."""
    accept = http("Basic bWU6c2VjcmV0", f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n".encode())
    async with Proxy(accept).running() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{proxy.port}")
        client = Client("wss://192.0.2.1/", dial=dial, limits=LIMITS, reconnect=TWICE)
        with pytest.raises(ConnectFailed if transient else OSError) as caught:
            await client.connect()
        text = "; ".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
        assert transient or (not is_transient(caught.value) and is_transient(caught.value, connected=True))
        assert f"dialed through the proxy http://127.0.0.1:{proxy.port}, which HTTPS_PROXY names" in text
        assert answer[:3] in text and "secret" not in text


@pytest.mark.parametrize("ends", ["refused", "silent"])
async def test_a_proxy_that_is_not_reached_is_named(
    ends: str, no_proxies: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        if ends == "silent":
            sock.listen()
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        monkeypatch.setenv("ws_proxy", f"http://me:secret@{address}")
        monkeypatch.setenv("WS_PROXY", "http://127.0.0.1:1")  # of two spellings, that in lower case counts
        for given, named in ((True, "ws_proxy"), (f"http://me:secret@{address}", "proxy=")):
            limits = LIMITS.replace(open_timeout=0.2 if ends == "silent" else 60.0)
            with pytest.raises(TimeoutError if ends == "silent" else ConnectionRefusedError) as caught:
                await dial("ws://192.0.2.1/", proxy=given, limits=limits)
            assert caught.value.__notes__ == [f"dialed through the proxy http://{address}, which {named} names"]


async def test_a_socks_proxy_that_refuses_the_password_is_not_dialed_again() -> None:
    async with Proxy(socks5("me")).running() as proxy:
        url = f"socks5://me:other@127.0.0.1:{proxy.port}"
        with pytest.raises(OSError, match=r"^the proxy refused to connect: .*authentication") as caught:
            await Client("ws://192.0.2.1/", proxy=url, limits=LIMITS, connect_timeout=60).connect()
        assert not isinstance(caught.value, ConnectFailed)


# ---------------------------------------------------------------- what answers after there was a connection


OTHERS = ["401 Unauthorized", "404 Not Found", "407 Who", "431 Too Large", "501 Not Implemented", "certificate"]
"""What answers for a while in place of the server: a page to log in, a proxy that is deployed, an old certificate."""


@pytest.mark.parametrize("answer", [*OTHERS, "large response"])
async def test_a_client_that_was_connected_does_not_give_up_because_of_what_answers_now(
    answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In a captive portal, while a proxy was deployed, or if a certificate was renewed late, it gave up for good."""
    caplog.set_level(logging.INFO)
    server, other = echo_server(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    other.load_cert_chain(CERTIFICATE, KEY)
    context, trusting = tls() if answer == "certificate" else (None, None)
    async with server.listen("localhost", ssl=context) as there, raw_server() as elsewhere:
        async with server.listen("localhost", ssl=other) as late:
            scheme, port = ("wss", late.port) if answer == "certificate" else ("ws", elsewhere.port)
            urls = [f"{scheme}://localhost:{each}/" for each in (there.port, port, port, there.port)]
            options: dict[str, Any] = {"ssl": trusting, "limits": LIMITS, "reconnect": AT_ONCE}
            client = Client(lambda: urls.pop(0), dial=dial, **options)
            async with client:
                peer = client.peer
                assert await client.request("echo", 1) == 1
                server.peers[0].transport.abort()  # type: ignore[union-attr]
                for _ in range(2) if scheme == "ws" else ():
                    if answer == "large response":
                        await elsewhere.accept("Set-Cookie: " + "x" * 9000)
                    else:
                        await elsewhere.refuse(answer)
                assert await client.request("echo", 2) == 2
                assert client.peer is peer and client.state == "connected"
    said = [record for record in caplog.records if record.getMessage().startswith("could not connect: ")]
    assert [record.levelname for record in said] == ["WARNING", "INFO"]
    assert all(re.search(r"; no connection for \d+ s; next attempt in 0.0 s", record.getMessage()) for record in said)


async def test_a_refusal_of_the_server_itself_ends_a_client_that_was_connected() -> None:
    server, banned = echo_server(), asyncio.Event()

    @server.on_handshake
    def gate(given: Handshake) -> None:
        if banned.is_set():
            given.reject(403, "bänned", {"X-Why": "spam"})

    async with server.listen() as listener:
        async with Client(listener.url, dial=dial, limits=LIMITS, reconnect=AT_ONCE) as client:
            assert await client.request("echo", 1) == 1
            banned.set()
            await server.peers[0].close(1012)
            await client.peer.wait_closed()
            with pytest.raises(HandshakeRejected, match="HTTP 403: bänned") as caught:
                await client.wait_connected()
            error = caught.value
            assert client.state == "closed" and not is_transient(error, connected=True)
            assert (error.status, error.body, error.headers["x-why"]) == (403, "bänned", "spam")


async def test_what_a_server_answers_that_speaks_another_protocol_is_in_the_error() -> None:
    """Such as `python -m http.server`."""
    async with raw_server() as server:
        connecting = asyncio.create_task(Client(server.url, dial=dial, reconnect=None).connect())
        sock = await server.accept_tcp()
        await asyncio.get_running_loop().sock_sendall(sock, b"HTTP/1.0 200 OK\r\nServer: SimpleHTTP\r\n\r\n")
        with pytest.raises(ConnectFailed, match=r"expected HTTP/1\.1: HTTP/1\.0 200 OK"):
            await connecting
        sock.close()
