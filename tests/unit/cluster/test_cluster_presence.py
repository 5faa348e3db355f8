"""Presence of a room in several processes: what each knows, what members get, and who calls the functions.

`tests/unit/_server/test_room_presence.py` has the states of a user, and `tests/browser/test_chat_workers.py` kills
processes. In the stories of three nodes at the end, no time passes but that of a clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from itertools import groupby
from typing import Any

import msgspec
import pytest
from cluster_servers import Servers, servers
from msgspec import Struct
from presence_nodes import Connection, Nobody, PresenceNode
from presence_watchers import Hook, Watcher, give_principals, states
from waiting import settled, until

from wsrpc import Server
from wsrpc._server.presence import BATCHED
from wsrpc._server.user_entries import UserEntry
from wsrpc.cluster._cluster import membership_of
from wsrpc.cluster._directory import Delta, Directory, Snapshot
from wsrpc.cluster._wire import decode, encode
from wsrpc.testing._clock import Clock
from wsrpc.types import Present

SHORT = 0.5


def changes(states: list[str]) -> list[str]:
    """Return states without those that are the same as the one before."""
    return [state for state, _ in groupby(states)]


class Cluster:
    """Servers with a lobby, and the clients there."""

    def __init__(self, made: Servers, grace: float) -> None:
        self.made = made
        self.grace = grace
        self.hook = Hook()
        self.watchers: list[Watcher] = []
        for server in made:
            self.prepare(server)

    def prepare(self, server: Server) -> None:
        give_principals(server, self.grace)
        self.hook.listen(server)

    async def join(self, at: int, user: str | None = None) -> Watcher:
        watcher = Watcher(self.made[at], user)
        self.watchers.append(watcher)
        return await watcher.join()

    async def reported(self, user: str, *expected: str) -> None:
        """Wait until the functions of `on_presence` were called with these states, each at least once."""
        with suppress(TimeoutError):
            await until(lambda: changes(self.hook.states(user)) == [*expected])
        await asyncio.sleep(2 * BATCHED)
        assert changes(self.hook.states(user)) == [*expected], self.hook.states(user)

    async def all_know(self, **known: str) -> None:
        """Wait until all servers, and all clients in the lobby, know of exactly these users."""
        await until(lambda: all(states(server) == known for server in self.made if server.healthy))
        for watcher in self.watchers:
            if watcher.client.peer.connected and watcher.peer in watcher.server.room("lobby"):
                await watcher.sees(**known)


@asynccontextmanager
async def cluster(count: int, grace: float = 60.0) -> AsyncGenerator[Cluster]:
    async with servers(count) as made:
        one = Cluster(made, grace)
        try:
            yield one
        finally:
            for watcher in one.watchers:
                await watcher.client.close()


async def test_a_user_with_connections_to_several_servers_joins_and_leaves_once() -> None:
    async with cluster(3, SHORT) as one:
        watcher = await one.join(0, "watcher")
        tabs = [await one.join(at % 3, "ada") for at in range(6)]
        await one.all_know(watcher="online", ada="online")
        for tab in tabs[:5]:
            await tab.client.close()
        await until(lambda: sum(len(server.room("lobby")) for server in one.made) == 2)
        await one.all_know(watcher="online", ada="online")
        await one.reported("ada", "online")
        tabs[5].line.down = True
        tabs[5].line.cut()
        await one.all_know(watcher="online", ada="away")
        await one.all_know(watcher="online")
        assert watcher.states("ada") == ["online", "away", "offline"]
        await one.reported("ada", "online", "away", "offline")


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "closed"])
async def test_the_users_of_a_server_that_has_ended(killed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are away, and one of the others reports it. Guests are gone at once."""
    async with cluster(4, SHORT) as one:
        watchers = [await one.join(at, f"watcher/{at}") for at in range(3)]
        for at, user in ((3, "ada"), (3, "bob"), (3, None), (0, "bob")):
            await one.join(at, user)
        here = dict.fromkeys(["watcher/0", "watcher/1", "watcher/2", "bob"], "online")
        guest = one.watchers[5].peer.id
        await one.all_know(**here, **{"ada": "online", guest: "online"})
        if killed:
            dead = membership_of(one.made[3].cluster).node
            for name in ("publish", "try_publish"):
                monkeypatch.setattr(dead.engine, name, lambda *_: None)
            await settled()  # what it has published before arrives
            for server in one.made[:3]:
                membership_of(server.cluster).directory.drop(dead.id, dead.now, silent=True)
        else:
            await one.made[3].close()
        for watcher in watchers:
            await watcher.sees(**here)
            assert watcher.states("ada") == ["online", "away", "offline"]
        for user, *expected in (("ada", "online", "away", "offline"), ("bob", "online"), (guest, "online", "offline")):
            await one.reported(user, *expected)


