"""Two servers of a cluster, and a client whose session goes on through the second one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from cluster_servers import Servers, servers
from waiting import until

from wsrpc import Client, CloseInfo, Handshake, Limits, Peer, Reconnect, ReconnectInfo, dial
from wsrpc.errors import ConnectionLost, SessionLost
from wsrpc.testing import Line

__all__ = ["LIMITS", "World", "world"]

LIMITS = Limits(close_timeout=60.0, ping_interval=None)


class World:
    """Two servers, and a client that began at the first one, and dials where the test says."""

    def __init__(self, made: Servers, dials: list[Any], limits: Limits) -> None:
        self.made = made
        self.dials = dials
        self.at = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.settings: dict[str, Any] = {}
        """What the second server sets in a handshake."""
        self.codes: list[int] = []
        """How connections and attempts have ended."""
        self.backs: list[ReconnectInfo] = []
        self.closed: list[CloseInfo] = []
        again = Reconnect(initial=0.01, max=0.01, retry=self._again)
        self.client = Client("ws://server/?who=ada&user=ada", dial=self._dial, limits=limits, reconnect=again)
        self.client.on_reconnect(self.backs.append)
        self.client.on("close", lambda peer, info: self.closed.append(info))
        self.peer: Peer
        made[1].on_handshake(self._decide)

    async def _dial(self, url: str, **options: Any) -> Any:
        await self.gate.wait()
        return await self.dials[self.at](url, **options)

    def _again(self, exc: BaseException) -> bool:
        if isinstance(exc, ConnectionLost):
            self.codes.append(exc.code)
        return not {1008, 1013} & {*self.codes}

    def _decide(self, handshake: Handshake) -> None:
        for name, value in {"principal": "ada", "address": "ada", **self.settings}.items():
            setattr(handshake, name, value)

    @property
    def transport(self) -> Any:
        """The client's."""
        return self.client.peer.transport

    @property
    def forwarded(self) -> int:
        """How many connections the second server passes on."""
        stats = self.made[1].cluster.stats()
        return 0 if stats is None else stats.forwarded

    async def drop(self) -> None:
        """Drop the connection. The client waits until the gate opens, and dials the second server."""
        self.gate.clear()
        self.at = 1
        self.transport.abort()
        await until(lambda: self.peer.detached)

    async def forward(self) -> None:
        """Let the session go on through the second server."""
        await self.drop()
        self.gate.set()
        await until(lambda: self.forwarded and self.client.connected)
        assert self.made[0].peers == (self.peer,) and self.backs[-1].resumed and self.made[1].peers == ()

    async def call(self) -> asyncio.Task[Any]:
        """A call that does not end by itself."""
        call = asyncio.create_task(self.client.request("wait", timeout=None))
        await until(lambda: self.peer.active)
        return call

    async def loses(self, call: asyncio.Task[Any], reason: str = "") -> None:
        """Let the client come back. It gets a new session."""
        self.gate.set()
        with pytest.raises(SessionLost, match=reason or None) as caught:
            await call
        assert caught.value.outcome == "unknown" and await self.client.request("echo", 2) == 2

    async def goes_on(self) -> None:
        """Let the client come back. The session goes on."""
        self.gate.set()
        assert await self.client.request("echo", 2) == 2 and self.backs[-1].resumed


def through(listening: str) -> Any:
    return lambda url, **options: dial(url.replace("ws://server/", listening), **options)


@asynccontextmanager
async def world(limits: Limits = LIMITS, *, sockets: bool = False) -> AsyncGenerator[World]:
    async with servers(2, limits=limits) as made, AsyncExitStack() as stack:
        dials: list[Any] = [Line(server).dial for server in made]
        if sockets:
            dials = [through((await stack.enter_async_context(server.listen())).url) for server in made]
        for server in made:
            server.on("echo", lambda value: value)
            server.on("wait", asyncio.Event().wait)
        w = World(made, dials, limits)
        async with w.client:
            assert await w.client.request("echo", 1) == 1
            (w.peer,) = made[0].peers
            yield w
        await until(lambda: not w.forwarded)
