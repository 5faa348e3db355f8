"""A session goes on after each drop, at every host and however a client dials, and nothing is lost or comes twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from core_driver import turns
from hosts import HOSTS, Default, Host
from leftovers import other_tasks
from raw_websocket import CLOSE, PING, PONG, TEXT, RawPeer
from served import begin, control, hear, hosts, kinds_of_hosts, note, raw
from waiting import until

from wsrpc import Client, Limits, Peer, Reconnect, ReconnectInfo, Server, dial
from wsrpc.cluster import Cluster, MemoryEngine
from wsrpc.testing import FaultProxy

LIMITS = Limits(close_timeout=10.0)
SOON = Reconnect(initial=0.001, max=0.005)
ASKS = {"header": "Wsrpc-Resume: 1", "subprotocol": "Sec-WebSocket-Protocol: json, wsrpc.resume"}
"""How a client says that it means to resume. Web pages cannot send the header."""
asking = pytest.mark.parametrize("asks", ASKS.values(), ids=ASKS)

CUTS: list[tuple[Any, int]] = [(direction, after) for direction in ("up", "down") for after in (0, 40, 1000)]
"""Where a connection is cut, in bytes from the moment at which the cut is asked for."""

WAYS = [pytest.param(host, False, id=host.name) for host in HOSTS]
WAYS += [pytest.param(host, True, id=f"through-{host.name}") for host in HOSTS]
ways = pytest.mark.parametrize(("host", "through"), WAYS)
"""Where a client is connected, and whether its session belongs to another process of a cluster."""


# ---------------------------------------------------------------- what goes on


class End:
    """What one end serves, and how often each numbered request ran there."""

    def __init__(self, side: Client | Server) -> None:
        self.ran: Counter[int] = Counter()
        self.notes: list[int] = []
        side.on("note", self.notes.append)

        @side.on("slow")
        async def slow(number: int) -> int:
            self.ran[number] += 1
            await asyncio.sleep(0)
            return -number

        @side.on("items")
        async def items(size: int) -> AsyncIterator[int]:
            for n in range(size):
                if n % 5 == 0:
                    await asyncio.sleep(0)
                yield n


async def exchange(caller: Client | Peer, there: End, number: int) -> None:
    """An event, a request and a stream; all of them end well."""

    async def stream() -> None:
        async with caller.stream("items", 200, returns=int) as items:
            assert [item async for item in items] == list(range(200))

    await caller.emit("note", number)
    answer, _ = await asyncio.gather(caller.request("slow", number), stream())
    assert (answer, there.ran.pop(number)) == (-number, 1)


@ways
async def test_a_cut_at_any_byte_loses_and_doubles_nothing(host: Host, through: bool) -> None:
    """Until the client closes, which both sides learn at once."""
    engine = MemoryEngine()
    server, reached = (Server(limits=LIMITS, cluster=Cluster(engine) if through else None) for _ in range(2))
    async with AsyncExitStack() as stack:
        first = (await stack.enter_async_context(server.listen())).url if through else None
        url = await stack.enter_async_context(host.serving(reached if through else server))
        proxy = await stack.enter_async_context(FaultProxy(url))
        client = Client(lambda: first or proxy.url, dial=dial, limits=LIMITS, reconnect=SOON, proxy=None)
        ours, theirs, back, told = End(client), End(server), list[ReconnectInfo](), list[str]()
        client.on_reconnect(back.append)
        client.on("close", lambda: told.append("client"))
        server.on("close", lambda: told.append("server"))
        async with client:
            await until(lambda: server.peers)
            (peer,) = server.peers
            for number in (-2, -1):  # both sides count now, so that the session can go on
                await exchange(client, theirs, number)
                await exchange(peer, ours, number)
            if through:
                first = None
                peer.transport.abort()  # type: ignore[union-attr]
                await until(lambda: back)
                back.clear()

            async def cut(number: int, direction: Any, after: int) -> None:
                async with proxy.cut_after(after, direction):
                    # The connections that come meanwhile are cut there, too, so this ends only when none is.
                    both = asyncio.gather(exchange(client, theirs, number), exchange(peer, ours, number))
                    await until(lambda: client.state != "connected" or both.done())
                await both
                await until(lambda: len(back) > number)
                assert server.peers == (peer,)

            for number, (direction, after) in enumerate(CUTS):
                await cut(number, direction, after)
            await until(lambda: len(theirs.notes) == len(ours.notes) == len(CUTS) + 2)
            assert theirs.notes == ours.notes == list(range(-2, len(CUTS)))
            assert all(info.resumed for info in back) and told == []
            assert not ours.ran and not theirs.ran and reached.peers == ()
            ends = (client.peer, peer)
            await until(lambda: not any(each.pending or each.anonymous_channels or each.active for each in ends))
            await client.close()
            await until(lambda: server.peers == ())
            assert sorted(told) == ["client", "server"]


# ---------------------------------------------------------------- what a raw client sees of it


def noting(limits: Limits = LIMITS) -> tuple[Server, list[int], list[str]]:
    """A server, its notes, and what it was told of its peers."""
    server, notes, told = Server(limits=limits), list[int](), list[str]()
    server.on("note", notes.append)
    server.on("echo", lambda value: value)
    server.on("open", lambda: told.append("open"))
    server.on("close", lambda peer, info: told.append(f"close {info.code}"))
    return server, notes, told


@asynccontextmanager
async def begun(url: str, server: Server, notes: list[int]) -> AsyncGenerator[tuple[RawPeer, dict[str, Any], Peer]]:
    """A client with a session, the resume that goes on with it, and the server's peer."""
    async with raw(url) as old:
        resume = await begin(old)
        await until(lambda: notes == [1])
        yield old, resume, server.peers[0]


