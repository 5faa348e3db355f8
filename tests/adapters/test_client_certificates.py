"""Clients that are known by their certificates, in every place where a server runs and terminates TLS."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import pytest
from hosts import CA, MADE, Host, over_tls
from served import LIMITS, Endings, hosts

from wsrpc import Client, Handshake, HandshakeRejected, Server
from wsrpc.cluster import Cluster, MemoryEngine

ADA, OTHER = "client", "renewed"
"""Certificates of the same authority: of Ada, and of ``localhost``."""


def client(url: str, certificate: str | None) -> Client:
    context = ssl.create_default_context(cafile=CA)
    if certificate is not None:
        context.load_cert_chain(MADE / f"{certificate}.pem", MADE / f"{certificate}.key")
    return Client(url, ssl=context, limits=LIMITS, reconnect=None)


def device_of(certificate: Mapping[str, Any]) -> str:
    return str(dict(pair for names in certificate["subject"] for pair in names)["commonName"])


def known_by_certificate(handshake: Handshake) -> None:
    assert handshake.secure
    if handshake.certificate is None:
        handshake.reject(401, "no certificate")
    handshake.principal = handshake.address = device_of(handshake.certificate)


@hosts
async def test_a_client_with_a_certificate_cannot_take_the_place_of_another(host: Host) -> None:
    """The address could only come from what a client said, and the client whose name it said got 4410."""
    server = Server(limits=LIMITS, cluster=Cluster(MemoryEngine(), name="devices"))
    endings = Endings(server)
    server.on_handshake(known_by_certificate)
    server.on("echo", lambda value: value)
    async with over_tls(host, server, ssl.CERT_OPTIONAL) as url:
        ada, thief, nobody = client(url, ADA), client(f"{url}?device=Ada", OTHER), client(url, None)
        for each in (nobody, ada, thief) if "certificate" in host.cannot else (nobody,):
            with pytest.raises(HandshakeRejected, match=r"401|403"):
                await each.connect()
        if "certificate" in host.cannot:
            return
        async with ada, thief:
            assert {peer.address for peer in server.peers} == {"Ada", "localhost"}
            assert {peer.principal for peer in server.peers} == {"Ada", "localhost"}
            assert await ada.request("echo", "still here") == "still here"
            async with client(url, ADA) as again:
                assert (await endings.next()).code == 4410, "the same device may, of course"
                assert await again.request("echo", "here") == "here"


def test_a_certificate_that_nobody_verified_counts_as_none() -> None:
    assert Handshake("/", {}, certificate={}).certificate is None  # what `getpeercert` says of it
