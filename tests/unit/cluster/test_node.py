"""Nodes that find each other over an engine in memory, and connections between them."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest
from presence_nodes import Nobody
from recorder import Recorder
from waiting import pause, settled, until

from wsrpc import CloseInfo, ConnectionLost, Server
from wsrpc._server.presence.user_entries import UserEntry
from wsrpc.cluster import Cluster, ClusterClient, MemoryEngine
from wsrpc.cluster._nodes.claims import Claims
from wsrpc.cluster._nodes.directory import NODE_TIMEOUT, Delta, Snapshot
from wsrpc.cluster._nodes.engine_transport import BEATS, EngineTransport
from wsrpc.cluster._nodes.node import BEAT, TICK, Node
from wsrpc.cluster._nodes.wire import SnapshotRequest, decode, encode
from wsrpc.store import FORMAT

LARGEST = MemoryEngine().largest


class Ear(Recorder):
    """Receiver of one end of a connection."""

    def __init__(self, transport: EngineTransport) -> None:
        super().__init__()
        self.transport = transport
        transport.start(self)


class One(Nobody):
    """A node, and what it is told."""

    def __init__(self, engine: MemoryEngine) -> None:
        self.told: list[str] = []
        self.ears: list[Ear] = []
        self.node = Node(engine, "shop", self)

    def node_joined(self, node: str, /) -> None:
        self.told.append(f"{node} came")

    def node_ended(self, node: str, silent: bool, /) -> None:
        self.told.append(f"{node} left")

    def accepted(self, transport: EngineTransport, headers: Mapping[str, str], /) -> None:
        self.ears.append(Ear(transport))


class World:
    def __init__(self) -> None:
        self.engine = MemoryEngine()
        self.ones: list[One] = []

    async def join(self) -> One:
        one = One(self.engine)
        self.ones.append(one)
        await until(lambda: one.node.connected)
        await settled()
        return one

    async def connect(self) -> tuple[Ear, Ear]:
        """Connect the first node to the second one; return both ends."""
        one, other = self.ones[:2]
        ours = Ear(await one.node.connections.dial(other.node.id, {}))
        return ours, other.ears[-1]

    def connection(self, one: One) -> Any:
        """Return a node's connection to the engine."""
        (found,) = (each for each in self.engine.connections if each.has_subscribed(f"shop.{one.node.id}"))
        return found

    def kill(self, one: One) -> None:
        """Nobody says so."""
        self.engine.connections.discard(self.connection(one))
        one.node._timer.cancel()


@asynccontextmanager
async def world(count: int = 2, largest: int = LARGEST) -> AsyncGenerator[World]:
    made = World()
    made.engine.largest = largest
    for _ in range(count):
        await made.join()
    yield made
    for one in made.ones:
        await one.node.close()


@asynccontextmanager
async def connected(largest: int = LARGEST) -> AsyncGenerator[tuple[World, Ear, Ear]]:
    """Two nodes, and both ends of a connection."""
    async with world(largest=largest) as w:
        yield w, *await w.connect()