@hosts
async def test_a_half_open_connection_is_fenced(host: Host) -> None:
    """Its last messages count for nothing, and what comes of its end touches nothing."""
    server, notes, told = noting()
    async with host.serving(server) as url, begun(url, server, notes) as (old, resume, peer):
        async with raw(url, ASKS["header"]) as new:
            await new.send(control(new, resume))
            answer = await hear(new)
            assert (answer["t"], answer["rx"], answer["bytes"]) == ("resumed", 1, 16)
            await old.send(note(old, 2))
            assert (await old.next_of(CLOSE)).code == 4409
            await old.send(old.close_frame(4409))
            old.drop()
            await new.send(note(new, 3))
            await until(lambda: len(notes) == 2)
            assert notes == [1, 3] and server.peers == (peer,) and peer.connected and told == ["open"]
            await new.send(new.close_frame(1000))
            if "close code" not in host.cannot:
                assert (await new.next_of(CLOSE)).code == 1000
            new.drop()
            # Where hosts do not report a Close frame, raw clients do not say in another way that they close.
            await until(lambda: peer.detached if "close code" in host.cannot else server.peers == ())


@kinds_of_hosts
@asking
async def test_a_client_that_means_to_resume_says_so_before_it_has_a_peer(host: Host, asks: str) -> None:
    """What comes in the same read waits until the resume is handled, and none of it is lost."""
    server, notes, told = noting()
    async with host.serving(server) as url:
        async with begun(url, server, notes) as (_, resume, _):
            pass
        async with raw(url, asks) as new:
            await new.send(new.frame(PING, "there"))
            assert (await new.next_frame()).opcode == PONG  # so the server has begun to read
            await turns(20)
            assert len(server.peers) == 1
            in_parts = json.dumps({"a": ["note", 12]}).encode()
            parts = [new.frame(TEXT, in_parts[:5], fin=False), new.frame(0, in_parts[5:])]
            await new.send(control(new, resume), *(note(new, number) for number in range(2, 12)), *parts)
            assert (await hear(new))["t"] == "resumed"
            await until(lambda: len(notes) == 12)
            assert notes == list(range(1, 13)) and told == ["open"]


