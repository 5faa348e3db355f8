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
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager as Context
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from aiohttp import web
from asgi_servers import SERVERS
from core_driver import turns
from dialings import DIALINGS, Dialing
from hosts import HOSTS, Default, Host, application, running
from leftovers import turns_until
from raw_websocket import CLOSE, PING, PONG, TEXT, RawPeer
from served import hosts, raw

from wsrpc import (
    AnonymousChannel,
    Client,
    CloseInfo,
    ConnectionLost,
    Handshake,
    Limits,
    Peer,
    Reconnect,
    ReconnectInfo,
    Server,
    SessionLost,
)
from wsrpc._session import sessions
from wsrpc.testing import FaultProxy, Line
from wsrpc_adapters.aiohttp import serve
from wsrpc_adapters.asgi import asgi

PEM = Path(__file__).parent / "localhost.pem"
LIMITS = Limits(close_timeout=1.0)
SOON = Reconnect(initial=0.001, max=0.005)
RESUMES = "Wsrpc-Resume: 1"

UP = (0, 1, 7, 40, 300, 1500)
DOWN = (0, 1, 7, 40, 300, 1200)
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
        with TemporaryDirectory() as folder:
            path = f"{folder}/socket"
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
        up = self._calls(self.client, self.theirs, number)
        await asyncio.gather(up, self._calls(self.peer, self.ours, number))
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

    async def came_back(self, times: int) -> None:
        """Wait until the client has come back so often, at least."""
        await turns_until(lambda: len(self.back) >= times)

    async def drops(self, times: int) -> None:
        """Drop the connection in the middle of so many exchanges, each time a bit later."""
        for drops in range(1, times + 1):
            running = asyncio.create_task(self.exchange())
            await turns(3 * drops)
            self.reached.drop()
            await self.came_back(drops)
            await running
        await self.went_on(times)

    async def cut_or_over(self, running: asyncio.Task[None]) -> None:
        """Wait until the connection drops, or ``running`` has ended without that."""
        await turns_until(lambda: self.client.state != "connected" or running.done())

    async def went_on(self, drops: int) -> None:
        """Check that the session has gone on after so many drops."""
        await self.came_back(drops)
        await turns_until(lambda: len(self.theirs.notes) == len(self.ours.notes) == self.noted)
        assert self.theirs.notes == self.ours.notes == list(range(self.noted))
        assert all(info.resumed for info in self.back) and self.told == []
        assert not self.ours.ran and not self.theirs.ran
        assert self.client.state == "connected" and len(self.server.peers) == 1
        await turns_until(lambda: (self.client.peer.pending, self.client.peer.channels) == (0, 0))
        await turns_until(lambda: (self.peer.pending, self.peer.channels, self.peer.active) == (0, 0, 0))


@asynccontextmanager
async def session(
    way: Way, limits: Limits = LIMITS, client: dict[str, Any] | None = None, **options: Any
) -> AsyncGenerator[Both]:
    server = Server(limits=limits, **options)
    async with asyncio.timeout(60), way.reach(server) as reached:
        both = Both(server, reached.client(limits=limits, **client or {}), reached)
        async with both.client:
            await both.complete()
            yield both


@ways
async def test_everything_goes_on_after_each_drop(way: Way) -> None:
    async with session(way) as s:
        peer = s.peer
        await s.drops(5)
        assert s.peer is peer and s.client.peer.connected


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
                await s.cut_or_over(running)
            await running
            await s.came_back(cut)
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


# ---------------------------------------------------------------- what a raw client sees of it


async def say(peer: RawPeer, *said: dict[str, Any]) -> None:
    """Send control messages in one write."""
    await peer.send(*(peer.frame(TEXT, json.dumps({"ws-wrapper": False, "wsrpc": fields})) for fields in said))


async def hear(peer: RawPeer) -> Any:
    """Return the next control message but acknowledgements."""
    while True:
        said = json.loads((await peer.next_of(TEXT)).payload)
        if "wsrpc" in said and said["wsrpc"]["t"] != "ack":
            return said["wsrpc"]


async def ends_with(peer: RawPeer) -> int | None:
    """Return the code of the Close frame that comes, and let the connection end."""
    code = (await peer.next_of(CLOSE)).code
    await peer.send(peer.close_frame(code))
    return code


