"""Rooms across processes: who gets what, in which order, and what the sender is told."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from functools import partial
from typing import Any

import pytest
from cluster_servers import NarrowEngine, Servers, servers
from core_driver import messages
from waiting import until

from wsrpc import Client, Context, KeepLatest, Limits, Peer, QueueFull, Retry, Server
from wsrpc._server.broadcast import SLOW_READERS_TIMEOUT
from wsrpc.cluster import (
    Cluster,
    ClusterClient,
    MemoryEngine,
)
from wsrpc.cluster._cluster import membership_of
from wsrpc.cluster._memory_engine import MemoryEngineConnection
from wsrpc.cluster._nodes import links
from wsrpc.cluster._nodes.directory import NODE_TIMEOUT
from wsrpc.cluster._nodes.links import NodeLinks, link_limits
from wsrpc.cluster._nodes.node import TICK
from wsrpc.errors import EngineLost, PeerNotFound, ReservedEvent
from wsrpc.limits import DEFAULT_LIMITS
from wsrpc.store import MemoryStore
from wsrpc.testing import ScriptedTransport, connect
from wsrpc.types import Members, RawConnection


class Listener:
    """A client that notes what it is told."""

    def __init__(self, **options: Any) -> None:
        self.client = Client(reconnect=None, **options)
        self.heard: list[Any] = []
        self.client.on("said", lambda *values: self.heard.append(values))
        self.client.of("chat").on("said", lambda *values: self.heard.append(("chat", *values)))


async def join_lobby(made: Servers, *names: str) -> list[Listener]:
    """Connect a client to one server after another, and let each into the lobby."""
    listeners: list[Listener] = []
    for number, name in enumerate(names):
        at = number % len(made)
        if number < len(made):
            made[at].on("open", made[at].room("lobby").add)
        listeners.append(Listener())
        await made.join(at, name, listeners[-1].client)
    await until(lambda: all(len(nodes_of(server)) == len(made) - 1 for server in made))
    return listeners


def nodes_of(server: Server, room: str = "lobby") -> tuple[str, ...]:
    """Return the other nodes that a server knows to have members of a room."""
    return membership_of(server.cluster).directory.nodes_of(room)


class Name(str):
    """Text as of Django's templates, or numpy."""


def gaps_of(made: Servers) -> list[int]:
    """Return how often messages of other nodes may have been missing, for each server."""
    return [stats.gaps for server in made if (stats := server.stats().cluster) is not None]


async def test_an_event_reaches_the_members_everywhere() -> None:
    """Names of a subclass of str are names."""
    async with servers(3) as made:
        listeners = [Listener(), Listener(extensions=False), Listener(), Listener()]
        for server in made[:2]:
            server.on("open", server.room(Name("lobby")).add)
        for number, listener in enumerate(listeners):
            await made.join(number % 3, Name(f"user/{number}"), listener.client)
        room, other = made[0].room(Name("lobby")), made[1].cluster.nodes[0]
        await until(lambda: len(room) == 2)
        for report in (await room.emit("said", "hi", [1, {"a": None}]), room.emit_nowait(Name("said"), Name("now"))):
            assert (report.sent, report.nodes, report.missing_nodes) == (2, (other,), ())
        await room.of(Name("chat")).emit("said", "on a channel")
        report = await made[2].room("lobby").emit("said", "from outside")
        assert report.sent == 0 and set(report.nodes) == {made[0].cluster.nodes[0], other}
        await made[2].cluster.peer(Name("user/1")).emit("said", "to you")
        expected = [("hi", [1, {"a": None}]), ("now",), ("chat", "on a channel")]
        *inside, outside = listeners[0], listeners[1], listeners[3], listeners[2]
        await until(lambda: len(listeners[1].heard) == 5 and all(len(each.heard) >= 4 for each in inside))
        assert listeners[1].heard.pop() in ([("from outside",), ("to you",)])
        assert all(each.heard[:3] == expected and len(each.heard) == 4 for each in inside) and outside.heard == []


