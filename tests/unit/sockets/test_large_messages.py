"""Messages that travel in parts, because no connection lasts as long as they do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left

from wsrpc import Client, Reconnect, Server
from wsrpc.testing import FaultProxy

pytestmark = pytest.mark.usefixtures("nothing_left")

CUT = 150_000
"""Bytes after which each connection is cut: less than each message has."""
TEXT = "é" * 250_000
BYTES = bytes(range(256)) * 2_000
AT_ONCE = Reconnect(initial=0.001, max=0.001)


def echoing() -> Server:
    server = Server()
    server.on("echo", lambda value: value)
    return server


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("value", [TEXT, BYTES], ids=["text", "bytes"])
async def test_a_message_arrives_although_no_connection_lasts_as_long(value: Any, direction: Any) -> None:
    async with echoing().listen() as listener, FaultProxy(listener.url) as proxy:
        async with asyncio.timeout(60), Client(proxy.url, reconnect=AT_ONCE) as client:
            await client.request("echo", 0)
            before = proxy.bytes_up + proxy.bytes_down
            async with proxy.cut_after(CUT, direction):
                assert await client.request("echo", value) == value
            passed = proxy.bytes_up + proxy.bytes_down - before
    size = len(value.encode()) if isinstance(value, str) else len(value)
    assert size * 2 < passed < size * 2 * 1.5, "nearly each byte went once up and once down"