HELLO = {"t": "hello", "v": 1, "features": ["resume"], "limits": {}}
NOTE = {"a": ["note", 1]}
"""The one counted message of `begin`."""


async def begin(peer: RawPeer) -> dict[str, Any]:
    """Begin a session in which one message is counted, and return the fields of the resume that goes on with it."""
    await say(peer, HELLO)
    welcome = await hear(peer)
    await say(peer, {"t": "ack", "n": 0, "bytes": 0})
    await peer.send(peer.frame(TEXT, json.dumps(NOTE)))
    named = {"sid": welcome["sid"], "token": welcome["token"]}
    return HELLO | {"t": "resume", "gen": 1, "rx": 0, "bytes": 0} | named


def noting() -> tuple[Server, list[int], list[str]]:
    """A server, its notes, and what it was told of its peers."""
    server, notes, told = Server(limits=LIMITS), list[int](), list[str]()
    server.on("note", notes.append)
    server.on("echo", lambda value: value)
    server.on("open", lambda: told.append("open"))
    server.on("close", lambda: told.append("close"))
    return server, notes, told


@hosts
async def test_a_half_open_connection_is_fenced(host: Host) -> None:
    """Its last messages count for nothing, and what comes of its end touches nothing."""
    server, notes, told = noting()
    async with asyncio.timeout(30), host.serving(server) as url, raw(url) as old:
        resume = await begin(old)
        await turns_until(lambda: notes == [1])
        (peer,) = server.peers
        async with raw(url, RESUMES) as new:
            await say(new, resume)
            answer = await hear(new)
            assert (answer["t"], answer["rx"], answer["bytes"]) == ("resumed", 1, len(json.dumps(NOTE)))
            await old.send(old.frame(TEXT, json.dumps({"a": ["note", 2]})))
            assert await ends_with(old) == 4409
            old.drop()
            await new.send(new.frame(TEXT, json.dumps({"a": ["note", 3]})))
            await turns_until(lambda: len(notes) == 2)
            assert notes == [1, 3] and server.peers == (peer,) and peer.connected and told == ["open"]
            await new.send(new.close_frame(1000))
            if "close code" in host.cannot:  # and raw clients do not say that they close
                new.drop()
                await turns_until(lambda: peer.detached)
            else:
                assert (await new.next_of(CLOSE)).code == 1000
                new.drop()
                await turns_until(lambda: server.peers == ())


@hosts
async def test_a_client_that_means_to_resume_gets_a_peer_with_its_first_message(host: Host) -> None:
    """Also after a session that is gone."""
    server, _, told = noting()
    async with asyncio.timeout(30), host.serving(server) as url, raw(url, RESUMES) as peer:
        await peer.send(peer.frame(PING, "there"))
        assert (await peer.next_frame()).opcode == PONG  # so the server has begun to read
        await turns(20)
        assert server.peers == () and told == []
        gone = HELLO | {"t": "resume", "gen": 1, "rx": 0, "bytes": 0, "sid": "x" * 22, "token": "x" * 43}
        control = {"ws-wrapper": False, "wsrpc": gone}
        echo = {"i": 1, "a": ["echo", "x"]}
        await peer.send(*(peer.frame(TEXT, json.dumps(message)) for message in (control, echo)))
        assert await hear(peer) == {"t": "gone", "why": "expired"}
        assert (await hear(peer))["t"] == "welcome"
        assert json.loads((await peer.next_of(TEXT)).payload) == {"i": 1, "d": "x"}
        assert len(server.peers) == 1 and told == ["open"]


async def test_a_client_that_says_nothing_gets_a_peer_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "FIRST_MESSAGE", 0.01)
    server, _, told = noting()
    async with asyncio.timeout(30), Default().serving(server) as url, raw(url, RESUMES):
        await turns_until(lambda: len(server.peers) == 1)
        assert told == ["open"]


