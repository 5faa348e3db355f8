"""`Connections`: the connections of a node to other nodes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from ..._base.closing import CloseCode, CloseInfo
from ..._base.scheduler import Scheduler
from ...errors import PeerNotFound
from ..engine import RESPONSE_TIMEOUT
from . import wire
from .directory import Directory
from .engine_link import EngineLink
from .engine_transport import EngineTransport

AROUND = 1024
"""Maximum bytes that a message to the engine adds to a message of a connection."""
MIN_LARGEST = 1024
OPEN_ATTEMPTS = 5
"""How many times a node requests a connection, because the request or the answer may be lost."""
UNRECEIVED = 2
"""How many times in a row the engine says that no process gets the messages to a node, before the node counts as ended:
its process was killed. (A node that has lost its connection to the engine connects again at once.)"""


class ConnectionsListener(Protocol):
    """What serves the connections that other nodes open."""

    def accepted(self, transport: EngineTransport, headers: Mapping[str, str], /) -> None:
        """Serve a connection that another node has opened."""

    def node_unreachable(self) -> None:
        """No process gets the messages to a node, which may have been killed."""


class Connections:
    """The connections of a node to other nodes, by name: opens them, and gives each one its messages.

    Args:
        clock: the clock of the directory.
        ignored: counts of ignored messages, by reason.
    """

    def __init__(
        self,
        engine: EngineLink,
        directory: Directory,
        clock: Scheduler,
        ignored: Counter[str],
        listener: ConnectionsListener,
    ) -> None:
        self._me = directory.me
        self._engine = engine
        self._directory = directory
        self._clock = clock
        self._ignored = ignored
        self._listener = listener
        self._transports: dict[str, EngineTransport] = {}
        self._opening: dict[str, asyncio.Future[EngineTransport | wire.Refused]] = {}
        """Connections that this node has requested, until there is an answer."""
        self._unconfirmed: dict[str, EngineTransport] = {}
        """Connections that this node has ended, until the other node confirms that, or for `BEATS` beats, because a
        message may be lost."""
        self._joined_to_clients: set[str] = set()
        """Connections that are joined to the connections of clients, until these have ended, too. Until then, this node
        does not confirm the end, because the other node keeps a session without a connection only for some time."""
        self.dialed = 0
        """Total number of connections that this node has requested."""

    @property
    def largest(self) -> int:
        """Maximum bytes of a message on a connection to another node."""
        return max(MIN_LARGEST, self._engine.largest - AROUND)

    async def dial(self, node: str, headers: Mapping[str, str], attempts: int = OPEN_ATTEMPTS) -> EngineTransport:
        """Open a connection to another node, once the engine can be reached. Cancelling is safe.

        Args:
            attempts: how often the connection is requested, at most `OPEN_ATTEMPTS` times. Once, if the other node must
                not handle a request twice.

        Raises:
            PeerNotFound: there is no such node, or it has ended meanwhile.
            ConnectionRefusedError: the node does not accept the connection, or does not answer.
            EngineLost: the engine was lost meanwhile.
        """
        await self._engine.reachable.wait()
        self.dialed += 1
        conn = wire.connection_name(self._me, node, self.dialed)
        answer: asyncio.Future[EngineTransport | wire.Refused] = asyncio.get_running_loop().create_future()
        self._opening[conn] = answer
        unreceived = 0
        try:
            for attempt in range(OPEN_ATTEMPTS):
                if attempt < attempts:
                    self._engine.publish(node, wire.Open(conn, dict(headers)))
                await asyncio.wait((answer,), timeout=RESPONSE_TIMEOUT / OPEN_ATTEMPTS)
                if answer.done():
                    break
                unreceived = 0 if await self._engine.is_received(node, wire.Probe()) else unreceived + 1
                if unreceived:
                    self._listener.node_unreachable()
                if unreceived == UNRECEIVED:
                    self._directory.drop(node, self._clock.time(), silent=True)
        except BaseException:
            if conn in self._transports:  # it was accepted in this turn of the event loop, and nobody needs it
                self._transports[conn].abort()
            raise
        finally:
            del self._opening[conn]
        if node not in self._directory.nodes:
            raise PeerNotFound(node)
        if not answer.done():
            raise ConnectionRefusedError(f"node {node} does not answer")
        answered = answer.result()
        if isinstance(answered, wire.Refused):
            raise ConnectionRefusedError(f"node {node} refuses: {answered.reason}")
        return answered

    def client_joined(self, conn: str) -> None:
        """A connection is joined to that of a client: its end is confirmed only by `client_ended`."""
        self._joined_to_clients.add(conn)

    def client_ended(self, conn: str) -> None:
        """The connection of the client has ended. Confirm the end of the other one, if it is over. Idempotent."""
        if conn in self._joined_to_clients:
            self._joined_to_clients.remove(conn)
            if conn not in self._transports:
                self._confirm_end(conn)

    def _make(self, conn: str, node: str) -> EngineTransport:
        self._unconfirmed.pop(conn, None)  # it was requested again
        transport = self._transports[conn] = EngineTransport(conn, node, self._engine, self.largest, self._ended)
        return transport

    def _ended(self, transport: EngineTransport) -> None:
        self._transports.pop(transport.conn, None)
        if transport.ending is not None and transport.ending.message is not None:
            self._unconfirmed[transport.conn] = transport

    # ------------------------------------------------------------ what happens to all of them

    def beat(self) -> None:
        """Repeat, at a beat of the node, what other nodes may not have received."""
        for transport in tuple(self._transports.values()):
            transport.beat()
        if self._engine.reachable.is_set():  # else nobody would get the repetitions
            for conn, transport in tuple(self._unconfirmed.items()):
                if not transport.repeat_end():
                    self._unconfirmed.pop(conn, None)

    def reset(self, reason: str) -> None:
        """End all connections on both sides. The sessions on them resume on other connections."""
        for transport in tuple(self._transports.values()):
            transport.reset(reason)

    def close(self) -> None:
        """End all connections on this side, because the node leaves the cluster."""
        for transport in tuple(self._transports.values()):
            transport.end(CloseInfo(CloseCode.GOING_AWAY, "this node leaves the cluster"))

    def node_ended(self, node: str, silent: bool) -> None:
        """End the connections to a node that has ended."""
        for transport in [each for each in self._transports.values() if each.node == node]:
            if silent:  # it may still get messages
                transport.reset(f"node {node} is gone")
            else:
                transport.end(CloseInfo(CloseCode.ABNORMAL, f"node {node} is gone"))
        for conn, answer in self._opening.items():
            if wire.ends_of(conn)[1] == node and not answer.done():
                answer.set_result(wire.Refused(conn, "it is gone"))

    # ------------------------------------------------------------ messages of other nodes

    def received(self, message: wire.ConnectionMessage) -> None:
        """Handle a message of another node about a connection."""
        match message:
            case wire.Open():
                self._open(message)
            case wire.Accepted() | wire.Refused():
                self._answered(message)
            case _:
                self._for_connection(message)

    def _open(self, message: wire.Open) -> None:
        dialer, acceptor = wire.ends_of(message.conn)
        if message.conn in self._transports:  # the answer was lost, or has not arrived yet
            self._engine.try_publish(dialer, wire.Accepted(message.conn))
            return
        if acceptor != self._me or dialer not in self._directory.nodes:
            self._ignored["a connection that makes no sense"] += 1
            if acceptor == self._me:
                self._engine.try_publish(dialer, wire.Refused(message.conn, "not known"))
            return
        transport = self._make(message.conn, dialer)
        self._engine.try_publish(dialer, wire.Accepted(message.conn))
        self._listener.accepted(transport, message.headers)

    def _answered(self, message: wire.Accepted | wire.Refused) -> None:
        if message.conn in self._transports:
            return  # the connection was requested again before the first answer arrived
        answer = self._opening.get(message.conn)
        dialer, acceptor = wire.ends_of(message.conn)
        if answer is None or answer.done() or dialer != self._me:
            self._ignored["a response that came late"] += 1
            if isinstance(message, wire.Accepted):
                self._engine.try_publish(acceptor, wire.Reset(message.conn, "nobody waits for it"))
            return
        # The transport is created now, because messages may follow at once.
        answer.set_result(message if isinstance(message, wire.Refused) else self._make(message.conn, acceptor))

    def _for_connection(self, message: wire.Data | wire.Mark | wire.Close | wire.Reset) -> None:
        transport = self._transports.get(message.conn)
        if transport is None:
            if isinstance(message, wire.Close | wire.Reset):  # the other node knows it, too
                self._unconfirmed.pop(message.conn, None)
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
                self._unconfirmed.pop(message.conn, None)  # messages before it were lost
                self._confirm_end(message.conn)
            case wire.Reset():
                transport.end(CloseInfo(CloseCode.ABNORMAL, message.reason))
                self._unconfirmed.pop(message.conn, None)  # it confirms a `Close`
                self._confirm_end(message.conn)

    def _confirm_end(self, conn: str) -> None:
        """Tell the other node that a connection is over here, too."""
        if conn in self._joined_to_clients:
            return
        dialer, acceptor = wire.ends_of(conn)
        other = acceptor if dialer == self._me else dialer
        self._engine.try_publish(other, wire.Reset(conn, "there is no such connection"))
