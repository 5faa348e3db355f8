"""`Lifetime`: the connections, ports and counts of a server from its opening to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import chain
from threading import get_ident

from .._base.closing import CloseCode
from .._base.logs import LogBudget
from .._base.scheduler import LoopScheduler
from .._entrance.entrance import Gate
from .._raw.serving import RawConnections
from .._sending.checks import check_thread
from .._session.sessions import Sessions
from ..stats import ServerStats, Tally
from ..transport import Transport
from .listening import Ports
from .membership import Membership
from .peers import Peers, refuse
from .rooms import Rooms
from .shutdown import CLOSING, Shutdown
from .states import ServerInput, ServerState, after

__all__ = ["Lifetime"]


class Lifetime:
    """The state of a server, with its connections, ports and counts. A server that is opened again gets a new one.

    Peers whose connection has ended leave the ``rooms``. Handlers have ``patience`` seconds to finish when the server
    is closed. ``join`` joins the server's cluster.
    """

    def __init__(
        self,
        rooms: Rooms,
        budget: LogBudget,
        patience: float,
        detached: float,
        detached_bytes: int,
        join: Callable[[], Membership] | None,
    ) -> None:
        self.tally = Tally(time.monotonic())
        self.gate = Gate()
        self.sessions = Sessions(detached, detached_bytes)
        self.peers = Peers(self.tally, budget, rooms.leave_all, self.sessions)
        self.raw = RawConnections(self.tally, budget)
        self.scheduler = LoopScheduler()
        self.ports = Ports()
        self._patience = patience
        self._rooms = rooms
        self._join = join
        self._state: ServerState = "open"
        self._thread: int | None = None
        self._shutdown: Shutdown | None = None
        self._ended = asyncio.Event()

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
        """Refuse ``call`` in another thread than that in which the server listens or has connections.

        Raises:
            RuntimeError: names what works.
        """
        if (self.ports or len(self.peers) or self.raw.all) and not self.scheduler.has_ended:
            check_thread(self._thread, call)

    def check_unused(self, call: str) -> None:
        """Refuse ``call`` while there are connections, which it would not cover.

        Raises:
            RuntimeError: there are some.
        """
        if len(self.peers) or self.raw.all:
            raise RuntimeError(f"{call} is for connections that come later, and there are some: call it before")

    def enter_loop(self) -> None:
        """Serve in the event loop and the thread that run now."""
        if self.scheduler.has_ended:
            self.forget()
        self._happened(ServerInput.ACCEPT)
        self._thread = get_ident()
        self.scheduler.renew()
        self.join()

    def join(self) -> None:
        """Join the cluster, if there is one. Idempotent."""
        if self._join is not None and self.peers.membership is None:
            self.peers.membership = self._rooms.membership = self._join()

    async def _leave(self) -> None:
        membership = self.peers.membership
        if membership is not None:
            self.peers.membership = self._rooms.membership = None
            await membership.close()

    def forget(self) -> None:
        """Forget all connections, because their event loop was closed."""
        self.peers.clear()
        self.raw.clear()
        self.ports.clear()
        self.peers.membership = None

    def stats(self) -> ServerStats:
        """See `Server.stats`."""
        connected = chain((served.peer.stats() for served in self.peers), self.raw.stats())
        refused = dict(self.gate.refused)
        membership = self.peers.membership
        cluster = None if membership is None else membership.stats()
        return self.tally.sum(time.monotonic(), connected, healthy=self.healthy, refused=refused, cluster=cluster)

    @property
    def degraded(self) -> bool:
        """Whether the server is in a cluster, and cannot reach the engine."""
        return self.peers.membership is not None and not self.peers.membership.connected

    async def check_open(self, transport: Transport) -> None:
        """Close a connection that comes too late.

        Raises:
            ConnectionLost: connections are not accepted.
        """
        if not self.healthy:
            raise await refuse(transport, CloseCode.SERVICE_RESTART, CLOSING)

    async def close(self, drain: float) -> None:
        """Close the server; see `Server.close`."""
        asked = ServerInput.DRAIN if drain else ServerInput.CLOSE
        if self.over:
            self.forget()
            self._happened(asked)
            return
        self._happened(asked)
        if self._shutdown is None:
            self.scheduler.renew()
            self.gate.close()
            self.peers.closing = True
            self._shutdown = Shutdown(
                self.peers,
                self.raw,
                self.ports,
                drain=drain,
                patience=self._patience,
                leave=self._leave,
                happened=self._happened,
            )
        await self._shutdown.wait(drain)

    async def wait_ended(self) -> None:
        """Wait for the end; return at once when connections are being closed already. Cancelling is safe."""
        if self.state in ("open", "draining", "abandoned"):
            await self._ended.wait()

    def _happened(self, happened: ServerInput) -> None:
        if happened is ServerInput.ENDED:
            self._ended.set()
            if self.scheduler.has_ended:  # the event loop was closed, and the shutdown's task collected later
                return
        self._state = after(self.state, happened)