@hosts
async def test_messages_in_the_same_read_as_the_resume(host: Host) -> None:
    """An impatient client. Some of them wait for the first read to be handled, and none is lost."""
    server, notes, _ = noting()
    async with asyncio.timeout(30), host.serving(server) as url:
        async with raw(url) as old:
            resume = await begin(old)
            await turns_until(lambda: notes == [1])
        async with raw(url, RESUMES) as new:
            control = new.frame(TEXT, json.dumps({"ws-wrapper": False, "wsrpc": resume}))
            some = [new.frame(TEXT, json.dumps({"a": ["note", n]})) for n in range(2, 12)]
            in_parts = json.dumps({"a": ["note", 12]}).encode()
            parts = [new.frame(TEXT, in_parts[:5], fin=False), new.frame(0, in_parts[5:])]
            await new.send(control, *some, *parts)
            assert (await hear(new))["t"] == "resumed"
            await turns_until(lambda: len(notes) == 12)
            assert notes == list(range(1, 13))
            await new.send(new.frame(TEXT, '{"i":1,"a":["echo","x"]}'))
            assert json.loads((await new.next_of(TEXT)).payload) == {"i": 1, "d": "x"}


# ---------------------------------------------------------------- ends of connections


@ways
async def test_credentials_that_expire_make_the_client_dial_again(way: Way) -> None:
    server = Server(limits=LIMITS)
    expires: list[float] = []

    @server.on_handshake
    def check(handshake: Handshake) -> None:
        handshake.principal = "ada"
        if len(expires) < 3:
            expires.append(time.time() + 0.1)
            handshake.expires = expires[-1]

    async with asyncio.timeout(30), way.reach(server) as reached:
        client = reached.client(reconnect=SOON)
        both = Both(server, client, reached)
        async with client:
            await both.complete()
            peer = both.peer
            await turns_until(lambda: len(both.back) == 3)
            await both.exchange()
            await both.went_on(3)
            assert both.peer is peer and len(expires) == 3


@pytest.mark.parametrize("resumes", [True, False], ids=["a session", "plain"])
@pytest.mark.parametrize("host", [host for host in HOSTS if "heartbeat" not in host.cannot], ids=repr)
async def test_a_dead_line_ends_without_a_close_frame_if_a_session_goes_on(host: Host, resumes: bool) -> None:
    server, notes, _ = noting()
    server = Server(limits=LIMITS.replace(ping_interval=0.05, ping_timeout=0.05))
    server.on("note", notes.append)
    infos: list[CloseInfo] = []
    server.on("close", lambda peer, info: infos.append(info))
    async with asyncio.timeout(30), host.serving(server) as url, raw(url) as silent:
        if resumes:
            resume = await begin(silent)
        else:
            await silent.send(silent.frame(TEXT, json.dumps(NOTE)))
        await turns_until(lambda: notes == [1])
        (peer,) = server.peers
        await turns_until(lambda: not peer.connected)
        if resumes:
            assert peer.detached and infos == []
            with pytest.raises((EOFError, ConnectionError)):
                await silent.next_of(CLOSE)
            async with raw(url, RESUMES) as new:
                await say(new, resume)
                assert (await hear(new))["t"] == "resumed"
                assert peer.connected
                await turns_until(lambda: not peer.connected)  # this one answers no ping, either
                assert peer.detached
        else:
            assert [info.code for info in infos] == [1011] and server.peers == ()


@pytest.mark.parametrize("dialing", DIALINGS, ids=repr)
async def test_a_client_finds_a_dead_line_and_its_session_goes_on(dialing: Dialing) -> None:
    limits = LIMITS.replace(ping_interval=0.1, ping_timeout=0.1)
    async with session(Through(Default(), dialing), limits) as s:
        peer = s.peer
        assert s.reached.proxy is not None
        async with s.reached.proxy.silence():
            running = asyncio.create_task(s.exchange())
            await turns_until(lambda: s.client.peer.detached)
            await turns_until(lambda: peer.detached)
        await running
        assert s.peer is peer
        await turns_until(lambda: len(s.back) > 0)
        await s.went_on(len(s.back))


class Calls:
    """How many calls of an application run, or of an HTTP handler."""

    def __init__(self) -> None:
        self.running = self.failed = 0

    async def run(self, call: Awaitable[Any]) -> Any:
        self.running += 1
        try:
            return await call
        except BaseException:
            self.failed += 1
            raise
        finally:
            self.running -= 1


