"""Sessions without a connection take about as much memory as `Server(detached_bytes=)` says, not a multiple of it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from programs import listening
from raw_websocket import TEXT, RawPeer, raw_client

from wsrpc import Client

PROGRAM = Path(__file__).parent / "detaching_server.py"
MIB = 1024 * 1024
BOUND = 64 * MIB

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc"),
    pytest.mark.timeout(120),
]


class Measured:
    """A server in a process of its own, and how its resident memory has grown since it was idle."""

    def __init__(self, client: Client, port: int, idle: int) -> None:
        self.client = client
        self.port = port
        self.idle = idle

    async def leave_after(self, *messages: object) -> None:
        """Begin a session, send messages that the server handles, and drop the connection."""
        async with raw_client(self.port) as raw:
            await say(raw, {"ws-wrapper": False, "wsrpc": {"t": "hello", "v": 1, "features": ["resume"], "limits": {}}})
            await say(raw, {"ws-wrapper": False, "wsrpc": {"t": "ack", "n": 0, "bytes": 0}})
            for message in messages:
                await say(raw, message)
            await say(raw, {"i": 1, "a": ["state"]})
            while json.loads((await raw.next_of(TEXT)).payload).get("i") != 1:
                pass
            raw.drop()

    async def state(self) -> tuple[int, int]:
        """Return by how much the memory has grown, and the number of sessions without a connection."""
        memory, detached, _ = await self.client.request("state", returns=tuple[int, int, int])
        return memory - self.idle, detached

    async def alone(self) -> None:
        """Wait until no session but that of the client has a connection."""
        while (await self.client.request("state", returns=tuple[int, int, int]))[2] != 1:
            pass

    async def detached(self, count: int) -> None:
        """Wait until there are that many sessions without a connection."""
        while (await self.state())[1] != count:
            pass


async def say(raw: RawPeer, message: object) -> None:
    await raw.send(raw.frame(TEXT, json.dumps(message)))


@asynccontextmanager
async def measured() -> AsyncGenerator[Measured]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), str(BOUND), stderr=asyncio.subprocess.PIPE, cwd=PROGRAM.parent.parent.parent
    )
    async with listening(process) as url:
        port = urlsplit(url).port
        assert port is not None
        async with Client(url) as client:
            [memory, *_] = await client.request("state", returns=tuple[int, int, int])
            yield Measured(client, port, memory)


async def test_messages_that_handlers_work_on_count() -> None:
    async with measured() as server:
        body = "x" * MIB
        for session in range(16):
            await server.leave_after(*[{"i": i, "a": ["work", body]} for i in range(2, 12)])
            await server.detached(min(session + 1, BOUND // (10 * MIB)))
        grown, _ = await server.state()
        assert BOUND / 2 < grown < BOUND * 2


@pytest.mark.parametrize("value", [{}, [[0.5]], "text"], ids=json.dumps)
async def test_arguments_count_with_what_they_take_decoded(value: object) -> None:
    async with measured() as server:
        body, before = [value] * 20_000, 0
        while True:
            await server.leave_after(*[{"i": i, "a": ["work", body]} for i in range(2, 7)])
            await server.alone()
            grown, detached = await server.state()
            if detached == before:
                break
            before = detached
        assert BOUND / 2 < grown < BOUND * 2


async def test_small_messages_that_wait_count_with_what_keeps_them() -> None:
    async with measured() as server:
        for session in range(50):
            await server.leave_after({"a": ["join"]})
            await server.detached(session + 1)
        grown = await server.client.request("broadcast", returns=int, timeout=None) - server.idle
        assert BOUND / 2 < grown < BOUND * 2


async def test_handlers_and_small_requests_count_with_what_runs_them() -> None:
    async with measured() as server:
        for _ in range(40):
            await server.leave_after(*[{"i": i, "a": ["work", ""]} for i in range(2, 1002)])
        grown, detached = await server.state()
        assert detached < 40, "the bound is reached"
        assert BOUND / 2 < grown < BOUND * 2