async def test_a_raw_message_reaches_the_raw_connections_everywhere(caplog: pytest.LogCaptureFixture) -> None:
    """Members of a server that uses the protocol do not get it."""
    async with servers(3) as made:
        guests: list[ScriptedTransport] = []
        for server in made[:2]:
            server.serve_raw(partial(enter_lobby, server))
            await server.accept(transport := ScriptedTransport())
            guests.append(transport)
        made[2].on("open", made[2].room("lobby").add)
        await made.join(2, "ada")
        room, others = made[0].room("lobby"), {made[1].cluster.nodes[0], made[2].cluster.nodes[0]}
        await until(lambda: {*nodes_of(made[0])} == others)
        assert {*(await room.send_raw('"text"')).nodes} == others
        await room.send_json({"a": 1})
        async with ClusterClient(made.engine, name="shop") as shop:
            await shop.room("lobby").send_raw(b"\x00\xff")
            got: list[list[Any]] = [[], []]
            while min(map(len, got)) < 3:
                for heard, guest in zip(got, guests, strict=True):
                    heard += guest.pop_sent()
                await asyncio.sleep(0)
            assert got == [["text", {"a": 1}, b"\x00\xff"]] * 2
        with pytest.raises(ValueError, match="only raw connections get raw messages"):
            await made[2].room("lobby").send_raw("x")


async def enter_lobby(server: Server, connection: RawConnection) -> None:
    server.room("lobby").add(connection)
    await connection.wait_closed()


def said(heard: list[Any], text: str, ctx: Context) -> None:
    heard.append((text, dict(ctx.metadata)))


async def test_metadata_reaches_the_members_that_accept_it_everywhere() -> None:
    metadata = {"tenant": "acme"}
    async with servers(2) as made:
        heard: dict[str, list[Any]] = {"here": [], "plain": [], "there": []}
        for name, messages in heard.items():
            client = Client(reconnect=None, extensions=name != "plain")
            client.on("said", partial(said, messages))
            at = 1 if name == "there" else 0
            made[at].on("open", made[at].room("lobby").add)
            await made.join(at, name, client)
        await until(lambda: nodes_of(made[0]))
        await made[0].room("lobby").emit("said", "hi", metadata=metadata)
        made[0].room("lobby").emit_nowait("said", "now", metadata=metadata)
        async with ClusterClient(made.engine, name="shop") as outside:
            await outside.room("lobby").emit("said", "out", metadata=metadata)
            await until(lambda: all(len(each) == 3 for each in heard.values()))
    for name, messages in heard.items():
        assert messages == [(text, {} if name == "plain" else metadata) for text in ("hi", "now", "out")]


