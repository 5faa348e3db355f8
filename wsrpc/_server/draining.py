"""Leaving well: the connections of a server that closes, each until what was begun on it is over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from .._base.closing import CloseCode
from .._handlers.lifecycle import Closers
from .._peer.peer import Peer, core_of
from .._raw.serving import RawConnections

__all__ = ["CLOSING", "Draining"]

logger = logging.getLogger("wsrpc")

CLOSING = "the server is closing"

LONGEST = 365 * 86400.0
"""Seconds: as good as for ever, and event loops can count them."""


class Draining:
    """Closes peers with 1012, each as soon as it is idle, for at most ``seconds`` from now on. `run` is called once;
    nothing new is begun from now on.

    A peer is idle when no handler runs for it or waits for a place, no request to it is pending, no anonymous channel
    is open, what was accepted for it is written, and it has said, if it can, that nothing new is on its way.
    ``closers`` are the tasks that wait for the end themselves. ``raw`` connections are left alone until their functions
    end, or the time is over.
    """

    def __init__(self, seconds: float, closers: Closers, peers: Iterable[Peer], raw: RawConnections) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + min(seconds, LONGEST)
        self._closers = closers
        self._time: asyncio.Timeout | None = None
        self._raw = raw
        self._peers = list(peers)
        for peer in self._peers:
            core_of(peer).drain(self._deadline)

    def shorten(self, seconds: float) -> None:
        """End in ``seconds`` from now on, if that is sooner."""
        self._deadline = min(self._deadline, self._loop.time() + seconds)
        if self._time is not None and not self._time.expired():
            self._time.reschedule(self._deadline)

    async def run(self) -> None:
        """Return when all are closed or the time is over; those that are left then are as they were."""
        try:
            async with asyncio.timeout_at(self._deadline) as self._time:
                leaving = [*map(self._leave, self._peers), self._raw.wait_done(self._closers)]
                endings = await asyncio.gather(*leaving, return_exceptions=True)
        except TimeoutError:
            if busy := sum(peer.connected for peer in self._peers) + len(self._raw.all):
                logger.warning("draining ends: %d connections are closed in the midst of their work", busy)
            return
        finally:
            self._time = None
        for error in endings:
            if isinstance(error, Exception):  # of a transport that is not ours
                logger.error("closing a connection failed", exc_info=error)

    async def _leave(self, peer: Peer) -> None:
        await self._wait_idle(peer)
        await peer.close(CloseCode.SERVICE_RESTART, CLOSING)

    async def _wait_idle(self, peer: Peer) -> None:
        # Whatever ends may have begun something else, so look again each time. Nothing here counts or polls: each kind
        # of work has something of its own to wait for. What waits for a place does so behind some of it.
        closers, core = self._closers, core_of(peer)
        out, channels = core.out, core.session.channels
        while (link := core.link) is not None:
            if link.opening is not None and not closers.cover(link.opening.task, link.contexts[0]):
                await link.opening.wait()
            elif out.turns.busy:
                await out.wait_written()
            elif tasks := {task for task in core.calls.tasks(closers) if not task.done()}:
                await closers.wait_besides(tasks, None)
            elif unsettled := out.requests.unsettled():
                await asyncio.wait(unsettled)
            elif open_ones := set(channels.all()) - core.calls.channels(closers):
                await open_ones.pop().wait_closed()
            elif not link.negotiation.quiet:
                await link.negotiation.wait_quiet()
            else:
                return
