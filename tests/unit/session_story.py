"""A client, a server and the line between them, for tests of sessions that resume."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from core_driver import Played, start, turns
from stream_driver import control, hello
from waiting import until

from wsrpc import (
    AnonymousChannel,
    Client,
    CloseInfo,
    Handshake,
    Limits,
    Peer,
    Reconnect,
    ReconnectInfo,
    Server,
)
from wsrpc._server.server import accept_of
from wsrpc.testing import Line, MemoryTransport

SMALL = 128 * 1024
"""The smallest `Limits.replay_bytes`."""
SOON = Reconnect(initial=0.001, max=0.001)


class Story:
    """A client and a server, the line between them, and the calls of their lifecycle handlers."""

    def __init__(
        self,
        *,
        server: Server | Limits | None = None,
        client: Limits | None = None,
        **options: Any,
    ) -> None:
        self.server = server if isinstance(server, Server) else Server(limits=server)
        self.line = Line(self.server)
        given = {"reconnect": SOON, "limits": client} | options
        self.client = Client("ws://server/", dial=lambda url, **dialing: self.line.dial(url, **dialing), **given)
        self.notified: list[str] = []
        self.back: list[ReconnectInfo] = []
        self.closed: list[CloseInfo] = []
        self.client.on("open", lambda: self.notified.append("client opened"))
        self.client.on("close", lambda peer, info: self.closed.append(info))
        self.server.on("open", lambda: self.notified.append("server opened"))
        self.server.on("close", lambda: self.notified.append("server closed"))
        self.client.on_reconnect(self.back.append)

    @property
    def peer(self) -> Peer:
        (peer,) = self.server.peers
        return peer

    @property
    def ends(self) -> tuple[MemoryTransport, MemoryTransport]:
        """The transports of the latest connection, the client's first."""
        return self.line.connections[-1]

    async def settled(self) -> None:
        """Wait until everything that is on its way has arrived, and the session can go on."""
        await turns(20)

    async def cut(self, *, half_open: bool = False) -> None:
        """Cut the line, and keep the client from coming back."""
        self.line.down = True
        self.line.cut(half_open=half_open)
        await until(lambda: self.client.peer.detached)

    async def repair(self) -> None:
        self.line.down = False
        before = len(self.back)
        await self.client.wait_connected()
        await until(lambda: len(self.back) > before)


async def talk(channel: AnonymousChannel) -> None:
    """A handler of a conversation that lasts until it is closed."""
    await channel.wait_closed()


@asynccontextmanager
async def story(**options: Any) -> AsyncGenerator[Story]:
    s = Story(**options)
    async with s.client:
        await s.settled()
        yield s
    await s.server.close()


class Visitor:
    """A client that the test plays, whose session can resume, and its server."""

    def __init__(self, server: Server | None = None, user: str = "ann") -> None:
        self.server = server or Server()
        self.user = user
        self.lines: list[Played] = []
        self.session: dict[str, Any] = {}
        """What the welcome says of it."""

    @property
    def line(self) -> Played:
        return self.lines[-1]

    async def connect(self, first: Any = None, **headers: str) -> Peer:
        """Connect, send ``first``, and return the peer."""
        self.lines.append(Played())
        handshake = Handshake(f"/?user={self.user}", headers, limits=self.server.limits)
        await self.server.handshake(handshake)
        self.line.info = handshake.connection_info()
        accepting = start(accept_of(self.server)(self.line, handshake))
        await turns()
        if first is not None:
            self.line.feed(first)
        peer = await accepting
        assert isinstance(peer, Peer)
        return peer

    async def begin(self, *features: str) -> Peer:
        """Begin a session, in which both sides count from now on if it can resume."""
        peer = await self.connect(hello(*(features or ("resume",))))
        [welcome] = self.line.pop_sent()
        self.session = welcome["wsrpc"]
        if "sid" in self.session:
            self.line.feed(control("ack", n=0, bytes=0))
        return peer

    async def resume(self, **fields: Any) -> Peer:
        """Connect, and ask to resume the session."""
        asked = hello("resume", t="resume")
        asked["wsrpc"] |= {"sid": self.session["sid"], "token": self.session["token"], "rx": 0, "bytes": 0, "gen": 1}
        asked["wsrpc"] |= fields
        return await self.connect(asked, **{"Wsrpc-Resume": "1"})
