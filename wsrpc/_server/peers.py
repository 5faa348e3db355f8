"""`Peers`: the peers of a server. `ServedPeer`: one of them, with its rooms and services."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Literal

from .._base.closing import CloseCode, CloseInfo, counted
from .._base.expiry import EXPIRED, Expiry
from .._base.logs import LogBudget, PeerLog
from .._base.references import weakly
from .._base.scheduler import Scheduler
from .._core.api.peer import Peer, core_of
from .._core.handlers.lifecycle import Closers
from .._core.handlers.registry import Registry
from .._core.peer.peer_core import PeerCore
from .._core.peer.peer_session import PeerSession
from .._core.sending.session_writer import SessionWriter
from .._core.session.connection import close_transport
from .._core.session.incoming_resume import IncomingResume
from .._core.session.peer_owner import PeerOwner, Unfinished
from .._core.session.session_end import Decision, SessionEnd
from .._core.session.sessions import Sessions
from .._core.wire.settings import Settings
from .._raw.raw_serving import refusal_of
from ..errors import ConnectionLost, RpcError, one_line, ungrouped
from ..handshake import Handshake
from ..stats import ServerTotals
from ..transport import Traffic, Transport
from .joined_cluster import JoinedCluster
from .server_states import Lifetime
from .services.services import BaseService, OpenedServices

NO_TRAFFIC = Traffic()
NONE_IGNORED = Counter[str]()
LONGEST_NAME = 100
"""Characters of an event in `ServerStats.draining`."""


class ServedPeer(PeerOwner):
    """Peer of a server, with its rooms, its services and its link to the server.

    The server's other modules hold this object, with the inside of the `Peer`: its ``current``, ``core`` and
    ``writer``.

    It is the `Home` of the peer, too. ``rooms`` says of each room whether the client joined it by its own request. The
    rooms stay here when the connection has ended, so that `close` handlers can look at them.
    """

    __slots__ = (
        "_by_program",
        "_counted",
        "_expiry",
        "_open_services",
        "_peers",
        "address",
        "core",
        "expires",
        "rooms",
        "server",
        "services",
        "sessions",
    )

    def __init__(
        self,
        server: Any,
        peers: Peers,
        settings: Settings,
        registry: Registry,
        loop: Scheduler,
        handshake: Handshake | None,
    ) -> None:
        self.server = server
        self.address = None if handshake is None else handshake.address
        self.rooms: dict[Any, bool] = {}
        self.services: list[BaseService] = []
        """The objects that serve this peer, in the order in which their classes were added."""
        self._open_services: OpenedServices | None = None
        self._peers = peers
        self.sessions: Sessions = peers.sessions
        self._counted = NONE_IGNORED
        """The ignored messages of this peer that `Server.stats` has counted already."""
        self._by_program = (0, 0)
        """The numbers of its misfits and its deprecated calls that `Server.stats` has counted already."""
        peer = Peer(
            settings,
            dialer=False,
            registry=registry.empty_copy(),
            shared=registry,
            loop=loop,
            can_resume=True,
            owner=self,
            home=self,
            log=PeerLog(on_error=peers.totals.failed, budget=peers.budget, address=self.address),
            state=None if handshake is None else handshake.state,
            principal=None if handshake is None else handshake.principal,
        )
        self.expires = None if handshake is None else handshake.expires
        """The time at which the credentials of the client expire, in seconds since the epoch. None: never."""
        self._expiry: Expiry | None = None
        """Timer that closes the connection at that time."""
        self.core = core_of(peer)
        # The peer's own handlers are found before the server's, so they must not be on a channel that the server
        # handles.
        self.core.options.own.respect(registry)

    @property
    def peer(self) -> Peer:
        """The object that users hold."""
        peer: Peer = self.core.peer
        return peer

    @property
    def current(self) -> PeerSession:
        """The peer's part of the present session, or of the last session."""
        return self.core.current

    @property
    def writer(self) -> SessionWriter:
        """The writer of the present session, or of the last session."""
        return self.core.current.writer

    @property
    def thread(self) -> int:
        """The thread of the connection."""
        return self.core.current.writer.thread

    def check_open(self) -> None:
        """Check that messages can be sent, as far as this side knows.

        Raises:
            ConnectionLost: no message can be sent.
        """
        if not self.current.session.state.accepts_messages:
            raise self.writer.not_sent()

    @property
    def expired(self) -> bool:
        """Whether the credentials of the client have expired."""
        return self.expires is not None and time.time() >= self.expires

    def expire_at(self, when: float | None) -> None:
        """Close the connection at that time, in seconds since the epoch. None: never."""
        self.expires = when
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = None if when is None else Expiry(self.writer.loop, when, self._expire)

    def _expire(self) -> None:
        if self._peers.lifetime.accepts:  # otherwise the session would end, and not what has begun in it
            self.current.close_for_another(CloseCode.CREDENTIALS_EXPIRED, EXPIRED)

    def newly_ignored(self) -> Counter[str]:
        """Return the numbers of messages that were ignored since the last call, by kind."""
        before, self._counted = self._counted, self.core.host.ignored.copy()
        return self._counted - before

    def new_by_program(self) -> tuple[int, int]:
        """Return the numbers of misfits and deprecated calls since the last call."""
        host, before = self.core.host, self._by_program
        self._by_program = sum(host.misfits.values()), sum(host.deprecated.values())
        return self._by_program[0] - before[0], self._by_program[1] - before[1]

    # ------------------------------------------------------------ called by the peer

    def opening_handlers(self, event: Literal["open", "on_reconnect"]) -> list[Unfinished]:
        if event != "open" or not self.services:
            return []
        self._open_services = OpenedServices(self.current, self.services)
        return self._open_services.start()

    def greeted(self) -> None:
        self._peers.greeted(self)

    def session_over(self, end: SessionEnd) -> None:
        ours = end.info.user_closed and end.closed_with.code == end.info.code
        self._peers.session_over(self, counted(end.info.code, ours=ours))

    def set_handshake(self, handshake: Handshake) -> None:
        """Use what `on_handshake` has said of another connection, on which the session resumes."""
        self.core.log.principal = handshake.principal  # equal, but it may have other attributes, such as roles
        self.peer.state.update(handshake.state)
        self.expire_at(handshake.expires)
        if handshake.address != self.address:
            self._peers.release(self)
            self.address = self.core.log.address = handshake.address
        self._peers.claim(self)  # the latest connection has the address

    def decide(self, info: CloseInfo) -> Decision:
        return Decision(keeps=self._peers.lifetime.accepts)

    def session_detached(self, decision: Decision) -> None:
        self.expire_at(None)
        self._peers.on_connection(self, False)

    def resumed(self) -> None:
        self._peers.on_connection(self, True)

    def session_released(self) -> None:
        self._peers.count_ignored(self)
        if self.core.calls.invocations or self.core.reporter.running:
            self._peers.keep_while_busy(self)

    def release(self) -> None:
        self.core = weakly(self.core)

    def close_handler(self) -> Callable[[CloseInfo], Coroutine[Any, Any, None]] | None:
        services, self._open_services = self._open_services, None
        return None if services is None else services.end

    # ------------------------------------------------------------ shutting down

    async def wait_idle(self, closers: Closers) -> None:
        """Wait until nothing is active or pending on the connection, except for the calls of ``closers``.

        The peer is idle if no handler runs or waits to run, no request is pending, no anonymous channel is open, and
        all accepted messages are written. A remote peer with the extension for draining must also have confirmed that
        it sends nothing new. Cancelling is safe.

        While the server closes, streams with a key do not count if there are other processes, in which their callers
        can read on.
        """
        current, writer = self.current, self.writer
        while current.session.state.sends:
            if await self.core.wait_active(closers, moves=self._peers.may_move_runs):
                continue
            if writer.draining.remote_is_silent:
                return
            if writer.opening.running is not None or self.core.calls.tasks():
                writer.draining.drain(writer.loop.time())  # the remote peer waits for their answers
            await writer.draining.wait_remote_silent()

    def unfinished(self, closers: Closers) -> Iterator[str]:
        """Yield the event and kind of all that `wait_idle` waits for now, as in `ServerStats.draining`."""
        current, writer, calls = self.current, self.writer, self.core.calls
        if not current.session.state.sends:
            return
        tasks, others = calls.tasks(closers), self._peers.may_move_runs
        running = [each for each in calls.invocations if each.task in tasks and not (others and each.movable)]
        yield from (f"{one_line(each.full_event, LONGEST_NAME)}: handler" for each in running)
        pending = [each for each in writer.requests.all() if not each.future.done()]
        yield from (f"{one_line(each.event, LONGEST_NAME)}: request" for each in pending)
        of_calls = calls.channels(closers) | {each.channel for each in calls.invocations}
        yield from ("channel" for _ in {*current.channels.all()} - of_calls)
        if writer.opening.running is not None:
            yield "open: handler"
        if self.core.outbox.callers_must_wait:
            yield "messages"
        if not writer.draining.remote_is_silent:
            yield "client"


