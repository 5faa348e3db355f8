"""What the tests of hosts share: a client that is watched, a raw client, and the parametrisation."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager as Context
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hosts import HOSTS
from raw_websocket import RawPeer, raw_client

from wsrpc import Client, CloseInfo, Limits, Peer, Reconnect, Server

LIMITS = Limits(close_timeout=2.0)
AT_ONCE = Reconnect(initial=0.001, max=0.001)

PEM = Path(__file__).parent / "localhost.pem"

hosts = pytest.mark.parametrize("host", HOSTS, ids=repr)


def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The context of a server at localhost, and that of a client that trusts it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    return context, ssl.create_default_context(cafile=str(PEM))


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def raw(url: str, *headers: str, early: bytes = b"", receive_buffer: int | None = None) -> Context[RawPeer]:
    """A raw peer that connects to ``url``."""
    path = url.partition(f":{port_of(url)}")[2]
    return raw_client(port_of(url), path, *headers, early=early, receive_buffer=receive_buffer)


class Observed:
    """A client that does not dial again, and how its connection ended."""

    def __init__(self, url: str, **options: Any) -> None:
        self.client = Client(url, **{"limits": LIMITS, "reconnect": None} | options)
        self.ended: asyncio.Future[CloseInfo] = asyncio.get_running_loop().create_future()
        self.client.on("close", lambda peer, info: self.ended.set_result(info))

    async def __aenter__(self) -> Observed:
        await self.client.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()


class Endings:
    """How the connections of a server ended."""

    def __init__(self, server: Server) -> None:
        self._infos: asyncio.Queue[CloseInfo] = asyncio.Queue()

        @server.on("close")
        def closed(peer: Peer, info: CloseInfo) -> None:
            self._infos.put_nowait(info)

    async def next(self) -> CloseInfo:
        async with asyncio.timeout(8):
            return await self._infos.get()


def echo_server(**options: Any) -> Server:
    server = Server(**{"limits": LIMITS} | options)
    server.on("echo", lambda value: value)
    return server


@asynccontextmanager
async def keeps_working(url: str) -> AsyncGenerator[None]:
    """Another connection to the same server, which has to go on whatever happens in the block."""
    async with Client(url, reconnect=None, limits=LIMITS) as other:
        assert await other.request("echo", "before") == "before"
        yield
        assert await other.request("echo", "after") == "after"
