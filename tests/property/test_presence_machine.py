"""Users come and go at three nodes, of which some are killed and others start, and messages are lost.

Whatever happens: once the messages that were sent again have arrived, each node knows of each user what a model says,
and the functions of `on_presence` were told each change, each in one process only.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
from effort import examples
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wsrpc._server.joined_cluster import User, UserEntry
from wsrpc._server.presence import BATCHED, Presences
from wsrpc.cluster._directory import Delta, Directory, Snapshot
from wsrpc.testing import Clock

GRACE = 10.0
NODES = 3
which = st.integers(0, NODES - 1)
some = st.integers(0, 20)
users = st.sampled_from(["ada", "bob", None])


class Members(dict[Any, Any]):
    """A group that sends nothing: `PresenceFeed` has tests of its own."""

    def __getattr__(self, name: str) -> Any:
        return Members()


class Node:
    """One node: a directory, and the presence of the lobby."""

    def __init__(self, name: str, machine: PresenceMachine) -> None:
        self.name = name
        self.machine = machine
        self.directory = Directory(name, self)
        make: Any = Presences
        self.presences = make(room=lambda name: name, spawn=None)
        self.presences.scheduler = machine.clock
        self.presences.functions.append(lambda room, present: machine.reports.append((present.user, present.state)))
        self.presences.calls = SimpleNamespace(spawn=self.run)
        self.presences.cluster_joined(self.directory)
        self.presences.add("lobby", GRACE, Members())
        self.lobby = self.presences.by_name["lobby"]

    def run(self, calls: Any) -> None:
        self.machine.clock.call_at(self.machine.clock.time(), lambda: self.finish(calls))

    def finish(self, calls: Any) -> None:
        try:
            calls.send(None)
        except StopIteration:
            return
        raise AssertionError("the functions wait for nothing")

    def presence_changed(self, node: str, room: str, user: User, entry: UserEntry | None, /) -> None:
        self.presences.changed(node, room, user, entry)

    def node_ended(self, node: str, silent: bool, /) -> None:
        self.presences.node_ended(node)

    def needs_snapshot(self, node: str, /) -> None:
        self.machine.asked.add((self.name, node))

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Connection:
    """One connection of a user, with what a `ServedPeer` has."""

    def __init__(self, number: int, node: Node, user: str | None) -> None:
        self.node = node
        self.named = user is not None
        self.user = user or f"guest {number}"
        self.connected = True
        self.id = f"id {number}" if self.named else self.user
        self.principal = user
        self.peer = self
        self.current = SimpleNamespace(session=SimpleNamespace(state=SimpleNamespace(sends=True)))


class PresenceMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.count = 0
        self.asked: set[tuple[str, str]] = set()
        self.reports: list[tuple[User, str]] = []
        self.nodes: list[Node] = []
        self.connections: list[Connection] = []
        self.entries: dict[tuple[str, str], float | None] = {}
        """The model: of nodes and users, until when a user is away, or None for a user who is online."""
        self.strangers: dict[tuple[str, str], set[str]] = {}
        """Entries of nodes that have ended, each with the nodes that have started later."""
        self.expected: list[tuple[User, str]] = []
        self.before: dict[str, str] = {}
        for _ in range(NODES):
            self.start(NODES)

    def start(self, at: int) -> None:
        self.count += 1
        node = Node(f"node {(self.count * 7) % 10}.{self.count}", self)
        self.nodes[at : at + 1] = [node]
        for names in self.strangers.values():
            names.add(node.name)
        self.exchange(set())

    # ------------------------------------------------------------ messages

    def exchange(self, lost: set[int]) -> None:
        """Let what was published arrive, but not at some nodes, which ask for snapshots."""
        for node in self.nodes:
            messages: list[Delta | Any] = [*node.directory.pop_deltas()]
            for index, other in enumerate(self.nodes):
                for message in messages if other is not node and index not in lost else ():
                    other.directory.delta_received(message, self.clock.time())
        for node in self.nodes:
            for other in self.nodes:
                other.directory.beat_received(node.directory.beat(), self.clock.time())
        while self.asked:
            asker, asked = self.asked.pop()
            found = {node.name: node for node in self.nodes}
            if asker in found and asked in found:
                parts: list[Snapshot] = [*found[asked].directory.snapshot()]
                for part in parts:
                    found[asker].directory.snapshot_received(part, self.clock.time())
        if any(node.directory._changed_present for node in self.nodes):
            self.exchange(set())  # what this has led to

    def advance(self, seconds: float) -> None:
        """Let time pass. Messages arrive at once."""
        until = self.clock.time() + seconds
        while self.clock.time() < until:
            ends = [each for each in self.entries.values() if each is not None]
            self.clock.advance(max(0.0, min([until, *ends]) - self.clock.time()))
            self.exchange(set())
            now = self.clock.time()
            self.entries = {key: end for key, end in self.entries.items() if end is None or end > now}
            self.strangers = {key: names for key, names in self.strangers.items() if key in self.entries}

    def happened(self, lost: set[int]) -> None:
        """All nodes learn of what has happened, and report it. The model does so, too."""
        self.exchange(lost)
        while any(node.lobby.recent_changes for node in self.nodes):
            self.advance(BATCHED)
        now = {user: self.state_of(user) for user in {*self.before, *(user for _, user in self.entries)}}
        self.expected += [(user, now[user]) for user in now if now[user] != self.before.get(user, "offline")]
        self.before = {user: state for user, state in now.items() if state != "offline"}

    # ------------------------------------------------------------ the model

    def state_of(self, user: str, node: str = "") -> str:
        entries = [
            until
            for key, until in self.entries.items()
            if key[1] == user and node not in self.strangers.get(key, set())
        ]
        return "offline" if not entries else "online" if None in entries else "away"

    def update(self, node: Node, connection: Connection, *, is_new: bool = False, left: bool = False) -> None:
        key = (node.name, connection.user)
        here = [each for each in self.connections if (each.node, each.user) == (node, connection.user)]
        had = key in self.entries
        was_online = had and self.entries[key] is None
        if any(each.connected for each in here):
            self.entries[key] = None
        elif (here and (had or is_new)) or (not here and had and not left and connection.named):
            if was_online or not had:
                self.entries[key] = self.clock.time() + GRACE
        elif had:
            del self.entries[key]
            if was_online:
                self.leave_everywhere(connection.user)

    def leave_everywhere(self, user: str) -> None:
        """What is away only because of connections that have ended is offline."""
        for node, name in [*self.entries]:
            has_connections = any((each.node.name, each.user) == (node, name) for each in self.connections)
            if name == user and self.entries[node, name] is not None and not has_connections:
                del self.entries[node, name]

    def model_end(self, gone: Node, guests: set[str]) -> None:
        """The users of a node that has ended are away, or gone."""
        heir = min(each.name for each in self.nodes)
        for key in [key for key in self.entries if key[0] == gone.name]:
            user = key[1]
            if user in guests:
                del self.entries[key]
                continue
            self.entries[key] = self.clock.time() + GRACE
            self.strangers[key] = set()
            if self.entries.get((heir, user), 0) is not None:
                self.entries[heir, user] = self.clock.time() + GRACE

    # ------------------------------------------------------------ what happens

    @rule(at=which, user=users, lost=st.sets(which))
    def join(self, at: int, user: str | None, lost: set[int]) -> None:
        self.count += 1
        connection = Connection(self.count, self.nodes[at], user)
        self.connections.append(connection)
        connection.node.lobby.enter(connection)
        self.update(connection.node, connection, is_new=True)
        self.happened(lost)

    @precondition(lambda self: self.connections)
    @rule(number=some, lost=st.sets(which), how=st.sampled_from(["drop or resume", "end", "leave"]))
    def change(self, number: int, lost: set[int], how: str) -> None:
        connection = self.connections[number % len(self.connections)]
        lobby = connection.node.lobby
        if not connection.connected and any(user == connection.user for _, user in self.strangers):
            # A node that has started after another was killed would not know until when the user is away.
            how = "end" if how == "leave" else how
        if how == "drop or resume":
            connection.connected = not connection.connected
            lobby.connection_changed(connection, connection.connected)
        else:
            self.connections.remove(connection)
            lobby.leave(connection, ended=how == "end")
        self.update(connection.node, connection, left=how == "leave")
        self.happened(lost)

    @rule(share=st.sampled_from([0.3, 1.1]))
    def wait(self, share: float) -> None:
        self.advance(GRACE * share)
        self.happened(set())

    @precondition(lambda self: {node for node, _ in self.entries} <= {node.name for node in self.nodes})
    @rule(at=which)
    def kill(self, at: int) -> None:
        """A node is gone, and another one takes its place. The users of the last one are not away any more."""
        gone = self.nodes.pop(at)
        gone.lobby.stop()
        lost = [each for each in self.connections if each.node is gone]
        self.connections = [each for each in self.connections if each.node is not gone]
        for node in self.nodes:
            node.directory.drop(gone.name, self.clock.time(), silent=True)
        self.model_end(gone, {each.user for each in lost if not each.named})
        self.happened(set())
        self.nodes.insert(at, gone)
        self.start(at)
        self.happened(set())

    @precondition(lambda self: {node for node, _ in self.entries} <= {node.name for node in self.nodes})
    @rule(at=which, share=st.sampled_from([0.1, 0.5, 1.1]))
    def pause(self, at: int, share: float) -> None:
        """A node is silent for a while, so that the others take it for dead, and then goes on with the same users."""
        paused = self.nodes[at]
        before = {key: until for key, until in self.entries.items() if key[0] == paused.name}
        if any(until is not None for until in before.values()):
            return  # its clock goes on, and it would report alone that they are offline
        del self.nodes[at]
        for node in self.nodes:
            node.directory.drop(paused.name, self.clock.time(), silent=True)
        guests = {each.user for each in self.connections if each.node is paused and not each.named}
        self.model_end(paused, guests)
        self.happened(set())
        self.advance(GRACE * share)
        self.happened(set())
        self.nodes.insert(at, paused)
        for key in before:
            self.strangers.pop(key, None)
        self.entries |= before
        self.happened(set())

    # ------------------------------------------------------------ what must hold

    @invariant()
    def all_nodes_know_what_the_model_says(self) -> None:
        for node in getattr(self, "nodes", []):
            known = {user: present.state for user, present in node.lobby.present().items()}
            names = {user for _, user in self.entries}
            expected = {user: self.state_of(user, node.name) for user in names}
            assert known == {user: state for user, state in expected.items() if state != "offline"}

    @invariant()
    def each_change_was_reported_once(self) -> None:
        if hasattr(self, "nodes"):
            assert sorted(map(str, self.reports)) == sorted(map(str, self.expected))

    def teardown(self) -> None:
        if not hasattr(self, "nodes"):
            return
        while self.connections:
            self.change(0, set(), "leave")
        self.wait(1.1)
        for node in self.nodes:
            lobby = node.lobby
            assert not (lobby.known or lobby._away or lobby._user_of or lobby.recent_changes)
            assert [key for key in node.directory._present if key[1] is not None] == []


class TestPresenceMachine(PresenceMachine.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=examples(200), stateful_step_count=40, deadline=None)


def joins(at: int) -> tuple[str, dict[str, Any]]:
    return "join", {"at": at, "lost": set[int](), "user": "ada"}


def changes(number: int, how: str = "drop or resume") -> tuple[str, dict[str, Any]]:
    return "change", {"number": number, "lost": set[int](), "how": how}


WAITS, KILLS = ("wait", {"share": 1.1}), [("kill", {"at": at}) for at in range(NODES)]
LEAVES = changes(0, "leave")


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(
            [joins(0), joins(1), *[changes(1)] * 4, changes(1, "leave"), KILLS[2], joins(2), LEAVES, LEAVES],
            id="the node where the user is last has started after others were left",
        ),
        pytest.param(
            [joins(1), KILLS[1], joins(2), joins(0), changes(1), WAITS, KILLS[1], KILLS[2]],
            id="a node has started after the user was away elsewhere",
        ),
        pytest.param(
            [joins(0), changes(0), WAITS, joins(1), changes(1)],
            id="one node still has a connection of a user who was offline",
        ),
    ],
)
def test_what_nodes_remember_does_not_differ(steps: list[tuple[str, dict[str, Any]]]) -> None:
    machine: Any = PresenceMachine()
    machine.begin()
    for step, options in steps:
        getattr(machine, step)(**options)
        machine.all_nodes_know_what_the_model_says()
        machine.each_change_was_reported_once()
