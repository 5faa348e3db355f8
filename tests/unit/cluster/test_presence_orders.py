"""Presence of a room, whatever the order of the messages between nodes.

Nodes start, end, are paused, or cut off for long. In the end, all know the same, and of all calls of the functions of
`on_presence` for a user, the last one is true.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from presence_nodes import Connection, PresenceNode

from wsrpc.cluster._nodes.directory import NODE_TIMEOUT
from wsrpc.cluster._nodes.node import BEAT, TICK, TICKS
from wsrpc.types import Present

LOST = NODE_TIMEOUT - 2 * BEAT
"""Seconds after which the others may have removed a node that does not publish."""


class NodeClock:
    """The time of the event loop, with timers that wait while the node is paused."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.time = self.loop.time
        self.paused = self.dead = False
        self.late: list[tuple[Any, Callable[[], object]]] = []

    def call_at(self, when: float, callback: Callable[[], object]) -> Any:
        def fire() -> None:
            if self.paused:
                self.late.append((timer, callback))
            elif not self.dead:
                callback()

        timer: Any = self.loop.call_at(when, fire)
        return timer


class Node(PresenceNode):
    def __init__(self, net: Network, name: str) -> None:
        self.net, self.name = net, name
        self.asked: dict[str, float] = {}
        self.unread: list[tuple[Any, ...]] = []
        self.cut_at: float | None = None
        self.ticks, self.began, self.due = 0, net.time(), net.time()
        super().__init__(name, NodeClock())
        self.publish("ask", name)
        self.tick()

    @property
    def is_well(self) -> bool:
        return not self.clock.paused and self.cut_at is None

    def reported(self, present: Present) -> None:
        self.net.calls.append((self.clock.time(), self, present))

    def tick(self) -> None:
        """Do what `Node._tick` does."""
        now = self.clock.time()
        if now > self.due + LOST:
            self.directory.presence.was_missed()
        paused = now > self.due + BEAT
        self.due = now + TICK
        self.clock.call_at(self.due, self.tick)
        self.ticks += 1
        if self.ticks % TICKS == 0 or paused:
            self.beat()
        self.directory.tick(now, receives=not paused and self.cut_at is None)

    def beat(self) -> None:
        self.publish_changes()
        self.publish("beat", self.directory.beat())

    def changed(self) -> None:
        self.clock.call_at(self.clock.time(), self.publish_changes)

    def publish_changes(self) -> None:
        for delta in [*self.directory.pop_deltas()]:
            self.publish("delta", delta)

    def needs_snapshot(self, node: str) -> None:
        if self.asked.get(node, -BEAT) + BEAT / 2 < self.clock.time():
            self.asked[node] = self.clock.time()
            self.publish("ask", self.name, to=node)

    def publish(self, *message: Any, to: str = "") -> None:
        for other in self.net.nodes:
            if other is not self and to in ("", other.name):
                self.net.send(self, other, message)

    def receive(self, message: tuple[Any, ...]) -> None:
        what, content = message
        if self.clock.paused:
            self.unread.append(message)
        elif what == "ask":
            self.publish_changes()
            for part in self.directory.snapshot():
                self.publish("snapshot", part, to=content)
        elif what == "leaving":
            self.directory.drop(content, self.clock.time())
        else:
            getattr(self.directory, f"{what}_received")(content, self.clock.time())

    def goes_on(self) -> None:
        """Run the timers that are due, and read what has arrived, in any order."""
        self.clock.paused = False
        late, self.clock.late = self.clock.late, []
        unread, self.unread = self.unread, []
        for part in self.net.random.sample(["timers", "messages"], 2):
            for timer, callback in late if part == "timers" else ():
                if not timer.cancelled():
                    callback()
            for message in unread if part == "messages" else ():
                self.receive(message)

    def is_back(self) -> None:
        """Do what `Node.engine_back` does."""
        since, self.cut_at = self.cut_at, None
        self.asked.clear()
        self.publish("ask", self.name)
        self.beat()
        if since is not None and since + LOST < self.clock.time():
            self.directory.presence.was_missed()


