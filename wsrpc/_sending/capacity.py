"""How many requests the other side takes at once, and who waits here for a place there."""

from __future__ import annotations

import sys
from collections.abc import Callable

from .._base.scheduler import Scheduler
from .._protocol.control import Announced
from .pending import Pending, Requests
from .turns import Line, Turn

__all__ = ["Places"]


class Places:
    """Another wsrpc peer says how many handlers it runs at once and how much may wait for that. A request beyond it
    waits on this side, in turn, instead of being refused over there. Towards a plain peer there is no bound."""

    __slots__ = ("_line", "_requests", "_room_for_any", "_running", "_running_bytes", "_waiting", "_waiting_bytes")

    def __init__(self, loop: Scheduler, requests: Requests) -> None:
        self._line = Line(loop)
        self._requests = requests
        self._running = self._running_bytes = self._room_for_any = sys.maxsize
        self._waiting = self._waiting_bytes = 0

    def agree(self, limits: Announced) -> None:
        """The other side has said what it takes."""
        self._running, self._waiting, self._waiting_bytes = limits.running, limits.waiting, limits.waiting_bytes
        self._running_bytes = limits.running_bytes
        # While no more are in flight, there is room for any message.
        self._room_for_any = max(0, limits.running_bytes - limits.message)

    def reset(self) -> None:
        """The connection is gone: whoever waits is to look for itself."""
        self._running = self._running_bytes = self._room_for_any = sys.maxsize
        self._line.reset()
        self._forget_if_idle()

    @property
    def scarce(self) -> bool:
        """Whether a request has to `take` a place before it is sent."""
        requests = self._requests
        return (
            requests.in_flight >= self._running
            or requests.bytes_in_flight > self._room_for_any
            or requests.freed is not None
        )

    def turn(self) -> Turn:
        """A turn to `take` a place in."""
        return Turn(self._line)

    async def take(self, pending: Pending, turn: Turn, size: Callable[[], int]) -> None:
        """Wait for a place for a request of ``size()`` bytes, encoded, and for one's ``turn``.

        Afterwards `leave`, whatever happens. Cancelling is safe.
        """
        requests, line = self._requests, self._line
        while not pending.future.done():  # it may time out in the queue
            needed = size()
            if requests.in_flight < self._running and (
                requests.bytes_in_flight == 0 or requests.bytes_in_flight + needed <= self._running_bytes
            ):
                needed = 0
            line.full = needed > 0 and (
                requests.in_flight >= self._running + self._waiting
                or requests.waiting_there + needed > self._waiting_bytes
            )
            if not line.full and (turn.held or not line.busy):
                requests.enter_waiting_room(pending, needed)
                return
            requests.freed = self._freed
            await turn.wait(pending)

    def leave(self, pending: Pending, turn: Turn) -> None:
        """The request was sent, or will not be."""
        if not pending.sent:
            self._requests.leave_waiting_room(pending)
        if turn.held:
            turn.end()
            self._forget_if_idle()

    def _freed(self) -> None:
        self._line.full = False
        self._line.wake()
        self._forget_if_idle()

    def _forget_if_idle(self) -> None:
        if not self._line.busy:
            self._requests.freed = None
