"""TLS on both sides, over real sockets: own authorities, and certificates for clients."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from leftovers import nothing_left as nothing_left
from raw_websocket import raw_server
from tenacity import stop_after_attempt

from wsrpc import Client, ConnectFailed, Limits, Reconnect, Server

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)
MADE = Path(__file__).parents[2] / "certificates"
STRANGE = Path(__file__).parents[2] / "adapters" / "localhost.pem"
"""Signed by itself."""


def trusting(certificate: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(MADE / "ca.pem"))
    if certificate is not None:
        key = certificate.with_suffix(".key")
        context.load_cert_chain(certificate, key if key.exists() else None)
    return context


async def test_a_client_with_a_certificate_is_known_by_it_and_no_other_is_let_in() -> None:
    server, secure = Server(limits=LIMITS), list[bool]()
    server.on_handshake(lambda handshake: secure.append(handshake.secure))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(MADE / "server.pem", MADE / "server.key")
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
    requiring = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    requiring.load_cert_chain(MADE / "server.pem", MADE / "server.key")
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
