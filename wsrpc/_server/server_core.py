"""`ServerCore`: the connections, ports and counters of a server, from its opening to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain
from threading import get_ident

from .._base.closing import CloseCode
from .._base.logs import LogBudget, logger
from .._base.scheduler import LoopScheduler, spawn_later
from .._core.api.peer import Peer
from .._core.handlers.callables import name_of
from .._core.handlers.lifecycle import Closers, ends_the_task
from .._core.peer.peer_core import PeerCore
from .._core.sending.checks import check_thread
from .._core.sending.draining import LONGEST_DRAIN
from .._core.session.sessions import Sessions
from .._keyed.runs import Runs
from .._net.serving.handshake_checks import REOPEN, Acceptance
from .._raw.raw_connection import RawConnection
from .._raw.raw_link import RawLink
from .._raw.raw_serving import RawConnections
from ..stats import ServerStats, ServerTotals, add_to
from ..transport import Transport
from .joined_cluster import JoinedCluster
from .operating.rebalancing import Rebalancing
from .peers import Peers, ServedPeer, refuse
from .ports import Port
from .quotas.quotas import QuotaBook
from .quotas.shared_rates import SharedRates
from .rooms.rooms import Rooms
from .server_states import ServerInput, ServerState, after
from .services.services import finished

CLOSING = "the server is closing"
"""The close reason."""

SLICE = 200
"""Number of connections whose counters are added up without a pause, which takes about a millisecond."""

STILL_DRAINING = 5.0
"""Seconds of a drain until the log says what it waits for. The next lines come after twice as long each."""


class ServerCore:
    """Inside of a server: its state, connections, ports and counters. A server that opens again gets a new core.

    Peers whose session has ended leave the ``rooms``. Handlers have ``patience`` seconds to finish when the server is
    closed. ``join`` joins the server's cluster. ``on_drain`` has the functions to call when a drain starts. ``runs``
    are the runs of keyed calls. ``quotas`` stop counting connections that have ended, and ``share`` makes their
    rates hold for all processes of the cluster. ``max_age`` is that of connections, in seconds.
    """

    def __init__(
        self,
        rooms: Rooms,
        budget: LogBudget,
        patience: float,
        detached_timeout: float,
        detached_bytes: int,
        join: Callable[[Sessions], JoinedCluster] | None,
        on_drain: Sequence[Callable[[], object]],
        runs: Runs,
        quotas: QuotaBook | None,
        share: Callable[[JoinedCluster], SharedRates] | None,
        max_age: float | None,
    ) -> None:
        self.totals = ServerTotals(time.monotonic())
        self.acceptance = Acceptance(self.totals.refused_by_principal)
        self.sessions = Sessions(detached_timeout, detached_bytes)
        on_end = rooms.leave_all if quotas is None else self._connection_over
        self.peers = Peers(self.totals, budget, on_end, rooms.presences.connection_changed, self.sessions)
        self.raw = RawConnections(self.totals, budget, rooms.enter, on_end)
        self.scheduler = rooms.presences.scheduler = LoopScheduler()
        self._new_rebalancing = partial(Rebalancing, self.peers, self.scheduler, max_age)
        self.rebalancing = self._new_rebalancing()
        self.ports: dict[Port, bool] = {}
        """The open ports. The value is whether the port stays open during a drain, to answer health checks."""
        self._patience = patience
        self._rooms = rooms
        self._join = join
        self._on_drain = on_drain
        self._runs = runs
        runs.open()
        self._quotas, self._share = quotas, share
        self._rates: SharedRates | None = None
        self._state: ServerState = "open"
        self._thread: int | None = None
        self._end: asyncio.Task[None] | None = None
        """Drains and closes the server. A separate task, because a handler that closes the server is cancelled."""
        self._closers = Closers()
        """Tasks that wait for the end. The end does not wait for them, because one of them may be a handler."""
        self._deadline = 0.0
        """The time at which the drain ends at the latest."""
        self._draining: asyncio.Timeout | None = None
        self._on_drain_calls: list[asyncio.Task[None]] = []
        """The calls of the functions ``on_drain``."""
        self._ended = asyncio.Event()

    def _connection_over(self, connection: Peer | RawConnection) -> None:
        self._rooms.leave_all(connection)
        assert self._quotas is not None
        self._quotas.release(connection)

    @property
    def state(self) -> ServerState:
        """The server's state."""
        return after(self._state, ServerInput.LOOP_CLOSED) if self.scheduler.has_ended else self._state

    @property
    def healthy(self) -> bool:
        """Whether connections are accepted."""
        return self.state in ("open", "abandoned")

    @property
    def over(self) -> bool:
        """Whether the server has to be opened again before it can listen."""
        return self.state in ("closed", "abandoned")

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
        if self.scheduler.has_ended:
            self.abandon()
        self._happened(ServerInput.ACCEPT)
        self._thread = get_ident()
        self.scheduler.renew()
        self.rebalancing.start()
        self._runs.watch()
        self.join()

    @property
    def has_joined(self) -> bool:
        """Whether the server is a node of its cluster."""
        return self.peers.joined_cluster is not None

    def join(self) -> None:
        """Join the cluster, if there is one. Idempotent."""
        if self._join is not None and self.peers.joined_cluster is None:
            joined_cluster = self.peers.joined_cluster = self._join(self.sessions)
            self._rooms.elsewhere = joined_cluster.rooms
            self._rooms.presences.use(joined_cluster.rooms.presence)
            self._rates = None if self._share is None else self._share(joined_cluster)

    async def join_and_wait(self) -> None:
        """Join the cluster, if there is one, and wait a short time for its engine. Idempotent. Cancelling is safe.

        From then on, lost runs go on here, also before the first connection.
        """
        had_joined = self.has_joined
        self.join()
        if self.peers.joined_cluster is not None:
            try:
                await self.peers.joined_cluster.wait_connected()
            except RuntimeError:
                if not had_joined:  # else its rooms would be announced to nobody
                    await self._exit_cluster()
                raise
        self._runs.watch()

    async def _exit_cluster(self) -> None:
        joined_cluster = self.peers.joined_cluster
        if joined_cluster is not None:
            if self._rates is not None:
                self._rates.end()
                self._rates = None
            self.peers.joined_cluster = self._rooms.elsewhere = None
            await joined_cluster.close()

    def abandon(self) -> None:
        """Drop all connections, because their event loop was closed."""
        joined_cluster, self.peers.joined_cluster, self._rooms.elsewhere = self.peers.joined_cluster, None, None
        if joined_cluster is not None:  # first, so that other nodes are not notified of each peer
            joined_cluster.abandon()
        self._rooms.presences.reset()
        if self._quotas is not None:
            self._quotas.abandon()
        if self._rates is not None:
            self._rates.end()
            self._rates = None
        self._rooms.abandon()  # before members leave, which would cancel tasks
        self.peers.clear()
        self.raw.clear()
        self.ports.clear()
        self._runs.abandon()
        self.rebalancing = self._new_rebalancing()

    def stats(self) -> ServerStats:
        """See `Server.stats`."""
        return self.collect_stats(None).result()

    def collect_stats(self, most: int | None = SLICE) -> Future[ServerStats]:
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
        joined_cluster = self.peers.joined_cluster
        return total.result(
            time.monotonic(),
            healthy=self.healthy,
            refused=refused,
            refusals=dict(self.acceptance.refusals),
            rooms=self._rooms.count,
            errors=self.totals.errors,
            quotas_unchecked=self.acceptance.quotas_unchecked,
            draining=self._unfinished(),
            store_answers=self._runs.link.answers,
            runs={event: counted.stats() for event, counted in self._runs.counted.items()},
            cluster=None if joined_cluster is None else joined_cluster.stats(),
        )

    @property
    def degraded(self) -> bool:
        """See `Server.degraded`."""
        joined_cluster = self.peers.joined_cluster
        return not self._runs.link.answers or (joined_cluster is not None and not joined_cluster.connected)

    async def check_open(self, transport: Transport) -> None:
        """Check that the server accepts connections. If not, close the connection.

        Raises:
            ConnectionLost: the server does not accept connections.
        """
        if not self.healthy:
            refusal = await refuse(transport, CloseCode.SERVICE_RESTART, CLOSING)
            refusal.add_note(REOPEN)
            raise refusal

    # ------------------------------------------------------------ the end

    async def close(self, drain: float) -> None:
        """Close the server; see `Server.close`. A drain closes each peer as soon as the peer is idle.

        A drain closes a raw connection when its function has returned, or when the drain is over.
        """
        asked = ServerInput.DRAIN if drain else ServerInput.CLOSE
        if self.over:
            self.abandon()
            self._happened(asked)
            return
        self._happened(asked)
        deadline = asyncio.get_running_loop().time() + min(drain, LONGEST_DRAIN)
        if first := self._end is None:
            self.scheduler.renew()
            self.acceptance.close()
            self.rebalancing.stop()
            self.peers.closing = self._runs.is_closing = True
            self._end = spawn_later(self._run_end(drain))
        if first or deadline < self._deadline:
            self._deadline = deadline
            for served in self.peers if drain else ():
                served.writer.draining.drain(deadline)
        self._closers.add_current()
        if self._draining is not None and not self._draining.expired():
            self._draining.reschedule(self._deadline)
        await asyncio.shield(self._end)

    async def _run_end(self, drain: float) -> None:
        try:
            if drain:
                self._stop_ports(draining=True)
                await asyncio.sleep(0)  # the library stops listening in a task
                await self._drain(drain)
                self._happened(ServerInput.DRAINED)
            self._stop_ports(draining=False)
            self._runs.link.closed = True  # what has not begun can still be told as not run
            await self._close_connections()
            for port in self.ports:
                await port.wait_closed()  # a handshake may wait for the store
            self.ports.clear()
            await self._runs.close(self._patience)
            if self._quotas is not None:
                self._quotas.close()
            self.peers.clear()  # some peers may remain, because closing their transport failed
            await self._rooms.presences.close(self._patience)
            await self._exit_cluster()
        finally:  # also if the event loop ends and cancels this task
            self._happened(ServerInput.ENDED)

    def _stop_ports(self, *, draining: bool) -> None:
        for port, stays_for_drain in self.ports.items():
            if not (draining and stays_for_drain):
                port.stop()

    async def _drain(self, seconds: float) -> None:
        """Wait until all connections are closed, or the time is over."""
        # This may be the only reference to a peer after the peer has ended.
        peers = {served: served.peer for served in self.peers}
        logger.info("draining: %d connections, at most %g s", len(peers) + len(self.raw.all), seconds)
        # First, so that these functions can still emit to peers that are idle.
        self._on_drain_calls = told = [asyncio.ensure_future(_call_on_drain(function)) for function in self._on_drain]
        await asyncio.sleep(0)  # so do the tasks that they start at once, as with `asyncio.gather`
        reporting = asyncio.ensure_future(self._log_unfinished())
        try:
            async with asyncio.timeout_at(self._deadline) as self._draining:
                leaving = [*map(asyncio.shield, told), *map(self._close_idle, peers)]
                leaving += [self.raw.wait_done(self._closers), self._runs.wait_idle()]
                endings = await asyncio.gather(*leaving, return_exceptions=True)
        except TimeoutError:
            if busy := sum(peer.connected for peer in peers.values()) + len(self.raw.all):
                text = "draining timed out: closing %d connections that still have active work (%s)"
                logger.warning(text, busy, counted(self._unfinished()))
            return
        finally:
            self._draining = None
            for task in (*told, reporting):  # a task that suppresses the cancellation runs on
                task.cancel()
        _log_failures(endings)

    def _unfinished(self) -> dict[str, int]:
        """Return what the drain waits for, as `ServerStats.draining`."""
        found: dict[str, int] = {}
        if self.state == "draining":
            for name in chain.from_iterable(served.unfinished(self._closers) for served in self.peers):
                add_to(found, name)
            told = [each for each in self._on_drain_calls if not each.done()]
            others = ("raw connection", self.raw.unfinished(self._closers)), ("run", len(self._runs.unfinished()))
            for name, number in (*others, ("on_drain", len(told))):
                if number:
                    add_to(found, name, number)
        return found

    async def _log_unfinished(self) -> None:
        """Log now and then what the drain waits for."""
        seconds = STILL_DRAINING
        while True:
            await asyncio.sleep(seconds)
            text = "still draining: %d connections, which wait for: %s"
            logger.info(text, len(self.peers) + len(self.raw.all), counted(self._unfinished()))
            seconds *= 2

    async def _close_idle(self, served: ServedPeer) -> None:
        await served.wait_idle(self._closers)
        await served.current.close(CloseCode.SERVICE_RESTART, CLOSING)

    async def _close_connections(self) -> None:
        peers = {served: served.peer for served in self.peers}
        endings = [served.current.close(CloseCode.SERVICE_RESTART, CLOSING) for served in peers]
        endings.append(self.raw.close(CloseCode.SERVICE_RESTART, CLOSING))
        transports = [peer.transport for peer in peers.values()] + [link.transport for link in self.raw.links()]
        closing = asyncio.gather(*endings, return_exceptions=True)
        _, late = await asyncio.wait([closing], timeout=self._patience)
        for transport in filter(None, transports if late else ()):  # they may still send: the drain was the time for it
            transport.abort()
        _log_failures(await closing)
        everybody = {*peers, *self.peers.everybody()}
        joining = [served.core.join(self._patience, self._closers) for served in everybody]
        await asyncio.gather(*joining, self.raw.join(self._patience, self._closers))

    async def wait_ended(self) -> None:
        """Wait for the end. Return at once if the connections are being closed already. Cancelling is safe."""
        if self.state in ("open", "draining", "abandoned"):
            await self._ended.wait()

    def _happened(self, happened: ServerInput) -> None:
        if happened is ServerInput.ENDED:
            self._ended.set()
            if self.scheduler.has_ended:  # the event loop was closed, and the task collected later
                return
        self._state = after(self.state, happened)


async def _call_on_drain(function: Callable[[], object]) -> None:
    try:
        await finished(function())
    except BaseException as exc:
        if ends_the_task(exc):
            raise
        logger.error("on_drain: %s failed", name_of(function), exc_info=exc)


def counted(numbers: dict[str, int]) -> str:
    """Return the numbers of `ServerStats.draining` as text."""
    return ", ".join(f"{name} ({number})" for name, number in numbers.items())


def _log_failures(endings: list[BaseException | None]) -> None:
    """Log the exceptions of closing connections. Only transports of other libraries raise exceptions."""
    for error in endings:
        if isinstance(error, Exception):
            logger.error("closing a connection failed", exc_info=error)
