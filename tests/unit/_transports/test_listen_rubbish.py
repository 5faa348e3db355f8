"""Listening: what is sent on after a request, before its answer, is nobody's failure here, and not in the log."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest
from leftovers import nothing_left as nothing_left

from wsrpc import Client, Handshake, Server

pytestmark = pytest.mark.usefixtures("nothing_left")

UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)


@pytest.mark.parametrize("path", ["/healthz", "/", "/refused later"])
@pytest.mark.parametrize("headers", ["", UPGRADE])
@pytest.mark.parametrize("rubbish", [b"GARBAGE", b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n" * 3, b"\x81\x01a"])
async def test_rubbish_after_the_request(
    path: str, headers: str, rubbish: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path, _, later = path.partition(" ")
    server = Server()
    server.on("ping", lambda: "pong")

    @server.on_handshake
    async def gate(handshake: Handshake) -> None:
        if later:
            await asyncio.sleep(0)
        if handshake.path == "/refused":
            handshake.reject(401)

    async with asyncio.timeout(8), server.listen() as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: here\r\n{headers}\r\n".encode() + rubbish)
        with suppress(ConnectionResetError):
            await reader.read()
        writer.close()
        async with Client(listener.url) as client:
            assert await client.request("ping") == "pong"
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
