"""What the tests of hosts share: a client that is watched, a raw client, and the parametrisation."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager as Context
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hosts import HOSTS, KINDS_OF_HOSTS
from raw_websocket import TEXT, RawPeer, raw_client

from wsrpc import Client, CloseInfo, Limits, Peer, Reconnect, Server

LIMITS = Limits(close_timeout=20.0)
AT_ONCE = Reconnect(initial=0.001, max=0.001)

PEM = Path(__file__).parent / "localhost.pem"

hosts = pytest.mark.parametrize("host", HOSTS, ids=repr)
kinds_of_hosts = pytest.mark.parametrize("host", KINDS_OF_HOSTS, ids=repr)
"""For what does not depend on how a library hands its socket over."""


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


# ---------------------------------------------------------------- sessions of raw peers

HELLO: dict[str, Any] = {"t": "hello", "v": 1, "features": ["resume"], "limits": {}}


def control(peer: RawPeer, *said: dict[str, Any]) -> bytes:
    """Frames with control messages."""
    return b"".join(peer.frame(TEXT, json.dumps({"ws-wrapper": False, "wsrpc": fields})) for fields in said)


async def hear(peer: RawPeer) -> Any:
    """Return the next control message but acknowledgements."""
    while True:
        said = json.loads((await peer.next_of(TEXT)).payload)
        if "wsrpc" in said and said["wsrpc"]["t"] != "ack":
            return said["wsrpc"]


def note(peer: RawPeer, number: int) -> bytes:
    return peer.frame(TEXT, f'{{"a":["note",{number}]}}')


async def begin(peer: RawPeer) -> dict[str, Any]:
    """Begin a session in which one message is counted, and return the fields of the resume that goes on with it."""
    await peer.send(control(peer, HELLO))
    welcome = await hear(peer)
    await peer.send(control(peer, {"t": "ack", "n": 0, "bytes": 0}), note(peer, 1))
    named = {"sid": welcome["sid"], "token": welcome["token"]}
    return HELLO | {"t": "resume", "gen": 1, "rx": 0, "bytes": 0} | named


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