async def test_a_process_that_has_not_dialed_delays_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those after it got an event late, and a later one of `emit_nowait` before it."""
    dial, may_dial = NodeLinks._dial, {"others": asyncio.Event(), "silent": asyncio.Event()}
    silent: list[str] = []

    async def late(self: Any, url: str, **options: Any) -> Any:
        await may_dial["others"].wait()
        if self._node.id in silent:
            await may_dial["silent"].wait()
        return await dial(self, url, **options)

    monkeypatch.setattr(NodeLinks, "_dial", late)
    async with servers(0) as made:
        for _ in range(4):
            await made.add()
        made.sort(key=lambda server: server.cluster.nodes[0], reverse=True)
        listeners: dict[str, list[Any]] = {}
        for number, server in enumerate(made):
            server.on("open", server.room("lobby").add)
            await made.join(number, f"user-{number}", (listener := Listener()).client)
            listeners[server.cluster.nodes[0]] = listener.heard
        room = made[0].room("lobby")  # which all others dial
        await until(lambda: len(nodes_of(made[0])) == 3)
        late_one, *others = nodes_of(made[0])
        silent.append(late_one)
        may_dial["others"].set()
        reach = membership_of(made[0].cluster).links.peer
        await until(lambda: all(map(reach, others)))
        emitting = [asyncio.create_task(room.emit("said", number)) for number in (1, 2)]
        await until(lambda: len(listeners[made[0].cluster.nodes[0]]) == 2)
        report = room.emit_nowait("said", 3)
        assert (report.nodes, report.missing_nodes) == (tuple(others), (late_one,))
        await until(lambda: all(len(listeners[name]) == 3 for name in others))
        assert [listeners[name] for name in others] == [[(1,), (2,), (3,)]] * 2
        assert listeners[late_one] == [] and not any(each.done() for each in emitting)
        may_dial["silent"].set()
        for report in await asyncio.gather(*emitting):
            assert {*report.nodes} == {late_one, *others} and report.missing_nodes == ()
        room.emit_nowait("said", 4)
        await until(lambda: listeners[late_one][-1:] == [(4,)])
        assert listeners[late_one] == [(1,), (2,), (4,)]


@pytest.mark.parametrize("cap", [64, 1], ids=["room for all", "more than may be unsent"])
async def test_events_keep_their_order_when_a_process_reads_slowly(cap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of `emit` waited, and those of `emit_nowait` did not. One that is too large holds up no other one."""
    limits = link_limits(DEFAULT_LIMITS, 1 << 20).replace(hard_cap_bytes=cap << 20, message_bytes=200_000)
    monkeypatch.setattr(links, "link_limits", lambda *_: limits)
    async with servers(2) as made:
        here, there = await join_lobby(made, "here", "there")
        room, missed = made[0].room("lobby"), set[int]()
        emitting: list[asyncio.Task[Any]] = []

        async def emit(number: int, size: int) -> None:
            emitting.append(asyncio.create_task(room.emit("said", number, "x" * size)))
            await until(lambda: len(here.heard) == number + 1)

        def emit_nowait(number: int, size: int) -> None:
            missed.update({number} if room.emit_nowait("said", number, "x" * size).missing_nodes else ())

        made.engine.freeze()
        for number in range(60):
            if number % 2:
                emit_nowait(number, 100_000)
            else:
                await emit(number, 100_000)
        await emit(60, 300_000)
        await emit(61, 1)
        large, given_up = emitting.pop(-2), emitting.pop(-2)
        given_up.cancel()
        missed |= {60, 58} if cap == 1 else {60}
        assert not emitting[-1].done()
        made.engine.thaw()
        last = 61
        while not all(each.done() for each in emitting) and last < 1000:
            emit_nowait(last := last + 1, 1)
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            assert all(report.nodes and not report.missing_nodes for report in await asyncio.gather(*emitting))
            assert (await large).missing_nodes
        await room.emit("said", last + 1)
        await until(lambda: there.heard[-1:] == [(last + 1,)])
        assert [each[0] for each in there.heard] == [number for number in range(last + 2) if number not in missed]
        assert len(missed) > 1 or cap == 64


@pytest.mark.parametrize("waits", [True, False], ids=["await emit", "emit_nowait"])
async def test_skip(waits: bool) -> None:
    async with servers(2) as made:
        names = ["ada", "bob", "eve", "dan"]
        listeners = dict(zip(names, await join_lobby(made, *names), strict=True))
        room, cluster = made[0].room("lobby"), made[0].cluster
        made[1].room("muted").add(made.peer(1, "dan"))
        made[0].room("muted").add(made.peer(0, "ada"))
        skips: list[tuple[Any, set[str]]] = [
            (cluster.peer("bob"), {"bob"}),
            (iter([made.peer(0, "ada"), cluster.peer("dan"), cluster.peer("eve")]), {"ada", "dan", "eve"}),
            (made[0].room("muted"), {"ada", "dan"}),
            ((), set()),
        ]
        for number, (skip, _) in enumerate(skips):
            if waits:
                await room.emit("said", number, skip=skip)
            else:
                room.emit_nowait("said", number, skip=skip)
        await until(lambda: all(each.heard[-1:] == [(3,)] for each in listeners.values()))
        for name, each in listeners.items():
            assert each.heard == [(n,) for n, (_, left_out) in enumerate(skips) if name not in left_out]
        with pytest.raises(TypeError, match="skip= takes a peer"):
            await room.emit("said", 1, skip="bob")  # type: ignore[arg-type]


