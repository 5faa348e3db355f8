"""A client, its server and the line between them, for tests of what happens to clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from core_driver import said_in
from waiting import until

from wsrpc import Client, CloseInfo, ConnectionLost, Limits, Peer, Reconnect, ReconnectInfo, Server
from wsrpc.testing import Line, MemoryTransport, memory_transports

LIMITS = Limits(close_timeout=2.0, replay_bytes=0)  # sessions end with their connections
AT_ONCE = Reconnect(initial=0.001, max=0.001)
NEVER = Reconnect(initial=100_000.0, max=100_000.0)
"""Long enough that a test which waits for it fails (the delay is random, but not that random)."""


class World:
    """A server, a client that dials it, and the calls of the client's lifecycle handlers.

    Args:
        failures: what the first attempts raise. Those after them connect.
        server: by default its sessions end with their connections.
        options: of the client. With ``url=None`` it is for `bind`.
    """

    def __init__(self, *failures: Exception, server: Server | None = None, **options: Any) -> None:
        self.server = server or Server(limits=LIMITS)
        self.received: asyncio.Queue[Any] = asyncio.Queue()
        self.parked = asyncio.Event()
        self.server.on("echo", lambda value: value)
        self.server.on("note", self.received.put_nowait)
        self.server.on("park", self._park)
        self.line = Line(self.server)
        self.failures = list(failures)
        self.dialed: list[tuple[str, dict[str, str]]] = []
        """The URL and the headers of each attempt."""
        given: dict[str, Any] = {"url": "ws://server/", "dial": self._dial, "limits": LIMITS, "reconnect": AT_ONCE}
        self.client = Client(**given | options)
        self.notified: asyncio.Queue[str] = asyncio.Queue()
        self.closed: list[CloseInfo] = []
        self.back: list[ReconnectInfo] = []
        self.client.on("open", lambda: self.notified.put_nowait("open"))
        self.client.on("close", self._close)
        self.client.on_reconnect(self._back)

    async def _dial(self, url: str, **options: Any) -> MemoryTransport:
        self.dialed.append((url, dict(options["headers"])))
        if self.failures:
            raise self.failures.pop(0)
        return await self.line.dial(url, **options)

    async def _park(self) -> None:
        self.parked.set()
        await asyncio.Event().wait()

    def _close(self, peer: Peer, info: CloseInfo) -> None:
        self.closed.append(info)
        self.notified.put_nowait("close")

    def _back(self, info: ReconnectInfo) -> None:
        self.back.append(info)
        self.notified.put_nowait("back")

    @property
    def peer(self) -> Peer:
        [peer] = self.server.peers
        return peer

    def drop(self) -> None:
        self.line.cut()

    async def dropped(self) -> None:
        """Drop the connection, and wait until the client knows."""
        self.drop()
        await self.client.peer.wait_closed()

    async def bind(self) -> MemoryTransport:
        """Bind a connection to the server; returns the client's end."""
        ours, theirs = memory_transports(limits=LIMITS)
        await asyncio.gather(self.client.bind(ours), self.server.accept(theirs))
        return ours

    async def expect(self, *pieces: str) -> None:
        """Assert which lifecycle handlers are called next."""
        assert [await self.notified.get() for _ in pieces] == list(pieces)

    async def hears(self, *notes: Any) -> None:
        """Assert which notes the server gets next, in this order."""
        assert [await self.received.get() for _ in notes] == list(notes)


@asynccontextmanager
async def world(*failures: Exception, connect: bool = True, **options: Any) -> AsyncGenerator[World]:
    """A `World`, whose client is connected already if ``connect``. It is closed at the end."""
    made = World(*failures, **options)
    try:
        if connect:
            await made.client.connect()
        yield made
    finally:
        await made.client.close()
        await made.server.close()


async def lost(call: Awaitable[Any], outcome: str | None = None) -> ConnectionLost:
    """Return the `ConnectionLost` that ``call`` raises, with that outcome."""
    with pytest.raises(ConnectionLost) as caught:
        await call
    assert outcome in (None, caught.value.outcome)
    return caught.value


async def begun(client: Client, call: Awaitable[None], state: str) -> asyncio.Task[None]:
    """Begin ``call``, and return its task once the client is in ``state``."""
    task = asyncio.ensure_future(call)
    await until(lambda: client.state == state)
    return task


async def never(*_: Any, **__: Any) -> Any:
    """A handler, a function of an option or a `Dial` that does not end."""
    await asyncio.Event().wait()


def attempts_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is logged about attempts that failed: a warning, and at INFO what failed in the same way before."""
    said = [said_in(record) for record in caplog.records if record.levelno in (logging.INFO, logging.WARNING)]
    return [text for text in said if "could not connect" in text and "gives up" not in text]


def leap(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Put the clock of the event loop forward."""
    loop = asyncio.get_running_loop()
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + seconds)