@asynccontextmanager
async def serving_calls(server: Server, by: str) -> AsyncGenerator[tuple[str, Calls]]:
    """Serve by the aiohttp handler, or by the ASGI application under the server ``by``."""
    calls, application_of_asgi = Calls(), asgi(server)

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        call = application_of_asgi(scope, receive, send)
        await (calls.run(call) if scope["type"] == "websocket" else call)

    async def handler(request: web.Request) -> web.StreamResponse:
        response: web.StreamResponse = await calls.run(serve(server, request))
        return response

    if by == "aiohttp":
        async with running(application(server, handler)) as url:
            yield url, calls
    else:
        async with SERVERS[by](counted) as port:
            yield f"ws://127.0.0.1:{port}/", calls


@pytest.mark.parametrize("by", ["aiohttp", "uvicorn", "uvicorn-wsrpc", "hypercorn"])
@pytest.mark.parametrize("opening", [False, True])
async def test_the_call_of_a_connection_returns_with_it_although_its_session_goes_on(by: str, opening: bool) -> None:
    """Also while the `open` handlers of the session run."""
    server, notes, told = noting()
    go_on = asyncio.Event()

    @server.on("open")
    async def opened() -> None:
        told.append("open")
        await go_on.wait()

    if not opening:
        go_on.set()
    began = 0.0
    async with asyncio.timeout(30):
        async with serving_calls(server, by) as (url, calls):
            async with raw(url) as first:
                resume = await begin(first)
                await turns_until(lambda: server.peers and server.peers[0].stats().messages_in == 3)
                (peer,) = server.peers
                assert calls.running == 1
                first.reset()
            await turns_until(lambda: peer.detached and calls.running == 0)
            async with raw(url, RESUMES) as second:
                await say(second, resume)
                resume |= {"gen": 2, "token": (await hear(second))["token"]}
                await turns_until(lambda: peer.connected and calls.running == 1)
                go_on.set()
                await turns_until(lambda: notes == [1])
                async with raw(url, RESUMES) as third:
                    await say(third, resume)
                    assert (await hear(third))["t"] == "resumed"
                    assert await ends_with(second) == 4409
                    second.drop()
                    await turns_until(lambda: calls.running == 1)
                    assert peer.connected
                    third.reset()
                await turns_until(lambda: calls.running == 0)
            assert list(server.peers) == [peer] and told == ["open"]
            began = asyncio.get_running_loop().time()
        # The host has ended, with a session that had no connection.
        assert asyncio.get_running_loop().time() - began < 10.0
    assert not calls.failed and list(server.peers) == [] and told == ["open", "close"]


@hosts
async def test_compressed_messages_go_on(host: Host) -> None:
    async with session(Through(host), compression=True, client={"compression": True}) as s:
        await s.drops(3)


@ways
@pytest.mark.parametrize("plain", ["client", "server"])
async def test_a_plain_peer_begins_anew(way: Way, plain: str) -> None:
    """As before: what is pending fails, the peer of the server is another one, and nothing in the request is new."""
    server = Server(limits=LIMITS, extensions=plain != "server")
    told: list[Any] = []
    server.on_handshake(lambda handshake: told.append(handshake.headers.get("wsrpc-resume")))
    server.on("open", lambda: told.append("open"))
    server.on("close", lambda: told.append("close"))
    server.on("wait", asyncio.Event().wait)
    async with asyncio.timeout(30), way.reach(server) as reached:
        client = reached.client(extensions=plain != "client")
        back: list[ReconnectInfo] = []
        client.on_reconnect(back.append)
        async with client:
            asked = asyncio.create_task(client.request("wait"))
            await turns_until(lambda: len(server.peers) == 1 and server.peers[0].active == 1)
            peer = server.peers[0]
            reached.drop()
            with pytest.raises(ConnectionLost) as caught:
                await asked
            assert type(caught.value) is ConnectionLost and caught.value.outcome == "unknown"
            await turns_until(lambda: len(back) == 1 and peer not in server.peers and len(server.peers) == 1)
            assert not back[0].resumed and sorted(map(str, told)) == ["None", "None", "close", "open", "open"]
