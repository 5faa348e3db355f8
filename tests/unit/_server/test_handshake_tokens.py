"""Bearer tokens: where they are found, what is answered, and where they must not appear."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left

from wsrpc import Client, Handshake, HandshakeRejected, Server
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")

TOKEN = "hidden-5e3a"


@pytest.mark.parametrize(
    ("target", "headers", "token"),
    [
        ("/", {}, None),
        ("/", {"authorization": f"bearer   {TOKEN} "}, TOKEN),
        ("/", {"Authorization": "Basic dXNlcjpwYXNz"}, None),
        ("/", {"Authorization": "Bearer "}, None),
        ("/?access_token=a%2Bb%20c", {}, "a+b c"),
        ("/?access_token=", {}, None),
        ("/", {"Sec-WebSocket-Protocol": f"json, bearer.{TOKEN}"}, TOKEN),
        ("/?access_token=second", {"Authorization": "Bearer first", "Sec-WebSocket-Protocol": "bearer.third"}, "first"),
    ],
)
def test_where_it_is_found(target: str, headers: dict[str, str], token: str | None) -> None:
    assert Handshake(target, headers).bearer_token == token


@pytest.mark.parametrize(
    ("path", "options"),
    [("/", {"auth": TOKEN}), (f"/?access_token={TOKEN}", {}), ("/", {"subprotocols": [f"bearer.{TOKEN}", "json"]})],
    ids=["header", "query", "subprotocol"],
)
@pytest.mark.parametrize("refused", [False, True])
async def test_it_is_in_no_log_and_in_no_repr(
    path: str, options: dict[str, Any], refused: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "wsrpc")
    reprs: list[str] = []
    server = Server()

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        reprs.append(repr(handshake))
        assert handshake.bearer_token == TOKEN
        if refused:
            handshake.reject(401, "bad token")

    client = Client(f"ws://here{path}", reconnect=None, **options)
    try:
        async with connect(server, client=client):
            (peer,) = server.peers
            reprs += map(repr, (peer, peer.info, client, client.peer.info, peer.transport, server))
    except HandshakeRejected as caught:
        reprs += [repr(client), str(caught), repr(caught)]
    assert len(reprs) == (4 if refused else 7)
    assert TOKEN not in "".join(reprs) + caplog.text


offers_a_token = pytest.mark.parametrize(
    "offered", [f"bearer.{TOKEN}", f"base64url.BEARER.authorization.example.{TOKEN}"]
)


@offers_a_token
async def test_a_subprotocol_with_a_token_is_not_chosen(offered: str) -> None:
    client = Client(subprotocols=[offered, "json"])
    async with connect(Server(), client=client):
        assert client.peer.info.subprotocol == "json"


@offers_a_token
async def test_the_error_about_a_subprotocol_that_is_not_offered_does_not_say_the_token(
    offered: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A function may choose what is not offered, such as the whole header."""
    server = Server()
    server.on_handshake(lambda handshake: setattr(handshake, "subprotocol", f"json, {offered}"))
    with pytest.raises(HandshakeRejected, match="500"):
        async with connect(server, headers={"Sec-WebSocket-Protocol": f"json, {offered}"}):
            pass
    assert "the client offers the subprotocols ['json', 'bearer.…'], not 'bearer.…'" in caplog.text
    assert TOKEN not in caplog.text
