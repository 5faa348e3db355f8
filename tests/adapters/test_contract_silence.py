"""The transport contract: a dead line is found, and one that is only slow is kept.

The other side is a socket that neither closes nor answers, which is what a dead line looks like from here. What keeps a
line is tested without sockets, in ``tests/unit/_net/test_heartbeat.py``.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from client_driver import leap
from flavours import Accepting, OverSockets, able, kinds_over_sockets, unable
from leftovers import timers_due
from raw_websocket import CLOSE, PING, PONG, TEXT, handshake
from recorder import PIECE, Recorder, fill
from served import tls

from wsrpc import Limits
from wsrpc.transport import Transport

LIMITS = Limits(ping_interval=0.05, ping_timeout=0.1, close_timeout=1000.0, stall_timeout=1000.0)
"""Whatever waits for the closing handshake, or for a stall alone, comes far too late."""
SLOW = LIMITS.replace(ping_interval=2.0, ping_timeout=4.0, stall_timeout=4.0)
RECEIVES = 64 * 1024
"""Receive buffer of a slow reader. With much less the system itself waits, up to a second and more, before it tells the
sender that there is room again.
"""
MANY = 300
"""Pieces: 18 MB, which a ping waits behind."""


@able("heartbeat")
@pytest.mark.parametrize("they", [None, TEXT, PING], ids=["nothing", "they send", "they ping"])
async def test_a_dead_line_is_found_by_a_ping_whatever_is_sent(flavour: OverSockets, they: int | None) -> None:
    """What comes in whole proves only that the other side's messages arrive."""
    async with flavour.raw(LIMITS) as (transport, raw):
        recorder = Recorder.of(transport)
        while they is not None and recorder.lost is None:
            raw.sock.send(raw.frame(they, "are you there?"))
            await asyncio.sleep(0.005)
        info = await recorder.end()
        assert (info.code, info.reason, info.was_clean) == (1011, "no response to a ping within 0.1 s", False)
        assert not recorder.paused and bool(recorder.messages) is (they == TEXT)
        if they is None:  # should somebody be there after all, it is told why
            assert (await raw.next_frame()).opcode == PING
            frame = await raw.next_frame()
            assert (frame.opcode, frame.code, frame.reason) == (CLOSE, 1011, info.reason)


@kinds_over_sockets
async def test_a_connection_that_is_full_and_does_not_move_is_dropped(flavour: OverSockets) -> None:
    limits = LIMITS.replace(ping_interval=None, stall_timeout=0.1)
    async with flavour.raw(limits, receive_buffer=4096) as (transport, _):
        recorder = Recorder.of(transport)
        await fill(transport, recorder)
        info = await recorder.end()
        assert (info.code, info.reason) == (1006, "nothing could be written for 0.1 s")


async def read_slowly(take: Callable[[], Awaitable[object]], recorder: Recorder, patch: pytest.MonkeyPatch) -> None:
    """Read for longer than a ping or a stall may take, each time a little."""
    for _ in range(5):
        for _ in range(MANY // 10):
            await take()
        leap(patch, 3.0)  # less than uvicorn waits for an answer to its own ping
        for _ in range(10):
            await asyncio.sleep(0)
        assert recorder.lost is None


@pytest.mark.asyncio_loop
@kinds_over_sockets
async def test_a_slow_reader_is_kept(flavour: OverSockets, monkeypatch: pytest.MonkeyPatch) -> None:
    async with flavour.raw(SLOW, receive_buffer=RECEIVES) as (transport, raw):
        recorder = Recorder.of(transport)
        for number in range(MANY):
            transport.send(b"%d " % number + PIECE)
        seen: list[bytes] = []

        async def take() -> None:
            frame = await raw.next_frame()
            if frame.opcode == PING:
                await raw.send(raw.frame(PONG, frame.payload))
            else:
                seen.append(frame.payload.partition(b" ")[0])

        await read_slowly(take, recorder, monkeypatch)
        assert transport.unsent
        while len(seen) < MANY:
            await take()
        assert seen == [b"%d" % number for number in range(MANY)]
        await raw.send(raw.frame(TEXT, "still here"))
        await recorder.count(1)
        assert recorder.lost is None


@pytest.mark.asyncio_loop
async def test_a_slow_reader_is_kept_over_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where asyncio's own transport for TLS says that nothing is unsent, and all of it is."""
    accepted: asyncio.Future[Transport] = asyncio.get_running_loop().create_future()
    server, (context, trusting) = Accepting(SLOW, accepted.set_result), tls()
    async with server.listen(ssl=context) as listener:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVES)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", listener.port))
            options: dict[str, Any] = {"ssl": trusting, "server_hostname": "localhost", "limit": 1000}
            reader, writer = await asyncio.open_connection(sock=sock, **options)
            writer.write(handshake("/"))
            await reader.readuntil(b"\r\n\r\n")
            transport = await accepted
            recorder = Recorder.of(transport)
            transport.send(b"".join([PIECE] * MANY))
            await read_slowly(lambda: reader.readexactly(len(PIECE)), recorder, monkeypatch)
            transport.abort()
            await recorder.end()
            writer.transport.abort()
            with pytest.raises((OSError, EOFError)):
                await reader.readexactly(1 << 30)


@unable("heartbeat")
async def test_no_ping_is_sent_and_nobody_is_dropped(flavour: OverSockets, caplog: pytest.LogCaptureFixture) -> None:
    async with flavour.raw(LIMITS.replace(ping_interval=0.02, ping_timeout=0.02)) as (transport, raw):
        assert caplog.text.count("Limits(ping_interval=0.02, ping_timeout=0.02) has no effect: this ASGI server") == 1
        recorder = Recorder.of(transport)
        await timers_due(0.2)
        transport.send(b"the first frame")
        frame = await raw.next_frame()
        assert (frame.opcode, frame.payload) == (TEXT, b"the first frame")
        assert recorder.lost is None


@kinds_over_sockets
async def test_a_client_that_sends_no_more_and_reads_nothing(flavour: OverSockets) -> None:
    limits = LIMITS.replace(close_timeout=0.1, high_water_bytes=1 << 30, ping_interval=None)
    if "half-closed" in flavour.cannot:
        limits = limits.replace(high_water_bytes=65536, stall_timeout=0.1)
    async with flavour.raw(limits, receive_buffer=4096) as (transport, raw):
        recorder = Recorder.of(transport)
        for _ in range(MANY):
            transport.send(PIECE)
        transport.flush()
        raw.sock.shutdown(socket.SHUT_WR)
        info = await recorder.end()
        assert (info.code, info.was_clean) == (1006, False)
