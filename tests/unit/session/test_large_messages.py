"""Large messages on connections that drop: they travel in parts, and what has arrived is not sent again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from effort import SOAK
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, ConnectionLost, Handshake, Reconnect, Server
from wsrpc.testing import FaultProxy, Line, MemoryTransport

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
        async with asyncio.timeout(20), Client(proxy.url, reconnect=AT_ONCE) as client:
            await client.request("echo", 0)
            before = proxy.bytes_up + proxy.bytes_down
            async with proxy.cut_after(CUT, direction):
                assert await client.request("echo", value) == value
            passed = proxy.bytes_up + proxy.bytes_down - before
    size = len(value.encode()) if isinstance(value, str) else len(value)
    assert size * 2 < passed < size * 2 * 1.5, "nearly each byte went once up and once down"


async def test_a_message_travels_in_parts_although_the_connection_was_fast() -> None:
    """If it then became slow, a message of 4 MB was acknowledged so late that the session ended with 4408."""
    sizes, line = list[int](), Line(echoing())

    async def dial(url: str, **options: Any) -> MemoryTransport:
        transport = await line.dial(url, **options)
        send = transport.send

        def noted(payload: bytes, text: bool = True) -> None:
            sizes.append(len(payload))
            send(payload, text)

        vars(transport)["send"] = noted
        return transport

    async with asyncio.timeout(20), Client("ws://server/", dial=dial) as client:
        for _ in range(4):
            assert await client.request("echo", TEXT) == TEXT
    assert sum(sizes) > 4 * len(TEXT) and max(sizes) < 132_000


async def test_a_session_resumes_as_soon_as_its_client_has_its_name() -> None:
    """The first connection is cut after each number of bytes, up to the response. Nothing was acknowledged so far."""
    server, ran, connected, step = Server(), list[int](), list[Handshake](), 1 if SOAK else 8
    server.on_handshake(connected.append)

    @server.on("add")
    def add(number: int) -> int:
        ran.append(number)
        return number

    async def call(number: int) -> bool:
        """Return whether the session went on."""
        async with Client(proxy.url, reconnect=AT_ONCE) as client:
            with suppress(ConnectionLost):
                assert await client.request("add", number) == number
                return True
        return False

    async def cut_once(number: int) -> bool:
        connected.clear()
        async with proxy.cut_after(number, "down"):
            asked = asyncio.ensure_future(call(number))
            await turns_until(lambda: len(connected) > 1 or asked.done())
        return await asked

    async with asyncio.timeout(80), server.listen() as listener, FaultProxy(listener.url) as proxy:
        assert await call(0)
        whole = proxy.bytes_down
        went_on = [await cut_once(number) for number in range(whole - 250, whole, step)]
    assert sorted(set(ran)) == sorted(ran), "nothing ran twice"
    welcome = went_on.index(True)
    assert welcome > 0 and all(went_on[welcome:]), "from the end of the welcome on"
    assert (len(went_on) - welcome) * step < 20 + step, "the response has fewer bytes"
