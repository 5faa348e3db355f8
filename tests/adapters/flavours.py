"""The transports that the contract suite tests.

To add one: a subclass of `Dials` (how it opens a connection) or of `Accepts` (how it listens), and an entry in
`FLAVOURS`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager as Context
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from asgi_servers import SERVERS
from hosts import Asgi, AsgiHypercorn, Host, Uvicorn, running
from raw_websocket import RawPeer, build_frame, raw_client, raw_server

import wsrpc_adapters.aiohttp
from wsrpc import Handshake, Limits, Server, dial
from wsrpc._transports.listener import listen
from wsrpc.testing import memory_transports
from wsrpc.transport import Transport
from wsrpc_adapters import picows
from wsrpc_adapters.asgi import asgi

PATIENCE = 8.0

Early = Sequence[tuple[int, bytes]]
"""Opcode and payload of frames that the other side sends together with its part of the opening handshake."""


class Flavour(ABC):
    """One way to get a transport."""

    name: str
    cannot: Mapping[str, str] = {}
    """What its library cannot do, by the names of `hosts.ABILITIES`, each with what happens instead."""

    def __repr__(self) -> str:
        return self.name

    @abstractmethod
    def pair(self, limits: Limits, other: Limits | None = None) -> Context[tuple[Transport, Transport]]:
        """The transport under test and the transport at its other end."""

    @abstractmethod
    def stalled(self, limits: Limits) -> Context[tuple[Transport, Callable[[], None]]]:
        """The transport under test, whose other end does not read until the function is called."""


class OverSockets(Flavour):
    """A flavour that speaks RFC 6455, so that its other end can misbehave."""

    @abstractmethod
    def raw(
        self, limits: Limits, *, early: Early = (), receive_buffer: int | None = None
    ) -> Context[tuple[Transport, RawPeer]]:
        """The transport under test and a raw peer."""

    @asynccontextmanager
    async def stalled(self, limits: Limits) -> AsyncGenerator[tuple[Transport, Callable[[], None]]]:
        reading: list[asyncio.Task[bytes]] = []
        async with self.raw(limits, receive_buffer=4096) as (transport, raw):

            def go_on() -> None:
                reading.append(asyncio.create_task(raw.read_to_end()))

            yield transport, go_on
            transport.abort()
            for task in reading:
                await task


class Dials(OverSockets):
    """A flavour that is the dialing side."""

    @abstractmethod
    async def dial(self, url: str, limits: Limits) -> Transport:
        """Open a connection."""

    @asynccontextmanager
    async def raw(
        self, limits: Limits, *, early: Early = (), receive_buffer: int | None = None
    ) -> AsyncGenerator[tuple[Transport, RawPeer]]:
        frames = b"".join(build_frame(opcode, payload, masked=False) for opcode, payload in early)
        async with raw_server(receive_buffer=receive_buffer) as server:
            dialing = asyncio.create_task(self.dial(server.url, limits))
            raw = await server.accept(early=lambda _: frames)
            transport = await dialing
            try:
                yield transport, raw
            finally:
                transport.abort()

    @asynccontextmanager
    async def pair(self, limits: Limits, other: Limits | None = None) -> AsyncGenerator[tuple[Transport, Transport]]:
        async with WebsocketsAccepts().serving(other or limits) as (url, accepted):
            transport = await self.dial(url, limits)
            try:
                yield transport, await accepted
            finally:
                transport.abort()


class Accepts(OverSockets):
    """A flavour that is the accepting side."""

    @abstractmethod
    def serve(self, limits: Limits, accept: Callable[[Transport], None]) -> Context[str]:
        """Listen, pass each transport to ``accept``, and give the URL; afterwards nothing is left."""

    @asynccontextmanager
    async def serving(self, limits: Limits) -> AsyncGenerator[tuple[str, asyncio.Future[Transport]]]:
        accepted: asyncio.Future[Transport] = asyncio.get_running_loop().create_future()
        async with self.serve(limits, accepted.set_result) as url:
            try:
                yield url, accepted
            finally:
                if accepted.done():
                    accepted.result().abort()

    @asynccontextmanager
    async def raw(
        self, limits: Limits, *, early: Early = (), receive_buffer: int | None = None
    ) -> AsyncGenerator[tuple[Transport, RawPeer]]:
        frames = b"".join(build_frame(opcode, payload, masked=True) for opcode, payload in early)
        async with self.serving(limits) as (url, accepted):
            port = urlsplit(url).port
            assert port is not None
            async with raw_client(port, urlsplit(url).path, early=frames, receive_buffer=receive_buffer) as raw:
                async with asyncio.timeout(PATIENCE):
                    transport = await accepted
                yield transport, raw

    @asynccontextmanager
    async def pair(self, limits: Limits, other: Limits | None = None) -> AsyncGenerator[tuple[Transport, Transport]]:
        async with self.serving(limits) as (url, accepted):
            theirs = await dial(url, limits=other or limits)
            try:
                yield await accepted, theirs
            finally:
                theirs.abort()


class WebsocketsDials(Dials):
    """The default transport, as the dialing side."""

    name = "websockets-dials"

    async def dial(self, url: str, limits: Limits) -> Transport:
        return await dial(url, limits=limits)


class WebsocketsAccepts(Accepts):
    """The default transport, as the accepting side."""

    name = "websockets-accepts"

    @asynccontextmanager
    async def serve(self, limits: Limits, accept: Callable[[Transport], None]) -> AsyncGenerator[str]:
        async def accepted(transport: Transport, handshake: Handshake) -> None:
            accept(transport)

        listener = await listen(accepted, "127.0.0.1", 0, limits=limits)
        try:
            yield listener.url
        finally:
            listener.stop()
            await listener.wait_closed()


class Accepting(Server):
    """A server that hands on what it accepts."""

    def __init__(self, limits: Limits, accept: Callable[[Transport], None]) -> None:
        super().__init__(limits=limits)
        self._hand_on = accept

    async def accept(self, transport: Transport, handshake: Handshake | None = None) -> Any:
        self._hand_on(transport)


class AsgiAccepts(Accepts):
    """The transport of `wsrpc_adapters.asgi`, or the one with which it takes a connection over."""

    def __init__(self, host: Host, run: str) -> None:
        self.name = host.name
        self.cannot = host.cannot
        self._serving = SERVERS[run]

    @asynccontextmanager
    async def serve(self, limits: Limits, accept: Callable[[Transport], None]) -> AsyncGenerator[str]:
        async with self._serving(asgi(Accepting(limits, accept))) as port:
            yield f"ws://127.0.0.1:{port}/"


class PicowsDials(Dials):
    """picows, as the dialing side."""

    name = "picows-dials"

    async def dial(self, url: str, limits: Limits) -> Transport:
        return await picows.dial(url, limits=limits)


class PicowsAccepts(Accepts):
    """picows, as the accepting side."""

    name = "picows-accepts"

    @asynccontextmanager
    async def serve(self, limits: Limits, accept: Callable[[Transport], None]) -> AsyncGenerator[str]:
        async with picows.listen(Accepting(limits, accept)) as listener:
            yield listener.url


class Memory(Flavour):
    """The transport of `wsrpc.testing`."""

    name = "memory"

    @asynccontextmanager
    async def pair(self, limits: Limits, other: Limits | None = None) -> AsyncGenerator[tuple[Transport, Transport]]:
        ours, theirs = memory_transports(limits=limits)
        yield ours, theirs
        ours.abort()

    @asynccontextmanager
    async def stalled(self, limits: Limits) -> AsyncGenerator[tuple[Transport, Callable[[], None]]]:
        ours, theirs = memory_transports(limits=limits)
        ours.hold()
        theirs.start(Discard())
        yield ours, ours.release
        ours.abort()


class Discard:
    """A receiver that looks at nothing."""

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None: ...

    def read_ended(self) -> None: ...

    def pause_sending(self) -> None: ...

    def resume_sending(self) -> None: ...

    def connection_lost(self, info: object, /) -> None: ...


class AiohttpDials(Dials):
    """aiohttp's client, as the dialing side."""

    name = "aiohttp-dials"

    async def dial(self, url: str, limits: Limits) -> Transport:
        return await wsrpc_adapters.aiohttp.dial(url, limits=limits)


