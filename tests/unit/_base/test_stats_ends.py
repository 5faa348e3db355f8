"""`Server.stats`: what happens before a connection has a peer, after it has ended, and without protocol, counts too."""

from __future__ import annotations

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from websockets.asyncio.client import connect as open_websocket

from wsrpc import CloseInfo, Peer, RpcError, Server, Service
from wsrpc.testing import connect
from wsrpc.transport import ConnectionInfo
from wsrpc.types import RawConnection

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_raw_connections_count() -> None:
    server = Server()

    @server.serve_raw
    async def echo(connection: RawConnection) -> None:
        async for message in connection:
            if message == "fail":
                raise ValueError
            await connection.send(message)

    async with server.listen() as listener:
        async with open_websocket(listener.url) as one, open_websocket(listener.url) as other:
            await one.send("hello")
            assert await one.recv() == "hello"
            stats = server.stats()
            assert (stats.peers, stats.accepted, stats.active, stats.closed) == (2, 2, 2, {})
            assert (stats.messages_in, stats.messages_out) == (1, 1)
            assert stats.bytes_in > 0 and stats.bytes_out > 0
            await other.send("fail")
            await other.wait_closed()
        await turns_until(lambda: not server.raw_connections)
        stats = server.stats()
        assert (stats.peers, stats.accepted, stats.active, stats.errors) == (0, 2, 0, 1)
        assert stats.closed == {1000: 1, 1011: 1}
        assert (stats.messages_in, stats.messages_out) == (2, 1)


@pytest.mark.parametrize("where", ["room_from", "factory", "rpc error"])
async def test_who_is_refused_after_the_handshake_counts(where: str) -> None:
    def room(info: ConnectionInfo) -> str:
        if where == "room_from":
            raise ValueError
        return "room"

    class Desk(Service):
        def on_open(self) -> None:
            raise AssertionError("it was refused")

        def __init__(self) -> None:
            if where == "factory":
                raise ValueError
            if where == "rpc error":
                raise RpcError("no desk for you")

    server = Server(room_from=room)
    server.add_service(Desk)
    async with server.listen() as listener, open_websocket(listener.url) as websocket:
        await websocket.wait_closed()
        await turns_until(lambda: server.stats().closed)
        stats = server.stats()
        code = 1008 if where == "rpc error" else 1011
        assert (stats.peers, stats.accepted, stats.closed) == (0, 1, {code: 1})
        assert stats.errors == (0 if where == "rpc error" else 1)
        assert stats.refused == {}


async def test_what_fails_at_the_end_counts() -> None:
    server = Server()

    @server.on("close")
    def closed(peer: Peer, info: CloseInfo) -> None:
        raise ValueError

    async with connect(server):
        [peer] = server.peers
    assert server.stats().errors == peer.stats().errors == 1
