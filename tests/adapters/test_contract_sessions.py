"""Every way in which a client reaches a server: a session goes on after each drop, and nothing is lost or comes twice.

A `Way` is a host with a function that dials. Sockets are cut by a `FaultProxy`, in front of each host that has a port.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager as Context
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from dialings import DIALINGS, Dialing
from hosts import HOSTS, Default, Host
from leftovers import turns_until
from raw_websocket import CLOSE, TEXT, RawPeer
from served import hosts, raw

from wsrpc import AnonymousChannel, Client, CloseInfo, Handshake, Limits, Peer, Reconnect, ReconnectInfo, Server, SessionLost
from wsrpc.testing import FaultProxy, Line
from wsrpc._server import sessions

PEM = Path(__file__).parent / "localhost.pem"
LIMITS = Limits(close_timeout=1.0)
SOON = Reconnect(initial=0.001, max=0.005)
RESUMES = "Wsrpc-Resume: 1"

UP = (0, 1, 7, 40, 300, 1500)
DOWN = (0, 1, 7, 40, 300, 2500)
"""Where a connection is cut, in bytes from the moment at which the cut is asked for."""


# ---------------------------------------------------------------- the ways


class Way(ABC):
    """How a client reaches a server, and how the connection between them is dropped."""

    name: str

    def __repr__(self) -> str:
        return self.name

    @abstractmethod
    def reach(self, server: Server) -> Context[Reached]:
        """Serve ``server``, and tell how to reach it."""


class Reached:
    """A server that is reached: the arguments of a client, and what drops its connections."""

    def __init__(self, url: str, drop: Callable[[], object], proxy: FaultProxy | None = None, **options: Any) -> None:
        self.url = url
        self.drop = drop
        self.proxy = proxy
        self.options = options

    def client(self, **options: Any) -> Client:
        return Client(self.url, **{"limits": LIMITS, "reconnect": SOON, "proxy": None} | self.options | options)


class Through(Way):
    """A host, through a proxy that drops connections."""

    def __init__(self, host: Host, dialing: Dialing | None = None) -> None:
        self.name = host.name if dialing is None else f"{host.name}-by-{dialing.name}"
        self._host = host
        self._options = {} if dialing is None else {"dial": dialing.dial}

    @asynccontextmanager
    async def reach(self, server: Server) -> AsyncGenerator[Reached]:
        async with self._host.serving(server) as url, FaultProxy(url) as proxy:
            yield Reached(proxy.url, proxy.drop, proxy, **self._options)


class Tls(Way):
    """TLS at the server's own port, through a proxy that sees no frames."""

    def __init__(self, dialing: Dialing) -> None:
        self.name = f"tls-by-{dialing.name}"
        self._dialing = dialing

    @asynccontextmanager
    async def reach(self, server: Server) -> AsyncGenerator[Reached]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(PEM)
        trusting = ssl.create_default_context(cafile=str(PEM))
        async with server.listen("127.0.0.1", 0, ssl=context) as listener:
            async with FaultProxy(f"wss://localhost:{listener.port}/") as proxy:
                yield Reached(proxy.url, proxy.drop, proxy, ssl=trusting, dial=self._dialing.dial)


class Unix(Way):
    """A Unix socket, which no proxy is in front of: the server drops the connections."""

    def __init__(self, dialing: Dialing) -> None:
        self.name = f"unix-by-{dialing.name}"
        self._dialing = dialing

    @asynccontextmanager
    async def reach(self, server: Server) -> AsyncGenerator[Reached]:
        path = f"/tmp/wsrpc-{time.monotonic_ns()}"
        async with server.listen(unix=path):
            options: dict[str, Any] = {"unix": path, "dial": self._dialing.dial}
            yield Reached("ws://localhost/", lambda: abort_all(server), **options)


class InMemory(Way):
    """The line of `wsrpc.testing`."""

    name = "memory"

    @asynccontextmanager
    async def reach(self, server: Server) -> AsyncGenerator[Reached]:
        line = Line(server)
        yield Reached("ws://server/", line.cut, dial=line.dial)
        await server.close()


def abort_all(server: Server) -> None:
    for peer in server.peers:
        if peer.transport is not None and peer.connected:
            peer.transport.abort()


PROXIED: list[Way] = [*(Through(host) for host in HOSTS), *(Through(Default(), one) for one in DIALINGS[1:])]
PROXIED += [Tls(one) for one in DIALINGS]
WAYS = [*PROXIED, *(Unix(one) for one in DIALINGS if one.name != "picows"), InMemory()]

ways = pytest.mark.parametrize("way", WAYS, ids=repr)
proxied = pytest.mark.parametrize("way", PROXIED, ids=repr)


# ---------------------------------------------------------------- what goes on


class End:
    """What one end serves, and how often each numbered request ran there."""

    def __init__(self, side: Client | Server) -> None:
        self.ran: Counter[int] = Counter()
        self.notes: list[int] = []
        self.go_on = asyncio.Event()
        for handler in (self.slow, self.items, self.total, self.talk, self.note):
            side.on(handler.__name__, handler)

    async def slow(self, number: int) -> int:
        self.ran[number] += 1
        await asyncio.sleep(0)
        return -number

    async def items(self, size: int) -> AsyncIterator[int]:
        for n in range(size):
            if n % 5 == 0:
                await asyncio.sleep(0)
            yield n

    async def total(self, items: AsyncIterator[int]) -> list[int]:
        return [item async for item in items]

    async def talk(self, channel: AnonymousChannel) -> None:
        async for word in channel.events("word"):
            await channel.emit("echo", word)
            if word is None:
                return

    def note(self, number: int) -> None:
        self.notes.append(number)


