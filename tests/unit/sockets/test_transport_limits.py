"""Limits of transports: what happens to the connection, and that no other one notices."""

from __future__ import annotations

import asyncio
import socket
import zlib
from typing import Any, NamedTuple

import pytest
from beside import AMPLE, beside
from raw_websocket import CLOSE, CONT, TEXT, build_frame, raw_client

from wsrpc import Server


class Closed(NamedTuple):
    """What a client sends as frames, and how its connection ends. Adapters: tests/adapters/test_contract_*.py."""

    limits: dict[str, Any]
    frames: list[dict[str, Any]]
    code: int
    reason: str
    compression: bool = False


squeeze = zlib.compressobj(wbits=-15)
SQUEEZED = (squeeze.compress(b"x" * 2000) + squeeze.flush(zlib.Z_SYNC_FLUSH))[:-4]
"""2,000 bytes as the payload of one compressed frame."""
CLOSED: dict[str, Closed] = {
    # The head is enough: nothing of it is waited for, or kept.
    "message_bytes": Closed({"message_bytes": 1000}, [{"opcode": TEXT, "size": 2**40}], 1009, ""),
    "message_bytes: fragments": Closed(
        {"message_bytes": 1000},
        [{"opcode": TEXT, "payload": b"x" * 600, "fin": False}, {"opcode": CONT, "payload": b"x" * 500}],
        1009,
        "frame with 500 bytes after reading 600 bytes exceeds limit of 1000 bytes",
    ),
    "message_bytes: compressed": Closed(
        {"message_bytes": 1000}, [{"opcode": TEXT, "payload": SQUEEZED, "rsv": 4}], 1009, "", True
    ),
    "compression is off by default": Closed({}, [{"opcode": TEXT, "payload": SQUEEZED, "rsv": 4}], 1002, ""),
    "ping_interval, ping_timeout": Closed(
        {"ping_interval": 0.1, "ping_timeout": 0.2}, [], 1011, "no response to a ping within 0.2 s"
    ),
}


@pytest.mark.parametrize("row", CLOSED.values(), ids=CLOSED)
async def test_a_connection_that_exceeds_a_limit_is_closed_and_no_other(row: Closed) -> None:
    server = Server(limits=AMPLE.replace(**row.limits), compression=row.compression)
    offer = "Sec-WebSocket-Extensions: permessage-deflate"
    async with beside(AMPLE, server) as world, raw_client(world.port, "/", offer) as raw:
        await world.newest()
        await raw.send(*(build_frame(masked=True, **frame) for frame in row.frames))
        close = await raw.next_of(CLOSE)
        raw.drop()
        assert (close.code, row.reason in close.reason) == (row.code, True)
        await world.ends(row.code)


async def test_a_full_connection_that_does_not_move_is_dropped() -> None:
    limits = AMPLE.replace(high_water_bytes=10_000, stall_timeout=0.2, ping_interval=None)
    async with beside(limits) as world, raw_client(world.port, receive_buffer=4096):
        peer = await world.newest()
        while not peer.stats().slow:
            peer.emit_nowait("n", "x" * 100_000)
        await world.goes_on()
        assert "nothing could be written for 0.2 s" in (await world.ends(1006)).reason


@pytest.mark.asyncio_loop
async def test_an_opening_handshake_that_takes_too_long_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    real_time = loop.time
    async with beside(AMPLE.replace(open_timeout=0.1)) as world:
        with socket.socket() as slow, socket.socket() as later:
            for connecting, sent in ((slow, b""), (later, b"GET / HTTP/1.1\r\nHost:")):
                began = loop.time()
                connecting.setblocking(False)
                await loop.sock_connect(connecting, ("127.0.0.1", world.port))
                await loop.sock_sendall(connecting, sent)
                await world.goes_on()
                monkeypatch.setattr(loop, "time", lambda: real_time() + 0.05)  # the time of the other one begins later
            for connecting in (slow, later):
                while await loop.sock_recv(connecting, 1000):
                    pass
            assert loop.time() - began > 0.099, "each has its whole time"
        assert len(world.server.peers) == 1


async def test_a_closing_handshake_that_takes_too_long_is_cut_off() -> None:
    async with beside(AMPLE.replace(close_timeout=0.1)) as world, raw_client(world.port) as raw:
        peer = await world.newest()
        await peer.close(1000, "bye")
        assert (await raw.next_of(CLOSE)).code == 1000
        await world.ends(1000)
        assert await raw.read_to_end() == b""
