"""`Drain`: waits until the work of a server that closes is done, for a limited time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import chain
from math import inf

from .._base.closing import CloseCode
from .._base.logs import logger
from .._core.handlers.callables import name_of
from .._core.handlers.lifecycle import Closers, ends_the_task
from .._core.sending.draining import LONGEST_DRAIN
from .._keyed.runs import Runs
from .._raw.raw_serving import RawConnections
from ..stats import add_to
from .peers import Peers, ServedPeer
from .services.services import finished

CLOSING = "the server is closing"
"""The close reason."""

STILL_DRAINING = 5.0
"""Seconds of a drain, at most half of it, until the log says what it waits for. The next lines come after twice as long
each."""

NAMED_PEERS = 3
"""Number of peers that such a line names."""


class Drain:
    """Closes each peer of a server as soon as it is idle, and waits until nothing is left, or the time is over.

    Args:
        functions: the functions of `Server.on_drain`.
        closers: tasks that wait for the end of the server, for which the drain does not wait.
    """

    def __init__(
        self,
        peers: Peers,
        raw: RawConnections,
        runs: Runs,
        functions: Iterable[Callable[[], object]],
        closers: Closers,
    ) -> None:
        self._peers = peers
        self._raw = raw
        self._runs = runs
        self._functions = functions
        self._closers = closers
        self._deadline = inf
        self._limit: asyncio.Timeout | None = None
        """None unless `run` waits."""
        self._calls: list[asyncio.Task[None]] = []
        """The calls of the functions."""

    def end_within(self, seconds: float) -> None:
        """End after so many seconds, unless the drain ends sooner. Tell the peers, unless it ends at once."""
        deadline = asyncio.get_running_loop().time() + min(seconds, LONGEST_DRAIN)
        if deadline < self._deadline:
            self._deadline = deadline
            for served in self._peers if seconds else ():
                served.writer.draining.drain(deadline)
            if self._limit is not None and not self._limit.expired():
                self._limit.reschedule(deadline)

    async def run(self, seconds: float) -> None:
        """Wait until all connections are closed, or the time is over. ``seconds`` are for the log."""
        # This may be the only reference to a peer after the peer has ended.
        peers = {served: served.peer for served in self._peers}
        logger.info("draining: %d connections, at most %g s", self._count, seconds)
        # First, so that these functions can still emit to peers that are idle.
        self._calls = [asyncio.ensure_future(_call(function)) for function in self._functions]
        await asyncio.sleep(0)  # so do the tasks that they start at once, as with `asyncio.gather`
        reporting = asyncio.ensure_future(self._log_unfinished(min(STILL_DRAINING, seconds / 2)))
        try:
            async with asyncio.timeout_at(self._deadline) as self._limit:
                leaving = [*map(asyncio.shield, self._calls), *map(self._close_idle, peers)]
                leaving += [self._raw.wait_done(self._closers), self._runs.wait_idle()]
                endings = await asyncio.gather(*leaving, return_exceptions=True)
        except TimeoutError:
            if busy := sum(peer.connected for peer in peers.values()) + len(self._raw.all):
                text = "draining timed out: closing %d connections that still have active work (%s)"
                logger.warning(text, busy, self._unfinished_text())
            return
        finally:
            self._limit = None
            for task in (*self._calls, reporting):  # a task that suppresses the cancellation runs on
                task.cancel()
        log_failures(endings)

    @property
    def _count(self) -> int:
        return len(self._peers) + len(self._raw.all)

    def unfinished(self) -> dict[str, int]:
        """Return what the drain waits for, as `ServerStats.draining`."""
        found: dict[str, int] = {}
        runs = (f"{event}: run" for event in self._runs.unfinished_events())
        for name in chain(runs, *(served.unfinished(self._closers) for served in self._peers)):
            add_to(found, name)
        numbers = {
            "raw connection": self._raw.unfinished(self._closers),
            "on_drain": sum(not each.done() for each in self._calls),
        }
        for name, number in numbers.items():
            if number:
                add_to(found, name, number)
        return found

    def _unfinished_text(self) -> str:
        """Return what the drain waits for, and at which peers, as text for the log."""
        logs = [each.core.log for each in self._peers if next(each.unfinished(self._closers), None) is not None]
        more = [f"{len(logs) - NAMED_PEERS} others"] if len(logs) > NAMED_PEERS else []
        names = [f"peer {log.id} at {log.place}" for log in logs[:NAMED_PEERS]]
        return "; ".join(filter(None, (counted(self.unfinished()), ", ".join(names + more))))

    async def _log_unfinished(self, seconds: float) -> None:
        """Log now and then what the drain waits for."""
        while True:
            await asyncio.sleep(seconds)
            text = "still draining: %d connections, which wait for: %s"
            logger.info(text, self._count, self._unfinished_text())
            seconds *= 2

    async def _close_idle(self, served: ServedPeer) -> None:
        await served.wait_idle(self._closers)
        await served.current.close(CloseCode.SERVICE_RESTART, CLOSING)


async def _call(function: Callable[[], object]) -> None:
    try:
        await finished(function())
    except BaseException as exc:
        if ends_the_task(exc):
            raise
        logger.error("on_drain: %s failed", name_of(function), exc_info=exc)


def counted(numbers: dict[str, int]) -> str:
    """Return the numbers of `ServerStats.draining` as text."""
    return ", ".join(f"{name} ({number})" for name, number in numbers.items())


def log_failures(endings: list[BaseException | None]) -> None:
    """Log the exceptions of closing connections. Only transports of other libraries raise exceptions."""
    for error in endings:
        if isinstance(error, Exception):
            logger.error("closing a connection failed", exc_info=error)