class Network:
    """Messages between two nodes arrive in order, after a while. Those of nodes that are cut off are lost."""

    def __init__(self, seed: int) -> None:
        self.random, self.loop = Random(seed), asyncio.get_running_loop()
        self.time = self.loop.time
        self.slow = self.random.choice([0.001, 0.02, 0.1, 0.5])
        self.nodes: list[Node] = []
        self.connections: list[Any] = []
        self.calls: list[tuple[float, Node, Present]] = []
        self.last: dict[tuple[str, str], float] = {}
        self.started = 0
        for _ in range(self.random.randint(2, 4)):
            self.starts()

    def send(self, one: Node, other: Node, message: tuple[Any, ...]) -> None:
        def arrives() -> None:
            if other.cut_at is None and not other.clock.dead:
                other.receive(message)

        if one.cut_at is None:
            before = self.last.get((one.name, other.name), 0.0)
            at = max(self.time() + self.random.uniform(0.0005, self.slow), before + 1e-6)
            self.last[one.name, other.name] = at
            self.loop.call_at(at, arrives)

    def starts(self) -> None:
        self.started += 1
        self.nodes.append(Node(self, f"node-{self.started:03}"))

    def joins(self, node: Node, user: str | None) -> None:
        self.connections.append(Connection(node, user))
        self.connections[-1].joins()

    def leaves(self, connection: Any, *, ended: bool) -> None:
        self.connections.remove(connection)
        connection.leaves(ended=ended)

    async def moves(self, connection: Any, node: Node) -> None:
        """A user ends one connection, and makes another one, in any order."""
        for part in self.random.sample(["leaves", "joins"], 2):
            if part == "joins":
                self.joins(node, connection.principal)
            else:
                self.leaves(connection, ended=self.random.random() < 0.7)
            await asyncio.sleep(self.random.choice([0.0, 0.01]))

    async def ends(self, node: Node, *, killed: bool) -> None:
        """End a node, if others know what it has reported until it was perhaps cut off, and has noticed that."""
        until = self.time() if node.cut_at is None else node.cut_at
        since, noticed = until - 1.0 - 2 * self.slow, until + TICK
        reported = any(who is node and since < when <= noticed for when, who, _ in self.calls)
        others = [each for each in self.nodes if each is not node]
        know = all(each.is_well for each in others) and any(each.began < since for each in others)
        if not know or node.clock.paused:
            return
        if reported and (killed or node.cut_at is not None):
            return
        if not killed:
            for connection in [each for each in self.connections if each.node is node]:
                self.leaves(connection, ended=True)
            await asyncio.sleep(0.2 + 2 * self.slow)
            node.publish_changes()
            node.publish("leaving", node.name)
        node.clock.dead = True
        node.lobby.stop()
        self.nodes.remove(node)
        self.connections = [each for each in self.connections if each.node is not node]

    async def happens(self) -> None:
        random, running = self.random, [node for node in self.nodes if not node.clock.paused]
        node = random.choice(self.nodes)
        what = random.choice(["joins"] * 6 + ["drops"] * 4 + ["leaves"] * 6 + ["moves"] * 6 + ["heals"] * 3 + NODES_DO)
        connections = [each for each in self.connections if not each.node.clock.paused]
        if what == "joins" and running:
            self.joins(random.choice(running), random.choice(["ada", "ada", "bob", None]))
        elif what == "drops" and connections:
            random.choice(connections).drops_or_resumes()
        elif what == "leaves" and connections:
            self.leaves(random.choice(connections), ended=random.random() < 0.6)
        elif what == "moves" and connections:
            await self.moves(random.choice(connections), random.choice(running))
        elif what == "is paused" and len(running) > 1:
            node.clock.paused = True
        elif what == "is cut off" and node.cut_at is None:
            node.cut_at = self.time()
        elif what == "heals":
            (node.goes_on if node.clock.paused else node.is_back)()
        elif what in ("is killed", "is closed"):
            await self.ends(node, killed=what == "is killed")
        elif what == "starts" and len(self.nodes) < 5:
            self.starts()

    async def calms_down(self) -> None:
        for node in self.nodes:
            if node.clock.paused:
                node.goes_on()
            await asyncio.sleep(self.random.choice([0.0, 7.0]))
            if node.cut_at is not None:
                node.is_back()
        await asyncio.sleep(60.0)


NODES_DO = ["is paused", "is cut off", "is killed", "is closed", "starts"]


@pytest.mark.parametrize("seed", range(150))
async def test_all_nodes_know_the_same_and_the_last_call_is_true_in_any_order(seed: int) -> None:
    net = Network(seed)
    await asyncio.sleep(3)
    for _ in range(net.random.randint(3, 40)):
        await net.happens()
        await asyncio.sleep(net.random.choice([0.0, 0.01, 0.03, 0.06, 0.2, 1.0, 1.0, 6.0, 12.0, 25.0]))
    await net.calms_down()
    online = {each.user: "online" for each in net.connections if each.connected}
    for node in net.nodes:
        assert node.states() == online, f"{node.name} knows something else"
        own = {each.user for each in net.connections if each.node is node and each.connected}
        assert node.lobby._reports._reported.keys() == own, "only users with connections here are tracked in the end"
        assert not (node.lobby._reports._leaving or node.lobby._grace or node.lobby.users.recent_changes)
    last = {present.user: present.state for _, _, present in net.calls}
    assert last == dict.fromkeys(last, "offline") | online