async def test_a_server_that_joins_later_knows_the_users() -> None:
    async with cluster(1) as one:
        await one.join(0, "ada")
        late = await one.made.add()
        await until(lambda: len(late.cluster.nodes) == 2)
        one.prepare(late)  # also the room is created later
        bob = await one.join(1, "bob")
        await one.all_know(ada="online", bob="online")
        assert bob.events[0][1]
        await one.reported("ada", "online")
        await one.reported("bob", "online")


@pytest.mark.parametrize("as_snapshot", [True, False])
def test_messages_are_small_enough_for_every_engine(as_snapshot: bool) -> None:
    """Also if every user says as much as possible. NATS accepts messages of 1 MiB."""
    ours, theirs = (Directory(name, Nobody().changed, Nobody().needs_snapshot) for name in ("ours", "theirs"))
    entries = {number: UserEntry(online=True, about=("x" * 510,) * 8) for number in range(3000)}
    for room in ("lobby", "x" * 256):
        for user, entry in entries.items():
            ours.presence.set("ours", room, user, entry)
    ours.presence.set("ours", "lobby", None, UserEntry(online=False))
    messages: list[Delta | Snapshot] = [*ours.pop_deltas()]
    for message in [*ours.snapshot()] if as_snapshot else messages:
        payload = encode(message)
        assert len(payload) < 500_000
        received: Any = decode(payload)
        (theirs.snapshot_received if as_snapshot else theirs.delta_received)(received, 0.0)
    for room in ("lobby", "x" * 256):
        assert {user: theirs.presence.entries(room, user)["ours"] for user in theirs.presence.users(room)} == entries
    assert [*theirs.presence.nodes("lobby")] == ["ours"]
    ours.presence.set("ours", "lobby", "guest", entries[0])
    ours.presence.set("ours", "lobby", "guest", None)
    assert [*ours.pop_deltas()] == [], "nobody has to know of a guest who was gone at once"


def test_nodes_of_an_earlier_version_ignore_presence() -> None:
    class OldDelta(Struct, tag_field="t", tag="delta", omit_defaults=True):
        node: str
        seq: int
        rooms: list[str] = []

    payload = encode(Delta("a", 1, rooms=["lobby"], present=[("lobby", "ada", UserEntry(online=True))]))
    assert msgspec.msgpack.decode(payload, type=OldDelta) == OldDelta("a", 1, ["lobby"])
    assert decode(msgspec.msgpack.encode(OldDelta("a", 1, ["lobby"]))) == Delta("a", 1, rooms=["lobby"])


# ---------------------------------------------------------------- stories of three nodes


class Node(PresenceNode):
    def __init__(self, name: str, clock: Clock, told: list[str]) -> None:
        self.told = told
        super().__init__(name, clock)

    def reported(self, present: Present) -> None:
        self.told.append(present.state)


class Nodes:
    """Three nodes. What one of them publishes arrives at once at the others."""

    def __init__(self) -> None:
        self.clock, self.told, self.count = Clock(), list[str](), 0
        self.nodes: list[Node] = []
        self.connections: list[Any] = []
        for at in range(3):
            self.starts(at)

    def starts(self, at: int) -> None:
        self.count += 1
        new = Node(f"node {self.count}", self.clock, self.told)
        for one, other in [pair for node in self.nodes for pair in ((new, node), (node, new))]:
            for part in other.directory.snapshot():
                one.directory.snapshot_received(part, self.clock.time())
        self.nodes.insert(at, new)

    def passes(self, seconds: float) -> None:
        until = self.clock.time() + seconds
        while self.clock.time() < until:
            while any(node.directory._changed_present for node in self.nodes):
                for node in self.nodes:
                    for delta in [*node.directory.pop_deltas()]:
                        for other in self.nodes:
                            if other is not node:
                                other.directory.delta_received(delta, self.clock.time())
            self.clock.advance(BATCHED)

    def does(self, what: str, number: int) -> None:
        if what == "joins":
            self.connections.append(Connection(self.nodes[number]))
            self.connections[-1].joins()
        elif what == "kill":
            gone = self.nodes.pop(number)
            gone.lobby.stop()
            self.connections = [each for each in self.connections if each.node is not gone]
            for node in self.nodes:
                node.directory.drop(gone.directory.me, self.clock.time(), silent=True)
            self.passes(1.0)
            self.starts(number)
        elif what == "moves":  # the first connection ends, and another one joins. Messages take longer than a batch
            self.connections.pop(0).leaves(ended=True)
            self.connections.append(Connection(self.nodes[number]))
            self.connections[-1].joins()
            self.clock.advance(2 * BATCHED)
        elif what in ("leaves", "ends"):
            self.connections.pop(number).leaves(ended=what == "ends")
        elif what == "drops":
            self.connections[number].drops_or_resumes()
        self.passes(11.0 if what == "wait" else 1.0)


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        ("joins 0, drops 0, wait 0, joins 1, drops 1", "online away offline online away"),
        ("joins 0, ends 0, joins 1, leaves 0", "online away online offline"),
        ("joins 0, joins 1, kill 0, leaves 0", "online offline"),
        ("joins 1, kill 1, joins 2, joins 0, drops 1, wait 0, kill 1, kill 2", "online away online away"),
        ("joins 0, kill 0, kill 1, kill 2, wait 0", "online away offline"),
        ("joins 0, joins 1, drops 1, drops 1, leaves 1, kill 2, joins 2, leaves 0, leaves 0", "online offline"),
        ("joins 0, moves 1, leaves 0", "online away online offline"),
        ("joins 1, moves 0, leaves 0", "online away online offline"),
    ],
)
def test_what_nodes_know_of_a_user_does_not_differ_and_each_change_is_reported(story: str, expected: str) -> None:
    nodes = Nodes()
    for step in story.split(", "):
        what, _, number = step.partition(" ")
        nodes.does(what, int(number))
        known = [node.states() for node in nodes.nodes]
        assert known == known[:1] * 3, f"they differ after {step!r}"
    assert changes(nodes.told) == expected.split(), nodes.told
    assert known[0].get("ada", "offline") == nodes.told[-1]


