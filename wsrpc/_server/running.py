"""`Run`: a server from its opening to its end."""

from __future__ import annotations

import asyncio
import logging
import time
from itertools import chain
from threading import get_ident

from .._base.closing import CloseCode
from .._base.logs import LogBudget
from .._base.scheduler import LoopScheduler, spawn_later
from .._handlers.lifecycle import Closers
from .._peer.peer import core_of
from .._raw.serving import RawConnections
from .._sending.checks import check_thread
from ..errors import ConnectionLost
from ..stats import ServerStats, Tally
from ..transport import Transport
from .draining import CLOSING, Draining
from .entrance import Gate
from .peers import Roster
from .ports import Port, Ports
from .rooms import Rooms

__all__ = ["Run"]

logger = logging.getLogger("wsrpc")


class Run:
    """The connections, ports and counts of a server between its opening and its end, and that end.

    A server that is opened again gets a new one. Handlers have ``patience`` seconds to finish when it ends.
    """

    def __init__(self, rooms: Rooms, budget: LogBudget, patience: float) -> None:
        self.tally = Tally(time.monotonic())
        self.gate = Gate()
        self.roster = Roster(rooms, self.tally)
        self.raw = RawConnections(self.tally, budget)
        self.scheduler = LoopScheduler()
        self.closing = False
        """Whether `close` was called."""
        self._ports = Ports()
        self._patience = patience
        self._thread: int | None = None
        self._closers = Closers()
        self._task: asyncio.Task[None] | None = None
        self._draining: Draining | None = None
        self._over = False
        self._ended: asyncio.Event | None = None
        """Made where somebody waits for the end."""

    @property
    def draining(self) -> bool:
        """Whether active work goes on for a while after `close`."""
        return self._draining is not None

    @property
    def over(self) -> bool:
        """Whether everything has ended, or the event loop in which it ran has."""
        return self._over or self.scheduler.has_ended

    def enter_loop(self) -> None:
        """Run in the present event loop and thread from now on."""
        if self.scheduler.has_ended:
            self.discard()
        self._thread = get_ident()
        self.scheduler.renew()

    def check_thread(self, call: str) -> None:
        """Refuse a call from another thread than that in which the server listens or has connections."""
        if (self._ports or self.roster or self.raw.all) and not self.scheduler.has_ended:
            check_thread(self._thread, call)

    def add_port(self, port: Port, *, stays_for_drain: bool) -> None:
        """A port that has been opened; it ends with this run. One that stays while the server drains answers 503."""
        self._ports.add(port)
        if stays_for_drain:
            self._ports.keep_telling(port)

    def stats(self) -> ServerStats:
        """See `Server.stats`."""
        there = chain((peer.stats() for peer in self.roster), self.raw.stats())
        refused = dict(self.gate.refused)
        return self.tally.sum(time.monotonic(), there, healthy=not self.closing, refused=refused)

    def discard(self) -> None:
        """Forget the connections of an event loop that has ended without `close`."""
        self.roster.clear()
        self.raw.clear()
        self._ports = Ports()

    async def turned_away(self, transport: Transport) -> ConnectionLost:
        """Close a connection that comes too late; returns what to raise."""
        await transport.close(CloseCode.SERVICE_RESTART, CLOSING)
        return ConnectionLost(CloseCode.SERVICE_RESTART, CLOSING, "not_sent")

    async def close(self, drain: float) -> None:
        """See `Server.close`."""
        if self.over:
            self.discard()
            self.closing = self._over = True
            return
        # In a task of its own, because a handler may be the one that calls this, and ends by it.
        self._closers.add_current()
        if self._task is None:
            self.closing = True
            self.scheduler.renew()
            self.gate.close()
            if drain:
                self._draining = Draining(drain, self._closers, self.roster, self.raw)
            self._task = spawn_later(self._close(drain))
        elif self._draining is not None:
            self._draining.shorten(drain)
        await asyncio.shield(self._task)

    async def wait_over(self) -> None:
        """Wait for the end, also if `close` was not called yet. Cancelling is safe."""
        if self._ended is None:
            self._ended = asyncio.Event()
        if self._draining is not None or not self.closing:
            await self._ended.wait()

    async def _close(self, drain: float) -> None:
        try:
            await self._end_everything(drain)
        finally:  # also when the event loop ends and cancels this
            self._over = True
            if self._ended is not None:
                self._ended.set()

    async def _end_everything(self, drain: float) -> None:
        self._ports.stop(draining=self.draining)
        if self._draining is not None:
            await asyncio.sleep(0)  # the library stops listening in a task
            count = len(self.roster) + len(self.raw.all)
            logger.info("draining: %d connections, at most %g s", count, drain)
            await self._draining.run()
            self._draining = None
            self._ports.stop(draining=False)
        peers = list(self.roster)
        endings = [peer.close(CloseCode.SERVICE_RESTART, CLOSING) for peer in peers]
        endings.append(self.raw.close(CloseCode.SERVICE_RESTART, CLOSING))
        for error in await asyncio.gather(*endings, return_exceptions=True):
            if isinstance(error, Exception):  # of a transport that is not ours
                logger.error("closing a connection failed", exc_info=error)
        everybody = {*peers, *self.roster.everybody()}
        joining = [core_of(peer).join(self._patience, self._closers) for peer in everybody]
        await asyncio.gather(*joining, self.raw.join(self._patience, self._closers))
        await self._ports.wait_closed()
        self.roster.clear()  # of peers whose transport failed to close
