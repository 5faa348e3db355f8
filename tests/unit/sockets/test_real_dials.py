"""`wsrpc.testing.connect` asks for a connection as a real dial does."""

from __future__ import annotations

from typing import Any

import pytest
from leftovers import nothing_left as nothing_left

from wsrpc import Client, Handshake, Server
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")

# What a real dial sends is compared, but for what differs from one connection to the next.
CHANGING = {"host", "sec-websocket-key"}


async def test_connect_asks_as_a_real_dial_does() -> None:
    server, asked = Server(compression=True), list[Handshake]()

    @server.on_handshake
    async def gate(handshake: Handshake) -> None:
        asked.append(handshake)
        handshake.subprotocol = handshake.subprotocols[1]

    async def token() -> str:
        return "the token"

    headers = {"X-Tenant": "blue", "User-Agent": "me"}
    options: dict[str, Any] = {"auth": token, "headers": lambda: headers, "subprotocols": ["a", "b"]}
    options["compression"] = True
    target = "/ws?q=%20x&q=y&e="
    async with server.listen() as listener:
        url = listener.url.rstrip("/") + target
        async with Client(url, **options) as client:
            there, real_info = asked[-1], client.peer.info
        for client, path in ((Client(**options), target), (Client(url, **options), None)):
            async with connect(server, client=client, path=path):
                here, info = asked[-1], client.peer.info
            for name in ("path", "query", "origin", "secure", "subprotocols", "bearer_token", "compression"):
                assert getattr(here, name) == getattr(there, name), name
            assert here.headers.keys() == there.headers.keys()
            assert [here.headers[name] for name in {*here.headers} - CHANGING] == [
                there.headers[name] for name in {*here.headers} - CHANGING
            ]
            assert (info.path, info.query, info.subprotocol) == (real_info.path, real_info.query, real_info.subprotocol)
    assert there.bearer_token == "the token" and there.headers["x-tenant"] == "blue"
