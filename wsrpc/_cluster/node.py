"""`Node`: one process's part in a cluster. It keeps the connection to the engine, the directory, and the connections to
other nodes."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

import msgspec

from .._base.closing import CloseCode, CloseInfo
from .._base.logs import logger
from .._base.scheduler import LoopScheduler, Scheduler
from ..engine import PATIENCE, Engine
from ..errors import EngineLost
from .directory import LEASE, Beat, Delta, Directory, Snapshot
from .engine_link import EngineLink
from .transport import EngineTransport
from .wire import (
    Ask,
    Close,
    Data,
    Left,
    Mark,
    NodeMessage,
    Open,
    Opened,
    Probe,
    Refused,
    Reset,
    connection_name,
    decode,
    encode,
    ends_of,
)

__all__ = ["BEAT", "Node", "NodeListener"]

BEAT = 1.5
"""Seconds between two beats."""
TICK = BEAT / 3
"""Seconds between two looks at the leases: a node that was killed is known for no longer than `LEASE` and this."""
AROUND = 1024
"""Bytes that may stand around a message of a connection, in a message to the engine."""
MIN_LARGEST = 1024
ALL = "all"
"""In place of a node's name: the subject that all nodes hear."""
ANSWERED = 0.1
"""Seconds in which other nodes answer, mostly."""
OPENS = 5
"""How often a node asks for a connection: the message, or its answer, may be lost."""


class NodeListener(Protocol):
    """What a node tells of the others."""

    def node_came(self, node: str, /) -> None:
        """There is another node."""

    def node_left(self, node: str, silent: bool, /) -> None:
        """A node is gone, and its connections have ended. ``silent``: it was not heard of for `LEASE` seconds."""

    def claim_contested(self, address: str, /) -> None:
        """Another node has a higher claim to an address of this one."""

    def accepted(self, transport: EngineTransport, headers: Mapping[str, str], /) -> None:
        """Another node has opened a connection."""

    def engine_lost(self, reason: str, /) -> None:
        """Nothing reaches other nodes."""

    def engine_back(self) -> None:
        """The engine can be reached again, or for the first time."""


