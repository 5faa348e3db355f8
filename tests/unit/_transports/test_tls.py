"""TLS on both sides, over real sockets: own authorities, and certificates for clients."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from leftovers import nothing_left as nothing_left
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
            with pytest.raises((ConnectFailed, ssl.SSLError)):  # whether the alert is read before the end
                await Client(listener.url, ssl=trusting(strange), limits=LIMITS, reconnect=hasty).connect()
        assert server.stats().accepted == accepted
