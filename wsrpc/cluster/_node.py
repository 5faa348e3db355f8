"""`Node`: one process in a cluster, with its link to the engine, its directory, and its transports to other nodes."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from .._base.closing import CloseCode, CloseInfo
from .._base.logs import logger
from .._base.scheduler import LoopScheduler, Scheduler
from ..errors import PeerNotFound
from . import _wire as wire
from ._directory import NODE_TIMEOUT, PART_BYTES, Beat, Delta, Directory, NodesListener, Snapshot
from ._engine_link import ALL, EngineLink
from ._engine_transport import EngineTransport
from .engine import RESPONSE_TIMEOUT, Engine

BEAT = 1.5
"""Seconds between two beats."""
TICKS = 3
"""Number of checks of the leases for each beat."""
TICK = BEAT / TICKS
"""Seconds between two checks of the leases. A node that was killed is removed after at most a lease and a tick."""
AROUND = 1024
"""Maximum bytes that a message to the engine adds to a message of a connection."""
MIN_LARGEST = 1024
ANSWERED = 0.1
"""Seconds in which other nodes usually answer."""
OPENS = 5
"""How many times a node requests a connection, because the request or the answer may be lost."""
UNRECEIVED = 2
"""How many times in a row the engine says that nobody hears a node, before the node counts as ended: its process was
killed. (A node that has lost its connection to the engine connects again at once.)"""


class NodeListener(NodesListener, Protocol):
    """The owner of a `Node`, which is notified of other nodes."""

    def accepted(self, transport: EngineTransport, headers: Mapping[str, str], /) -> None:
        """Serve a connection that another node has opened."""

    def engine_lost(self, reason: str, /) -> None:
        """Handle the loss of the engine: no message reaches other nodes."""


class Node:
    """One process in the cluster ``name``.

    The node's own name is random, so a process that is started again is another node.

    Args:
        clock: the clock for beats and leases.
    """

    def __init__(self, engine: Engine, name: str, listener: NodeListener, clock: Scheduler | None = None) -> None:
        self.id = secrets.token_hex(8)
        self.directory = Directory(self.id, self)
        self.ignored: Counter[str] = Counter()
        """Counts of ignored messages, by reason."""
        self._name = name
        self._listener = listener
        self.claimed_elsewhere = listener.claimed_elsewhere
        self.claim_contested = listener.claim_contested
        self.presence_changed = listener.presence_changed
        self._clock = clock or LoopScheduler()
        self._transports: dict[str, EngineTransport] = {}
        self._opening: dict[str, asyncio.Future[EngineTransport | wire.Refused]] = {}
        """Connections that this node has requested, until there is an answer."""
        self._untold: dict[str, EngineTransport] = {}
        """Connections that this node has ended, until the other node confirms that, or for `MARKS` beats, because a
        message may be lost."""
        self.dialed = 0
        """Total number of connections that this node has requested."""
        self._asked: dict[str, float] = {}
        """The time at which this node last requested a snapshot from each node."""
        self._deltas_scheduled = False
        self.knows_others = False
        """Whether `wait_known` has returned since the last connection to the engine."""
        self.messages_in = 0
        """Total number of messages from the engine."""
        self._ticks = 0
        self._due = self._clock.time() + TICK
        """The time of the next tick."""
        self._timer = self._clock.call_at(self._due, self._tick)
        self.engine = EngineLink(engine, name, self.id, self)

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
        # The number of nodes is not known, but they answer at once. So all have answered when no further node answers.
        before = 0
        for _ in range(int(RESPONSE_TIMEOUT / ANSWERED)):
            await asyncio.sleep(ANSWERED)
            known = len(self.directory.nodes)
            if self.directory.complete and before == known > 1:
                break
            before = known
        self.knows_others = self.connected

    async def close(self) -> None:
        """Leave the cluster: notify the other nodes, and end all connections. Cancelling stops the waiting."""
        self._timer.cancel()
        for transport in tuple(self._transports.values()):
            transport.end(CloseInfo(CloseCode.GOING_AWAY, "this node leaves the cluster"))
        self.engine.try_publish(ALL, wire.Leaving(self.id))
        await self.engine.close()

    # ------------------------------------------------------------ what the engine reports

    def engine_back(self) -> None:
        self._asked.clear()
        self.directory.part_bytes = min(PART_BYTES, self.largest // 4)
        self.engine.try_publish(ALL, wire.Ask(self.id))
        self._publish_state()

    def engine_lost(self, reason: str, /) -> None:
        self.knows_others = False
        for transport in tuple(self._transports.values()):
            transport.reset(f"the engine is lost: {reason}")
        self._listener.engine_lost(reason)

    # ------------------------------------------------------------ messages of this node

    def _tick(self) -> None:
        now = self._clock.time()
        # This process was paused, or its event loop blocked. What the others have sent meanwhile is not read yet.
        paused = now > self._due + BEAT
        if now > self._due + NODE_TIMEOUT - 2 * BEAT:
            # The last beat was sent before. The others may have removed this node, and ended its connections.
            for transport in tuple(self._transports.values()):
                transport.reset("this node was paused")
        self._due = now + TICK
        self._timer = self._clock.call_at(self._due, self._tick)
        self._ticks += 1
        if self._ticks % TICKS == 0 or paused:
            self.engine.check(now, paused=paused)
            self._publish_state()
        # Without the engine, no messages arrive. The other nodes then stay in the directory.
        self.directory.tick(now, deaf=paused or not self.connected)

    def _publish_state(self) -> None:
        self.publish_changes()
        self.engine.try_publish(ALL, self.directory.beat())
        self.engine.try_publish(self.id, wire.Probe())
        for transport in tuple(self._transports.values()):
            transport.beat()
        if self.connected:  # else nobody would hear the repetitions
            for conn, transport in tuple(self._untold.items()):
                if not transport.repeat_end():
                    self._untold.pop(conn, None)

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

    # ------------------------------------------------------------ connections to other nodes

    async def dial(self, node: str, headers: Mapping[str, str], attempts: int = OPENS) -> EngineTransport:
        """Open a connection to another node, once the engine can be reached. Cancelling is safe.

        Args:
            attempts: how often the connection is requested, at most `OPENS` times. Once, if the other node must not
                handle a request twice.

        Raises:
            PeerNotFound: there is no such node, or it has ended meanwhile.
            ConnectionRefusedError: the node does not accept the connection, or does not answer.
            EngineLost: the engine was lost meanwhile.
        """
        await self.engine.reachable.wait()
        self.dialed += 1
        conn = wire.connection_name(self.id, node, self.dialed)
        answer: asyncio.Future[EngineTransport | wire.Refused] = asyncio.get_running_loop().create_future()
        self._opening[conn] = answer
        unreceived = 0
        try:
            for attempt in range(OPENS):
                if attempt < attempts:
                    self.engine.publish(node, wire.Open(conn, dict(headers)))
                await asyncio.wait((answer,), timeout=RESPONSE_TIMEOUT / OPENS)
                if answer.done():
                    break
                unreceived = 0 if await self.engine.is_received(node, wire.Probe()) else unreceived + 1
                if unreceived == UNRECEIVED:
                    self.directory.drop(node, self._clock.time(), silent=True)
        except BaseException:
            if conn in self._transports:  # it was accepted in this turn of the event loop, and nobody needs it
                self._transports[conn].abort()
            raise
        finally:
            del self._opening[conn]
        if node not in self.directory.nodes:
            raise PeerNotFound(node)
        if not answer.done():
            raise ConnectionRefusedError(f"node {node} does not answer")
        answered = answer.result()
        if isinstance(answered, wire.Refused):
            raise ConnectionRefusedError(f"node {node} refuses: {answered.reason}")
        return answered

    @property
    def largest(self) -> int:
        """Maximum bytes of a message on a connection to another node."""
        return max(MIN_LARGEST, self.engine.largest - AROUND)

    def _make(self, conn: str, node: str) -> EngineTransport:
        self._untold.pop(conn, None)  # it was requested again
        transport = self._transports[conn] = EngineTransport(conn, node, self.engine, self.largest, self._ended)
        return transport

    def _ended(self, transport: EngineTransport) -> None:
        self._transports.pop(transport.conn, None)
        if transport.last_words is not None:
            self._untold[transport.conn] = transport

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
            case wire.Data() | wire.Mark() | wire.Close() | wire.Reset():
                self._for_connection(message)
            case Beat():
                if message.node == self.id:
                    self.engine.subject_received(subject, now)
                self.directory.beat_received(message, now)
            case Delta():
                self.directory.delta_received(message, now)
            case Snapshot():
                self.directory.snapshot_received(message, now)
            case wire.Ask():
                self._send_snapshots(message.node)
            case wire.Probe():
                self.engine.subject_received(subject, now)
            case wire.Leaving():
                self.directory.drop(message.node, now)
            case wire.Open():
                self._open(message)
            case wire.Accepted() | wire.Refused():
                self._answered(message)

    def _send_snapshots(self, asker: str) -> None:
        if asker != self.id:
            self.publish_changes()
            for part in self.directory.snapshot():
                self.engine.try_publish(asker, part)

    def _open(self, message: wire.Open) -> None:
        dialer, acceptor = wire.ends_of(message.conn)
        if message.conn in self._transports:  # the answer was lost, or has not arrived yet
            self.engine.try_publish(dialer, wire.Accepted(message.conn))
            return
        if acceptor != self.id or dialer not in self.directory.nodes:
            self.ignored["a connection that makes no sense"] += 1
            if acceptor == self.id:
                self.engine.try_publish(dialer, wire.Refused(message.conn, "not known"))
            return
        transport = self._make(message.conn, dialer)
        self.engine.try_publish(dialer, wire.Accepted(message.conn))
        self._listener.accepted(transport, message.headers)

    def _answered(self, message: wire.Accepted | wire.Refused) -> None:
        if message.conn in self._transports:
            return  # the connection was requested again before the first answer arrived
        answer = self._opening.get(message.conn)
        dialer, acceptor = wire.ends_of(message.conn)
        if answer is None or answer.done() or dialer != self.id:
            self.ignored["a response that came late"] += 1
            if isinstance(message, wire.Accepted):
                self.engine.try_publish(acceptor, wire.Reset(message.conn, "nobody waits for it"))
            return
        # The transport is created now, because messages may follow at once.
        answer.set_result(message if isinstance(message, wire.Refused) else self._make(message.conn, acceptor))

    def _for_connection(self, message: wire.Data | wire.Mark | wire.Close | wire.Reset) -> None:
        transport = self._transports.get(message.conn)
        if transport is None:
            if isinstance(message, wire.Close | wire.Reset):  # the other node knows it, too
                self._untold.pop(message.conn, None)
            if not isinstance(message, wire.Reset):
                self._confirm_end(message.conn)
            return
        match message:
            case wire.Data():
                transport.received(message)
            case wire.Mark():
                transport.marked(message)
            case wire.Close():
                transport.closed(message)
                self._untold.pop(message.conn, None)  # messages before it were lost
                self._confirm_end(message.conn)
            case wire.Reset():
                transport.end(CloseInfo(CloseCode.ABNORMAL, message.reason))
                self._confirm_end(message.conn)

    def _confirm_end(self, conn: str) -> None:
        """Tell the other node that a connection is over here, too."""
        dialer, acceptor = wire.ends_of(conn)
        other = acceptor if dialer == self.id else dialer
        self.engine.try_publish(other, wire.Reset(conn, "there is no such connection"))

    # ------------------------------------------------------------ what the directory reports

    def node_joined(self, node: str, /) -> None:
        logger.info("node %s of cluster %r has met node %s", self.id, self._name, node)
        self._listener.node_joined(node)

    def node_ended(self, node: str, silent: bool, /) -> None:
        if silent:
            logger.warning("node %s of cluster %r has lost node %s, which is silent", self.id, self._name, node)
        else:
            logger.info("node %s of cluster %r: node %s has left", self.id, self._name, node)
        self._asked.pop(node, None)
        for transport in [each for each in self._transports.values() if each.node == node]:
            if silent:  # it may still hear this node
                transport.reset(f"node {node} is gone")
            else:
                transport.end(CloseInfo(CloseCode.ABNORMAL, f"node {node} is gone"))
        for conn, answer in self._opening.items():
            if wire.ends_of(conn)[1] == node and not answer.done():
                answer.set_result(wire.Refused(conn, "it is gone"))
        self._listener.node_ended(node, silent)

    def needs_snapshot(self, node: str, /) -> None:
        now = self._clock.time()
        if self._asked.get(node, 0.0) + BEAT / 2 < now:
            self._asked[node] = now
            self.engine.try_publish(node, wire.Ask(self.id))