async def source(size: int) -> AsyncIterator[int]:
    for n in range(size):
        if n % 7 == 0:
            await asyncio.sleep(0)
        yield n


class Both:
    """A client and a server with one session, and what was told of it."""

    def __init__(self, server: Server, client: Client, reached: Reached) -> None:
        self.server, self.client, self.reached = server, client, reached
        self.ours, self.theirs = End(client), End(server)
        self.back: list[ReconnectInfo] = []
        self.told: list[str] = []
        self._numbers = count(1)
        self.noted = 0
        client.on_reconnect(self.back.append)
        client.on("close", lambda: self.told.append("client"))
        server.on("close", lambda: self.told.append("server"))

    @property
    def peer(self) -> Peer:
        (peer,) = self.server.peers
        return peer

    async def complete(self) -> None:
        """Wait until both sides count, so that the session can go on."""
        await turns_until(lambda: len(self.server.peers) == 1)
        for _ in range(2):
            await self.client.request("slow", 0)
            await self.peer.request("slow", 0)
        self.ours.ran.clear()
        self.theirs.ran.clear()

    async def exchange(self) -> None:
        """A request, a stream and an upload each way, an event each way, and a conversation; all of them end well."""
        number = next(self._numbers)
        await asyncio.gather(
            *(self._calls(*each, number) for each in ((self.client, self.theirs), (self.peer, self.ours)))
        )
        self.noted += 1

    async def _calls(self, caller: Client | Peer, there: End, number: int) -> None:
        async def request() -> None:
            assert await caller.request("slow", number) == -number
            assert there.ran.pop(number) == 1

        async def stream() -> None:
            async with caller.stream("items", 60, returns=int) as items:
                assert [item async for item in items] == list(range(60))

        async def upload() -> None:
            assert await caller.request("total", send=source(60)) == list(range(60))

        async def talk() -> None:
            channel = await caller.open_channel("talk")
            echoes = channel.events("echo")
            for word in ("one", "two", None):
                await channel.emit("word", word)
                assert await anext(echoes) == word

        await caller.emit("note", self.noted)
        await asyncio.gather(request(), stream(), upload(), talk())

    async def went_on(self, drops: int) -> None:
        """Check that the session has gone on after so many drops."""
        await turns_until(lambda: len(self.back) >= drops)
        await turns_until(lambda: len(self.theirs.notes) == len(self.ours.notes) == self.noted)
        assert self.theirs.notes == self.ours.notes == list(range(self.noted))
        assert all(info.resumed for info in self.back) and self.told == []
        assert not self.ours.ran and not self.theirs.ran
        assert self.client.state == "connected" and len(self.server.peers) == 1
        await turns_until(lambda: (self.client.peer.pending, self.client.peer.channels) == (0, 0))
        await turns_until(lambda: (self.peer.pending, self.peer.channels, self.peer.active) == (0, 0, 0))


@asynccontextmanager
async def session(way: Way, limits: Limits = LIMITS, **options: Any) -> AsyncGenerator[Both]:
    server = Server(limits=limits, **options)
    async with asyncio.timeout(60), way.reach(server) as reached:
        client = reached.client(limits=limits)
        both = Both(server, client, reached)
        async with client:
            await both.complete()
            yield both


@ways
async def test_everything_goes_on_after_each_drop(way: Way) -> None:
    async with session(way) as s:
        peer = s.peer
        for drops in range(1, 6):
            running = asyncio.create_task(s.exchange())
            for _ in range(3 * drops):
                await asyncio.sleep(0)
            s.reached.drop()
            await turns_until(lambda drops=drops: len(s.back) >= drops)  # type: ignore[misc]
            await running
            assert s.peer is peer and s.client.peer.connected
        await s.went_on(5)


@proxied
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_a_cut_at_any_byte_loses_and_doubles_nothing(way: Way, direction: Any) -> None:
    async with session(way) as s:
        proxy, peer = s.reached.proxy, s.peer
        assert proxy is not None
        for cut, after in enumerate(UP if direction == "up" else DOWN, 1):
            async with proxy.cut_after(after, direction):
                # The connections that come meanwhile are cut there, too, so this ends only when none is.
                running = asyncio.create_task(s.exchange())
                await turns_until(lambda: s.client.state != "connected" or running.done())  # noqa: B023
            await running
            await turns_until(lambda cut=cut: len(s.back) >= cut)  # type: ignore[misc]
            assert s.peer is peer
        await s.went_on(len(UP))


@ways
async def test_the_end_of_a_session_is_told_at_once(way: Way) -> None:
    """That of the client, by a Close frame."""
    async with session(way) as s:
        s.reached.drop()
        await turns_until(lambda: len(s.back) == 1)
        await s.exchange()
        await s.client.close()
        await turns_until(lambda: s.server.peers == ())
        assert sorted(s.told) == ["client", "server"]


@ways
async def test_a_server_that_closes_ends_the_sessions_without_a_connection(way: Way) -> None:
    server = Server(limits=LIMITS)
    go_on = asyncio.Event()
    server.on("wait", go_on.wait)
    async with asyncio.timeout(30):
        async with way.reach(server) as reached:
            client = reached.client(reconnect=Reconnect(initial=60.0, max=60.0))
            both = Both(server, client, reached)
            async with client:
                await both.complete()
                asked = asyncio.create_task(client.request("wait"))
                peer = both.peer
                await turns_until(lambda: peer.active == 1)
                reached.drop()
                await turns_until(lambda: peer.detached)
                began = asyncio.get_running_loop().time()
                await server.close(drain=30.0)
                assert asyncio.get_running_loop().time() - began < 10.0
                assert server.peers == () and both.told == ["server"]
                assert client.state == "detached"
                await client.close()
                with pytest.raises(SessionLost):
                    await asked
