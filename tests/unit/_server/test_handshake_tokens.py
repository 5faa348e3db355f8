"""Bearer tokens: where they are found, what is answered, and where they must not appear."""

from __future__ import annotations

import logging

import pytest
from leftovers import nothing_left as nothing_left
from raw_websocket import handshake as request_for
from raw_websocket import head_of

from wsrpc import Client, Handshake, HandshakeRejected, Reconnect, Server
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")

TOKEN = "hidden-5e3a"


@pytest.mark.parametrize(
    ("target", "headers", "token"),
    [
        ("/", {}, None),
        ("/", {"Authorization": f"Bearer {TOKEN}"}, TOKEN),
        ("/", {"authorization": f"bearer   {TOKEN} "}, TOKEN),
        ("/", {"Authorization": "Basic dXNlcjpwYXNz"}, None),
        ("/", {"Authorization": "Bearer"}, None),
        ("/", {"Authorization": "Bearer "}, None),
        ("/?access_token=hidden-5e3a", {}, TOKEN),
        ("/?access_token=a%2Bb%20c", {}, "a+b c"),
        ("/?access_token=", {}, None),
        ("/?token=x", {}, None),
        ("/", {"Sec-WebSocket-Protocol": f"json, bearer.{TOKEN}"}, TOKEN),
        ("/", {"Sec-WebSocket-Protocol": "bearer."}, None),
        ("/?access_token=second", {"Authorization": "Bearer first", "Sec-WebSocket-Protocol": "bearer.third"}, "first"),
        ("/?access_token=second", {"Sec-WebSocket-Protocol": "bearer.third"}, "second"),
    ],
)
def test_where_it_is_found(target: str, headers: dict[str, str], token: str | None) -> None:
    assert Handshake(target, headers).bearer_token == token


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        # Browsers end a connection for which they offered some and got none.
        ("bearer.hidden-5e3a, json, other", "json"),
        ("json, bearer.hidden-5e3a", "json"),
        ("json, other", "json"),
        # Nothing else to say, and the token is not said.
        ("bearer.hidden-5e3a", None),
        ("base64url.bearer.authorization.example.hidden-5e3a", None),
    ],
)
async def test_what_is_answered_where_nobody_chooses(offered: str, chosen: str | None) -> None:
    server = Server()
    async with server.listen() as listener:
        request = request_for("/", f"Sec-WebSocket-Protocol: {offered}")
        head = (await head_of(listener.port, request)).decode().lower()
    assert head.startswith("http/1.1 101")
    assert ("sec-websocket-protocol:" in head) is (chosen is not None)
    if chosen is not None:
        assert f"sec-websocket-protocol: {chosen}" in head
    assert TOKEN not in head


@pytest.mark.parametrize("way", ["header", "query", "subprotocol"])
@pytest.mark.parametrize("outcome", ["in", "refused", "failed", "origin"])
async def test_it_is_in_no_log_and_in_no_repr(way: str, outcome: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "wsrpc")
    reprs: list[str] = []
    server = Server()

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        reprs.append(repr(handshake))
        assert handshake.bearer_token == TOKEN
        if outcome == "refused":
            handshake.reject(401, "bad token")
        elif outcome == "failed":
            raise LookupError("nobody")

    origin = {"Origin": "https://evil.example"} if outcome == "origin" else {}
    async with server.listen() as listener:
        client = Client(
            listener.url + (f"?access_token={TOKEN}" if way == "query" else ""),
            auth=TOKEN if way == "header" else None,
            subprotocols=[f"bearer.{TOKEN}", "json"] if way == "subprotocol" else None,
            headers=origin,
            reconnect=Reconnect(retry=lambda error: False),
            proxy=None,
        )
        if outcome == "in":
            async with client:
                (peer,) = server.peers
                reprs += [repr(thing) for thing in (peer, peer.info, client, client.peer.info, peer.transport, server)]
        else:
            with pytest.raises(HandshakeRejected) as caught:
                await client.connect()
            reprs += [repr(client), str(caught.value), repr(caught.value)]
            await client.close()
    assert reprs
    assert TOKEN not in "".join(reprs)
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    "around", ["bearer.{}", "Bearer.{}", "x-bearer.{}", "base64url.BEARER.authorization.example.{}"]
)
@pytest.mark.parametrize("chosen", ["xml", "json, {}"])
async def test_the_error_about_a_subprotocol_that_is_not_offered_does_not_say_the_token(
    around: str, chosen: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A function may choose what is not offered, such as the whole header."""
    offered = around.format(TOKEN)
    errors: list[str] = []
    server = Server()

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        try:
            handshake.subprotocol = chosen.format(offered)
        except ValueError as error:
            errors.append(str(error))
            raise

    with pytest.raises(HandshakeRejected, match="500"):
        async with connect(server, headers={"Sec-WebSocket-Protocol": f"json, {offered}"}):
            pass
    shown = "xml" if chosen == "xml" else "bearer.…"
    assert errors == [f"the client offers the subprotocols ['json', 'bearer.…'], not '{shown}'"]
    assert "the client offers" in caplog.text and TOKEN not in caplog.text
