"""The line to the other side, as senders see it: has it room, and whose turn is it."""

from __future__ import annotations

import asyncio
from collections import deque

from ._requests import Pending
from ._scheduler import Scheduler

__all__ = ["Line"]


class Line:
    """While the transport is above its high-water mark, awaiting senders queue here and go one by one.

    ``full`` follows the transport; ``busy`` is also true while somebody queues, so that nobody overtakes.
    """

    __slots__ = ("_loop", "_turns", "full")

    def __init__(self, loop: Scheduler) -> None:
        self._loop = loop
        self._turns: deque[asyncio.Future[object]] = deque()
        self.full = False

    @property
    def busy(self) -> bool:
        return self.full or bool(self._turns)

    async def wait_turn(self, pending: Pending | None) -> None:
        """Wait until woken by `pass_turn` or `reset`; whoever was woken passes the turn on when it has sent.

        A request that times out meanwhile is woken, too. Cancelling is safe.
        """
        turn = self._loop.create_future()
        self._turns.append(turn)
        if pending is not None:
            pending.turn = turn
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.pass_turn()
            raise
        finally:
            if turn in self._turns:
                self._turns.remove(turn)
            if pending is not None:
                pending.turn = None

    def pass_turn(self) -> None:
        """Wake the next one in the queue, if the line has room."""
        while self._turns and not self.full:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def reset(self) -> None:
        """The connection is gone: wake everybody, in order, to look for themselves."""
        self.full = False
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
