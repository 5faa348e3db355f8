"""The opening handshake: who may connect, and as what."""

from __future__ import annotations

import logging

import pytest

from wsrpc import Client, Handshake, HandshakeRejected, Server, dial


async def test_state_and_subprotocol_and_headers_come_from_on_handshake() -> None:
    server = Server()
    seen: list[Handshake] = []

    @server.on_handshake
    async def gate(handshake: Handshake) -> None:
        seen.append(handshake)
        handshake.state["user"] = handshake.bearer_token
        handshake.subprotocol = "b"
        handshake.response_headers["X-Served-By"] = "me"

    async with server.listen() as listener:
        async with Client(listener.url + "a?x=1", auth="ada", subprotocols=["a", "b"]) as client:
            assert client.peer.info.subprotocol == "b"
            [peer] = server.peers
            assert peer.state == {"user": "ada"}
            assert peer.info.subprotocol == "b" and peer.info.path == "/a" and peer.info.query == {"x": "1"}
            assert client.peer.info.underlying.response.headers["x-served-by"] == "me"
    assert seen[0].subprotocols == ("a", "b")
    assert seen[0].remote is not None and seen[0].remote[0] == "127.0.0.1"


async def test_a_refusal_has_the_status_body_and_headers_given() -> None:
    server = Server()

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        handshake.reject(401, "bad token", {"WWW-Authenticate": "Bearer"})

    async with server.listen() as listener:
        with pytest.raises(HandshakeRejected, match="bad token") as caught:
            await Client(listener.url).connect()
    assert caught.value.status == 401
    assert caught.value.headers["www-authenticate"] == "Bearer"


async def test_what_on_handshake_raises_refuses_with_500_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        raise LookupError("secret")

    async with server.listen() as listener:
        with pytest.raises(HandshakeRejected) as caught:
            await dial(listener.url)
    assert caught.value.status == 500
    assert "secret" not in caught.value.body
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None and "secret" in str(record.exc_info[1])
