"""TLS on both sides, over real sockets: own authorities, certificates for clients, and renewal while it runs."""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from tenacity import stop_after_attempt

from wsrpc import Client, ConnectFailed, Limits, Peer, Reconnect, Server

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)
MADE = Path(__file__).parents[2] / "certificates"
STRANGE = Path(__file__).parents[2] / "adapters" / "localhost.pem"
"""Signed by itself."""


def serving(name: str = "server", folder: Path = MADE) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


def trusting(client: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(MADE / "ca.pem"))
    if client is not None:
        context.load_cert_chain(MADE / f"{client}.pem", MADE / f"{client}.key")
    return context


def echo_server() -> Server:
    server = Server(limits=LIMITS)
    server.on("echo", lambda value: value)
    return server


def certificate(peer: Peer) -> dict[str, Any]:
    """That of the other side."""
    found: dict[str, Any] = peer.info.underlying.transport.get_extra_info("peercert")
    return found


async def test_a_client_with_a_certificate_is_known_by_it_and_no_other_is_let_in() -> None:
    server = echo_server()
    context = serving()
    context.load_verify_locations(MADE / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED

    server.on_handshake(lambda handshake: secure.append(handshake.secure))
    secure: list[bool] = []
    async with server.listen(ssl=context) as listener:
        async with Client(listener.url, ssl=trusting("client"), limits=LIMITS) as client:
            assert certificate(server.peers[0])["subject"] == ((("commonName", "Ada"),),) and secure == [True]
            assert await client.request("echo", "x") == "x"
        accepted = server.stats().accepted
        strange = trusting()
        strange.load_cert_chain(STRANGE)
        for context in (trusting(), strange):
            hasty = Reconnect(initial=0.01, max=0.01, stop=stop_after_attempt(2))
            with pytest.raises((ConnectFailed, ssl.SSLError)):  # whether the alert is read before the end
                await Client(listener.url, ssl=context, limits=LIMITS, reconnect=hasty).connect()
        assert server.stats().accepted == accepted


async def test_a_certificate_is_renewed_while_connections_go_on(tmp_path: Path) -> None:
    """As docs/how-to/tls.md says: the same context loads the new files."""
    for name in ("server.pem", "server.key"):
        shutil.copy(MADE / name, tmp_path)
    server = echo_server()
    context = serving(folder=tmp_path)
    async with server.listen(ssl=context) as listener:
        async with Client(listener.url, ssl=trusting(), limits=LIMITS) as old:
            first = certificate(old.peer)["serialNumber"]
            for ending in ("pem", "key"):
                shutil.copy(MADE / f"renewed.{ending}", tmp_path / f"server.{ending}")
            context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
            async with Client(listener.url, ssl=trusting(), limits=LIMITS) as new:
                assert certificate(new.peer)["serialNumber"] != first
                assert await new.request("echo", "new") == "new"
            assert await old.request("echo", "old") == "old"
            assert certificate(old.peer)["serialNumber"] == first
