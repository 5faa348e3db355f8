"""`Node`: one process in a cluster, with its link to the engine, its directory, and its connections to other nodes."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from ..._base.logs import logger
from ..._base.scheduler import LoopScheduler, Scheduler
from ..._log.kept import FORMAT
from ..._server.joined_cluster import Spent
from ..._server.presence.user_entries import parts_of
from ..engine import RESPONSE_TIMEOUT, Engine
from . import wire
from .connections import Connections, ConnectionsListener
from .directory import NODE_TIMEOUT, PART_BYTES, Beat, Delta, Directory, Snapshot
from .engine_link import ALL, EngineLink

BEAT = 1.5
"""Seconds between two beats."""
TICKS = 3
"""Number of checks of the leases for each beat."""
TICK = BEAT / TICKS
"""Seconds between two checks of the leases. A node that was killed is removed after at most a lease and a tick."""
SNAPSHOT_TIME = 0.1
"""Seconds in which other nodes usually answer."""
Charge = Callable[[str, Sequence[Spent]], object]
MISFIT = "a message of a node with another format"


class NodeListener(ConnectionsListener, Protocol):
    """The owner of a `Node`, which learns what happens at other nodes: a `ClusterMembership`."""

    def node_joined(self, node: str, /) -> None:
        """There is a new node."""

    def node_ended(self, node: str, silent: bool, /) -> None:
        """A node has ended; see `DirectoryListener`."""


class Node:
    """One process in the cluster ``name``.

    The node's own name is random, so a process that is started again is another node. It begins with the time, so that
    the first of the names is the node that has run longest, and knows most.

    Args:
        clock: the clock for beats and leases.
        peers: as for `Directory`.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        listener: NodeListener,
        clock: Scheduler | None = None,
        peers: Callable[[], int | None] = lambda: None,
    ) -> None:
        own = f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(5)}"
        process = f"{re.sub('[^!-~]', '_', socket.gethostname())[:80]}:{os.getpid()}"
        self.directory = Directory(own, self, process, peers)
        self._listener = listener
        self.charge: Charge = lambda node, spent: None
        """A function that is called with what users have spent of their rates at another node."""
        self.ignored: Counter[str] = Counter()
        """Counts of ignored messages, by reason."""
        self._name = name
        self._clock = clock or LoopScheduler()
        self._asked: dict[str, float] = {}
        """The time at which this node last requested a snapshot from each node."""
        self._deltas_scheduled = False
        self._met: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done once another node has announced itself, with the reason why the two cannot be in one cluster, if any."""
        self.knows_others = False
        """Whether `wait_known` has returned since the last connection to the engine."""
        self._lost_at = self._clock.time()
        """The time of the last loss of the engine."""
        self.messages_in = 0
        """Total number of messages from the engine."""
        self._ticks = 0
        self._due = self._clock.time() + TICK
        """The time of the next tick."""
        self._timer = self._clock.call_at(self._due, self._tick)
        self.engine = EngineLink(engine, name, self.id, self)
        self.connections = Connections(self.engine, self.directory, self._clock, self.ignored, listener)

    @property
    def id(self) -> str:
        """The node's own name."""
        return self.directory.me

    @property
    def now(self) -> float:
        """The present time on the clock of the directory."""
        return self._clock.time()

    @property
    def connected(self) -> bool:
        """Whether the engine can be reached."""
        return self.engine.reachable.is_set()

    async def wait_known(self) -> None:
        """Wait until the engine is reached, and the other nodes have sent snapshots, or had time to send them.

        Cancelling is safe.
        """
        await self.engine.reachable.wait()
        # The first who answers knows how many there are. Two looks, because each may know less than there are.
        before = 0
        for _ in range(int(RESPONSE_TIMEOUT / SNAPSHOT_TIME)):
            await asyncio.sleep(SNAPSHOT_TIME)
            known = len(self.directory.nodes)
            if self.directory.complete and before == known > 1:
                break
            before = known
        self.knows_others = self.connected

    async def check_fits(self) -> None:
        """Wait until another node has announced itself, or would have. Cancelling is safe.

        Raises:
            RuntimeError: it has another version, which cannot be in one cluster with this one.
        """
        await asyncio.wait((self._met,), timeout=SNAPSHOT_TIME)
        if self._met.done() and self._met.result():
            raise RuntimeError(self._met.result())

    async def close(self) -> None:
        """Leave the cluster: notify the other nodes, and end all connections. Cancelling stops the waiting."""
        self._timer.cancel()
        self.connections.close()
        self.engine.try_publish(ALL, wire.Leaving(self.id))
        await self.engine.close()

    # ------------------------------------------------------------ what the engine reports

    def engine_back(self) -> None:
        self._asked.clear()
        self.directory.part_bytes = min(PART_BYTES, self.connections.largest // 4)
        self.engine.try_publish(ALL, wire.SnapshotRequest(self.id))
        self._publish_state()
        if self._clock.time() > self._lost_at + NODE_TIMEOUT - 2 * BEAT:  # the others may have removed this node
            self.directory.presence.was_missed()

    def engine_lost(self, reason: str, /) -> None:
        self.knows_others = False
        self._lost_at = self._clock.time()
        self.connections.reset(f"the engine is lost: {reason}")

    # ------------------------------------------------------------ messages of this node

    def _tick(self) -> None:
        now = self._clock.time()
        # This process was paused, or its event loop blocked. What the others have sent meanwhile is not read yet.
        paused = now > self._due + BEAT
        if now > self._due + NODE_TIMEOUT - 2 * BEAT:
            # The last beat was sent before. The others may have removed this node, and ended its connections.
            self.connections.reset("this node was paused")
            self.directory.presence.was_missed()
        self._due = now + TICK
        self._timer = self._clock.call_at(self._due, self._tick)
        self._ticks += 1
        if self._ticks % TICKS == 0 or paused:
            self.engine.check(now, paused=paused)
            self._publish_state()
        # Without the engine, no messages arrive. The other nodes then stay in the directory.
        self.directory.tick(now, receives=not paused and self.connected and self.engine.receives(now))

    def _publish_state(self) -> None:
        self.publish_changes()
        self.engine.try_publish(ALL, self.directory.beat())
        self.engine.try_publish(self.id, wire.Probe())
        self.connections.beat()

    def changed(self) -> None:
        """Publish the changes of the directory at the end of this turn of the event loop."""
        if not self._deltas_scheduled:
            self._deltas_scheduled = True
            asyncio.get_running_loop().call_soon(self.publish_changes)

    def publish_changes(self) -> None:
        """Publish the changes of the directory. Without the engine they are dropped, because there may be many.

        The other nodes notice at the next beat that they have missed some, and request a snapshot.
        """
        self._deltas_scheduled = False
        for delta in self.directory.pop_deltas():
            self.engine.try_publish(ALL, delta)

    def notify_spent(self, spent: Sequence[Spent]) -> None:
        """Tell the other nodes what users have spent here."""
        for part in parts_of(spent, self.directory.part_bytes):
            self.engine.try_publish(ALL, wire.SpentThere(self.id, part))

    # ------------------------------------------------------------ messages of other nodes

    def received(self, subject: str, payload: bytes) -> None:
        """Handle a message from the engine, from any program. Never raises, because that would end the connection."""
        self.messages_in += 1
        try:
            message = wire.decode(payload)
        except (ValueError, RecursionError):  # msgspec raises more than `DecodeError`
            self.ignored["not a message of this version"] += 1
            return
        try:
            self._dispatch(subject, message, self._clock.time())
        except Exception:
            self.ignored["a message that failed"] += 1
            if self.ignored["a message that failed"] == 1:
                logger.exception(
                    "node %s of cluster %r: a message failed, which is only logged once", self.id, self._name
                )

    def _dispatch(self, subject: str, message: wire.NodeMessage, now: float) -> None:
        match message:
            case Beat() | Delta() | Snapshot() if message.format != FORMAT:
                self._ignore_misfit(message)
            case Beat():
                if message.node == self.id:
                    self.engine.subject_received(subject, now)
                self.directory.beat_received(message, now)
            case Delta():
                self.directory.delta_received(message, now)
            case Snapshot():
                self.directory.snapshot_received(message, now)
            case wire.SnapshotRequest():
                self._send_snapshots(message.node)
            case wire.Probe():
                self.engine.subject_received(subject, now)
            case wire.SpentThere():
                if message.node != self.id:
                    self.charge(message.node, message.spent)
            case wire.Leaving():
                self.directory.drop(message.node, now)
            case _:
                self.connections.received(message)

    def _ignore_misfit(self, message: Beat | Delta | Snapshot) -> None:
        self.ignored[MISFIT] += 1
        if self.ignored[MISFIT] == 1:
            why = f"node {message.node} {getattr(message, 'process', '')} of cluster {self._name!r} has the format "
            why += f"{message.format}, and this node {FORMAT}: stop the others before you start this one"
            logger.error("%s", why)
            self._meet(why)

    def _send_snapshots(self, asker: str) -> None:
        if asker != self.id:
            self.publish_changes()
            for part in self.directory.snapshot():
                self.engine.try_publish(asker, part)
            self.engine.try_publish(asker, self.directory.beat(asker))  # after the snapshot, which it would ask for

    # ------------------------------------------------------------ what the directory reports

    def _meet(self, why_not: str) -> None:
        if not self._met.done():
            self._met.set_result(why_not)

    def node_joined(self, node: str) -> None:
        self._meet("")
        logger.info("node %s of cluster %r has met node %s", self.id, self._name, self.directory.shown(node))
        self._listener.node_joined(node)

    def node_ended(self, node: str, silent: bool) -> None:
        shown = self.directory.shown(node)
        if silent:
            said = "node %s of cluster %r has lost node %s, which is silent: its messages to rooms may be missing here"
            logger.warning(said, self.id, self._name, shown)
        else:
            logger.info("node %s of cluster %r: node %s has left", self.id, self._name, shown)
        self._asked.pop(node, None)
        self.connections.node_ended(node, silent)
        self._listener.node_ended(node, silent)

    def needs_snapshot(self, node: str) -> None:
        now = self._clock.time()
        if node not in self._asked or self._asked[node] + BEAT / 2 < now:
            self._asked[node] = now
            self.engine.try_publish(node, wire.SnapshotRequest(self.id))