class Repeating:
    """A call that is made again and again, every so many seconds."""

    def __init__(self, clock: Scheduler, seconds: float, call: Callable[[], None]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._call = call
        self._timer = clock.call_at(clock.time() + seconds, self._due)

    def _due(self) -> None:
        self._timer = self._clock.call_at(self._clock.time() + self._seconds, self._due)
        self._call()

    def cancel(self) -> None:
        """Make no more calls."""
        self._timer.cancel()


class Node:
    """One process in the cluster ``name``.

    Its own name is random, so a process that is started again is another node.

    Args:
        clock: for beats and leases.
    """

    def __init__(self, engine: Engine, name: str, listener: NodeListener, clock: Scheduler | None = None) -> None:
        self.id = secrets.token_hex(8)
        self.directory = Directory(self.id, self)
        self.ignored: Counter[str] = Counter()
        """Messages that made no sense, by what was wrong."""
        self._name = name
        self._listener = listener
        self._clock = clock or LoopScheduler()
        self._transports: dict[str, EngineTransport] = {}
        self._opening: dict[str, asyncio.Future[EngineTransport | Refused]] = {}
        """Connections that this node has asked for, until there is an answer."""
        self.dialed = 0
        """How many connections this node has asked for."""
        self._asked: dict[str, float] = {}
        """When it last asked each node for a snapshot."""
        self._deltas_scheduled = False
        self.messages_in = self.messages_out = 0
        """Messages of the engine, in all."""
        self._repeating = (Repeating(self._clock, BEAT, self._beat), Repeating(self._clock, TICK, self._tick))
        label = f"node {self.id} of cluster {name!r}"
        self._engine = EngineLink(engine, (self._subject(ALL), self._subject(self.id)), self, label)

    def _subject(self, node: str) -> str:
        return f"{self._name}.{node}"

    @property
    def now(self) -> float:
        """The time, as the directory counts it."""
        return self._clock.time()

    @property
    def connected(self) -> bool:
        """Whether the engine can be reached."""
        return self._engine.reachable.is_set()

    async def wait_known(self) -> None:
        """Wait until the engine is reached, and the other nodes have said what they have, or had time to.

        Cancelling is safe.
        """
        await self._engine.reachable.wait()
        # How many nodes will answer is not known, but they do so at once: all have, when no other one does any more.
        before = 0
        for _ in range(int(PATIENCE / ANSWERED)):
            await asyncio.sleep(ANSWERED)
            known = len(self.directory.nodes)
            if self.directory.complete and before == known > 1:
                return
            before = known

    async def close(self) -> None:
        """Leave the cluster: tell the others, and end all connections. Cancelling stops the waiting."""
        for each in self._repeating:
            each.cancel()
        for transport in tuple(self._transports.values()):
            transport.end(CloseInfo(CloseCode.GOING_AWAY, "this node leaves the cluster"))
        self._publish(self._subject(ALL), Left(self.id))
        await self._engine.close()

    # ------------------------------------------------------------ what the engine reports

    def engine_back(self) -> None:
        self._asked.clear()
        self._publish(self._subject(ALL), Ask(self.id))
        self._say_what_there_is()
        self._listener.engine_back()

    def engine_lost(self, reason: str, /) -> None:
        for transport in tuple(self._transports.values()):
            transport.end(CloseInfo(CloseCode.ABNORMAL, f"the engine is lost: {reason}"))
        self._listener.engine_lost(reason)

    # ------------------------------------------------------------ what this node says

    def _beat(self) -> None:
        now = self._clock.time()
        self._engine.check(now)
        self._say_what_there_is()

    def _tick(self) -> None:
        now = self._clock.time()
        # Without the engine nobody is heard. Those that others had are missed then, and not forgotten.
        self.directory.tick(now, deaf=not self.connected)

    def _say_what_there_is(self) -> None:
        self.publish_changes()
        self._publish(self._subject(ALL), self.directory.beat())
        self._publish(self._subject(self.id), Probe())
        for transport in tuple(self._transports.values()):
            transport.mark()

    def changed(self) -> None:
        """Publish the changes of the directory at the end of this turn of the event loop."""
        if not self._deltas_scheduled:
            self._deltas_scheduled = True
            asyncio.get_running_loop().call_soon(self.publish_changes)

    def publish_changes(self) -> None:
        """Publish the changes of the directory. While there is no engine, they wait for it."""
        self._deltas_scheduled = False
        if self.connected:
            for delta in self.directory.take_deltas():
                self._publish(self._subject(ALL), delta)

    def _publish(self, subject: str, message: NodeMessage) -> None:
        """Publish a message, unless the engine is lost: then the other nodes find out by the next beat."""
        with suppress(EngineLost):
            self._engine.publish(subject, encode(message))
            self.messages_out += 1

    # ------------------------------------------------------------ connections to other nodes: see `Carrier`

    async def dial(self, node: str, headers: Mapping[str, str]) -> EngineTransport:
        """Open a connection to another node, once the engine can be reached. Cancelling is safe.

        Raises:
            ConnectionRefusedError: it does not accept, or does not answer.
            EngineLost: the engine was lost meanwhile.
        """
        await self._engine.reachable.wait()
        self.dialed += 1
        conn = connection_name(self.id, node, self.dialed)
        answer: asyncio.Future[EngineTransport | Refused] = asyncio.get_running_loop().create_future()
        self._opening[conn] = answer
        try:
            for _ in range(OPENS):
                self.carry(node, Open(conn, dict(headers)))
                await asyncio.wait((answer,), timeout=PATIENCE / OPENS)
                if answer.done():
                    break
        except BaseException:
            if conn in self._transports:  # it was accepted in this very turn, and nobody will use it
                self._transports[conn].abort()
            raise
        finally:
            del self._opening[conn]
        if not answer.done():
            raise ConnectionRefusedError(f"node {node} does not answer")
        answered = answer.result()
        if isinstance(answered, Refused):
            raise ConnectionRefusedError(f"node {node} refuses: {answered.reason}")
        return answered

    @property
    def unsent(self) -> int:
        return self._engine.unsent

    def carry(self, node: str, message: Open | Opened | Refused | Data | Mark | Close | Reset, /) -> None:
        self._engine.publish(self._subject(node), encode(message))
        self.messages_out += 1

    @property
    def largest(self) -> int:
        """Bytes that a message of a connection to another node may have."""
        return max(MIN_LARGEST, self._engine.largest - AROUND)

    async def drain(self) -> None:
        await self._engine.drain()

    def ended(self, transport: EngineTransport, /) -> None:
        self._transports.pop(transport.conn, None)

    def _make(self, conn: str, node: str) -> EngineTransport:
        transport = self._transports[conn] = EngineTransport(conn, node, self)
        return transport

    # ------------------------------------------------------------ what other nodes say

    def received(self, subject: str, payload: bytes) -> None:
        """Take a message from the engine."""
        now = self._clock.time()
        self.messages_in += 1
        try:
            message = decode(payload)
        except msgspec.DecodeError:
            self.ignored["not a message of this version"] += 1
            return
        match message:
            case Data() | Mark() | Close() | Reset():
                self._for_connection(message)
            case Beat():
                if message.node == self.id:
                    self._engine.heard(subject, now)
                self.directory.heard_beat(message, now)
            case Delta():
                self.directory.heard_delta(message, now)
            case Snapshot():
                self.directory.heard_snapshot(message, now)
            case Ask():
                self._answer(message.node)
            case Probe():
                self._engine.heard(subject, now)
            case Left():
                self.directory.drop(message.node, now)
            case Open():
                self._open(message)
            case Opened() | Refused():
                self._opened(message)

    def _answer(self, asker: str) -> None:
        if asker != self.id:
            self.publish_changes()
            for part in self.directory.snapshot():
                self._publish(self._subject(asker), part)

    def _open(self, message: Open) -> None:
        dialer, acceptor = ends_of(message.conn)
        if message.conn in self._transports:  # the answer was lost, or is on its way
            self._publish(self._subject(dialer), Opened(message.conn))
            return
        if acceptor != self.id or dialer not in self.directory.nodes:
            self.ignored["a connection that makes no sense"] += 1
            if acceptor == self.id and dialer:
                self._publish(self._subject(dialer), Refused(message.conn, "not known"))
            return
        transport = self._make(message.conn, dialer)
        self._publish(self._subject(dialer), Opened(message.conn))
        self._listener.accepted(transport, message.headers)

    def _opened(self, message: Opened | Refused) -> None:
        if message.conn in self._transports:
            return  # it was asked for again before the first answer came
        answer = self._opening.get(message.conn)
        dialer, acceptor = ends_of(message.conn)
        if answer is None or answer.done() or dialer != self.id:
            self.ignored["an answer that came late"] += 1
            if isinstance(message, Opened):
                self._publish(self._subject(acceptor), Reset(message.conn, "nobody waits for it"))
            return
        # The transport is made now, because messages may follow at once.
        answer.set_result(message if isinstance(message, Refused) else self._make(message.conn, acceptor))

    def _for_connection(self, message: Data | Mark | Close | Reset) -> None:
        transport = self._transports.get(message.conn)
        if transport is None:
            dialer, acceptor = ends_of(message.conn)
            other = acceptor if dialer == self.id else dialer
            if other and not isinstance(message, Reset):
                self._publish(self._subject(other), Reset(message.conn, "there is no such connection"))
            return
        match message:
            case Data():
                transport.received(message)
            case Mark():
                transport.marked(message.seq)
            case Close():
                transport.closed(message)
            case Reset():
                transport.end(CloseInfo(CloseCode.ABNORMAL, message.reason))

    # ------------------------------------------------------------ what the directory reports

    def node_came(self, node: str, /) -> None:
        logger.info("node %s of cluster %r has met node %s", self.id, self._name, node)
        self._listener.node_came(node)

    def node_left(self, node: str, silent: bool, /) -> None:
        if silent:
            logger.warning("node %s of cluster %r has not heard of node %s for %g s", self.id, self._name, node, LEASE)
        else:
            logger.info("node %s of cluster %r: node %s has left", self.id, self._name, node)
        self._asked.pop(node, None)
        for transport in [each for each in self._transports.values() if each.node == node]:
            transport.end(CloseInfo(CloseCode.ABNORMAL, f"node {node} is gone"))
        self._listener.node_left(node, silent)

    def claim_contested(self, address: str, /) -> None:
        self._listener.claim_contested(address)

    def needs_snapshot(self, node: str, /) -> None:
        now = self._clock.time()
        if self._asked.get(node, 0.0) + BEAT / 2 < now:
            self._asked[node] = now
            self._publish(self._subject(node), Ask(self.id))
