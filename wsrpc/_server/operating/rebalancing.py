"""`Rebalancing`: asks idle peers to connect again, so that they reach other processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from zlib import crc32

from ..._base.closing import CloseCode
from ..._base.scheduler import Scheduler, Tasks, Timer
from ..._core.handlers.lifecycle import Closers
from ..._core.sending.draining import LONGEST_DRAIN, DrainPhase
from ..._core.sending.phase import Phase
from ..peers import Peers, ServedPeer

ELSEWHERE = "connect again: sessions are spread over the servers"
TOO_OLD = "connect again: max_connection_age= is reached"
"""The close reasons."""

AGE_INTERVAL = 0.1
"""Seconds in which at most one peer moves because of its age. Each of them opens a connection elsewhere."""

JITTER = 0.1
"""The part of the maximum age by which the ages of peers differ, because after a restart all are equally old."""

AGE_SLICE = 200
"""Number of peers that are checked without a pause."""


class Rebalancing:
    """Moves idle peers to other processes: each is closed as in a drain, and then connects again.

    A peer is idle if nothing is in flight in either direction. It is first asked to start nothing new, and is closed
    when it has answered, so it has received everything before. A call that was on its way meanwhile is finished before.
    Peers that cannot be asked stay: what they send at that moment would be lost.

    Args:
        max_age: seconds after which the connections of idle peers are closed. None if they may have any age.
    """

    def __init__(self, peers: Peers, scheduler: Scheduler, max_age: float | None) -> None:
        self._peers = peers
        self._scheduler = scheduler
        self._max_age = max_age
        self._unchecked: Iterator[str] = iter(())
        """The ids of the peers whose age is to be checked."""
        self._timer: Timer | None = None
        self._tasks = Tasks()

    def start(self) -> None:
        """Check the ages of connections from now on. Idempotent."""
        if self._timer is None and self._max_age is not None:
            self._timer = self._scheduler.call_at(self._scheduler.time() + AGE_INTERVAL, self._check_ages)

    def stop(self) -> None:
        """Leave all peers to the server, which is closing. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        self._tasks.stop()

    def move(self, most: int, down_to: int, min_age: float = 0.0) -> tuple[int, int]:
        """Move at most ``most`` idle peers, oldest first, until ``down_to`` are left.

        Only those move whose connection was made at least ``min_age`` seconds ago.

        Return the number of connected peers that are not being moved, with those that move from now on, and the number
        of the latter.
        """
        staying = [served for served in self._peers if _stays(served)]
        idle = (each for each in staying if each.core.host.uptime() >= min_age and _is_idle(each))
        moving = [*islice(idle, max(0, min(most, len(staying) - down_to)))]
        for served in moving:
            self._move(served, ELSEWHERE)
        return len(staying), len(moving)

    def _check_ages(self) -> None:
        """Move the first of the next peers that is too old and idle."""
        self._timer = None
        self.start()
        for _ in range(AGE_SLICE):
            if (id := next(self._unchecked, None)) is None:
                self._unchecked = iter(self._peers.ids())
                return
            served = self._peers.served(id)
            if served is not None and self._is_old(served) and _stays(served) and _is_idle(served):
                self._move(served, TOO_OLD)
                return

    def _is_old(self, served: ServedPeer) -> bool:
        assert self._max_age is not None
        jitter = JITTER * (2 * crc32(served.peer.id.encode()) / 2**32 - 1)
        return served.core.host.uptime() > self._max_age * (1 + jitter)

    def _move(self, served: ServedPeer, why: str) -> None:
        served.writer.draining.drain(served.writer.loop.time() + LONGEST_DRAIN)
        self._tasks.spawn(_close_idle(served, why))


def _stays(served: ServedPeer) -> bool:
    """Whether a peer is connected and neither drains nor is being moved."""
    return served.current.session.state.sends and served.writer.draining.phase is DrainPhase.NONE


def _is_idle(served: ServedPeer) -> bool:
    """Whether nothing is in flight between a peer and this side, and the peer can be asked to start nothing new."""
    if served.writer.phase is not Phase.OPEN or not served.writer.draining.agreed:
        return False
    now = served.core.stats()
    return not (now.active or now.pending or now.waiting or now.anonymous_channels or now.unsent_bytes)


async def _close_idle(served: ServedPeer, why: str) -> None:
    """Close a peer that drains as soon as it is idle. If its connection drops meanwhile, its session is kept."""
    session = served.current.session
    while not session.over:
        await served.wait_idle(Closers())
        if session.state.sends:
            await served.current.close(CloseCode.SERVICE_RESTART, why)
            return
        await asyncio.sleep(AGE_INTERVAL)
