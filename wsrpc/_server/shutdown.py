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
from .states import Input

__all__ = ["CLOSING", "Shutdown"]

CLOSING = "the server is closing"
"""The close reason."""

LONGEST = 365 * 86400.0
"""Seconds: more than any drain takes, and few enough for event loops."""


class Shutdown:
    """Ends a server: drains, closes its connections with 1012, and waits for handlers and ports.

    The constructor begins the end. Handlers have ``patience`` seconds to finish. ``leave()`` leaves the cluster, at
    the end. ``happened`` is called with `Input.DRAINED` and `Input.ENDED`.
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
        happened: Callable[[Input], None],
    ) -> None:
        self._peers = peers
        self._raw = raw
        self._ports = ports
        self._patience = patience
        self._leave = leave
        self._happened = happened
        self._closers = Closers()
        """Tasks that wait for the end. The end does not wait for them, as a handler may be among them."""
        self._draining = Draining(drain, self._closers, peers, raw) if drain else None
        # In a task of its own, because the handler that closes the server is cancelled by that.
        self._task = spawn_later(self._run())

    async def wait(self, drain: float) -> None:
        """Wait for the end, and drain for at most ``drain`` more seconds. Cancelling is safe."""
        self._closers.add_current()
        if self._draining is not None:
            self._draining.shorten(drain)
        await asyncio.shield(self._task)

    async def _run(self) -> None:
        try:
            if self._draining is not None:
                self._ports.stop(draining=True)
                await asyncio.sleep(0)  # the library stops listening in a task
                await self._draining.run()
                self._happened(Input.DRAINED)
            self._ports.stop(draining=False)
            await self._close_connections()
            await self._ports.wait_closed()
            self._peers.clear()  # of peers whose transport failed to close
            await self._leave()
        finally:  # also when the event loop ends and cancels this
            self._happened(Input.ENDED)

    async def _close_connections(self) -> None:
        peers = list(self._peers)
        endings = [served.peer.close(CloseCode.SERVICE_RESTART, CLOSING) for served in peers]
        endings.append(self._raw.close(CloseCode.SERVICE_RESTART, CLOSING))
        _log_failures(await asyncio.gather(*endings, return_exceptions=True))
        everybody = {*peers, *self._peers.everybody()}
        joining = [served.core.join(self._patience, self._closers) for served in everybody]
        await asyncio.gather(*joining, self._raw.join(self._patience, self._closers))


class Draining:
    """Closes peers with 1012, each as soon as it is idle, for at most ``seconds`` after this was made.

    Peers begin nothing new from the start. Raw connections are left alone until their functions return, or the time is
    over. Tasks in ``closers`` are not waited for.
    """

    def __init__(self, seconds: float, closers: Closers, peers: Peers, raw: RawConnections) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._deadline = self._loop.time() + min(seconds, LONGEST)
        self._closers = closers
        self._raw = raw
        self._peers = list(peers)
        self._timeout: asyncio.Timeout | None = None
        for served in self._peers:
            served.core.drain(self._deadline)

    def shorten(self, seconds: float) -> None:
        """End at most ``seconds`` from now."""
        self._deadline = min(self._deadline, self._loop.time() + seconds)
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(self._deadline)

    async def run(self) -> None:
        """Return when all connections are closed, or the time is over. Call it once."""
        logger.info("draining: %d connections, at most %g s", len(self._peers) + len(self._raw.all), self._seconds)
        try:
            async with asyncio.timeout_at(self._deadline) as self._timeout:
                leaving = [*map(self._leave, self._peers), self._raw.wait_done(self._closers)]
                endings = await asyncio.gather(*leaving, return_exceptions=True)
        except TimeoutError:
            if busy := sum(served.peer.connected for served in self._peers) + len(self._raw.all):
                logger.warning("draining timed out: closing %d connections that still have active work", busy)
            return
        finally:
            self._timeout = None
        _log_failures(endings)

    async def _leave(self, served: ServedPeer) -> None:
        await served.wait_idle(self._closers)
        await served.peer.close(CloseCode.SERVICE_RESTART, CLOSING)


def _log_failures(endings: list[BaseException | None]) -> None:
    """Log what closing connections raised. Only a transport of another library raises there."""
    for error in endings:
        if isinstance(error, Exception):
            logger.error("closing a connection failed", exc_info=error)
