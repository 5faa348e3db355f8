"""Headers of the answer."""

from __future__ import annotations

import pytest
from leftovers import nothing_left as nothing_left
from raw_websocket import handshake as request_for
from raw_websocket import head_of

from wsrpc import Handshake, Server

pytestmark = pytest.mark.usefixtures("nothing_left")


async def answer_of(server: Server, path: str = "/") -> dict[str, list[str]]:
    """The headers of the answer, and under "" its status."""
    async with server.listen(path="/") as listener:
        head = await head_of(listener.port, request_for(path))
    lines = head.decode("latin-1").split("\r\n")
    headers = {"": [lines[0].split()[1]]}
    for line in lines[1:]:
        name, _, value = line.partition(": ")
        headers.setdefault(name.lower(), []).append(value)
    return headers


async def test_the_server_header_is_left_out() -> None:
    assert "server" not in await answer_of(Server())
    assert "server" not in await answer_of(Server(), "/nothing")


async def test_the_server_header_can_be_set() -> None:
    server = Server()

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        handshake.response_headers["Server"] = "mine/1"

    headers = await answer_of(server)
    assert headers[""] == ["101"]
    assert headers["server"] == ["mine/1"]


async def test_a_header_of_the_library_s_is_replaced() -> None:
    server = Server()

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        handshake.response_headers |= {"date": "today", "X-Empty": "", "X-Name": "caf\xe9"}

    headers = await answer_of(server)
    assert headers["date"] == ["today"]
    assert headers["x-empty"] == [""]
    assert len(headers["x-name"]) == 1


async def test_a_refusal_says_each_header_once_and_its_own_length() -> None:
    server = Server()

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        handshake.response_headers["X-Accepted"] = "yes"
        handshake.reject(
            429,
            "sp\xe4ter",
            {"content-type": "text/html", "Content-Length": "999", "connection": "keep-alive", "Retry-After": "7"},
        )

    headers = await answer_of(server)
    assert headers[""] == ["429"]
    assert headers["content-type"] == ["text/html"]
    assert headers["content-length"] == ["7"]
    assert headers["connection"] == ["close"]
    assert headers["retry-after"] == ["7"]
    assert "x-accepted" not in headers


async def test_a_status_that_has_no_name() -> None:
    server = Server()
    server.on_handshake(lambda handshake: handshake.reject(499))
    assert (await answer_of(server))[""] == ["499"]