@kinds_of_hosts
@pytest.mark.parametrize(("says_gone", "code"), [(False, 4412), (False, 1001), (True, 4412), (True, None)])
async def test_how_a_page_leaves(host: Host, says_gone: bool, code: int | None) -> None:
    """The close frame of a web page ends its connection, whether or not its session is to go on."""
    server, notes, told = noting()
    async with host.serving(server) as url:
        async with begun(url, server, notes) as (old, resume, peer):
            if says_gone:
                await old.send(control(old, {"t": "gone", "why": "closed"}))
            if code is not None:
                await old.send(old.close_frame(code))
                assert (await old.next_of(CLOSE)).code == code
        await until(lambda: peer.detached or server.peers == ())
        assert peer.detached is not says_gone and len(told) == 1 + says_gone
        async with raw(url, ASKS["subprotocol"]) as new:
            await new.send(control(new, resume))
            assert (await hear(new))["t"] == ("gone" if says_gone else "resumed")


@kinds_of_hosts
@pytest.mark.parametrize("noticed", [True, False], ids=["detached", "half open"])
async def test_a_client_that_was_kicked_while_it_was_away_is_told_when_it_comes_back(host: Host, noticed: bool) -> None:
    """Also if the server has not noticed yet that it is away, and still waits for an answer to the Close frame, and if
    its connection drops just as it is told."""
    server, notes, told = noting(LIMITS.replace(close_timeout=1000.0))
    async with host.serving(server) as url:
        async with begun(url, server, notes) as (old, resume, peer):
            if noticed:
                old.drop()
                await until(lambda: peer.detached)
            closing = asyncio.create_task(peer.close(1008, "kicked"))
            await until(lambda: closing.done() or not peer.connected)
            hears_it = "answered close" not in host.cannot  # another host takes the client for told
            for drops in [True] * hears_it + [False]:
                async with raw(url, ASKS["subprotocol"]) as new:
                    await new.send(control(new, resume))
                    if not (noticed or hears_it):
                        assert await hear(new) == {"t": "gone", "why": "expired"}
                        continue
                    frame = await new.next_of(CLOSE)
                    assert (frame.code, frame.payload[2:]) == (1008, b"kicked")
                    if drops:
                        new.drop()
                        continue
                    await new.send(new.close_frame(1008))
                    assert server.peers == () and told[0] == "open" and len(told) == 2
            await closing


async def test_a_dead_line_ends_without_a_close_frame_if_a_session_goes_on() -> None:
    server, notes, told = noting(LIMITS.replace(ping_interval=0.05, ping_timeout=2.0))
    async with Default().serving(server) as url, begun(url, server, notes) as (silent, _, peer):
        await until(lambda: not peer.connected)
        assert peer.detached and told == ["open"]
        with pytest.raises((EOFError, ConnectionError)):
            await silent.next_of(CLOSE)


# ---------------------------------------------------------------- the call of a connection


@hosts
async def test_the_call_of_a_connection_returns_with_it_although_its_session_goes_on(host: Host) -> None:
    """Also while the `open` handlers of the session run."""
    server, notes, told = noting()
    go_on = asyncio.Event()

    @server.on("open")
    async def opened() -> None:
        told.append("open")
        await go_on.wait()

    async with host.serving(server) as url:
        await turns(20)  # the host has begun
        before = other_tasks()
        async with raw(url) as first:
            await begin(first)
            await until(lambda: server.peers and server.peers[0].stats().messages_in == 3)
            (peer,) = server.peers
            first.reset()
        await until(lambda: peer.detached and len(other_tasks() - before) == 1)  # that of `opened`
        go_on.set()
        await until(lambda: notes == [1])
        assert list(server.peers) == [peer] and told == ["open"]
    # The host has ended, with a session that had no connection.
    assert server.peers == () and [line.split()[0] for line in told] == ["open", "close"]
