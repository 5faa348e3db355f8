"""HTTP and SOCKS proxies, for the tests of clients that dial through them."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[tuple[str, int] | None]]


class Proxy:
    """A proxy. ``accept`` does its handshake, and returns where to connect to."""

    port = 0

    def __init__(self, accept: Accept) -> None:
        self._accept = accept
        self.asked: list[tuple[str, int]] = []
        """To where clients have connected."""
        self._serving: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def running(self, context: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self
            server.close()
            if self._serving:
                await asyncio.wait(self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.current_task())  # type: ignore[arg-type]
        with suppress(asyncio.IncompleteReadError, ConnectionError):  # it left before the end
            if (where := await self._accept(reader, writer)) is not None:
                self.asked.append(where)
                there, out = await asyncio.open_connection("127.0.0.1", where[1])
                await asyncio.gather(relay(reader, out), relay(there, writer))
        await closed(writer)


async def relay(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    await closed(sink)


async def closed(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.close()
        await writer.wait_closed()


def http(authorization: str | None = None, answer: bytes = b"HTTP/1.1 200 \xe9tabli\r\nX-Proxy: 1\r\n\r\n") -> Accept:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, int] | None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        given = [line for line in request.split("\r\n") if line.startswith("Proxy-Authorization: ")]
        if given != ([] if authorization is None else [f"Proxy-Authorization: {authorization}"]):
            answer_now = b"HTTP/1.1 407 Who are you?\r\nContent-Length: 0\r\n\r\n"
        else:
            answer_now = answer
        for at in range(0, 60, 5):  # in many pieces
            writer.write(answer_now[at : at + 5])
            await asyncio.sleep(0)
        writer.write(answer_now[60:])
        await writer.drain()
        found = re.match(r"CONNECT (.*):(\d+) HTTP/1\.1\r\n", request)
        assert found is not None
        return (found[1], int(found[2])) if answer_now.startswith(b"HTTP/1.1 200") else None

    return accept


def socks5(user: str | None = None) -> Accept:
    """RFC 1928, and RFC 1929 with ``user``, as name and password."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, int] | None:
        _, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        method = 0 if user is None else 2
        assert method in methods
        writer.write(bytes((5, method)))
        if user is not None:
            _, size = await reader.readexactly(2)
            name = await reader.readexactly(size)
            password = await reader.readexactly((await reader.readexactly(1))[0])
            good = (name.decode(), password.decode()) == (user, user)
            writer.write(bytes((1, 0 if good else 1)))
            if not good:
                await writer.drain()
                return None
        _, _, _, kind = await reader.readexactly(4)
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            host = socket.inet_ntoa(await reader.readexactly(4))
        port = int.from_bytes(await reader.readexactly(2), "big")
        writer.write(b"\x05\x00\x00\x01\0\0\0\0\0\0")
        return host, port

    return accept