def served_peer(peer: object) -> ServedPeer | None:
    """Return the `ServedPeer` of ``peer``; None for a client's peer and for anything else."""
    owner = core_of(peer).owner if isinstance(peer, Peer) else None
    return owner if isinstance(owner, ServedPeer) else None


async def refuse(transport: Transport, code: int, reason: str) -> ConnectionLost:
    """Close a connection that is refused. Return the error to raise."""
    await close_transport(transport, code, reason)
    return ConnectionLost(code, reason, "not_sent")


async def refuse_because(served: ServedPeer, transport: Transport, what: str, exc: BaseException) -> ConnectionLost:
    """Close a connection because ``what``, a function of the user, raised ``exc``. Return the error to raise."""
    if isinstance(refusal := ungrouped(exc), RpcError):
        served.core.log(logging.INFO, "%s refused the connection: %s", what, refusal)
    else:
        served.core.log(logging.ERROR, "%s failed, for %s", what, transport.info.path, exc_info=exc)
    return await refuse(transport, *refusal_of(exc))


class Peers:
    """The peers of a server, each from `admit` to the end of its session.

    ``on_end`` is called with each peer when its session has ended. It may be called twice for one. ``on_connection`` is
    called when a session has lost its connection, with False, and when it has resumed, with True.
    """

    def __init__(
        self,
        totals: ServerTotals,
        budget: LogBudget,
        on_end: Callable[[Peer], None],
        on_connection: Callable[[ServedPeer, bool], None],
        sessions: Sessions,
        lifetime: Lifetime,
    ) -> None:
        self.totals = totals
        self.sessions = sessions
        self.lifetime = lifetime
        self.budget = budget
        self._on_end = on_end
        self.on_connection = on_connection
        self.joined_cluster: JoinedCluster | None = None
        """The cluster that the server has joined, which gets the addresses of peers; see `ClusterJoiner`."""
        self._connected: dict[str, ServedPeer] = {}
        self._leaving: set[ServedPeer] = set()
        """Peers without a connection for which something still runs."""

    @property
    def may_move_runs(self) -> bool:
        """Whether the server closes, and other processes have joined its cluster."""
        return not self.lifetime.accepts and self.joined_cluster is not None and self.joined_cluster.size > 1

    @property
    def announced(self) -> int | None:
        """How many peers other nodes see here. None: the server accepts none."""
        return len(self) if self.lifetime.accepts else None

    def __len__(self) -> int:
        return len(self._connected)

    def __iter__(self) -> Iterator[ServedPeer]:
        return iter(tuple(self._connected.values()))

    def users(self) -> tuple[Peer, ...]:
        """The peers that have a session, oldest first."""
        return tuple(served.peer for served in self._connected.values())

    def cores(self) -> list[PeerCore]:
        """The inside of these peers."""
        return [served.core for served in self._connected.values()]

    def ids(self) -> tuple[str, ...]:
        """The ids of the peers that have a session, oldest first. This costs far less than `users`."""
        return tuple(self._connected)

    def served(self, id: str) -> ServedPeer | None:
        """The peer with that id, with its rooms and services."""
        return self._connected.get(id)

    def get(self, id: str) -> Peer | None:
        """The peer with that id."""
        served = self._connected.get(id)
        return None if served is None else served.peer

    def everybody(self) -> set[ServedPeer]:
        """All peers, with those whose connection has ended but for which something may still run."""
        return {*self._connected.values(), *self._leaving}

    def admit(self, served: ServedPeer, transport: Transport, arrival: IncomingResume | None = None) -> None:
        """Bind a peer to ``transport`` and add it, after `claim`. Its `open` handlers may still run afterwards.

        Args:
            arrival: the attempt to resume a session that has received the connection's messages until now, if any.

        Raises:
            TypeError: ``transport`` is not a transport.
        """
        peer = served.peer
        self._connected[peer.id] = served
        served.expire_at(served.expires)
        try:
            if arrival is None:
                peer.bind(transport)
            else:
                served.current.start(arrival.connection)
                arrival.hand_over()
        except BaseException:
            self._remove(served)
            raise
        self.totals.connection_opened()

    def refused(self, served: ServedPeer, code: int) -> None:
        """Count a peer that was refused after its handshake, and whose connection was closed with ``code``."""
        self.totals.connection_opened()
        self._count_end(served, code)

    def session_over(self, served: ServedPeer, code: int) -> None:
        """Remove a peer whose session is over, and count it under a code."""
        if served.peer.id in self._connected:  # else it was removed before, and user code has bound it again
            self._count_end(served, code)
        self._remove(served)

    def _count_end(self, served: ServedPeer, code: int) -> None:
        host = served.core.host
        passed = host.traffic(None) or NO_TRAFFIC
        size = (passed.bytes_in or 0, passed.bytes_out or 0)
        self.totals.connection_closed(code, (passed.messages_in, passed.messages_out), size, host.skipped_broadcasts)
        self.count_ignored(served)

    def count_ignored(self, served: ServedPeer) -> None:
        """Count the messages that were ignored or did not fit since the last call, after a peer's connection has ended.

        At the end of a connection, the messages that wait are ignored. Handlers that still run may ignore more.
        """
        self.totals.ignored(served.core.log.principal, served.newly_ignored())
        self.totals.by_program.add(served.core.log.program, *served.new_by_program())

    def keep_while_busy(self, served: ServedPeer) -> None:
        """Keep a peer whose connection has ended while handlers run for it. `Server.close` waits for these handlers.

        Without this reference, the peer and a handler that waits could be collected as garbage.
        """
        task = served.core.any_task()
        if task is None:
            self._leaving.discard(served)
            self.count_ignored(served)
            served.core.release()
        else:
            self._leaving.add(served)
            task.add_done_callback(lambda _: self.keep_while_busy(served))

    def clear(self) -> None:
        """Remove all peers, even if their connections have not ended."""
        for served in self:
            self._remove(served)

    def _remove(self, served: ServedPeer) -> None:
        peer = served.peer
        self._connected.pop(peer.id, None)
        served.expire_at(None)
        self.release(served)
        self._on_end(peer)

    # ------------------------------------------------------------ the cluster

    def claim(self, served: ServedPeer, age: float = 0.0) -> bool:
        """Claim a peer's address, if it has one. Return whether it may have it.

        Args:
            age: seconds since the connection has arrived. A connection that has arrived later keeps the address.
        """
        if served.address is None or self.joined_cluster is None:
            return True
        return self.joined_cluster.claim(served.address, served.peer, age)

    def greeted(self, served: ServedPeer) -> None:
        """A peer has said what it supports."""
        if served.address is not None and self.joined_cluster is not None:
            self.joined_cluster.peer_connected(served.address)

    def release(self, served: ServedPeer) -> None:
        """Give up a peer's claim to its address. Idempotent."""
        if served.address is not None and self.joined_cluster is not None:
            self.joined_cluster.release(served.address, served.peer)