@pytest.mark.parametrize("by", ["peer", "address"])
async def test_nobody_waits_for_a_slow_member_that_is_skipped(by: str) -> None:
    """With its `ClusterPeer`, each `emit` waited for it, and `emit_nowait` was refused for everybody."""
    async with servers(2, limits=SMALL.replace(hard_cap_bytes=2000)) as made:
        slow, fast = await join_lobby(made, "slow", "fast")
        peer, room = made.peer(0, "slow"), made[0].room("lobby")
        slow.client.peer.transport.pause_receiving()  # type: ignore[union-attr]
        with suppress(QueueFull):
            while True:
                peer.emit_nowait("said", "x" * 100)
        skip: Any = peer if by == "peer" else made[0].cluster.peer("slow")
        async with asyncio.timeout(SLOW_READERS_TIMEOUT / 2):
            await room.emit("said", 1, skip=skip)
        room.emit_nowait("said", 2, "x" * 1000, skip=skip)
        await until(lambda: len(fast.heard) == 2)
        assert peer.connected


async def test_members() -> None:
    assert await Server().room("lobby").members() == Members(()), "also without a cluster"
    async with servers(3) as made:
        for number, name in enumerate(["ada", "bob", "eve", "dan", None]):
            at = made[number % 2]
            await made.join(number % 2, name)
            at.room("lobby").add(at.peers[-1])
        for server in made:
            await until(lambda server=server: len(nodes_of(server)) == (2 if server is made[2] else 1))  # type: ignore[misc]
            members = await server.room("lobby").members()
            assert sorted(members.addresses) == ["ada", "bob", "dan", "eve"]
            assert (members.others, members.missing_nodes) == (1, ())
        await made.engine_goes()
        members = await made[0].room("lobby").members()
        assert set(members.addresses) == {"ada", "eve"} and members.missing_nodes == (made[1].cluster.nodes[0],)
        await made.engine_comes()


async def in_a_lobby(made: Servers, at: int, slow: KeepLatest) -> tuple[Listener, Peer]:
    """A member of a lobby with a policy for slow readers, and its peer."""
    listener = Listener()
    await made.join(at, "ada", listener.client)
    made[at].room("lobby", slow=slow).add(peer := made.peer(at, "ada"))
    return listener, peer


SMALL = Limits(high_water_bytes=1000, ping_interval=None, close_timeout=2.0)


