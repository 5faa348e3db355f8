"""Bounds of one connection: set before it opens, or when it has."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import CLOSE, PING, TEXT, raw_client

from wsrpc import (
    Client,
    CloseInfo,
    ConnectionLost,
    Handshake,
    Limits,
    MessageTooBig,
    Overloaded,
    Peer,
    QueueFull,
    RpcError,
    Server,
)
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)


def server_with(**changes: Any) -> Server:
    """Its connections to ``/small`` have other limits."""
    server = Server(limits=LIMITS)
    server.on("echo", lambda value: value)
    server.on("size", lambda value: len(value))

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        if handshake.path == "/small":
            handshake.limits = handshake.limits.replace(**changes)

    return server


async def request(raw: Any, *args: Any) -> None:
    text = ",".join(f'"{arg}"' for arg in args)
    await raw.send(raw.frame(TEXT, f'{{"i":1,"a":[{text}]}}'))


# ---------------------------------------------------------------- in on_handshake


async def test_the_size_of_messages() -> None:
    async with server_with(message=512).listen() as listener:
        async with raw_client(listener.port, "/small") as small, raw_client(listener.port, "/large") as large:
            for raw in (small, large):
                await request(raw, "size", "x" * 2000)
            assert (await small.next_of(CLOSE)).code == 1009
            assert (await large.next_of(TEXT)).payload == b'{"i":1,"d":2000}'


async def test_a_wsrpc_client_learns_the_limits() -> None:
    async with server_with(message=1000, running=1, waiting=1).listen() as listener:
        async with Client(listener.url + "small", limits=LIMITS, proxy=None) as client:
            assert await client.request("size", "x" * 500) == 500
            with pytest.raises(MessageTooBig):
                await client.request("size", "x" * 1000)
            assert client.connected


async def test_in_memory_too() -> None:
    async with connect(server_with(message=1000), path="/small") as client:
        assert await client.request("size", "x" * 500) == 500
        with pytest.raises(MessageTooBig):
            await client.request("size", "x" * 1000)


async def test_bounds_of_what_is_asked() -> None:
    server = server_with(running=1, waiting=1, name=10, depth=3)
    go = asyncio.Event()

    @server.on("wait")
    async def wait() -> None:
        await go.wait()

    async with server.listen() as listener:
        async with Client(listener.url + "small", extensions=False, limits=LIMITS, proxy=None) as client:
            with pytest.raises(RpcError, match="more than 10 bytes"):
                await client.request("a very long name")
            waits = [asyncio.create_task(client.request("wait")) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await client.request("wait")
            go.set()
            await asyncio.gather(*waits)


async def test_the_heartbeat() -> None:
    async with server_with(ping_interval=0.01, ping_timeout=0.02).listen() as listener:
        async with raw_client(listener.port, "/small") as raw:
            assert (await raw.next_frame()).opcode == PING
            assert (await raw.next_of(CLOSE)).code == 1011


async def test_the_time_for_closing() -> None:
    server = server_with(close_timeout=0.05)
    server.on("close", lambda peer, info: endings.append(info))
    endings: list[CloseInfo] = []
    async with server.listen() as listener:
        async with raw_client(listener.port, "/small"):  # which answers no Close frame
            (peer,) = server.peers
            async with asyncio.timeout(LIMITS.close_timeout * 0.9):
                await peer.close()
    assert [info.was_clean for info in endings] == [False]


async def test_the_high_water_mark_and_the_hard_cap() -> None:
    server = server_with(high_water=64 * 1024, hard_cap=256 * 1024)
    async with server.listen() as listener:
        async with raw_client(listener.port, "/small", receive_buffer=4096):
            (peer,) = server.peers

            def emit() -> None:
                for _ in range(2000):
                    peer.emit_nowait("news", "x" * 10_000)

            with pytest.raises(QueueFull, match="hard_cap=262144"):
                emit()
            assert peer.transport is not None
            assert peer.transport.unsent <= 256 * 1024
            peer.transport.abort()
            await peer.wait_closed()


# ---------------------------------------------------------------- when it is open


async def test_open_may_change_the_size() -> None:
    server = Server(limits=LIMITS)
    server.on("size", lambda value: len(value))

    @server.on("open")
    def opened(peer: Peer) -> None:
        peer.limits = peer.limits.replace(message=1000)

    async with server.listen() as listener:
        async with raw_client(listener.port) as raw:
            await request(raw, "size", "x" * 500)
            assert (await raw.next_of(TEXT)).payload == b'{"i":1,"d":500}'
            await request(raw, "size", "x" * 1000)
            assert (await raw.next_of(CLOSE)).code == 1009
        async with Client(listener.url, limits=LIMITS, proxy=None) as client, connect(server) as in_memory:
            for one in (client, in_memory):
                assert await one.request("size", "x" * 500) == 500
                with pytest.raises(MessageTooBig):
                    await one.request("size", "x" * 1000)


async def test_an_async_open_may_too() -> None:
    server = Server(limits=LIMITS.replace(message=1000))
    server.on("size", lambda value: len(value))

    @server.on("open")
    async def opened(peer: Peer) -> None:
        await turns_until(lambda: not peer._out.terms.plain)  # its client is welcomed meanwhile
        if peer.info.path == "/large":
            peer.limits = peer.limits.replace(message=10_000)

    async with server.listen() as listener:
        async with Client(listener.url + "large", limits=LIMITS, proxy=None) as client:
            # What says that it opened comes after what says the size.
            await client.request("size", "")
            assert await client.request("size", "x" * 5000) == 5000
        async with Client(listener.url, limits=LIMITS, proxy=None) as client:
            await client.request("size", "")
            with pytest.raises(MessageTooBig):
                await client.request("size", "x" * 5000)


@pytest.mark.parametrize("compression", [True, False])
async def test_it_may_grow_and_shrink_at_any_time(compression: bool) -> None:
    server = Server(limits=LIMITS, compression=compression)
    server.on("size", lambda value: len(value))

    @server.on("take")
    def take(size: int, peer: Peer) -> None:
        peer.limits = peer.limits.replace(message=size)

    async with server.listen() as listener:
        async with Client(listener.url, limits=LIMITS, compression=compression, proxy=None) as client:
            for size in (1000, 512, 50_000, 700):
                await client.request("take", size)
                assert server.peers[0].limits.message == size
                assert await client.request("size", "x" * (size - 50)) == size - 50
                with pytest.raises(MessageTooBig):
                    await client.request("size", "x" * size)


async def test_a_client_may_too_for_one_connection() -> None:
    server = Server(limits=LIMITS)
    failures: list[BaseException] = []

    @server.on("push")
    async def push(size: int, peer: Peer) -> None:
        try:
            await peer.emit("news", "x" * size)
        except MessageTooBig as exc:
            failures.append(exc)

    client = Client(limits=LIMITS)
    client.on("news", lambda text: None)
    # Before the welcome, which only then says that the other side can be told.
    client.once("open", lambda peer: setattr(peer, "limits", peer.limits.replace(message=1000)))
    async with connect(server, client=client):
        assert client.peer.limits.message == 1000
        await client.request("push", 500)
        assert not failures
        await client.request("push", 1000)
        assert len(failures) == 1
    async with connect(server, client=client):
        assert client.peer.limits == LIMITS
        await client.request("push", 1000)
        assert len(failures) == 1


async def test_other_bounds_are_settled_by_then() -> None:
    async with connect(Server()) as client:
        peer = client.peer
        with pytest.raises(ValueError, match="only message= may change"):
            peer.limits = peer.limits.replace(message=5000, running=5)
        with pytest.raises(TypeError, match=r"peer\.limits is a wsrpc\.Limits"):
            peer.limits = 5  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(ValueError, match=r"Limits\.message"):
            peer.limits = peer.limits.replace(message=0)
        assert peer.limits == Limits()
    with pytest.raises(ConnectionLost):
        peer.limits = peer.limits.replace(message=5000)


async def test_other_limits_from_somebody_who_has_not_said_hello_are_ignored() -> None:
    server = Server(limits=LIMITS)
    server.on("echo", lambda value: value)
    async with server.listen() as listener:
        async with raw_client(listener.port) as raw:
            said = '{"ws-wrapper":false,"wsrpc":{"t":"limits","limits":{"message":1}}}'
            await raw.send(raw.frame(TEXT, said))
            await request(raw, "echo", "x")
            assert (await raw.next_of(TEXT)).payload == b'{"i":1,"d":"x"}'
            (peer,) = server.peers
            assert peer.ignored["control message out of place"] == 1
