"""The end of a server: it may drain first, then every connection is closed and handlers finish."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .._base.closing import CloseCode
from .._base.logs import logger
from .._base.scheduler import spawn_later
from .._handlers.lifecycle import Closers
from .._raw.serving import RawConnections
from .listening import Ports
from .peers import Peers, ServedPeer
from .states import ServerInput

__all__ = ["CLOSING", "Shutdown"]

CLOSING = "the server is closing"
"""The close reason."""

LONGEST = 365 * 86400.0
"""Seconds: more than any drain takes, and few enough for event loops."""


class Shutdown:
    """Ends a server: drains, closes its connections with 1012, and waits for handlers and ports.

    The constructor begins the end. A drain closes each peer as soon as it is idle, for at most ``drain`` seconds; peers
    begin nothing new from the start. Raw connections are left alone until their functions return, or the time is over.

    Handlers have ``patience`` seconds to finish. ``leave()`` leaves the cluster, at the end. ``happened`` is called
    with `ServerInput.DRAINED` and `ServerInput.ENDED`.
    """

    def __init__(
        self,
        peers: Peers,
        raw: RawConnections,
        ports: Ports,
        *,
        drain: float,
        patience: float,
        leave: Callable[[], Awaitable[None]],
        happened: Callable[[ServerInput], None],
    ) -> None:
        self._peers = peers
        self._raw = raw
        self._ports = ports
        self._patience = patience
        self._leave = leave
        self._happened = happened
        self._closers = Closers()
        """Tasks that wait for the end. The end does not wait for them, as a handler may be among them."""
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + min(drain, LONGEST)
        """When the drain ends at the latest."""
        self._draining: asyncio.Timeout | None = None
        if drain:
            for served in peers:
                served.core.drain(self._deadline)
        # In a task of its own, because the handler that closes the server is cancelled by that.
        self._task = spawn_later(self._run(drain))

    async def wait(self, drain: float) -> None:
        """Wait for the end, and drain for at most ``drain`` more seconds. Cancelling is safe."""
        self._closers.add_current()
        self._deadline = min(self._deadline, self._loop.time() + drain)
        if self._draining is not None and not self._draining.expired():
            self._draining.reschedule(self._deadline)
        await asyncio.shield(self._task)

    async def _run(self, drain: float) -> None:
        try:
            if drain:
                self._ports.stop(draining=True)
                await asyncio.sleep(0)  # the library stops listening in a task
                await self._drain(drain)
                self._happened(ServerInput.DRAINED)
            self._ports.stop(draining=False)
            await self._close_connections()
            await self._ports.wait_closed()
            self._peers.clear()  # of peers whose transport failed to close
            await self._leave()
        finally:  # also when the event loop ends and cancels this
            self._happened(ServerInput.ENDED)

    async def _drain(self, seconds: float) -> None:
        """Return when all connections are closed, or the time is over."""
        peers = list(self._peers)
        logger.info("draining: %d connections, at most %g s", len(peers) + len(self._raw.all), seconds)
        try:
            async with asyncio.timeout_at(self._deadline) as self._draining:
                leaving = [*map(self._close_idle, peers), self._raw.wait_done(self._closers)]
                endings = await asyncio.gather(*leaving, return_exceptions=True)
        except TimeoutError:
            if busy := sum(served.peer.connected for served in peers) + len(self._raw.all):
                logger.warning("draining timed out: closing %d connections that still have active work", busy)
            return
        finally:
            self._draining = None
        _log_failures(endings)

    async def _close_idle(self, served: ServedPeer) -> None:
        await served.wait_idle(self._closers)
        await served.peer.close(CloseCode.SERVICE_RESTART, CLOSING)

    async def _close_connections(self) -> None:
        peers = list(self._peers)
        endings = [served.peer.close(CloseCode.SERVICE_RESTART, CLOSING) for served in peers]
        endings.append(self._raw.close(CloseCode.SERVICE_RESTART, CLOSING))
        _log_failures(await asyncio.gather(*endings, return_exceptions=True))
        everybody = {*peers, *self._peers.everybody()}
        joining = [served.core.join(self._patience, self._closers) for served in everybody]
        await asyncio.gather(*joining, self._raw.join(self._patience, self._closers))


def _log_failures(endings: list[BaseException | None]) -> None:
    """Log what closing connections raised. Only a transport of another library raises there."""
    for error in endings:
        if isinstance(error, Exception):
            logger.error("closing a connection failed", exc_info=error)
