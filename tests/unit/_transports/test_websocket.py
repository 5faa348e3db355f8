"""The default transport: dialing, and what is its own. The contract of all transports is in ``tests/adapters``."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import CLOSE, CONT, PING, PONG, TEXT, build_frame, raw_client, raw_server

from wsrpc import Client, CloseInfo, ConnectionLost, Limits, Server, dial
from wsrpc._transports.listener import listen
from wsrpc.types import WebSocketTransport

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0, ping_interval=None)


class Inbox:
    """A receiver with a queue."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.ended: asyncio.Future[CloseInfo] = asyncio.get_running_loop().create_future()

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None:
        self.messages.put_nowait(bytes(payload))

    def read_ended(self) -> None: ...

    def pause_sending(self) -> None: ...

    def resume_sending(self) -> None: ...

    def connection_lost(self, info: CloseInfo, /) -> None:
        self.ended.set_result(info)


async def test_a_port_waits_for_its_open_connections() -> None:
    accepted: asyncio.Queue[WebSocketTransport] = asyncio.Queue()

    async def accept(transport: WebSocketTransport, handshake: object) -> None:
        transport.start(Inbox())
        accepted.put_nowait(transport)

    before = len(asyncio.all_tasks())
    listener = await listen(accept, "127.0.0.1", 0, limits=LIMITS)
    async with raw_client(listener.port), raw_client(listener.port):
        transports = [await accepted.get() for _ in range(2)]
        await turns_until(lambda: len(asyncio.all_tasks()) == before)  # an open connection has no task
        listener.stop()
        waiting = [asyncio.create_task(listener.wait_closed()) for _ in range(2)]
        for transport in transports:
            for _ in range(10):
                await asyncio.sleep(0)
            assert not any(task.done() for task in waiting)
            transport.abort()
        waiting.pop().cancel()
        await asyncio.gather(*waiting)
    await listener.wait_closed()  # at once


async def test_a_connection_without_room_is_drained_by_all_who_wait() -> None:
    accepted: asyncio.Queue[WebSocketTransport] = asyncio.Queue()

    async def accept(transport: WebSocketTransport, handshake: object) -> None:
        transport.start(Inbox())
        accepted.put_nowait(transport)

    listener = await listen(accept, "127.0.0.1", 0, limits=LIMITS)
    async with raw_client(listener.port) as raw:
        transport = await accepted.get()
        for _ in range(2):  # what they wait for is made anew
            while transport.unsent <= LIMITS.high_water:
                transport.send(bytes(100_000), False)
                transport.flush()
            draining = [asyncio.create_task(transport.drain()) for _ in range(2)]
            for _ in range(10):
                await asyncio.sleep(0)
            assert not any(task.done() for task in draining)
            while not all(task.done() for task in draining):
                await raw.read()
            await asyncio.gather(*draining)
    listener.stop()
    await listener.wait_closed()


@pytest.mark.parametrize(
    ("frames", "code", "reason"),
    [
        ([build_frame(0x3, b"x", masked=True)], 1002, "invalid opcode"),
        ([build_frame(TEXT, b"x", masked=False)], 1002, "incorrect masking"),
        ([build_frame(PING, b"x" * 126, masked=True)], 1002, "control frame too long"),
        ([b"\x82\xfe\x00\x05" + bytes(9)], 1002, "invalid payload length"),
        ([build_frame(PING, b"x", masked=True, fin=False)], 1002, "fragmented control frame"),
        ([build_frame(PING, b"x", masked=True, rsv=4)], 1002, "reserved bits must be 0"),
        ([build_frame(TEXT, b"x", masked=True, rsv=1)], 1002, "reserved bits must be 0"),
        ([build_frame(CONT, b"x", masked=True)], 1002, "unexpected continuation frame"),
        ([build_frame(TEXT, b"x", masked=True, fin=False)] * 2, 1002, "expected a continuation frame"),
        ([build_frame(CLOSE, b"\x03", masked=True)], 1002, "close frame too short"),
        ([build_frame(CLOSE, b"\x03\xed", masked=True)], 1002, "invalid status code"),
        ([build_frame(CLOSE, b"\x03\xe8\xff", masked=True)], 1007, "invalid start byte at position 0"),
        ([build_frame(TEXT, b"x" * 601, masked=True)], 1009, "frame with 601 bytes exceeds limit of 600 bytes"),
        (
            [build_frame(TEXT, b"x" * 500, masked=True, fin=False), build_frame(CONT, b"x" * 101, masked=True)],
            1009,
            "frame with 101 bytes after reading 500 bytes exceeds limit of 600 bytes",
        ),
    ],
)
async def test_a_close_frame_says_what_was_wrong(frames: list[bytes], code: int, reason: str) -> None:
    server = Server(limits=LIMITS.replace(close_timeout=0.1, message=600))
    async with server.listen() as listener, raw_client(listener.port) as raw:
        await raw.send(*frames)
        frame = await raw.next_of(CLOSE)
        assert (frame.code, frame.payload[2:].decode()) == (code, reason)


