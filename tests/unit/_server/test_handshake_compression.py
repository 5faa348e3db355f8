"""permessage-deflate: both sides have to want it."""

from __future__ import annotations

import asyncio
import os

import pytest
from leftovers import nothing_left as nothing_left
from raw_websocket import raw_server

from wsrpc import Client, ConnectionLost, Handshake, Limits, Server, dial

pytestmark = pytest.mark.usefixtures("nothing_left")


def agreed(client: Client) -> list[str]:
    """The extensions that the connection has."""
    header: str = client.peer.info.underlying.response.headers.get("Sec-WebSocket-Extensions", "")
    return [extension.partition(";")[0] for extension in header.split(", ") if extension]


@pytest.mark.parametrize(("wanted", "offered"), [(True, True), (True, False), (False, True), (False, False)])
async def test_it_takes_both_sides(wanted: bool, offered: bool) -> None:
    server = Server(compression=wanted)
    server.on("echo", lambda value: value)
    async with server.listen() as listener:
        async with Client(listener.url, compression=offered, proxy=None) as client:
            assert agreed(client) == (["permessage-deflate"] if wanted and offered else [])
            long = "long and dull, " * 10_000
            assert await client.request("echo", long) == long


async def test_what_is_sent_is_smaller() -> None:
    sizes: list[int] = []
    for compression in (True, False):
        server = Server(compression=True)
        server.on("take", lambda text: len(text))
        async with server.listen() as listener:
            async with Client(listener.url, compression=compression, proxy=None) as client:
                before = client.peer.stats().bytes_out or 0
                assert await client.request("take", "x" * 50_000) == 50_000
                sizes.append((client.peer.stats().bytes_out or 0) - before)
    assert sizes[0] < 1_000 < 50_000 < sizes[1]


async def test_on_handshake_decides_for_one_connection() -> None:
    server = Server()

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        handshake.compression = handshake.path == "/small"

    async with server.listen() as listener:
        async with Client(listener.url + "small", compression=True, proxy=None) as client:
            assert agreed(client) == ["permessage-deflate"]
        async with Client(listener.url + "other", compression=True, proxy=None) as client:
            assert agreed(client) == []


async def test_the_limit_counts_what_comes_out() -> None:
    server = Server(compression=True, limits=Limits(message=10_000, close_timeout=2.0))
    server.on("take", lambda text: len(text))
    async with server.listen() as listener:
        # A plain peer, which keeps to no limit of the other side's.
        async with Client(listener.url, compression=True, extensions=False, reconnect=None, proxy=None) as client:
            with pytest.raises(ConnectionLost) as caught:
                await client.request("take", "x" * 100_000)
    assert caught.value.code == 1009


async def test_it_is_off_unless_asked_for() -> None:
    async with raw_server() as plain:
        dialing = asyncio.create_task(dial(plain.url, proxy=None))
        raw = await plain.accept()
        transport = await dialing
        assert b"permessage-deflate" not in raw.request
        transport.abort()
        raw.drop()


async def test_random_bytes_survive_it() -> None:
    server = Server(compression=True)
    server.on("echo", lambda data: data)
    async with server.listen() as listener:
        async with Client(listener.url, compression=True, proxy=None) as client:
            data = os.urandom(100_000)
            assert await client.request("echo", data, returns=bytes) == data
