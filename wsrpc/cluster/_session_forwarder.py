"""`SessionForwarder`: lets clients resume their sessions through any node, which passes their messages on."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from .._base.closing import NO_REDIAL, CloseCode, CloseInfo
from .._base.scheduler import Tasks
from .._core.session.connection import Connection, ignore_end
from .._core.session.incoming_resume import IncomingResume
from .._core.session.sessions import ClosedSession, Sessions
from .._core.wire.control import Gone, Resume, read_control
from .._server.peers import refuse
from ..errors import ConnectionLost, MessageTooBig, PeerNotFound
from ..handshake import Handshake
from ..limits import Limits
from ..transport import ConnectionInfo
from ._nodes.connections import Connections
from ._nodes.engine_transport import EngineTransport
from ._nodes.node import Node

SESSION = "session"
"""Header of a connection between two nodes for one client. The value is a `ForwardedHandshake` as text."""
RESUME_TIMEOUT = 4.0
"""Seconds in which the other node has to answer. (A client waits 5 seconds.)"""
LONGEST_OUTAGE = 5.0
"""Seconds without the engine after which a client gets a new session, because its own cannot be reached. Sessions with
other nodes end after the same time."""
MOST_ASKING = 1000
"""Maximum number of clients for which a node asks other nodes at the same time."""


class ForwardedHandshake(Struct):
    """What the node with the session has to know of the connection of a client to another node."""

    asked: Resume
    info: ConnectionInfo
    limits: Limits
    principal: str | int | None
    address: str | None
    expires: float | None

    @classmethod
    def encode(cls, asked: Resume, handshake: Handshake) -> str | None:
        """Return it as text. None if the principal, or something else, has no form in MessagePack."""
        principal: Any = handshake.principal
        if type(principal) not in (str, int, type(None)):
            return None
        info = handshake.connection_info()
        sent = cls(asked, info, handshake.limits, principal, handshake.address, handshake.expires)
        try:
            # The headers are a mapping of our own. (JSON has no infinity, which some limits may be.)
            return b64encode(msgspec.msgpack.encode(sent, enc_hook=dict)).decode()
        except (OverflowError, TypeError, ValueError):  # for example bytes in the URL that are not UTF-8
            return None

    def handshake(self) -> Handshake:
        """Return the handshake, as far as sessions need it."""
        made = Handshake(self.info.target, self.info.headers, limits=self.limits)
        made.principal, made.address, made.expires = self.principal, self.address, self.expires
        return made


class ForwardedConnection:
    """Joins the connection of a client to a connection to the node that has its session, until one of them ends.

    Before the node has answered, the connection of the client belongs to ``arrival``.
    """

    def __init__(self, arrival: IncomingResume, transport: EngineTransport, connections: Connections) -> None:
        self._arrival = arrival
        self._client = arrival.connection
        self._node = Connection(transport)
        connections.client_joined(transport.conn)
        self._confirm_end = partial(connections.client_ended, transport.conn)
        loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[str | None] = loop.create_future()
        """The result is the `GoneWhy`; None if it has resumed, or was closed."""
        self._over: asyncio.Future[tuple[Connection, CloseInfo]] = loop.create_future()
        """The result is the connection that has ended, and how."""
        transport.carry_client()
        transport.largest = arrival.handshake.limits.sent_message_bytes or 2**53  # the client has its own limit
        self._node.owner = self
        self._node.start_receiving(self._receive_answer, ignore_end)

    def _receive_answer(self, payload: bytes | bytearray, text: bool, /) -> None:
        if self.answered.done():  # too late: the caller is about to drop the connection
            return
        answer = read_control(payload) if text else None
        if isinstance(answer, Gone):
            self.abort()
            self.answered.set_result(answer.why)
            return
        self._client.owner = self
        self._node.receive = partial(self._pass_on, self._client)
        self._client.receive = partial(self._pass_on, self._node)
        self._client.mark_resumable()
        self._node.receive(payload, text)
        self._arrival.hand_over()
        self.update_full()
        self.answered.set_result(None)
        if self._client.ended is not None:
            self.connection_lost(self._client, self._client.ended)

    def _pass_on(self, to: Connection, payload: bytes | bytearray, text: bool, /) -> None:
        with suppress(ConnectionLost):  # it reports its end itself
            to.send(bytes(payload), text)

    def update_full(self) -> None:
        """Read from each connection only while the other one has room."""
        for one, other in ((self._client, self._node), (self._node, self._client)):
            if one.above_high_water:
                other.transport.pause_receiving()
            else:
                other.transport.resume_receiving()

    def connection_lost(self, connection: Connection, info: CloseInfo, /) -> None:
        """One of the connections has ended."""
        if not self.answered.done():
            if info.was_clean:
                self.answered.set_result(None)  # the session was closed
            else:
                self.answered.set_exception(ConnectionRefusedError(info.reason))
        if not self._over.done():
            self._over.set_result((connection, info))

    async def wait_ended(self) -> ConnectionLost:
        """Wait until both connections have ended. Cancelling drops them. Return how they ended."""
        try:
            ended, info = await self._over
            if info.was_clean:
                await (self._node if ended is self._client else self._client).close(info.code, info.reason)
        finally:
            self.abort()
        return ConnectionLost(info.code, info.reason, "not_sent")

    def abort(self) -> None:
        """Drop both connections; the one of the client only if the session has resumed on it."""
        self._node.disown()
        self._confirm_end()
        self._node.transport.abort()
        if self._client.owner is self:
            self._client.transport.abort()


class SessionForwarder:
    """Passes on the messages of clients whose session another node has, and receives what other nodes pass on."""

    def __init__(self, node: Node, sessions: Sessions) -> None:
        self._node = node
        self._sessions = sessions
        sessions.here = node.id
        self._asking = 0
        """Number of clients for which this node asks other nodes."""
        self.forwarded = 0
        """Number of connections of clients whose messages are passed on."""
        self._tasks = Tasks()

    async def resume_elsewhere(self, asked: Resume, arrival: IncomingResume) -> str:
        """Resume a session of another node; see `JoinedCluster.resume_elsewhere`."""
        transport = arrival.connection.transport
        if self._asking >= MOST_ASKING:
            raise await refuse(transport, CloseCode.TRY_AGAIN_LATER, "too many clients resume at the same time")
        self._asking += 1
        try:
            async with asyncio.timeout(min(RESUME_TIMEOUT, LONGEST_OUTAGE - self._node.engine.away_for)):
                found = await self._ask(asked, arrival)
        except (MessageTooBig, PeerNotFound):  # the client's headers are too large for the engine; the node was killed
            return "elsewhere"
        except (OSError, ConnectionLost):
            found = None
        finally:
            self._asking -= 1
        if found is None and self._node.engine.away_for < LONGEST_OUTAGE:
            # The client asks again, until the node answers, or counts as ended.
            raise await refuse(transport, CloseCode.SERVICE_RESTART, "the session cannot be reached now")
        if found is None or isinstance(found, str):
            return found or "elsewhere"
        self.forwarded += 1
        try:
            raise await found.wait_ended()
        finally:
            self.forwarded -= 1

    async def _ask(self, asked: Resume, arrival: IncomingResume) -> ForwardedConnection | str:
        """Ask the node that has the session.

        Raises:
            OSError, ConnectionLost: the node cannot be reached now.
        """
        node = asked.sid.partition(".")[0]
        if node not in self._node.directory.nodes and not self._node.knows_others:
            await self._node.wait_known()
        request = ForwardedHandshake.encode(asked, arrival.handshake)
        if node not in self._node.directory.nodes or request is None:
            return "elsewhere"
        # Once, because a session refuses a request that it has accepted before. The client asks again by another one.
        transport = await self._node.connections.dial(node, {SESSION: request}, attempts=1)
        connection = ForwardedConnection(arrival, transport, self._node.connections)
        try:
            return await connection.answered or connection
        except BaseException:
            connection.abort()
            raise

    def accepted(self, transport: EngineTransport, request: str) -> None:
        """Resume a session of this node on the connection of a client to another node."""
        try:
            forwarded = msgspec.msgpack.decode(b64decode(request), type=ForwardedHandshake)
            handshake = forwarded.handshake()
        except (ValueError, RecursionError):
            transport.reset("not a request of this version")
            return
        transport.info = forwarded.info
        transport.carry_client()
        connection = Connection(transport)
        found = self._sessions.resume(forwarded.asked, connection, handshake)
        if isinstance(found, str):
            connection.send_control(Gone(found))  # the other node ends the connection
        elif isinstance(found, ClosedSession):
            info = found.closed_with
            self._tasks.spawn(connection.close(info.code, info.reason))
            if info.code not in NO_REDIAL:  # as in `IncomingResume`. Nobody knows whether the code arrives
                self._sessions.remove_closed(found.sid)
