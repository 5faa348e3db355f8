"""Nodes that each keep a directory, and an engine between them that loses messages and parts nodes from each other.

Whatever happens: what a node knows of another one is what that one had at some time, and once messages flow again, all
directories agree on nodes, addresses and rooms, and no address has two owners. Where two nodes claim one address, a
client that is connected keeps it unless another connected one has it. Where a node emits to a room and does not know of
a member at another node, it finds out later that this one has missed something.
"""

from __future__ import annotations

from typing import NamedTuple

import hypothesis.strategies as st
from effort import examples
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from wsrpc._server.joined_cluster import User, UserEntry
from wsrpc.cluster._directory import NODE_TIMEOUT, Beat, Delta, Directory, Snapshot

IN_TRANSIT = 2.0
"""Maximum seconds that a message needs to arrive. An engine that takes longer counts as lost."""
ADDRESSES = ["ada", "bob", "cyd"]
ROOMS = ["hall", "attic"]
Message = Beat | Delta | Snapshot

which = st.integers(0, 3)
addresses = st.sampled_from(ADDRESSES)
rooms = st.sampled_from(ROOMS)


class Sent(NamedTuple):
    """What a node has published, to one other node or to all, and when."""

    sender: str
    receiver: str | None
    message: Message
    at: float


class Node:
    """One node, as its owner sees it."""

    def __init__(self, name: str, sent: list[Sent], machine: DirectoryMachine) -> None:
        self.directory = Directory(name, self)
        self.has: dict[str, bool] = {}
        """Addresses of the clients that have a session here, each with whether it is connected."""
        self.contested: set[str] = set()
        self.rooms: set[str] = set()
        self.known: list[str] = []
        self.asks: set[str] = set()
        self.history: list[tuple[frozenset[str], frozenset[str]]] = [(frozenset(), frozenset())]
        """What it has ever published."""
        self._sent = sent
        self._machine = machine

    @property
    def name(self) -> str:
        return self.directory.me

    def node_joined(self, node: str, /) -> None:
        assert node not in self.known
        self.known.append(node)

    def node_ended(self, node: str, silent: bool, /) -> None:
        self.known.remove(node)
        self.asks.discard(node)

    def claimed_elsewhere(self, address: str, /) -> None:
        pass

    def claim_contested(self, address: str, /) -> None:
        assert address in self.has, "it is told of an address that it does not have"
        self.contested.add(address)

    def presence_changed(self, node: str, room: str, user: User, entry: UserEntry | None, /) -> None:
        pass  # see `Directory.presence`

    def changed(self) -> None:
        pass  # it publishes now and then

    def needs_snapshot(self, node: str, /) -> None:
        self.asks.add(node)

    def publish(self, *, beat: bool = False) -> None:
        deltas: list[Message] = list(self.directory.pop_deltas())
        if deltas:
            self.history.append((frozenset(self.has), frozenset(self.rooms)))
        if beat:
            deltas.append(self.directory.beat())
        self._sent.extend(Sent(self.name, None, message, self._machine.now) for message in deltas)

    def answer(self, asker: str) -> None:
        self.publish()
        self._sent.extend(Sent(self.name, asker, part, self._machine.now) for part in self.directory.snapshot())


class DirectoryMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.count = 0
        self.sent: list[Sent] = []
        self.nodes: list[Node] = []
        self.histories: dict[str, Node] = {}
        self.apart: set[frozenset[int]] = set()
        for _ in range(4):
            self.nodes.append(self.new())

    def new(self) -> Node:
        self.count += 1
        node = Node(f"node {self.count}", self.sent, self)
        self.histories[node.name] = node
        return node

    def between(self, one: str, other: str) -> frozenset[int]:
        names = [node.name for node in self.nodes]
        return frozenset(names.index(name) for name in (one, other))

    def hear(self, node: Node, message: Message) -> None:
        match message:
            case Beat():
                node.directory.beat_received(message, self.now)
            case Delta():
                node.directory.delta_received(message, self.now)
            case Snapshot():
                node.directory.snapshot_received(message, self.now)

    def deliver(self, lost: set[int] | None = None) -> None:
        sent = self.sent[:]
        self.sent.clear()
        for sender, receiver, message, at in sent:
            if at + IN_TRANSIT < self.now:
                continue  # the engine has lost it
            for index, node in enumerate(self.nodes):
                if node.name == sender or receiver not in (None, node.name) or (lost and index in lost):
                    continue
                if sender in [each.name for each in self.nodes] and self.between(sender, node.name) in self.apart:
                    continue
                self.hear(node, message)

    # ------------------------------------------------------------ what happens

    @rule(at=which, address=addresses)
    def connect(self, at: int, address: str) -> None:
        """A client connects, for the first time or again. It may have left another node, which does not know yet."""
        node = self.nodes[at]
        node.has[address] = True
        node.directory.claim(address)
        assert node.directory.locate(address) == node.name

    @rule(at=which, address=addresses)
    def drop(self, at: int, address: str) -> None:
        """A client loses its connection, and its session waits for another one."""
        if address in self.nodes[at].has:
            self.nodes[at].has[address] = False

    @rule(at=which, address=addresses)
    def disconnect(self, at: int, address: str) -> None:
        node = self.nodes[at]
        node.has.pop(address, None)
        node.directory.release(address, self.now)

    @rule(at=which)
    def settle(self, at: int) -> None:
        """A node asks those with a higher claim to one of its addresses, as `Member` does."""
        node = self.nodes[at]
        for address in sorted(node.contested):
            by = node.directory.higher_claim(address)
            if by is None:
                node.contested.discard(address)
                continue
            other = next((each for each in self.nodes if each.name == by.node), None)
            if (
                other is None
                or self.between(node.name, other.name) in self.apart
                or other.directory.claim_of(address) != by.counter
            ):
                continue
            if other.has[address]:
                self.disconnect(at, address)
            elif node.has[address]:
                self.disconnect(self.nodes.index(other), address)

    @rule(at=which, room=rooms, there=st.booleans())
    def member(self, at: int, room: str, there: bool) -> None:
        node = self.nodes[at]
        if there:
            node.rooms.add(room)
            node.directory.room_filled(room)
        else:
            node.rooms.discard(room)
            node.directory.room_emptied(room)

    @rule(at=which, beat=st.booleans())
    def publish(self, at: int, beat: bool) -> None:
        self.nodes[at].publish(beat=beat)

    @rule(at=which)
    def answer(self, at: int) -> None:
        """A node answers those who have asked it."""
        node = self.nodes[at]
        for other in self.nodes:
            if node.name in other.asks and self.between(node.name, other.name) not in self.apart:
                other.asks.discard(node.name)
                node.answer(other.name)

    @rule(lost=st.sets(which))
    def flow(self, lost: set[int]) -> None:
        """What was published arrives, but not at some nodes."""
        self.deliver(lost)

    @rule(one=which, other=which, apart=st.booleans())
    def part(self, one: int, other: int, apart: bool) -> None:
        (self.apart.add if apart else self.apart.discard)(frozenset((one, other)))

    @rule(seconds=st.sampled_from([0.5, NODE_TIMEOUT]))
    def time_passes(self, seconds: float) -> None:
        for node in self.nodes:
            node.publish()  # which it does in the same turn of the event loop
        self.now += seconds
        for node in self.nodes:
            node.directory.tick(self.now)

    @rule(at=which)
    def kill(self, at: int) -> None:
        """A process is gone, and another one takes its place."""
        self.nodes[at] = self.new()

    # ------------------------------------------------------------ what must hold

    @invariant()
    def holds(self) -> None:
        for node in getattr(self, "nodes", []):
            directory = node.directory
            assert sorted(directory.nodes) == sorted([node.name, *node.known])
            for address in ADDRESSES:
                if address in node.has:
                    assert directory.locate(address) == node.name
                elif (owner := directory.locate(address)) is not None:
                    assert owner in node.known
                    assert any(address in has for has, _ in self.histories[owner].history), "it never had it"
            for room in ROOMS:
                for other in directory.nodes_of(room):
                    assert other in node.known
                    assert any(room in there for _, there in self.histories[other].history), "it never had it"

    def meet(self) -> None:
        """Let everything arrive, until all know everything."""
        for _ in range(6):
            self.now += 1.5
            for index, node in enumerate(self.nodes):
                self.settle(index)
                node.directory.tick(self.now)
                node.publish(beat=True)
            self.deliver()
            for node in self.nodes:
                for other in self.nodes:
                    if node.name in other.asks:
                        other.asks.discard(node.name)
                        node.answer(other.name)
            self.deliver()
        self.holds()

    def teardown(self) -> None:
        if not hasattr(self, "nodes"):
            return
        self.apart.clear()
        connected = {address for node in self.nodes for address, there in node.has.items() if there}
        self.meet()
        for address in ADDRESSES:
            sessions = [node.has[address] for node in self.nodes if address in node.has]
            if address in connected:
                assert sessions == [True], f"{address}: one connection stays, and no session without one"
        for index, node in enumerate(self.nodes):
            for address in [address for address, there in node.has.items() if not there]:
                self.disconnect(index, address)  # the session has waited for too long
        self.meet()
        names = sorted(node.name for node in self.nodes)
        for node in self.nodes:
            assert sorted(node.directory.nodes) == names
            assert not node.asks
        for address in ADDRESSES:
            owners: list[str | None] = [node.name for node in self.nodes if address in node.has]
            assert len(owners) <= 1, f"{address} has two owners: {owners}"
            located = {node.directory.locate(address) for node in self.nodes}
            assert located == set(owners or [None])
        for room in ROOMS:
            there = {node.name for node in self.nodes if room in node.rooms}
            for node in self.nodes:
                assert set(node.directory.nodes_of(room)) == there - {node.name}


class TestDirectoryMachine(DirectoryMachine.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=examples(300), stateful_step_count=50, deadline=None)