@pytest.mark.parametrize("key", [lambda at: at.month, lambda at: frozenset([at.month, "x"])])
async def test_the_policy_of_the_members_own_server_holds(key: Callable[[date], Any]) -> None:
    """A slow reader gets the latest of each kind, from all processes.

    The policy got plain values from other ones, a text instead of a date for instance, and nobody got the event.
    """
    async with servers(2, limits=SMALL) as made:
        listener, peer = await in_a_lobby(made, 1, KeepLatest(key))
        await until(lambda: nodes_of(made[0]))
        for number in range(12 * 40):
            for server in made:
                server.room("lobby").emit_nowait("said", date(2000 + number // 12, 1 + number % 12, 1))
        await until(lambda: len(listener.heard) + peer.skipped_broadcasts == 960)
        # What one process has emitted was replaced by what the other one has emitted: there are twelve keys.
        assert sorted(listener.heard[-12:]) == [(f"2039-{month:02}-01",) for month in range(1, 13)]
        assert peer.skipped_broadcasts > 0


async def test_an_event_for_which_a_policy_finds_no_key_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    """A `ClusterClient` does not know the policy, and the servers get plain values of it."""
    async with servers(1) as made:
        listener, _ = await in_a_lobby(made, 0, KeepLatest(lambda at: at.year))
        async with ClusterClient(made.engine, name="shop") as shop:
            await until(lambda: shop.nodes)
            await shop.room("lobby").emit("said", date(2026, 1, 1))
            await until(lambda: listener.heard)
        assert listener.heard[0] == ("2026-01-01",)
    assert "has no key for KeepLatest: 'str' object has no attribute 'year'" in caplog.text


async def test_members_at_another_process_that_did_not_get_an_event_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The report of the sender covers its own process only."""
    caplog.set_level(logging.INFO, "wsrpc")
    async with servers(2) as made:
        listeners = [Listener(limits=Limits(message_bytes=1000)), Listener()]
        made[1].on("open", made[1].room("lobby").add)
        for name, listener in zip(("ada", "bob"), listeners, strict=True):
            await made.join(1, name, listener.client)
        await until(lambda: nodes_of(made[0]))
        for text in ("x" * 2000, "short"):
            assert (await made[0].room("lobby").emit("said", text)).errors == ()
        await until(lambda: [len(listener.heard) for listener in listeners] == [1, 2])
    assert "room 'lobby': 1 members did not get 'said' of another process" in caplog.text
    assert "its Limits.message_bytes" in caplog.text


@pytest.mark.parametrize("to", ["room", "peer"])
async def test_an_event_that_the_engine_cannot_pass_on_is_given_up(to: str, caplog: pytest.LogCaptureFixture) -> None:
    """Who gets no messages to rooms, because it has had no members, is not warned that some are missing."""
    async with servers(2, NarrowEngine()) as made:
        if to == "room":
            here, there = await join_lobby(made, "ada", "bob")
        else:
            await made.join(1, "bob", (there := Listener()).client)
            here = there
        for text in ("before", "x" * 200_000, "after"):
            await (made[0].room("lobby") if to == "room" else made[0].cluster.peer("bob")).emit("said", text)
        await until(lambda: ("after",) in there.heard, limit=1.7)  # the pauses after four losses of the engine
        assert there.heard == [("before",), ("after",)] and len(here.heard) == (3 if to == "room" else 2)
        assert gaps_of(made) == [0, 1] and ("to rooms may be missing here" in caplog.text) is (to == "room")


@pytest.mark.parametrize("size", [1, 500_000], ids=["little", "more than waits"])
@pytest.mark.parametrize("sender", [0, 1])
async def test_events_wait_while_the_engine_is_away_or_are_counted_as_a_gap(sender: int, size: int) -> None:
    """Of two processes, one has dialed the other. Events wait on both sides, in order."""
    limits = Limits(hard_cap_bytes=64 * 1024 * 1024, ping_interval=None)  # the client gets all that has waited at once
    async with servers(2, limits=limits) as made:
        made.sort(key=lambda server: server.cluster.nodes[0])
        listeners = await join_lobby(made, "ada", "bob")
        here, there = listeners[sender].heard, listeners[1 - sender].heard
        room, other = made[sender].room("lobby"), made[1 - sender].cluster.nodes[0]
        await made.engine_goes()
        missed: list[int] = []
        for number in range(60):
            values = number, "x" * size
            report = room.emit_nowait("said", *values) if number % 2 else await room.emit("said", *values)
            assert report.sent == 1 and {*report.nodes, *report.missing_nodes} == {other}
            missed += [number] * len(report.missing_nodes)
        await made.engine_comes()
        await room.emit("said", "after")
        await until(lambda: here[-1:] == there[-1:] == [("after",)])
        assert [each[0] for each in here] == [*range(60), "after"]
        assert [each[0] for each in there] == [*(n for n in range(60) if n not in missed), "after"]
        assert bool(missed) is (size > 1) and 0 not in missed
        assert (gaps_of(made)[sender], gaps_of(made)[1 - sender]) == (0, len(missed) > 0)


async def test_rooms_that_come_and_go_while_the_engine_is_away_take_no_memory() -> None:
    """Clients may choose the names, and the engine may be away for hours. Meanwhile clients join at once."""
    async with servers(2) as made:
        client = await made.join(1, "ada")
        made[1].on_join(lambda peer, room: True)
        peer = made.peer(1, "ada")
        await made.engine_goes()
        tracemalloc.start()
        try:
            for number in range(2000):
                room = made[1].room(f"{number} {'x' * 200}")
                room.add(peer)
                room.remove(peer)
                await asyncio.sleep(0)
            assert tracemalloc.get_traced_memory()[0] < 200_000
        finally:
            tracemalloc.stop()
        for name in ("while it is down", "while it is frozen"):
            async with asyncio.timeout(0.1):
                await client.of("rooms").request("join", name)
            made.engine.thaw()
            await made.engine_comes()
            await until(lambda name=name: nodes_of(made[0], name))  # type: ignore[misc]
            made.engine.freeze()
        made.engine.thaw()


async def test_gaps_are_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Each after the last event that is missing: one process cannot reach the engine, and the other one does not know
    that for a while."""
    async with servers(2) as made:
        told = [listener.heard for listener in await join_lobby(made, "ada", "bob")]
        away, there = made
        engine = made.engine
        engine.down = True
        made.connection(away).end("cut")
        await until(lambda: not away.cluster.connected)
        report = await there.room("lobby").emit("said", "unnoticed")
        assert report.nodes == (away.cluster.nodes[0],) and not report.missing_nodes
        report = await away.room("lobby").emit("said", "missed")
        assert report.nodes == (there.cluster.nodes[0],), "it waits for the engine, which comes back too late"
        await until(lambda: gaps_of(made) == [0, 1], limit=NODE_TIMEOUT + TICK + 0.1)
        assert (await there.room("lobby").emit("said", "forgotten")).nodes == (), "it may be dead"
        assert gaps_of(made) == [0, 1], "more may be lost until they meet again"
        engine.down = False
        await until(lambda: away.cluster.connected, limit=0.6)
        await made.meet()
        await until(lambda: all(nodes_of(server) for server in made))
        for sender, receiver in ((1, 0), (0, 1)):
            await made[sender].room("lobby").emit("said", f"from {sender}")
            await until(lambda to=receiver, by=sender: (f"from {by}",) in told[to])  # type: ignore[misc]
        last = [("from 1",), ("from 0",)]
        assert told == [[("missed",), *last], [("unnoticed",), ("forgotten",), *last]]
        assert gaps_of(made) == [1, 2]
        for server in made:
            shown = membership_of(server.cluster).directory.shown(server.cluster.nodes[0])
            assert f"messages of node {shown} to rooms may be missing here" in caplog.text


@pytest.mark.parametrize("how", ["close", "open", "accept"])
def test_a_server_whose_event_loop_was_closed_forgets_its_part_in_the_cluster(how: str) -> None:
    """Its rooms and its `cluster` went on with the part that it had in the event loop that is gone."""
    server, gone, left = Server(cluster=Cluster(MemoryEngine(), name="shop")), list[Any](), list[Client]()
    server.on_handshake(lambda handshake: setattr(handshake, "address", "ada"))
    server.on("open", server.room("lobby").add)

    async def join() -> None:
        left.append(await connect(server).__aenter__())

    async def again() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: gone.append(context))
        if how != "accept":
            await (server.close() if how == "close" else server.open())
            assert await server.room("lobby").members() == Members(())
            assert (await server.room("lobby").emit("said", 1)).sent == 0
            with pytest.raises(EngineLost if how == "close" else PeerNotFound):
                await server.cluster.peer("ada").request("add")
        if how != "close":
            async with connect(server):
                await until(lambda: server.cluster.connected)
                assert await server.room("lobby").members() == Members(("ada",))
            await server.close()

    asyncio.run(join())
    asyncio.run(again())
    assert left and gone == [], "nothing is told to what is gone"


async def test_a_program_without_a_server() -> None:
    async with servers(2) as made:
        ada, bob = await join_lobby(made, "ada", "bob")
        bob.client.on("add", lambda a, b: a + b)
        async with ClusterClient(made.engine, name="shop") as shop:
            assert set(shop.nodes[1:]) == {server.cluster.nodes[0] for server in made}
            report = await shop.room("lobby").emit("said", "news", skip=shop.peer("ada"))
            assert set(report.nodes) == set(shop.nodes[1:]) and report.sent == 0
            await shop.room("lobby").of("chat").emit("said", "more")
            assert set((await shop.room("lobby").members()).addresses) == {"ada", "bob"}
            assert await shop.peer("bob").request("add", 20, 22, returns=int) == 42
            with pytest.raises(ReservedEvent):
                await shop.room("lobby").emit("open")
        await until(lambda: len(bob.heard) == 2)
        assert bob.heard == [("news",), *ada.heard] and ada.heard == [("chat", "more")]
        with pytest.raises(EngineLost, match="outside of its block"):
            await shop.room("lobby").emit("said", "late")


async def test_a_program_without_a_server_and_without_an_engine() -> None:
    engine = MemoryEngine()
    engine.down = True
    shop = ClusterClient(engine, name="shop", connect_timeout=0.05)
    with pytest.raises(EngineLost, match=r"not reached within 0\.05 s: the engine is down"):
        await shop.__aenter__()
    peer = shop.peer("x")
    for call in (peer.request("add"), peer.request("add", retry=Retry()), peer.emit("said")):
        with pytest.raises(EngineLost, match="outside of its block"):
            await call  # the call itself raises nothing
    engine.down = False
    shop._connect_timeout = 30
    await asyncio.gather(shop.connect(), shop.connect())
    await shop.connect()
    assert shop.connected and len(engine.connections) == 1
    await shop.close()
    await shop.close()
    with pytest.raises(EngineLost, match="outside of its block"):
        await peer.request("add")


def test_a_program_joins_again_in_another_event_loop() -> None:
    store, said = MemoryStore(), list[str]()
    shop = ClusterClient(MemoryEngine(), name="shop", store=store)
    lobby = shop.room("lobby", keep=60)

    async def join(number: int) -> None:
        await asyncio.gather(shop.connect(), shop.connect())
        await shop.peer("ada").submit("ring", number, key=f"call-{number}", deliver_within=60)
        await lobby.emit("said", number)
        assert (await shop.peer("ada").submitted("ring", key="call-0")).state == "waiting"
        said.append(shop.nodes[0])
        await shop.close()

    for number in range(3):
        asyncio.run(join(number))
    assert len({*said}) == 3 and len(asyncio.run(store.pending("ada", 0))) == 3


async def test_a_program_that_is_cancelled_while_it_leaves_has_left() -> None:
    async with servers(1) as made:
        shop = ClusterClient(made.engine, name="shop")
        await shop.__aenter__()
        await until(lambda: len(made[0].cluster.nodes) == 2)
        leaving = asyncio.ensure_future(shop.__aexit__())
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await until(lambda: len(made[0].cluster.nodes) == 1)


async def test_each_node_warns_once_of_a_program_without_a_server_that_ends_without_a_goodbye(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also if it has used no room."""
    async with servers(2) as made:
        shop = ClusterClient(made.engine, name="shop")
        await shop.__aenter__()
        await until(lambda: all(len(server.cluster.nodes) == 3 for server in made))
        gone, node = shop.nodes[0], membership_of(shop).node
        node._timer.cancel()
        await node.engine.close()
        await until(lambda: all(len(server.cluster.nodes) == 2 for server in made), limit=NODE_TIMEOUT + TICK + 0.1)
        names = {server.cluster.nodes[0] for server in made}
        lost = "node {} of cluster 'shop' has lost node {}, which is silent: its messages to rooms may be missing here"
        assert gaps_of(made) == [1, 1], "it is said once, with what is missing"
        shown = f"{gone} ({socket.gethostname()}:{os.getpid()})"
        assert sorted(messages(caplog)) == sorted(lost.format(name, shown) for name in names)
        await shop.__aexit__()


@pytest.mark.parametrize("raising", [(MemoryEngine, "connect"), (MemoryEngineConnection, "subscribe")])
async def test_what_an_engine_raises_against_its_contract_is_logged(
    raising: tuple[type, str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: object, asked: object) -> Any:
        raise OSError("no such host")

    monkeypatch.setattr(*raising, fail)
    server = Server(cluster=Cluster(engine := MemoryEngine()))
    await server.open()
    await until(lambda: "OSError: no such host" in caplog.text)
    monkeypatch.undo()
    await until(lambda: server.cluster.connected, limit=0.6)
    assert len(engine.connections) == 1
    await server.close()


WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: Cluster(MemoryEngine(), name="a.b"), ValueError, "letters, digits"),
    (lambda: Cluster(MemoryEngine(), name="x" * 65), ValueError, "letters, digits"),
    (lambda: Cluster("nats://localhost"), TypeError, "takes an engine"),  # type: ignore[arg-type]
    (lambda: Cluster(MemoryEngine(), rebalance=0), ValueError, "rebalance= is the number of clients .* got 0"),
    (lambda: Cluster(MemoryEngine(), rebalance=1.5), TypeError, "a whole number from 1; got 1.5"),  # type: ignore[arg-type]
    (lambda: Server(cluster=MemoryEngine()), TypeError, r"cluster= takes a wsrpc\.cluster\.Cluster"),  # type: ignore[arg-type]
    (lambda: Server().cluster, RuntimeError, r"Server\(cluster=Cluster"),
]


@pytest.mark.parametrize(("make", "error", "text"), WRONG)
def test_options_are_checked(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()
