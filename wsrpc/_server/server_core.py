"""`ServerCore`: the connections, ports and counters of a server, from its opening to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from threading import get_ident
from typing import NamedTuple

from .._base.closing import CloseCode
from .._base.logs import LogBudget
from .._base.scheduler import LoopScheduler, spawn_later
from .._core.api.peer import Peer
from .._core.handlers.lifecycle import Closers
from .._core.peer.peer_core import PeerCore
from .._core.sending.checks import check_thread
from .._core.session.sessions import Sessions
from .._keyed.runs import Runs
from .._net.serving.handshake_checks import REOPEN, Acceptance
from .._raw.raw_connection import RawConnection
from .._raw.raw_link import RawLink
from .._raw.raw_serving import RawConnections
from ..stats import ServerStats, ServerTotals
from ..transport import Transport
from .cluster_joiner import ClusterJoiner
from .drain import CLOSING, Drain, log_failures
from .joined_cluster import JoinedCluster
from .operating.rebalancing import Rebalancing
from .peers import Peers, refuse
from .ports import Port
from .presence.user_entries import UserEntries
from .quotas.quotas import QuotaBook
from .rooms.rooms import Rooms
from .server_states import Lifetime, ServerInput

STATS_SLICE = 200
"""Number of connections whose counters are added up without a pause, which takes about a millisecond."""


class ServerParts(NamedTuple):
    """What a server has for good, while it is opened and closed: its parts, and its options."""

    rooms: Rooms
    runs: Runs
    """The runs of keyed calls."""
    quotas: QuotaBook | None
    join: Callable[[Peers], JoinedCluster] | None
    """Joins the server's cluster."""
    on_drain: list[Callable[[], object]]
    """The functions to call when a drain starts."""
    budget: LogBudget
    patience: float
    """Seconds that handlers have to finish when the server is closed."""
    detached_timeout: float
    detached_bytes: int
    max_age: float | None
    """That of connections, in seconds."""


