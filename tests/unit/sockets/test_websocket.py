"""The default transport: dialing, and what is its own. The contract of all transports is in ``tests/adapters``."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from client_driver import leap
from core_driver import messages
from leftovers import nothing_left as nothing_left
from raw_websocket import CLOSE, PING, PONG, TEXT, RawPeer, raw_client, raw_server
from waiting import until

from wsrpc import Client, CloseInfo, ConnectionLost, Limits, Server
from wsrpc._core.wire.control import Ack, write_control
from wsrpc.testing import FaultProxy

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=60.0, ping_interval=None)


async def test_who_sends_on_and_on_learns_that_nobody_is_there() -> None:
    """The broken socket is told of in a later turn of the loop, which a loop of sends that never wait does not give."""
    server = Server()
    async with server.listen() as listener, Client(listener.url, reconnect=None) as client:
        [peer] = server.peers
        assert client.peer.transport is not None
        client.peer.transport.abort()
        with suppress(ConnectionLost):
            while server.peers:
                await peer.emit("tick", "x" * 1000)


async def test_who_pings_on_and_on_and_reads_nothing_is_dropped_at_the_hard_cap() -> None:
    server = Server(
        limits=Limits(high_water_bytes=10_000, hard_cap_bytes=1_000_000, ping_interval=None, stall_timeout=60)
    )
    ended: asyncio.Future[CloseInfo] = asyncio.get_running_loop().create_future()
    server.on("close", lambda peer, info: ended.set_result(info))
    async with server.listen() as listener, raw_client(listener.port, receive_buffer=10_000) as raw:
        pings = raw.frame(PING, b"x" * 125) * 1000
        for _ in range(400):  # 50 MB: more than the system takes
            if ended.done():
                break
            with suppress(ConnectionError):
                await raw.send(pings)
        info = await ended
        assert (info.code, info.reason) == (4408, "slow consumer")


async def test_a_slow_reader_of_a_large_message_may_ping() -> None:
    server = Server(limits=Limits(high_water_bytes=10_000, hard_cap_bytes=100_000, ping_interval=None))
    async with server.listen() as listener, raw_client(listener.port, receive_buffer=10_000) as raw:
        [peer] = server.peers
        await peer.emit("large", "x" * 20_000_000)
        await until(lambda: peer.transport is not None and peer.transport.unsent > 1_000_000)
        await raw.send(*[raw.frame(PING, b"%d" % number) for number in range(20)])
        assert len((await raw.next_of(TEXT)).payload) > 20_000_000
        assert [(await raw.next_of(PONG)).payload for _ in range(20)] == [b"%d" % number for number in range(20)]
        assert server.peers == (peer,)


# ---------------------------------------------------------------- slow networks, and dead ones


PATIENT = Limits(ping_interval=0.1, ping_timeout=4.0, stall_timeout=60.0)
"""A busy machine answers a ping within that time. A message that takes longer is still on its way."""


async def read_slowly(raw: RawPeer, count: int, pause: float) -> RawPeer:
    """Read so many bytes, a thousand at a time. Return a peer that has not looked at them."""
    data = b""
    while len(data) < count:
        piece = await asyncio.get_running_loop().sock_recv(raw.sock, 1000)
        assert piece, "the connection has ended"
        data += piece
        await asyncio.sleep(pause)
    return RawPeer(raw.sock, client=raw.client, request=raw.request, received=data)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell what the remote system has received")
async def test_a_slow_reader_is_kept_while_the_system_has_the_rest() -> None:
    """What reaches the other side counts, although all was accepted at once."""
    server = Server(limits=PATIENT)
    async with server.listen() as listener, raw_client(listener.port, receive_buffer=8192) as raw:
        [peer] = server.peers
        peer.emit_nowait("large", "x" * 120_000)
        assert peer.transport is not None
        peer.transport.flush()
        assert not peer.transport.unsent
        raw = await read_slowly(raw, 120_000, 0.04)
        ping = await raw.next_of(PING)
        await raw.send(raw.frame(PONG, ping.payload))
        assert (await raw.next_of(PING)).payload != ping.payload


@asynccontextmanager
async def watched() -> AsyncGenerator[tuple[Server, Client, FaultProxy]]:
    """A client, its server and the proxy between them. The connection must not drop before the block ends."""
    server, dropped = Server(limits=PATIENT), list[CloseInfo]()
    async with server.listen() as listener, FaultProxy(listener.url) as proxy:
        async with Client(proxy.url, limits=PATIENT) as client:
            client.on_detach(dropped.append)
            server.on_detach(lambda peer, info: dropped.append(info))
            yield server, client, proxy
            assert dropped == []


async def test_acknowledgements_keep_a_connection_whose_bytes_are_in_the_buffer_of_a_proxy() -> None:
    """The sender has got rid of them all, and its ping is behind them."""
    async with watched() as (server, client, proxy):
        arrived: asyncio.Queue[int] = asyncio.Queue()
        client.on("event", lambda number, filling: arrived.put_nowait(number))
        async with proxy.slow("down", rate=100_000, buffer=1_000_000):
            for number in range(30):
                await server.emit("event", number, "x" * 20_000)
            assert [await arrived.get() for _ in range(30)] == list(range(30))


# ---------------------------------------------------------------- closing while bytes leave

UNSTALLED = LIMITS.replace(stall_timeout=10_000.0)


@asynccontextmanager
async def sending(closer: str, size: int) -> AsyncGenerator[tuple[RawPeer, Callable[[], Awaitable[None]], Any]]:
    """Send a message of ``size`` bytes to a raw peer that reads nothing.

    Yield the peer, how the sender closes, and the transport of the sender.
    """
    if closer == "client":
        async with raw_server(receive_buffer=10_000) as raw:
            client = Client(raw.url, limits=UNSTALLED, reconnect=None, extensions=False)
            connecting = asyncio.create_task(client.connect())
            other = await raw.accept()
            await connecting
            await client.emit("large", "x" * size)
            yield other, client.close, client.peer.transport
    else:
        server = Server(limits=UNSTALLED)
        async with server.listen() as listener, raw_client(listener.port, receive_buffer=10_000) as other:
            [peer] = server.peers
            await peer.emit("large", "x" * size)
            close = peer.close if closer == "peer" else lambda: server.close(1000 if closer == "drain" else 0)
            yield other, close, peer.transport


async def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``close_timeout`` pass, after the system has told of what was read."""
    await asyncio.sleep(0.05)
    leap(monkeypatch, LIMITS.close_timeout)
    for _ in range(5):
        await asyncio.sleep(0)


