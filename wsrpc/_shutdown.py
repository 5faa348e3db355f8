"""How a server ends: once, in a task of its own, whoever asks for it."""

from __future__ import annotations

import asyncio
import logging

from ._close import CloseCode
from ._draining import CLOSING, Draining
from ._entrance import Entrance
from ._lifecycle import Closers
from ._ports import Ports
from ._raw_serving import RawServing
from ._roster import Roster
from ._scheduler import spawn_later

__all__ = ["Shutdown"]

logger = logging.getLogger("wsrpc")


class Shutdown:
    """The end of a server, once it has ``begun``. Handlers have ``patience`` seconds to finish."""

    def __init__(self, entrance: Entrance, roster: Roster, raw: RawServing, ports: Ports, patience: float) -> None:
        self.begun = False
        """Whether it is coming, or over."""
        self._entrance = entrance
        self._roster = roster
        self._raw = raw
        self._ports = ports
        self._patience = patience
        self._closers = Closers()
        self._task: asyncio.Task[None] | None = None
        self._draining: Draining | None = None
        self._over: asyncio.Event | None = None

    @property
    def draining(self) -> bool:
        """Whether what was begun goes on for a while."""
        return self._draining is not None

    async def close(self, drain: float) -> None:
        """See `Server.close`."""
        # In a task of its own, because a handler may be the one that calls this, and ends by it.
        self._closers.add_current()
        if self._task is None:
            self.begun = True
            self._entrance.close()
            if drain:
                self._draining = Draining(drain, self._closers, self._roster, self._raw)
            self._task = spawn_later(self._run(drain))
        elif self._draining is not None:
            self._draining.shorten(drain)
        await asyncio.shield(self._task)

    async def wait_over(self) -> None:
        """Wait until it is over, also if nobody has asked for it yet. Cancelling is safe."""
        if self._over is None:
            self._over = asyncio.Event()
        if self._draining is not None or not self.begun:
            await self._over.wait()

    async def _run(self, drain: float) -> None:
        self._ports.stop(draining=self.draining)
        if self._draining is not None:
            await asyncio.sleep(0)  # the library stops listening in a task
            count = len(self._roster) + len(self._raw.connections)
            logger.info("draining: %d connections, at most %g s", count, drain)
            await self._draining.run()
            self._draining = None
            self._ports.stop(draining=False)
        peers = list(self._roster)
        endings = [peer.close(CloseCode.SERVICE_RESTART, CLOSING) for peer in peers]
        endings.append(self._raw.close(CloseCode.SERVICE_RESTART, CLOSING))
        for error in await asyncio.gather(*endings, return_exceptions=True):
            if isinstance(error, Exception):  # of a transport that is not ours
                logger.error("closing a connection failed", exc_info=error)
        everybody = {*peers, *self._roster.everybody()}
        joining = [peer._join(self._patience, self._closers) for peer in everybody]
        await asyncio.gather(*joining, self._raw.join(self._patience, self._closers))
        await self._ports.wait_closed()
        if self._over is not None:
            self._over.set()
