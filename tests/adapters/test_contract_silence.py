"""The transport contract: a dead line is found, and one that is only slow is kept.

The other side is a socket that neither closes nor answers, which is what a dead line looks like from here.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from flavours import OVER_SOCKETS, Accepting, OverSockets, able, unable
from leftovers import timers_due
from raw_websocket import CLOSE, PING, PONG, TEXT, handshake
from recorder import PIECE, Recorder, fill
from served import tls

from wsrpc import CloseInfo, Limits
from wsrpc.transport import Transport

LIMITS = Limits(ping_interval=0.05, ping_timeout=0.1, close_timeout=60.0, stall_timeout=60.0)
"""Whatever waits for the closing handshake, or for a stall alone, comes far too late."""

PATIENT = LIMITS.replace(ping_interval=0.02, ping_timeout=0.5)

RECEIVES = 64 * 1024
"""Receive buffer of a slow reader. With much less the system itself waits, up to a second and more, before it tells the
sender that there is room again.
"""

over_sockets = pytest.mark.parametrize("flavour", OVER_SOCKETS, ids=repr)


@asynccontextmanager
async def doing(call: Callable[[], object], every: float = 0.0) -> AsyncGenerator[None]:
    """Call it again and again meanwhile."""

    async def go_on() -> None:
        while True:
            call()
            await asyncio.sleep(every)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def found(recorder: Recorder) -> CloseInfo:
    """The end, for which the recorder waits much less than the 60 s of `LIMITS`."""
    info = await recorder.end()
    assert not info.was_clean
    return info


@able("heartbeat")
@pytest.mark.parametrize("what", ["nothing", "we send without end", "they send", "they ping", "they stop in a message"])
async def test_a_dead_line_is_found_by_a_ping_whatever_is_sent(flavour: OverSockets, what: str) -> None:
    """What comes in whole proves only that the other side's messages arrive."""
    without_end = what == "we send without end"  # it is never full, so that only the ping finds it, behind all that
    limits = LIMITS.replace(high_water_bytes=1 << 30) if without_end else LIMITS
    async with flavour.raw(limits, receive_buffer=4096 if without_end else None) as (transport, raw):
        recorder = Recorder.of(transport)
        message = raw.frame(PING if what == "they ping" else TEXT, "are you there?")
        if what == "they stop in a message":
            await raw.send(raw.frame(TEXT, PIECE)[:-1])

        def send() -> None:
            if without_end and recorder.lost is None:
                transport.send(PIECE)
            elif what in ("they send", "they ping"):
                raw.sock.send(message)

        async with doing(send, every=0.005):
            info = await found(recorder)
        assert (info.code, info.reason) == (1011, "no response to a ping within 0.1 s")
        assert not recorder.paused and bool(recorder.messages) is (what == "they send")
        if what == "nothing":  # should somebody be there after all, it is told why
            assert (await raw.next_frame()).opcode == PING
            frame = await raw.next_frame()
            assert (frame.opcode, frame.code, frame.reason) == (CLOSE, 1011, info.reason)


@over_sockets
async def test_a_connection_that_is_full_and_does_not_move_is_dropped(flavour: OverSockets) -> None:
    limits = LIMITS.replace(ping_interval=0.2, ping_timeout=5.0, stall_timeout=0.1)
    async with flavour.raw(limits, receive_buffer=4096) as (transport, _):
        recorder = Recorder.of(transport)
        await fill(transport, recorder)
        info = await recorder.end()
        assert (info.code, info.reason) == (1006, "nothing could be written for 0.1 s")


async def read_slowly(take: Callable[[], Awaitable[object]], recorder: Recorder) -> None:
    """Read for longer than a ping may take, each time a little."""
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.7
    while loop.time() < end:
        await take()
        await asyncio.sleep(0.01)
    assert recorder.lost is None


@able("heartbeat")
async def test_a_message_that_arrives_slowly_keeps_the_line(flavour: OverSockets) -> None:
    """The answers are behind it."""
    async with flavour.raw(LIMITS.replace(ping_timeout=0.3)) as (transport, raw):
        recorder = Recorder.of(transport)
        frame = memoryview(raw.frame(TEXT, b"x" * 100_000))
        for sent in range(0, len(frame) - 2000, 2000):  # this takes longer than an answer may take
            await raw.send(bytes(frame[sent : sent + 2000]))
            await asyncio.sleep(0.01)
        assert recorder.lost is None
        pings = [await raw.next_of(PING)]
        await raw.send(bytes(frame[sent + 2000 :]), raw.frame(PONG, pings[0].payload))
        await recorder.count(1)
        pings.append(await raw.next_of(PING))
        assert pings[0].payload != pings[1].payload, "it goes on as ever"
        assert (await found(recorder)).code == 1011


@over_sockets
async def test_a_slow_reader_is_kept(flavour: OverSockets) -> None:
    async with flavour.raw(PATIENT.replace(stall_timeout=5.0), receive_buffer=RECEIVES) as (transport, raw):
        recorder = Recorder.of(transport)
        for number in range(300):  # 18 MB, which the ping waits behind
            transport.send(b"%d " % number + PIECE)
        seen: list[bytes] = []

        async def take() -> None:
            frame = await raw.next_frame()
            if frame.opcode == PING:
                await raw.send(raw.frame(PONG, frame.payload))
            else:
                seen.append(frame.payload.partition(b" ")[0])

        await read_slowly(take, recorder)
        assert transport.unsent
        while len(seen) < 300:
            await take()
        assert seen == [b"%d" % number for number in range(300)]
        await raw.send(raw.frame(TEXT, "still here"))
        await recorder.count(1)
        assert recorder.lost is None


async def test_a_slow_reader_is_kept_over_tls() -> None:
    """Where asyncio's own transport for TLS says that nothing is unsent, and all of it is."""
    accepted: asyncio.Future[Transport] = asyncio.get_running_loop().create_future()
    server, (context, trusting) = Accepting(PATIENT.replace(stall_timeout=1.0), accepted.set_result), tls()
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
            transport.send(b"x" * 18_000_000)
            await read_slowly(lambda: reader.readexactly(100_000), recorder)
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


@over_sockets
async def test_a_client_that_sends_no_more_and_reads_nothing(flavour: OverSockets) -> None:
    limits = LIMITS.replace(close_timeout=0.1, high_water_bytes=1 << 30, ping_interval=None)
    if "half-closed" in flavour.cannot:
        limits = limits.replace(high_water_bytes=65536, stall_timeout=0.1)
    async with flavour.raw(limits, receive_buffer=4096) as (transport, raw):
        recorder = Recorder.of(transport)
        for _ in range(300):
            transport.send(PIECE)
        transport.flush()
        raw.sock.shutdown(socket.SHUT_WR)
        assert (await found(recorder)).code == 1006