async def read(other: RawPeer, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += await other.read()
    return bytes(data)


@pytest.mark.asyncio_loop
@pytest.mark.parametrize("closer", ["client", "peer", "drain"])
async def test_a_close_waits_while_bytes_leave(
    closer: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It dropped the connection after ``close_timeout``, although a slow link still took bytes."""
    async with sending(closer, 3_000_000) as (other, close, _):
        closing, data = asyncio.ensure_future(close()), b""
        for _ in range(5):
            data += await read(other, 400_000)
            await later(monkeypatch)
            assert not closing.done()
        rest = RawPeer(other.sock, client=other.client, request=b"", received=data)
        assert (await rest.next_of(CLOSE)).code == (1012 if closer == "drain" else 1000)
        await other.send(other.close_frame())
        other.drop()
        await closing
    assert messages(caplog, logging.WARNING) == []


@pytest.mark.asyncio_loop
@pytest.mark.parametrize("closer", ["client", "peer", "drain"])
async def test_a_close_waits_while_messages_are_acknowledged(closer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy before a slow link had taken all bytes, and the connection was dropped after ``close_timeout``."""
    async with sending(closer, 1000) as (other, close, transport):
        closing = asyncio.ensure_future(close())
        while (await other.next_frame()).opcode != CLOSE:
            pass
        for number in range(1, 6):
            arrived = transport.traffic.messages_in
            await other.send(other.frame(TEXT, write_control(Ack(number, 100 * number))))
            await until(lambda arrived=arrived: transport.traffic.messages_in > arrived)  # type: ignore[misc]
            await later(monkeypatch)
            assert not closing.done()
        await later(monkeypatch)
        await closing


@pytest.mark.asyncio_loop
@pytest.mark.parametrize(("closer", "reads"), [("client", 100_000), ("peer", 0), ("server", 100_000)])
async def test_a_close_does_not_wait_for_ever(
    closer: str, reads: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits for ``close_timeout`` while no byte leaves, else twelve times as long, and logs what was not sent.

    A server that does not drain waits once: the drain is the time for slow readers.
    """
    caplog.set_level(logging.INFO)
    async with sending(closer, 12_000_000) as (other, close, _):
        closing, rounds, said = asyncio.ensure_future(close()), 0, list[str]()
        await asyncio.sleep(0.05)
        while not said and rounds < 20:
            rounds += 1
            await read(other, reads)
            await later(monkeypatch)
            level = logging.WARNING if closer == "client" else logging.INFO
            said = [text for text in messages(caplog, level) if "bytes were not sent before the end of" in text]
        await closing
    # The system may have sent some bytes after the close.
    assert rounds == 12 if reads and closer != "server" else rounds <= 2
    assert int(said[0].partition(" ")[0]) > 5_000_000


async def test_a_client_knows_whether_something_waits_for_its_server() -> None:
    """Then it notices a dead connection sooner."""
    server, go_on = Server(), asyncio.Event()
    server.on("hang", go_on.wait)

    @server.on("count")
    async def count() -> AsyncGenerator[int]:
        yield 1
        await go_on.wait()

    async with server.listen() as listener, Client(listener.url) as client:
        transport: Any = client.peer.transport
        waits = transport._delivery.waits
        await until(lambda: not waits())  # what has told the limits is acknowledged
        calling = asyncio.ensure_future(client.request("hang"))
        await until(waits)
        async with client.stream("count", returns=int) as numbers:
            assert await anext(numbers) == 1
            go_on.set()
            await calling
            assert waits()
        await until(lambda: not waits())
        client.emit_nowait("news")
        assert waits()