async def test_a_large_message_is_on_its_way_before_the_turn_ends() -> None:
    async with raw_server() as server:
        dialing = asyncio.create_task(dial(server.url, limits=LIMITS))
        peer = await server.accept()
        transport = await dialing
        transport.start(Inbox())
        for _ in range(10):
            transport.send(b"x" * 20_000)
        # No turn of the loop since: what fills a piece does not wait for it.
        assert len(peer.sock.recv(1 << 20)) > 60_000
        transport.abort()


async def test_the_library_s_own_log_is_below_ours(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with Server(limits=LIMITS).listen() as listener:
        async with Client(listener.url, limits=LIMITS) as client:
            await client.emit("x")
    assert all(record.name.split(".")[0] in ("wsrpc", "asyncio") for record in caplog.records)


@pytest.mark.parametrize("who", ["peer", "server"])
async def test_who_sends_on_and_on_learns_that_nobody_is_there(who: str) -> None:
    """The broken socket is told of in a later turn of the loop, which a loop of sends that never wait does not give."""
    server = Server()
    async with server.listen() as listener:
        async with Client(listener.url, reconnect=None) as client:
            [peer] = server.peers
            assert client.peer.transport is not None
            client.peer.transport.abort()

            async def send_on_and_on() -> None:
                while server.peers:
                    await (peer if who == "peer" else server).emit("tick", "x" * 1000)

            if who == "peer":
                with pytest.raises(ConnectionLost):
                    await send_on_and_on()
            else:
                await send_on_and_on()


@pytest.mark.parametrize("cut", range(1, 16))
async def test_a_control_frame_that_comes_in_two_pieces_is_taken_whole(cut: int) -> None:
    server = Server(limits=Limits(close_timeout=1.0))
    server.on("echo", lambda value: value)
    async with server.listen() as listener, raw_client(listener.port) as raw:
        # A mask, and under it a payload, that look like the head of a text message.
        ping = b"\x89\x8a" + b"\x81\x85" * 7
        [peer] = server.peers
        before = peer.stats().bytes_in or 0
        await raw.send(ping + ping[:cut])
        await turns_until(lambda: peer.stats().bytes_in == before + len(ping) + cut)
        await raw.send(ping[cut:] + raw.frame(TEXT, '{"i":1,"a":["echo",7]}'))
        answer = await raw.next_of(TEXT)
        assert answer.payload == b'{"i":1,"d":7}'


async def test_who_pings_on_and_on_and_reads_nothing_is_dropped_at_the_hard_cap() -> None:
    server = Server(limits=Limits(high_water=10_000, hard_cap=1_000_000, ping_interval=None, stall=60))
    ended: asyncio.Future[CloseInfo] = asyncio.get_running_loop().create_future()
    server.on("close", lambda peer, info: ended.set_result(info))
    async with server.listen() as listener, raw_client(listener.port, receive_buffer=10_000) as raw:
        pings = raw.frame(PING, b"x" * 125) * 1000
        for _ in range(400):  # 50 MB: more than the system takes
            if ended.done():
                break
            with suppress(ConnectionError):
                await raw.send(pings)
        info = await asyncio.wait_for(ended, 5)
        assert (info.code, info.reason) == (4408, "slow consumer")


async def test_a_slow_reader_of_a_large_message_may_ping() -> None:
    server = Server(limits=Limits(high_water=10_000, hard_cap=100_000, ping_interval=None))
    async with server.listen() as listener, raw_client(listener.port, receive_buffer=10_000) as raw:
        [peer] = server.peers
        await peer.emit("large", "x" * 20_000_000)
        await turns_until(lambda: peer.transport is not None and peer.transport.unsent > 1_000_000)
        await raw.send(*[raw.frame(PING, b"%d" % number) for number in range(20)])
        assert len((await raw.next_of(TEXT)).payload) > 20_000_000
        assert [(await raw.next_of(PONG)).payload for _ in range(20)] == [b"%d" % number for number in range(20)]
        assert server.peers == (peer,)
