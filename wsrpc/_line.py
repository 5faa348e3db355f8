"""The line to the other side, as senders see it: has it room, and whose turn is it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from ._requests import Pending
from ._scheduler import Scheduler

__all__ = ["Line"]


class Line:
    """While the transport is above its high-water mark, awaiting senders queue here and go one by one.

    ``full`` follows the transport. ``busy`` is also true while somebody queues, or has been woken and is about to
    send, so that nobody overtakes.
    """

    __slots__ = ("_loop", "_taken", "_turns", "full", "overdue")

    def __init__(self, loop: Scheduler) -> None:
        self._loop = loop
        self._turns: OrderedDict[asyncio.Future[bool], bool] | None = None
        """With each whether it is bound to the present connection. Most lines are never full, so most have none."""
        self._taken = False
        self.full = False
        self.overdue = False
        """It has been full for as long as emitting to many waits, and has not drained since."""

    @property
    def busy(self) -> bool:
        return self.full or self.awaited

    @property
    def awaited(self) -> bool:
        """Whether others are to send first."""
        return self._taken or bool(self._turns)

    async def wait_turn(self, pending: Pending | None, *, first: bool, bound: bool = False) -> bool:
        """Wait in the queue, or at its head if ``first``; True if it is the caller's turn now.

        Whoever has the turn calls `pass_turn` when it has sent. A request that times out meanwhile is woken without
        having it, and so is by `reset` what is ``bound`` to the connection. Cancelling is safe.
        """
        turn: asyncio.Future[bool] = self._loop.create_future()
        turns = self._turns
        if turns is None:
            turns = self._turns = OrderedDict()
        turns[turn] = bound
        if first:
            self._taken = False
            turns.move_to_end(turn, last=False)
        if pending is not None:
            pending.turn = turn
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.pass_turn()
            raise
        finally:
            turns.pop(turn, None)
            if pending is not None:
                pending.turn = None

    def take(self) -> None:
        """Begin a turn, as the line is not ``busy``; `pass_turn` ends it."""
        self._taken = True

    def wake(self) -> None:
        """Let the next one send, if the line has room and nobody is at it."""
        while self._turns and not self.full and not self._taken:
            turn, _ = self._turns.popitem(last=False)
            if not turn.done():
                self._taken = True
                turn.set_result(True)

    def pass_turn(self) -> None:
        """Whoever had the turn has sent, or will not."""
        self._taken = False
        self.wake()

    def reset(self) -> None:
        """The connection is gone: all may go on, to the next one or into the queue for that.

        One by one as ever, or what is sent right after the drop would overtake those that waited.
        """
        self.full = self.overdue = False
        turns = self._turns or OrderedDict[asyncio.Future[bool], bool]()
        for turn in [turn for turn, bound in turns.items() if bound]:
            del turns[turn]
            if not turn.done():
                turn.set_result(False)
        self.wake()
