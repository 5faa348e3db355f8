"""The answer of the default transport: headers and compression. tests/adapters/test_host_handshake.py has the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from raw_websocket import handshake as request_for
from raw_websocket import head_of

from wsrpc import Client, ConnectionLost, Handshake, Limits, Server

pytestmark = pytest.mark.usefixtures("nothing_left")


def answers(**headers: str) -> Callable[[Handshake], None]:
    return lambda given: given.response_headers.update({name.replace("_", "-"): headers[name] for name in headers})


def refuses(given: Handshake) -> None:
    headers = {"content-type": "text/html", "Content-Length": "999", "connection": "keep-alive", "Retry-After": "7"}
    given.response_headers["X-Accepted"] = "yes"
    given.reject(429, "sp\xe4ter", headers)


@pytest.mark.parametrize(
    ("gate", "path", "status", "expected"),
    [
        (answers(), "/", "101", {"server": []}),
        (answers(), "/nothing", "404", {"server": []}),
        (answers(Server="mine/1"), "/", "101", {"server": ["mine/1"]}),
        (answers(date="today", X_Empty="", X_Name="caf\xe9"), "/", "101", {"date": ["today"], "x-empty": [""]}),
        (
            refuses,  # each header once, and its own length
            "/",
            "429",
            {"content-type": ["text/html"], "content-length": ["7"], "connection": ["close"], "retry-after": ["7"]}
            | {"x-accepted": []},
        ),
        (lambda given: given.reject(499), "/", "499", {}),  # a status that has no name
    ],
)
async def test_headers_of_the_answer(gate: Any, path: str, status: str, expected: dict[str, list[str]]) -> None:
    server = Server()
    server.on_handshake(gate)
    async with server.listen(path="/") as listener:
        first, *lines = (await head_of(listener.port, request_for(path))).decode("latin-1").split("\r\n")
    assert first.split()[1] == status
    headers = [line.partition(": ") for line in lines]
    assert {name: [value for each, _, value in headers if each.lower() == name] for name in expected} == expected


@pytest.mark.parametrize(
    ("wanted", "offered", "path", "agreed"),
    [
        (True, True, "", True),
        (True, False, "", False),
        (True, None, "", False),  # the default of a client
        (None, True, "", False),  # the default of a server
        (False, True, "", False),
        (None, True, "small", True),  # `on_handshake` decides for one connection
        (True, True, "large", False),
    ],
)
async def test_compression_takes_both_sides(wanted: bool | None, offered: bool | None, path: str, agreed: bool) -> None:
    server = Server(**{} if wanted is None else {"compression": wanted})
    server.on("echo", lambda value: value)

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        if handshake.path != "/":
            handshake.compression = handshake.path == "/small"

    options: dict[str, Any] = {} if offered is None else {"compression": offered}
    async with server.listen() as listener, Client(listener.url + path, proxy=None, **options) as client:
        header = client.peer.info.underlying.response.headers.get("Sec-WebSocket-Extensions", "")
        assert ("permessage-deflate" in header) is agreed
        long = "long and dull, " * 10_000
        assert await client.request("echo", long) == long
        assert ((client.peer.stats().bytes_out or 0) < 10_000) is agreed


async def test_the_limit_counts_what_comes_out_of_compression() -> None:
    server = Server(compression=True, limits=Limits(message=10_000, close_timeout=2.0))
    server.on("take", lambda text: len(text))
    async with server.listen() as listener:
        # A plain peer, which keeps to no limit of the other side's.
        async with Client(listener.url, compression=True, extensions=False, reconnect=None, proxy=None) as client:
            with pytest.raises(ConnectionLost) as caught:
                await client.request("take", "x" * 100_000)
    assert caught.value.code == 1009