async def test_a_node_that_was_killed_right_after_a_beat_is_gone_soon_after_its_lease(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with connected() as (w, ours, _):
        a, b = w.ones
        b.node.directory.claims.claim("user/1")
        await settled()
        await asyncio.sleep(6 * BEAT)
        assert 6 * BEAT > NODE_TIMEOUT and a.told.count(f"{b.node.id} left") == 0, "it has just beaten"
        w.kill(b)
        await asyncio.sleep(NODE_TIMEOUT + TICK)
        assert a.told.count(f"{b.node.id} left") == 1 and a.node.directory.claims.locate("user/1") is None
        assert ours.lost is not None and ours.lost.code == 1006
    shown = f"{b.node.id} ({socket.gethostname()}:{os.getpid()})"
    assert f"node {a.node.id} of cluster 'shop' has lost node {shown}, which is silent" in caplog.text


async def test_the_log_names_the_process_of_a_node(caplog: pytest.LogCaptureFixture) -> None:
    """A node need not name its process, and a process cannot forge a line."""
    caplog.set_level(logging.INFO, "wsrpc")
    beat, left = {"t": "beat", "node": "z1", "seq": 0, "format": FORMAT}, {"t": "left", "node": "z1"}
    snapshot = {"t": "snapshot", "node": "z1", "seq": 1, "part": 0, "parts": 1, "format": FORMAT}
    rows = [
        ({**beat, "process": "web1:7"}, "has met node z1 (web1:7)"),
        (beat, ""),
        (left, ": node z1 (web1:7) has left"),
        ({**snapshot, "process": "web1:7"}, "has met node z1 (web1:7)"),
        (left, ": node z1 (web1:7) has left"),
        ({**beat, "process": "web1\n:7"}, ""),
        (beat, "has met node z1"),
        (left, ": node z1 has left"),
    ]
    async with world(1) as w:
        (a,) = w.ones
        for message, line in rows:
            caplog.clear()
            w.engine.deliver(f"shop.{a.node.id}", msgspec.msgpack.encode(message))
            await settled()
            assert [text.endswith(line) for text in caplog.messages] == ([True] if line else []), message
        assert a.node.ignored == {"not a message of this version": 1}


async def test_a_process_that_was_paused_reads_what_has_arrived_before_it_gives_up_others() -> None:
    async with world(3) as w:
        a, b, c = w.ones
        await asyncio.sleep(2 * BEAT)
        w.kill(c)  # meanwhile
        pause(2 * NODE_TIMEOUT)
        await asyncio.sleep(NODE_TIMEOUT - TICK)
        assert len(a.node.directory.nodes) == len(b.node.directory.nodes) == 3, "each has a new lease"
        assert not a.node.engine.losses + b.node.engine.losses, "that it has not heard itself means nothing, either"
        await asyncio.sleep(2 * TICK)
        assert a.told.count(f"{c.node.id} left") == b.told.count(f"{c.node.id} left") == 1
        assert c.node.id not in a.node.directory.nodes


async def test_nobody_is_forgotten_while_the_engine_is_away() -> None:
    async with world(3) as w:
        a, b, c = w.ones
        b.node.directory.claims.claim("user/1")
        await settled()
        w.engine.down = True
        w.engine.cut()
        await asyncio.sleep(4 * NODE_TIMEOUT)
        assert set(a.node.directory.nodes) == {a.node.id, b.node.id, c.node.id}
        assert a.node.directory.claims.locate("user/1") == b.node.id
        await c.node.close()
        w.engine.down = False
        await until(lambda: a.node.connected and b.node.connected, limit=0.6)
        await asyncio.sleep(NODE_TIMEOUT + TICK)
        assert set(a.node.directory.nodes) == {a.node.id, b.node.id}, "who does not come back is gone after a lease"


@pytest.mark.parametrize(
    ("why", "seconds", "missed"),
    [("", 9.0, 0), ("pause", 1.0, 0), ("pause", 9.0, 1), ("loss", 0.5, 0), ("loss", 9.0, 1)],
)
async def test_a_node_that_others_may_have_removed_reports_its_users_again(
    why: str, seconds: float, missed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(1) as w:
        (one,) = w.ones
        calls: list[str] = []
        monkeypatch.setattr(one.node.directory.presence, "was_missed", lambda: calls.append("missed"))
        await asyncio.sleep(2 * BEAT)
        if why == "pause":
            pause(seconds)
        elif why == "loss":
            w.engine.down = True
            w.engine.cut()
            await asyncio.sleep(seconds)
            w.engine.down = False
            await until(lambda: one.node.connected, limit=0.6)
        await asyncio.sleep(2 * BEAT)
        assert len(calls) == missed


async def test_the_first_of_the_nodes_runs_longest() -> None:
    """It adopts the users of a node that has ended. One that has just started perhaps does not know them."""
    async with world(1) as w:
        for _ in range(5):
            time.sleep(0.002)
            await w.join()
        assert [one.node.id for one in w.ones] == sorted(one.node.id for one in w.ones)


@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_a_lost_message_ends_the_connection_on_both_sides(lost: int) -> None:
    async with connected() as (w, ours, theirs):
        for number in range(3):
            if number == lost:
                w.engine.lose(1)
            with suppress(ConnectionLost):  # it has noticed
                ours.transport.send(str(number).encode())
            await settled()
        if lost == 2:
            assert theirs.lost is None and len(theirs.messages) == 2
            await asyncio.sleep(BEAT)
        await settled()
        assert theirs.lost is not None and ours.lost is not None
        assert (theirs.lost.code, ours.lost.code) == (1006, 1006) and "lost" in theirs.lost.reason
        assert [payload for payload, _ in theirs.messages] == [b"0", b"1", b"2"][:lost]


@pytest.mark.parametrize("lost", [0, 1, 4])
@pytest.mark.parametrize("code", [1006, 4000])
async def test_a_quiet_connection_ends_on_both_sides_although_the_end_was_lost(code: int, lost: int) -> None:
    async with connected() as (w, ours, theirs):
        ours.transport.send(b"1")
        await asyncio.sleep(10 * BEAT)  # nobody reports any more
        w.engine.lose(lost)
        if code == 1006:
            ours.transport.abort()
        else:
            await ours.transport.close(code)
        await settled()
        assert (theirs.lost is None) == (lost > 0)
        await asyncio.sleep(2 * BEAT)
        assert theirs.lost is not None and theirs.lost.code == code
        counted = [one.node.messages_in for one in w.ones]
        await asyncio.sleep(BEAT)
        heard = [one.node.messages_in - before for one, before in zip(w.ones, counted, strict=True)]
        assert heard == [3, 3], "two beats and a probe: the end is known, so nobody repeats it"


@pytest.mark.parametrize("trouble", ["none", "the close is lost", "the confirmation is lost", "the node is killed"])
async def test_a_connection_that_is_closed_lasts_until_that_of_its_client_has_ended(trouble: str) -> None:
    async with connected() as (w, ours, theirs):
        connections, closed = w.ones[0].node.connections, CloseInfo(4000, "enough")
        for each in (ours, theirs):
            each.transport.carry_client()
        connections.client_joined(ours.transport.conn)
        ours.transport.send(b"ignored")
        w.engine.lose(trouble == "the close is lost")
        closing = asyncio.create_task(theirs.transport.close(closed.code, closed.reason))
        await asyncio.sleep(2 * BEATS * BEAT)
        assert ours.lost is not None and (ours.lost.code, ours.lost.was_clean, theirs.lost) == (4000, True, None)
        with pytest.raises(ConnectionLost, match="enough"):
            theirs.transport.send(b"too late")
        w.engine.lose(trouble == "the confirmation is lost")
        if trouble == "the node is killed":
            w.kill(w.ones[0])
            await asyncio.sleep(NODE_TIMEOUT + TICK)
        else:
            connections.client_ended(ours.transport.conn)
            await settled()
        assert closing.done() == (trouble != "the confirmation is lost")
        await asyncio.sleep(BEAT)
        await closing
        assert (theirs.lost, theirs.messages) == (closed, [])
        counted = w.ones[1].node.messages_in
        await asyncio.sleep(BEAT)
        alone = trouble == "the node is killed"
        assert w.ones[1].node.messages_in - counted == 3 - alone, "beats and a probe: nobody repeats the end"


@pytest.mark.parametrize("lost", [False, True])
async def test_a_node_that_nobody_hears_is_told_that_its_connections_are_over(lost: bool) -> None:
    async with connected() as (w, ours, theirs):
        w.ones[1].node._timer.cancel()
        await asyncio.sleep(NODE_TIMEOUT - BEAT)
        w.engine.loss = float(lost)
        await asyncio.sleep(BEAT + TICK)
        assert ours.lost is not None and (theirs.lost is None) is lost
        w.engine.loss = 0.0
        await asyncio.sleep(2 * BEAT)
        assert theirs.lost is not None


async def test_an_end_that_nobody_confirms_is_forgotten() -> None:
    async with connected() as (w, ours, _):
        w.engine.loss = 1.0
        ours.transport.abort()
        await asyncio.sleep((BEATS + 1) * BEAT)
        assert w.ones[0].node.connections._unconfirmed == {}


async def test_messages_and_the_close_arrive_in_order() -> None:
    """Also to one that reads no more until the close has come, and then pauses at each message."""
    async with connected() as (w, ours, theirs):
        delivered, counted = w.engine.delivered, [one.node.messages_in for one in w.ones]
        sent = [(str(number).encode(), number % 2 == 0) for number in range(100)]
        for payload, text in sent:
            ours.transport.send(payload, text)
        await settled()
        assert theirs.messages == sent
        assert w.engine.delivered - delivered == 1, "what one turn sends travels together"
        assert [one.node.messages_in for one in w.ones] == [counted[0], counted[1] + 1]
        theirs.transport.send(b"back")
        theirs.transport.pause_receiving()
        theirs.on_message = lambda payload: theirs.transport.pause_receiving()
        for payload in (b"good", b"bye"):
            ours.transport.send(payload)
        await settled()
        assert theirs.messages == sent
        await ours.transport.close(4000, "enough")
        await settled()
        theirs.transport.resume_receiving()
        await settled()
        assert theirs.messages == [*sent, (b"good", True), (b"bye", True)]
        assert (theirs.log[-1], theirs.wrong) == ("connection_lost", [])
        assert theirs.lost == CloseInfo(4000, "enough", was_clean=True) == ours.lost


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [
        (LARGEST, [30_000, LARGEST - 1024, 30_000, 1, 40_000]),
        (4096, [1] * 3000 + [100] * 300 + [3072, 1, 2000, 2000]),
        (4096, [3073, 1, 6144, 10_000, 20_000, 5]),
    ],
    ids=["the default", "an engine that takes little", "larger than the engine takes"],
)
async def test_messages_travel_together_up_to_the_largest_size(largest: int, sizes: list[int]) -> None:
    async with connected(largest) as (_, ours, theirs):
        theirs.transport.largest = LARGEST
        messages = [(bytes([number % 256]) * size, number % 3 == 0) for number, size in enumerate(sizes)]
        for payload, text in messages:
            ours.transport.send(payload, text)
        await settled()
        assert theirs.messages == messages and ours.lost is None


@pytest.mark.parametrize("size", [3000, 5000])
async def test_a_message_that_is_too_large_closes_the_connection(size: int) -> None:
    """Whether it travels in one piece or in several."""
    async with connected(4096) as (_, ours, theirs):
        theirs.transport.largest = size - 1
        ours.transport.send(b"x" * size)
        await settled()
        assert ours.lost is not None and (theirs.messages, ours.lost.code) == ([], 1009)


async def test_with_a_window_senders_wait_until_the_other_side_has_passed_on_what_was_sent() -> None:
    async with connected() as (w, ours, theirs):
        ours.transport.window.size = theirs.transport.window.size = 1000
        theirs.transport.pause_receiving()
        for _ in range(10):
            ours.transport.send(b"x" * 101)
        await settled()
        assert ours.paused and theirs.messages == []
        w.engine.lose(1)  # the report, which the next beat repeats
        theirs.transport.resume_receiving()
        await settled()
        assert len(theirs.messages) == 10 and "resume_sending" not in ours.log
        await asyncio.sleep(BEAT)
        assert (ours.paused, ours.lost) == (False, None)


async def test_after_quick_losses_of_the_engine_a_node_waits_longer_each_time() -> None:
    """It came back at once, many times a second. After a long connection, it does not wait."""
    async with world(1) as w:
        loop, node, waited = asyncio.get_running_loop(), w.ones[0].node, list[float]()
        for connected in (0, 0, 0, 0, 60, 60):
            await asyncio.sleep(connected)
            began = loop.time()
            w.engine.cut()
            await settled()
            await until(lambda: node.connected, limit=1.7)
            waited.append(loop.time() - began)
        assert waited[:4] == sorted(waited[:4]) and sum(waited[:4]) >= 0.75 and max(waited[4:]) < 0.01, waited


async def test_what_a_node_publishes_fits_the_messages_of_the_engine() -> None:
    """Also if it takes much less than NATS and Redis: then no other node learned anything."""
    async with world(2, largest=20_000) as w:
        a, before = w.ones
        addresses, rooms = ([f"{number:0>200}" for number in range(500)] for _ in range(2))
        for name in addresses:
            a.node.directory.claims.claim(name)
            a.node.directory.room_filled(name)
            a.node.directory.presence.set(a.node.id, "hall", name, UserEntry(online=True, about=("x" * 200,)))
        await settled()
        for directory in (before.node.directory, (await w.join()).node.directory):
            await until(lambda directory=directory: directory.claims.locate(addresses[-1]))  # type: ignore[misc]
            assert {directory.claims.locate(address) for address in addresses} == {a.node.id}
            assert all(directory.nodes_of(room) == (a.node.id,) for room in rooms)
            assert len(directory.presence.users("hall")) == 500
        assert all(not one.node.ignored for one in w.ones)


async def test_a_message_that_fails_does_not_end_the_connection_to_the_engine(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected() as (w, ours, theirs):
        a, b = w.ones
        monkeypatch.setattr(theirs, "receive", lambda payload, text: 1 // 0)  # a mistake of ours
        for number in range(3):
            ours.transport.send(b"%d" % number)
            await settled()
        assert b.node.ignored == {"a message that failed": 3} and a.node.ignored == {}
        assert caplog.text.count("only logged once") == 1 and b.node.engine.losses == 0


async def test_what_somebody_else_has_said_for_a_node_does_not_last() -> None:
    """A snapshot with a high number hid all that the node said later."""
    async with world() as w:
        a, b = w.ones
        b.node.directory.room_filled("hall")
        await settled()
        snapshot = Snapshot(b.node.id, 2**53, 0, 1, {}, ["cellar"], format=FORMAT)
        for forged in (snapshot, Delta(b.node.id, 2, emptied=["hall"], format=FORMAT)):
            w.engine.deliver(f"shop.{a.node.id}", encode(forged))
            await settled()
            assert a.node.directory.nodes_of("hall") == ()
            await asyncio.sleep(2 * BEAT)
            assert a.node.directory.nodes_of("hall") == (b.node.id,) and a.node.directory.nodes_of("cellar") == ()


class OtherVersion:
    """A node whose version keeps other logs, or earlier ones, which do not say so. It announces itself to who asks."""

    def __init__(self, engine: MemoryEngine, **format: int) -> None:
        self.engine = engine
        self.said = {"node": "zz", "process": "web1:7", "seq": 1, **format}

    def received(self, subject: str, payload: bytes, /) -> None:
        if isinstance(message := decode(payload), SnapshotRequest):
            announced = {"t": "snapshot", "part": 0, "parts": 1, "rooms": ["hall"], **self.said}
            self.engine.deliver(f"shop.{message.node}", msgspec.msgpack.encode(announced))

    def lost(self, reason: str, /) -> None: ...


@pytest.mark.parametrize("format", [{}, {"format": FORMAT + 1}])
async def test_who_keeps_other_logs_does_not_join(format: dict[str, int], caplog: pytest.LogCaptureFixture) -> None:
    """Processes of two versions ran the same keys, and said nothing."""
    engine = MemoryEngine()
    early, late = (Server(cluster=Cluster(engine, name="shop")) for _ in range(2))
    await early.open()
    other = OtherVersion(engine, **format)
    connection = await engine.connect(other)
    await connection.subscribe("shop.all")
    text = f"node zz web1:7 of cluster 'shop' has the format {format.get('format', 0)}, and this node {FORMAT}"
    for kind in ("beat", "delta"):
        engine.deliver("shop.all", msgspec.msgpack.encode({"t": kind, **other.said}))
    assert len(early.cluster.nodes) == 1 and f"{text}: stop the others" in caplog.text
    with pytest.raises(RuntimeError, match=text):
        await early.open()  # again
    assert early.cluster.connected, "it stays in its cluster, which knows its rooms"
    await early.close()
    for start in (late.open, ClusterClient(engine, name="shop").connect):
        with pytest.raises(RuntimeError, match=text):
            await start()
    await connection.close()
    await late.open()
    assert late.cluster.connected
    await late.close()


async def test_a_claim_cannot_make_a_counter_too_large() -> None:
    async with world() as w:
        a, b = w.ones
        w.engine.deliver(f"shop.{a.node.id}", encode(Snapshot("zz", 1, 0, 1, {"ada": 2**53}, format=FORMAT)))
        await settled()
        assert a.node.directory.claims.claim("ada").counter == 2**53
        await settled()
        assert b.node.directory.claims.locate("ada") == a.node.id and b.node.ignored == {}


def test_a_claim_is_higher_than_those_that_were_released_within_a_minute() -> None:
    """Otherwise it would be lower than one that is on its way, or of whose release another node does not know yet."""
    ours = Claims("a", lambda: None)
    ours.apply("b", {"ada": 9, "bob": 1}, [], 0.0)
    ours.apply("c", {"ada": 3}, [], 0.0)
    ours.apply("b", {}, ["ada", "bob"], 10.0)
    ours.drop("c", 50.0)
    ours.tick(75.0, receives=True)
    assert [ours.claim(each).counter for each in ("ada", "bob")] == [10, 1]
    for released_at, now, counter in ((80.0, 139.0, 11), (139.0, 199.0, 1)):
        ours.release("ada", released_at)
        ours.tick(now, receives=True)
        assert ours.claim("ada").counter == counter


async def test_a_dial_that_is_cancelled_leaves_no_connection() -> None:
    async with world() as w:
        a, b = w.ones
        for count in range(8):
            dialing = asyncio.create_task(a.node.connections.dial(b.node.id, {}))
            for _ in range(count):
                await asyncio.sleep(0)
            dialing.cancel()
            await asyncio.wait([dialing])
            if not dialing.cancelled():
                dialing.result().abort()
            await settled()
        assert all(ear.lost is not None for ear in b.ears) and b.ears, "each that was accepted has ended there"


async def test_a_node_that_could_not_publish_knows_that_the_engine_is_lost() -> None:
    """It does not wait until it is told: a call that is made before would wait for another connection."""
    async with connected() as (w, ours, _):
        a, b = w.ones
        before = a.node.now
        w.engine.cut()
        assert a.node.connected
        ours.transport.send(b"1")
        ours.transport.flush()
        assert not a.node.connected
        assert a.node.engine.away_for <= a.node.now - before, "a client would lose its session at once"
        await until(lambda: a.node.connected and b.node.connected, limit=0.11)


@pytest.mark.parametrize("to_all", [False, True])
async def test_a_node_that_does_not_hear_itself_connects_again_and_gives_up_nobody(to_all: bool) -> None:
    async with world() as w:
        a, b = w.ones
        await asyncio.sleep(2 * BEAT)
        # As when a broker forgets a subscription.
        w.connection(a)._subjects.remove("shop.all" if to_all else f"shop.{a.node.id}")
        await asyncio.sleep(8.0)
        await until(lambda: a.node.engine.losses and a.node.connected)
        assert f"{b.node.id} left" not in a.told and f"{a.node.id} left" not in b.told
        assert (await b.node.connections.dial(a.node.id, {})).node == a.node.id
