"""TLS on both sides, over real sockets: own authorities, certificates for clients; and HTTP and SOCKS proxies."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from pathlib import Path

import pytest
from leftovers import nothing_left as nothing_left
from proxies import Proxy, http, socks5
from raw_websocket import raw_server
from tenacity import stop_after_attempt

from wsrpc import Client, ConnectFailed, Limits, Reconnect, Server, dial

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=60.0)
MADE = Path(__file__).parents[2] / "certificates"
STRANGE = Path(__file__).parents[2] / "adapters" / "localhost.pem"
"""Signed by itself."""


def serving() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(MADE / "server.pem", MADE / "server.key")
    return context


def trusting(certificate: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(MADE / "ca.pem"))
    if certificate is not None:
        key = certificate.with_suffix(".key")
        context.load_cert_chain(certificate, key if key.exists() else None)
    return context


async def test_a_client_with_a_certificate_is_known_by_it_and_no_other_is_let_in() -> None:
    server, secure = Server(limits=LIMITS), list[bool]()
    server.on_handshake(lambda handshake: secure.append(handshake.secure))
    context = serving()
    context.load_verify_locations(MADE / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    async with server.listen(ssl=context) as listener:
        async with Client(listener.url, ssl=trusting(MADE / "client.pem"), limits=LIMITS):
            certificate = server.peers[0].info.underlying.transport.get_extra_info("peercert")
            assert certificate["subject"] == ((("commonName", "Ada"),),) and secure == [True]
        accepted = server.stats().accepted
        for strange in (None, STRANGE):
            hasty = Reconnect(initial=0.01, max=0.01, stop=stop_after_attempt(2))
            with pytest.raises(ConnectFailed, match="the server may require a client certificate, or refuse the one"):
                await Client(listener.url, ssl=trusting(strange), limits=LIMITS, reconnect=hasty).connect()
        assert server.stats().accepted == accepted


async def test_authorities_are_read_again_after_a_certificate_could_not_be_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authorities = tmp_path / "authorities.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(authorities))
    async with Server(limits=LIMITS).listen("localhost", ssl=serving()) as listener:
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            await Client(listener.url, limits=LIMITS).connect()
        hint = f"the trusted authorities are those of SSL_CERT_FILE, {str(authorities)!r}"
        assert caught.value.__notes__ == [hint]
        authorities.write_bytes((MADE / "ca.pem").read_bytes())
        async with Client(listener.url, limits=LIMITS) as client:
            assert client.state == "connected"


def echo_server() -> Server:
    server = Server(limits=LIMITS)
    server.on("echo", lambda value: value)
    return server


PROXIES = {
    "http": (http(), "http://127.0.0.1:{}"),
    "http with a password": (http("Basic " + b64encode(b"me:p@ss").decode()), "http://me:p%40ss@127.0.0.1:{}/"),
    "socks5": (socks5(), "socks5://127.0.0.1:{}"),
    "socks5h with a password": (socks5("me"), "socks5h://me:me@127.0.0.1:{}"),
}


@pytest.mark.parametrize("kind", PROXIES)
@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
async def test_a_client_connects_through_a_proxy(kind: str, secure: bool) -> None:
    accept, url = PROXIES[kind]
    trusted = trusting() if secure else None
    async with echo_server().listen(ssl=serving() if secure else None) as listener, Proxy(accept).running() as proxy:
        target = f"{'wss' if secure else 'ws'}://localhost:{listener.port}/"
        async with Client(target, proxy=url.format(proxy.port), ssl=trusted, limits=LIMITS) as client:
            large = "x" * 300_000
            assert await client.request("echo", large) == large
            assert (client.peer.info.underlying.transport.get_extra_info("ssl_object") is not None) is secure
    host = "127.0.0.1" if kind == "socks5" else "localhost"
    assert proxy.asked == [(host, listener.port)]


async def test_a_proxy_that_speaks_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """With TLS in TLS."""
    monkeypatch.setenv("SSL_CERT_FILE", str(MADE / "ca.pem"))  # what `create_default_context` trusts
    async with echo_server().listen(ssl=serving()) as listener, Proxy(http()).running(serving()) as proxy:
        through = f"https://localhost:{proxy.port}"
        async with Client(f"wss://localhost:{listener.port}/", proxy=through, limits=LIMITS) as client:
            assert await client.request("echo", 7) == 7
    assert proxy.asked == [("localhost", listener.port)]


async def test_cancelling_while_the_proxy_does_not_answer_leaves_nothing() -> None:
    asked = asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        asked.set()
        await reader.read()

    async with Proxy(never).running() as proxy:
        through = f"http://127.0.0.1:{proxy.port}"
        dialing = asyncio.create_task(dial("ws://localhost:1/", proxy=through, limits=LIMITS))
        await asked.wait()
        dialing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialing


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda version: version.name)
@pytest.mark.parametrize("certificate", [None, STRANGE], ids=["no certificate", "strange certificate"])
async def test_the_alert_of_a_server_that_refuses_the_certificate_is_in_the_error(
    version: ssl.TLSVersion, certificate: Path | None
) -> None:
    """In TLS 1.3 it comes after the client has sent its request. asyncio's servers do not send it."""
    requiring = serving()
    requiring.load_verify_locations(MADE / "ca.pem")
    requiring.verify_mode = ssl.CERT_REQUIRED
    trusted = trusting(certificate)
    trusted.maximum_version = version
    arrived, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = requiring.wrap_bio(arrived, to_send, server_side=True)
    async with raw_server() as server:
        client = Client(f"wss://localhost:{server.port}/", ssl=trusted, limits=LIMITS, reconnect=None)
        connecting = asyncio.create_task(client.connect())
        loop, sock = asyncio.get_running_loop(), await server.accept_tcp()
        refused = False
        while not refused:
            arrived.write(await loop.sock_recv(sock, 1 << 16))
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                refused = True
            await loop.sock_sendall(sock, to_send.read())
        with pytest.raises(ConnectFailed) as caught:
            await connecting
    assert isinstance(caught.value.last_error, ssl.SSLError)
    assert str(caught.value).endswith("; the server may require a client certificate, or refuse the one that ssl= has")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/path", "http://user@127.0.0.1:1", "socks5://127.0.0.1:1?a=b"])
async def test_a_proxy_s_url_that_is_not_clear(url: str) -> None:
    with pytest.raises(ValueError, match="the proxy's URL has a path, or a user without a password"):
        await dial("ws://localhost:1/", proxy=url, limits=LIMITS)