class AiohttpAccepts(Accepts):
    """A connection that an aiohttp application has opened, as the accepting side."""

    name = "aiohttp-accepts"

    @asynccontextmanager
    async def serve(self, limits: Limits, accept: Callable[[Transport], None]) -> AsyncGenerator[str]:
        async def handler(request: web.Request) -> web.StreamResponse:
            over = asyncio.Event()
            transport, response = await wsrpc_adapters.aiohttp.take_over(
                request, wsrpc_adapters.aiohttp.handshake_of(request, limits=limits), over.set
            )
            assert transport is not None
            accept(transport)
            await over.wait()
            return response

        app = web.Application()
        app.router.add_get("/", handler)
        async with running(app, shutdown_timeout=2.0) as url:
            yield url.removesuffix("ws")


FLAVOURS: list[Flavour] = [
    WebsocketsDials(),
    WebsocketsAccepts(),
    AiohttpDials(),
    AiohttpAccepts(),
    PicowsDials(),
    PicowsAccepts(),
    AsgiAccepts(Uvicorn(), "uvicorn-wsrpc"),
    AsgiAccepts(Asgi(), "uvicorn"),
    AsgiAccepts(AsgiHypercorn(), "hypercorn"),
    Memory(),
]

OVER_SOCKETS: list[OverSockets] = [flavour for flavour in FLAVOURS if isinstance(flavour, OverSockets)]


def able(ability: str) -> pytest.MarkDecorator:
    """Run a test with every flavour over sockets that has ``ability``; another, which is `unable`, tests the others."""
    return pytest.mark.parametrize("flavour", [each for each in OVER_SOCKETS if ability not in each.cannot], ids=repr)


def unable(ability: str) -> pytest.MarkDecorator:
    """Run a test with every flavour that does not have ``ability``: what happens instead."""
    return pytest.mark.parametrize("flavour", [each for each in OVER_SOCKETS if ability in each.cannot], ids=repr)
