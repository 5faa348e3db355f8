"""What is particular about dialing with picows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from raw_websocket import raw_server
from served import LIMITS, echo_server

from wsrpc import Client
from wsrpc_adapters import picows


@asynccontextmanager
async def http_proxy() -> AsyncGenerator[tuple[str, list[str]]]:
    """A proxy that tunnels; gives its URL and the requests that it got."""
    asked: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[0])
        host, _, port = asked[-1].split(" ")[1].rpartition(":")
        there, to = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        tasks.append(asyncio.create_task(pump(there, writer)))
        await pump(reader, to)

    server = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()
        await asyncio.gather(*tasks)
        await server.wait_closed()


async def test_a_subprotocol_that_nobody_offered() -> None:
    async with raw_server() as server, asyncio.TaskGroup() as group:
        accepting = group.create_task(server.accept("Sec-WebSocket-Protocol: surprise"))
        with pytest.raises(ConnectionError, match="not offered"):
            await picows.dial(server.url)
        assert await (await accepting).read_to_end() == b""


@pytest.mark.parametrize("environment", [False, True])
async def test_through_a_proxy(environment: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async with http_proxy() as (proxy, asked), echo_server().listen() as listener:
        for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        if environment:
            monkeypatch.setenv("http_proxy", proxy)
        options = {"dial": picows.dial, "proxy": True if environment else proxy, "limits": LIMITS}
        async with Client(listener.url, **options) as client:  # type: ignore[arg-type]
            assert await client.request("echo", 1) == 1
        async with Client(listener.url, dial=picows.dial, proxy=None, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1
        assert asked == [f"CONNECT 127.0.0.1:{listener.port} HTTP/1.1"]


async def test_a_proxy_that_refuses() -> None:
    async with raw_server() as server, asyncio.TaskGroup() as group:
        group.create_task(server.refuse("407 Proxy Authentication Required"))
        with pytest.raises(ConnectionError):
            await picows.dial("ws://127.0.0.1:9/", proxy=f"http://127.0.0.1:{server.port}")
