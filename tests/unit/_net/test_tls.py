"""TLS on both sides, over real sockets: own authorities, and certificates for clients."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path

import pytest
from leftovers import nothing_left as nothing_left
from raw_websocket import raw_server
from tenacity import stop_after_attempt

from wsrpc import Client, ConnectFailed, Limits, Reconnect, Server, dial

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)
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


async def test_a_default_context_that_cannot_be_made_is_made_at_the_next_dial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = serving()
    monkeypatch.setenv("SSL_CERT_FILE", str(MADE / "ca.pem"))
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "missing" / "keys"))
    async with Server(limits=LIMITS).listen("localhost", ssl=context) as listener:
        dials = [Client(listener.url, limits=LIMITS, reconnect=None).connect() for _ in range(3)]
        for failed in await asyncio.gather(*dials, return_exceptions=True):
            assert isinstance(failed, ConnectFailed) and isinstance(failed.last_error, FileNotFoundError)
        (tmp_path / "missing").mkdir()
        async with Client(listener.url, limits=LIMITS) as client:
            assert client.state == "connected"


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


async def test_the_event_loop_runs_on_while_authorities_are_read_and_a_cancelled_dial_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, context = tmp_path / "authorities.pem", serving()
    os.mkfifo(pipe)  # who reads it waits until somebody writes
    monkeypatch.setenv("SSL_CERT_FILE", str(pipe))
    async with Server(limits=LIMITS).listen("localhost", ssl=context) as listener:
        dials = [asyncio.create_task(dial(listener.url, limits=LIMITS)) for _ in range(2)]
        await asyncio.sleep(0)
        dials[0].cancel()
        await asyncio.wait(dials[:1])
        await asyncio.to_thread(pipe.write_bytes, (MADE / "ca.pem").read_bytes())
        await (await dials[1]).close()
