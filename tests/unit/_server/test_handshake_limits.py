"""Bounds of one connection: set before it opens, or when it has."""

from __future__ import annotations

from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from peers_inside import out_of
from raw_websocket import CLOSE, TEXT, raw_client

from wsrpc import (
    Client,
    ConnectionLost,
    Limits,
    MessageTooBig,
    Peer,
    Server,
)
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)


async def takes(client: Client, size: int) -> None:
    """The server takes messages of a little less than ``size`` bytes, and the client knows that it takes no more."""
    assert await client.request("size", "x" * (size - 50)) == size - 50
    with pytest.raises(MessageTooBig):
        await client.request("size", "x" * size)


@pytest.mark.parametrize("slowly", [False, True])
async def test_open_may_change_the_size(slowly: bool) -> None:
    """And a handler may, at any time."""
    server = Server(limits=LIMITS)
    server.on("size", lambda value: len(value))

    @server.on("take")
    def take(size: int, peer: Peer) -> None:
        peer.limits = peer.limits.replace(message_bytes=size)

    @server.on("open")
    async def opened(peer: Peer) -> None:
        if slowly:
            await turns_until(lambda: not out_of(peer).terms.plain)  # its client is welcomed meanwhile
        peer.limits = peer.limits.replace(message_bytes=1000)

    async with server.listen() as listener:
        if not slowly:
            async with raw_client(listener.port) as raw:
                for size in (500, 1000):
                    await raw.send(raw.frame(TEXT, '{"i":1,"a":["size","%s"]}' % ("x" * size)))
                assert (await raw.next_of(TEXT)).payload == b'{"i":1,"d":500}'
                assert (await raw.next_of(CLOSE)).code == 1009
        async with Client(listener.url, limits=LIMITS, proxy=None) as client:
            await client.request("size", "")  # what says that it opened comes after what says the size
            await takes(client, 1000)
            for size in (512, 50_000, 700):
                await client.request("take", size)
                await takes(client, size)


async def test_a_client_may_too_for_one_connection() -> None:
    server = Server(limits=LIMITS)

    @server.on("push")
    async def push(size: int, peer: Peer) -> bool:
        try:
            await peer.emit("news", "x" * size)
        except MessageTooBig:
            return False
        return True

    client = Client(limits=LIMITS)
    # Before the welcome, which only then says that the other side can be told.
    client.once("open", lambda peer: setattr(peer, "limits", peer.limits.replace(message_bytes=1000)))
    async with connect(server, client=client):
        assert client.peer.limits.message_bytes == 1000
        assert [await client.request("push", size) for size in (500, 1000)] == [True, False]
    async with connect(server, client=client):
        assert client.peer.limits == LIMITS
        assert await client.request("push", 1000)


async def test_other_bounds_are_settled_by_then() -> None:
    wrong: Any
    async with connect(Server()) as client:
        peer = client.peer
        for wrong, error, text in (
            ({"message_bytes": 5000, "running": 5}, ValueError, "only message_bytes= may change"),
            (5, TypeError, r"peer\.limits is a wsrpc\.Limits"),
        ):
            with pytest.raises(error, match=text):
                peer.limits = wrong if wrong == 5 else peer.limits.replace(**wrong)
        assert peer.limits == Limits()
    with pytest.raises(ConnectionLost):
        peer.limits = peer.limits.replace(message_bytes=5000)