@pytest.mark.parametrize("later", [-1.0, 0.0, BATCHED, 9.0])
def test_users_are_reported_if_the_first_node_ends_before_it_has_adopted_them(later: float) -> None:
    """Seconds from the end of the grace time until the last node notices that the first one has ended, too."""
    nodes = Nodes()
    first, there, third = nodes.nodes
    Connection(there).joins()
    nodes.passes(1.0)
    nodes.nodes.remove(there)
    nodes.nodes.remove(first)
    third.directory.drop(there.directory.me, nodes.clock.time(), silent=True)
    nodes.clock.advance(10.0 + later)
    third.directory.drop(first.directory.me, nodes.clock.time(), silent=True)
    nodes.passes(11.0)
    assert nodes.told[-1] == "offline"


def test_a_node_that_comes_back_says_itself_how_long_its_users_are_away() -> None:
    nodes = Nodes()
    here, there, _ = nodes.nodes
    connection: Any = Connection(there)
    connection.joins()
    nodes.passes(1.0)
    here.directory.drop(there.directory.me, nodes.clock.time(), silent=True)
    nodes.clock.advance(6.0)
    connection.drops_or_resumes()
    assert [*there.directory.pop_deltas()]
    for part in there.directory.snapshot():
        here.directory.snapshot_received(part, nodes.clock.time())
    nodes.clock.advance(8.0)  # for so long it would be away here
    assert here.states() == {"ada": "away"}
    nodes.passes(3.0)
    assert here.states() == {}


def test_a_node_that_comes_back_before_it_has_published_anything_has_its_users_later() -> None:
    """Its users were away, because its first change came without a snapshot, and then offline."""
    clock = Clock()
    here, there = Node("here", clock, []), Directory("there", lambda: None, lambda node: None)
    for seconds in (0.0, 6.0, 0.1):  # it is silent for a lease
        clock.advance(seconds)
        here.directory.tick(clock.time())
        here.directory.beat_received(there.beat(), clock.time())
    there.presence.set("there", "lobby", "ada", UserEntry(online=True))
    for delta in there.pop_deltas():
        here.directory.delta_received(delta, clock.time())
    for _ in range(12):
        clock.advance(1.0)
        here.directory.beat_received(there.beat(), clock.time())
        assert here.states() == {"ada": "online"}


def test_a_node_that_receives_nothing_calls_no_function_until_it_does() -> None:
    """Others have taken it for ended, and report its users. If it ends, too, theirs are the last calls."""
    nodes = Nodes()
    here, there, third = nodes.nodes
    connection: Any = Connection(there)
    connection.joins()
    nodes.passes(1.0)
    nodes.nodes.remove(there)
    for node in here, third:
        node.directory.drop(there.directory.me, nodes.clock.time(), silent=True)
    Connection(here).joins()
    connection.leaves(ended=True)
    for _ in range(30):
        there.directory.tick(nodes.clock.time(), deaf=True)
        nodes.passes(0.5)
    assert there.states() == {}
    assert changes(nodes.told)[-1] == "online"
    nodes.told.clear()
    for part in here.directory.snapshot():
        there.directory.snapshot_received(part, nodes.clock.time())
    Connection(there, "bob").joins()
    nodes.passes(1.0)
    assert nodes.told == []
    nodes.passes(1.5)
    assert nodes.told == ["online"]  # bob
