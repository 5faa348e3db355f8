"""The transports that the contract suite tests.

To add one: an entry in `hosts.HOSTS`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager as Context
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hosts import HOSTS, HTTP_HOSTS, KINDS_OF_HOSTS, Default, Host, Uvicorn
from raw_websocket import RawPeer, build_frame, raw_client, raw_server
from recorder import Recorder
from served import port_of

from wsrpc import Handshake, Limits, Server, dial
from wsrpc._http.http_dial import dial_http
from wsrpc.testing import memory_transports
from wsrpc.transport import Transport

Raw = tuple[Transport, RawPeer]
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
    def raw(self, limits: Limits, *, early: Early = (), receive_buffer: int | None = None) -> Context[Raw]:
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
    """The dialing side."""

    name = "websockets-dials"

    @asynccontextmanager
    async def raw(self, limits: Limits, *, early: Early = (), receive_buffer: int | None = None) -> AsyncGenerator[Raw]:
        frames = b"".join(build_frame(opcode, payload, masked=False) for opcode, payload in early)
        async with raw_server(receive_buffer=receive_buffer) as server:
            dialing = asyncio.create_task(dial(server.url, limits=limits))
            raw = await server.accept(early=lambda _: frames)
            transport = await dialing
            try:
                yield transport, raw
            finally:
                transport.abort()

    @asynccontextmanager
    async def pair(self, limits: Limits, other: Limits | None = None) -> AsyncGenerator[tuple[Transport, Transport]]:
        async with Accepts(Default()).serving(other or limits) as (url, accepted):
            transport = await dial(url, limits=limits)
            try:
                yield transport, await accepted
            finally:
                transport.abort()


class Accepting(Server):
    """A server that hands on what it accepts."""

    def __init__(self, limits: Limits, accept: Callable[[Transport], None]) -> None:
        super().__init__(limits=limits)
        self._hand_on = accept

    def _accept_at_once(self, transport: Transport, handshake: Handshake) -> None:
        self._hand_on(transport)

    async def accept(self, transport: Transport, handshake: Handshake | None = None) -> Any:
        self._hand_on(transport)


class Accepts(OverSockets):
    """The accepting side."""

    def __init__(self, host: Host) -> None:
        self.name = f"{host}-accepts"
        self.cannot = host.cannot
        self._host = host

    def serve(self, limits: Limits, accept: Callable[[Transport], None]) -> Context[str]:
        """Listen, pass each transport to ``accept``, and give the URL; afterwards nothing is left."""
        return self._host.serving(Accepting(limits, accept))

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
    async def raw(self, limits: Limits, *, early: Early = (), receive_buffer: int | None = None) -> AsyncGenerator[Raw]:
        frames = b"".join(build_frame(opcode, payload, masked=True) for opcode, payload in early)
        async with self.serving(limits) as (url, accepted):
            async with raw_client(port_of(url), "/ws", early=frames, receive_buffer=receive_buffer) as raw:
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
        theirs.start(Recorder())
        yield ours, ours.release
        ours.abort()


class OverHttp(Flavour):
    """One end of a connection that HTTP requests carry."""

    def __init__(self, host: Host, *, dials: bool, polls: bool = False) -> None:
        self.name = f"http-{'polled-' if polls else ''}{host}-{'dials' if dials else 'accepts'}"
        self._host = host
        self._dials = dials
        self._polls = polls
        self.cannot = {"written together": "a request or a response takes what waits"}

    @asynccontextmanager
    async def pair(self, limits: Limits, other: Limits | None = None) -> AsyncGenerator[tuple[Transport, Transport]]:
        of_dialing, of_accepting = (limits, other or limits) if self._dials else (other or limits, limits)
        async with Accepts(self._host).serving(of_accepting) as (url, accepted):
            dialed = await dial_http(url, limits=of_dialing, polls=self._polls)
            try:
                ends = dialed, await accepted
                yield ends if self._dials else ends[::-1]
            finally:
                dialed.abort()

    @asynccontextmanager
    async def stalled(self, limits: Limits) -> AsyncGenerator[tuple[Transport, Callable[[], None]]]:
        async with self.pair(limits) as (ours, theirs):
            theirs.start(Recorder())
            theirs.pause_receiving()
            yield ours, theirs.resume_receiving
            ours.abort()


OVER_HTTP = [OverHttp(host, dials=dials) for host in HTTP_HOSTS for dials in (True, False)]
POLLED = [OverHttp(Uvicorn(), dials=dials, polls=True) for dials in (True, False)]
OVER_SOCKETS: list[OverSockets] = [Dials(), *map(Accepts, HOSTS)]
FLAVOURS: list[Flavour] = [*OVER_SOCKETS, *OVER_HTTP, *POLLED, Memory()]

KINDS_OVER_SOCKETS: list[OverSockets] = [Dials(), *map(Accepts, KINDS_OF_HOSTS)]
"""One for each class of transport: that of `wsrpc._net`, which takes sockets over from other libraries, and ASGI's."""
KINDS: list[Flavour] = [*KINDS_OVER_SOCKETS, OverHttp(Uvicorn(), dials=True), *POLLED[1:], Memory()]

flavours = pytest.mark.parametrize("flavour", FLAVOURS, ids=repr)
over_sockets = pytest.mark.parametrize("flavour", OVER_SOCKETS, ids=repr)
kinds = pytest.mark.parametrize("flavour", KINDS, ids=repr)
kinds_over_sockets = pytest.mark.parametrize("flavour", KINDS_OVER_SOCKETS, ids=repr)
"""For what does not depend on how a library hands its socket over."""


def on_uvloop() -> bool:
    """Whether the present test runs on uvloop."""
    return not isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)


def able(ability: str) -> pytest.MarkDecorator:
    """Run a test with each kind over sockets that has ``ability``; another, which is `unable`, tests the others."""
    able = [each for each in KINDS_OVER_SOCKETS if ability not in each.cannot]
    return pytest.mark.parametrize("flavour", able, ids=repr)


def unable(ability: str) -> pytest.MarkDecorator:
    """Run a test with each kind that does not have ``ability``: what happens instead."""
    unable = [each for each in KINDS_OVER_SOCKETS if ability in each.cannot]
    return pytest.mark.parametrize("flavour", unable, ids=repr)
