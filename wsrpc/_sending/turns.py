"""The line to the other side, as senders see it: has it room, and whose turn is it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from .._base.scheduler import Scheduler
from .pending import Pending

__all__ = ["SendTurns", "Turn"]


class SendTurns:
    """Queue of the senders that wait until there is room: they go one by one, first come, first served.

    Each sender has a `Turn` of its own, with which it waits and which it ends.
    """

    __slots__ = ("_holder", "_is_full", "_loop", "_waiting")

    def __init__(self, loop: Scheduler, is_full: Callable[[], bool]) -> None:
        """``is_full`` says whether there is no room at present."""
        self._loop = loop
        self._is_full = is_full
        self._waiting: OrderedDict[asyncio.Future[bool], Turn] | None = None
        """Most connections are never full, so most have none."""
        self._holder: Turn | None = None

    @property
    def busy(self) -> bool:
        """Whether a sender has to wait: there is no room, or others are to send first."""
        return self.awaited or self._is_full()

    @property
    def awaited(self) -> bool:
        """Whether others are to send first."""
        return self._holder is not None or bool(self._waiting)

    def wake(self) -> None:
        """Let the next one send, if the line has room and nobody is at it."""
        while self._waiting and self._holder is None and not self._is_full():
            woken, turn = self._waiting.popitem(last=False)
            if not woken.done():
                self._holder = turn
                woken.set_result(True)

    def connection_lost(self) -> None:
        """End the turns that are bound to the connection; the others go on, to the next one or its queue.

        They go one by one as ever, or what is sent right after the drop would overtake those that waited.
        """
        waiting = self._waiting or OrderedDict[asyncio.Future[bool], Turn]()
        for woken in [woken for woken, turn in waiting.items() if turn.bound]:
            del waiting[woken]
            if not woken.done():
                woken.set_result(False)
        self.wake()


class Turn:
    """One sender's turn on a line: waited for with `wait` as often as needed, and ended once, with `end`.

    Whether it is the sender's turn is a fact of the line and not of the sender, so that a sender which is cancelled at
    any point passes on the turn that it has, and never one that is already another's.
    """

    __slots__ = ("_turns", "bound")

    def __init__(self, turns: SendTurns, *, bound: bool = False) -> None:
        """``bound``: what is to be sent belongs to the present connection."""
        self._turns = turns
        self.bound = bound

    @property
    def held(self) -> bool:
        """Whether it is this sender's turn."""
        return self._turns._holder is self

    def begin(self) -> None:
        """Take the turn without waiting, on a line that is not ``busy``."""
        self._turns._holder = self

    async def wait(self, pending: Pending | None = None) -> None:
        """Wait at the end of the queue, or, with the turn in hand, at its head.

        Afterwards it is this sender's turn (``held``), unless the request ``pending`` timed out meanwhile, or the turn
        is ``bound`` and its connection ended. Cancelling is safe.
        """
        line = self._turns
        woken: asyncio.Future[bool] = line._loop.create_future()
        waiting = line._waiting
        if waiting is None:
            waiting = line._waiting = OrderedDict()
        waiting[woken] = self
        if self.held:
            line._holder = None
            waiting.move_to_end(woken, last=False)
        if pending is not None:
            pending.turn = woken
        try:
            await woken
        except BaseException:
            self.end()  # it may have been woken in the same turn of the loop
            raise
        finally:
            waiting.pop(woken, None)
            if pending is not None:
                pending.turn = None

    def end(self) -> None:
        """Let the next one send: this sender has sent, or will not. Nothing happens if it was not its turn."""
        if self.held:
            self._turns._holder = None
            self._turns.wake()
