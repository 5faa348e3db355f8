"""Floods of every kind beside a client that behaves well: it is served, and afterwards nothing is left."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from attacks import ATTACKS
from leftovers import living_objects, turns_until

from wsrpc import Client, Limits, Server

TESTS = Path(__file__).parent.parent
MOST = 40
"""Attackers of a kind."""
CALLS = 10
SPARE = 40
"""Objects that may be more than before, which asyncio and the library keep for a while; an attack makes thousands."""


@asynccontextmanager
async def attacked(name: str, port: int) -> AsyncGenerator[None]:
    """While all attackers are at it, in a process of their own."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, TESTS / "attacks.py", name, str(port), str(MOST), stdin=pipe, stdout=pipe
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        await process.communicate()


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.soak] * (n != "cancels")) for n in ATTACKS])
@pytest.mark.timeout(90)  # it has much to do, and other tests may run beside it
async def test_a_client_beside_a_flood_is_served_and_nothing_is_left(name: str) -> None:
    server = Server(limits=Limits(open_timeout=2.0, close_timeout=1.0))
    server.on("echo", lambda value: value)
    server.on("wait", asyncio.Event().wait)
    server.on_join(lambda peer, room: True)
    async with server.listen() as listener, Client(listener.url) as client:
        async with attacked("handshakes", listener.port):
            pass  # what is made once is made now
        await turns_until(lambda: len(server.peers) == 1, 30)
        before = await living_objects()
        async with attacked(name, listener.port):
            for number in range(CALLS):
                assert await client.request("echo", number) == number
        await turns_until(lambda: len(server.peers) == 1 and not server.peers[0].active, 30)
        assert await client.request("echo", 0) == 0
        for _ in range(20):  # handlers that were cancelled end in the next turns
            await asyncio.sleep(0)
        grown = await living_objects() - before
        assert sum(grown.values()) <= SPARE, grown
