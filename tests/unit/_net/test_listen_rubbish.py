"""Listening: what is sent on after a request, before its answer, is nobody's failure here, and not in the log."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest
from leftovers import nothing_left as nothing_left
from raw_websocket import ask

from wsrpc import Client, Handshake, Server

pytestmark = pytest.mark.usefixtures("nothing_left")

UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)


@pytest.mark.parametrize("path", ["/healthz", "/", "/refused"])
@pytest.mark.parametrize("headers", ["", UPGRADE])
@pytest.mark.parametrize("rubbish", [b"GARBAGE", b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n" * 3, b"\x81\x01a"])
async def test_rubbish_after_the_request(
    path: str, headers: str, rubbish: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()

    @server.on_handshake
    async def gate(handshake: Handshake) -> None:
        await asyncio.sleep(0)
        if handshake.path == "/refused":
            handshake.reject(401)

    async with asyncio.timeout(8), server.listen() as listener:
        with suppress(ConnectionResetError):
            request = f"GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n{headers}\r\n"
            await ask(listener.port, request.encode() + rubbish)
        async with Client(listener.url):
            pass
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