class ServerCore:
    """Inside of a server: its connections, ports and counters. A server gets a new core to open again, and to accept a
    connection after its event loop was closed."""

    def __init__(self, parts: ServerParts) -> None:
        self._parts = parts
        self._rooms, self._runs, self._quotas = rooms, runs, quotas = parts.rooms, parts.runs, parts.quotas
        self.totals = ServerTotals(time.monotonic())
        self.acceptance = Acceptance(self.totals.refused_by_principal)
        self.scheduler = LoopScheduler()
        rooms.presences.open(self.scheduler)
        self.lifetime = Lifetime(self.scheduler)
        self.sessions = Sessions(parts.detached_timeout, parts.detached_bytes)
        on_end = rooms.disconnected if quotas is None else self._connection_over
        changed = rooms.presences.connection_changed
        self.peers = Peers(self.totals, parts.budget, on_end, changed, self.sessions, self.lifetime)
        self.raw = RawConnections(self.totals, parts.budget, rooms.connected, on_end)
        self.joiner = ClusterJoiner(parts.join, self.peers, rooms, quotas)
        self.rebalancing = Rebalancing(self.peers, self.scheduler, parts.max_age)
        self.ports: dict[Port, bool] = {}
        """The open ports. The value is whether the port stays open during a drain, to answer health checks."""
        runs.open()
        self._thread: int | None = None
        self._closers = Closers()
        """Tasks that wait for the end. The end does not wait for them, because one of them may be a handler."""
        self._drain = Drain(self.peers, self.raw, runs, parts.on_drain, self._closers)
        self._end: asyncio.Task[None] | None = None
        """Drains and closes the server. A separate task, because a handler that closes the server is cancelled."""

    def _connection_over(self, connection: Peer | RawConnection) -> None:
        self._rooms.disconnected(connection)
        assert self._quotas is not None
        self._quotas.release(connection)

    def check_thread(self, call: str) -> None:
        """Refuse ``call`` if the server listens, or has connections, in another thread.

        Raises:
            RuntimeError: the thread is another one. The error message says what to do.
        """
        if (self.ports or len(self.peers) or self.raw.all) and not self.scheduler.has_ended:
            check_thread(self._thread, call)

    def check_unused(self, call: str) -> None:
        """Refuse ``call`` while there are connections, because it would not affect them.

        Raises:
            RuntimeError: there are connections.
        """
        if len(self.peers) or self.raw.all:
            raise RuntimeError(f"{call} is for connections that come later, and there are some: call it before")

    def enter_loop(self) -> None:
        """Serve in the running event loop and in the present thread."""
        self.lifetime.happened(ServerInput.ACCEPT)
        self._thread = get_ident()
        self.scheduler.renew()
        if self.lifetime.accepts:
            self.rebalancing.start()
        self._runs.watch()
        self.joiner.enter()

    async def join_and_wait(self) -> None:
        """Join the cluster, if there is one, and wait a short time for its engine. Idempotent. Cancelling is safe.

        From then on, lost runs go on here, also before the first connection.
        """
        had_joined = self.joiner.cluster is not None
        self.joiner.enter()
        if self.joiner.cluster is not None:
            try:
                await self.joiner.cluster.wait_connected()
            except RuntimeError:
                if not had_joined:  # else its rooms would be announced to nobody
                    await self._leave_cluster()
                raise
        self._runs.watch()

    async def _leave_cluster(self) -> None:
        if (cluster := self.joiner.leave()) is not None:
            await cluster.close()

    def abandon(self) -> None:
        """Drop what is left of connections whose event loop was closed. The server needs a new core to serve again."""
        if (cluster := self.joiner.leave()) is not None:  # first, so that other nodes are not notified of each peer
            cluster.abandon()
        self._rooms.presences.use(UserEntries())
        if self._quotas is not None:
            self._quotas.abandon()
        self._rooms.abandon()  # before members leave, which would cancel tasks
        self.peers.clear()
        self.raw.clear()
        self._runs.abandon()

    def stats(self) -> ServerStats:
        """See `Server.stats`."""
        return self.collect_stats(None).result()

    def collect_stats(self, most: int | None = STATS_SLICE) -> Future[ServerStats]:
        """See `Server.collect_stats`. At most ``most`` connections are added at a time.

        Connections that end meanwhile are added nevertheless: they were not in the totals at the beginning.
        """
        future: Future[ServerStats] = Future()
        if not self.scheduler.is_running:
            most = None  # no other work waits
        slices = self._stats_in_slices(most)

        def step() -> None:
            try:
                next(slices)
            except StopIteration as end:
                future.set_result(end.value)
            except Exception as exc:
                future.set_exception(exc)
            else:
                self.scheduler.call_soon(step)

        if most is None or self.scheduler.is_here:
            step()
        else:
            self.scheduler.call_soon(step)
        return future

    def _stats_in_slices(self, most: int | None) -> Generator[None, None, ServerStats]:
        """Add up the counters of all connections, and pause after each slice."""
        total, refused = self.totals.sum(), dict(self.acceptance.refused)
        connections: list[PeerCore | RawLink] = [*self.peers.cores(), *self.raw.links()]
        for number, connection in enumerate(connections, 1):
            total.add(connection.stats(), connection.log.principal)
            if most is not None and number % most == 0:
                yield
        cluster, is_draining = self.joiner.cluster, self.lifetime.state == "draining"
        return total.result(
            time.monotonic(),
            healthy=self.lifetime.accepts,
            refused=refused,
            refusals=dict(self.acceptance.refusals),
            rooms=self._rooms.count,
            errors=self.totals.errors,
            quotas_unchecked=self.acceptance.quotas_unchecked,
            draining=self._drain.unfinished() if is_draining else {},
            store_answers=self._runs.link.answers,
            runs={event: counted.stats() for event, counted in self._runs.counted.items()},
            cluster=None if cluster is None else cluster.stats(),
        )

    @property
    def degraded(self) -> bool:
        """See `Server.degraded`."""
        cluster = self.joiner.cluster
        return not self._runs.link.answers or (cluster is not None and not cluster.connected)

    async def check_open(self, transport: Transport) -> None:
        """Check that the server accepts connections. If not, close the connection.

        Raises:
            ConnectionLost: the server does not accept connections.
        """
        if not self.lifetime.accepts:
            refusal = await refuse(transport, CloseCode.SERVICE_RESTART, CLOSING)
            refusal.add_note(REOPEN)
            raise refusal

    # ------------------------------------------------------------ the end

    async def close(self, drain: float) -> None:
        """Close the server; see `Server.close`. A drain closes each peer as soon as the peer is idle.

        A drain closes a raw connection when its function has returned, or when the drain is over.
        """
        asked = ServerInput.DRAIN if drain else ServerInput.CLOSE
        if self.lifetime.state == "abandoned":
            self.abandon()
        is_over = self.lifetime.over
        self.lifetime.happened(asked)
        if is_over:
            return
        if self._end is None:
            self.scheduler.renew()
            self.acceptance.close()
            self.rebalancing.stop()
            self._runs.is_closing = True
            self._end = spawn_later(self._run_end(drain))
        self._closers.add_current()
        self._drain.end_within(drain)
        await asyncio.shield(self._end)

    async def _run_end(self, drain: float) -> None:
        try:
            if drain:
                self._stop_ports(draining=True)
                await asyncio.sleep(0)  # the library stops listening in a task
                await self._drain.run(drain)
                self.lifetime.happened(ServerInput.DRAINED)
            self._stop_ports(draining=False)
            self._runs.link.closed = True  # what has not begun can still be told as not run
            await self._close_connections()
            for port in self.ports:
                await port.wait_closed()  # a handshake may wait for the store
            self.ports.clear()
            await self._runs.close(self._parts.patience)
            if self._quotas is not None:
                self._quotas.close()
            self.peers.clear()  # some peers may remain, because closing their transport failed
            await self._rooms.presences.close(self._parts.patience)
            await self._leave_cluster()
        finally:  # also if the event loop ends and cancels this task
            self.lifetime.happened(ServerInput.ENDED)

    def _stop_ports(self, *, draining: bool) -> None:
        for port, stays_for_drain in self.ports.items():
            if not (draining and stays_for_drain):
                port.stop()

    async def _close_connections(self) -> None:
        peers = {served: served.peer for served in self.peers}
        patience = self._parts.patience
        endings = [served.current.close(CloseCode.SERVICE_RESTART, CLOSING) for served in peers]
        endings.append(self.raw.close(CloseCode.SERVICE_RESTART, CLOSING))
        transports = [peer.transport for peer in peers.values()] + [link.transport for link in self.raw.links()]
        closing = asyncio.gather(*endings, return_exceptions=True)
        _, late = await asyncio.wait([closing], timeout=patience)
        for transport in filter(None, transports if late else ()):  # they may still send: the drain was the time for it
            transport.abort()
        log_failures(await closing)
        everybody = {*peers, *self.peers.everybody()}
        joining = [served.core.join(patience, self._closers) for served in everybody]
        await asyncio.gather(*joining, self.raw.join(patience, self._closers))
