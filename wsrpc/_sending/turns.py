"""Order of the senders that wait until the connection has room."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from .._base.scheduler import Scheduler
from .pending import Pending

__all__ = ["SendTurns", "Turn"]


class SendTurns:
    """Queue of the senders that wait until there is room: one sends at a time, first come, first served.

    Each sender has a `Turn`, with which it waits, and which it ends.

    Args:
        is_full: whether there is no room at present.
    """

    __slots__ = ("_holder", "_is_full", "_loop", "_waiting")

    def __init__(self, loop: Scheduler, is_full: Callable[[], bool]) -> None:
        self._loop = loop
        self._is_full = is_full
        # Most connections are never full, so most queues have no table.
        self._waiting: OrderedDict[asyncio.Future[bool], Turn] | None = None
        self._holder: Turn | None = None

    @property
    def busy(self) -> bool:
        """Whether a sender has to wait: there is no room, or others are to send first."""
        return self._holder is not None or bool(self._waiting) or self._is_full()

    @property
    def awaited(self) -> bool:
        """Whether others are to send first."""
        return self._holder is not None or bool(self._waiting)

    def wake(self) -> None:
        """Give the turn to the next sender, if there is room and nobody has it."""
        while self._waiting and self._holder is None and not self._is_full():
            woken, turn = self._waiting.popitem(last=False)
            if not woken.done():
                self._holder = turn
                woken.set_result(True)

    def connection_lost(self, session_goes_on: bool = False) -> None:
        """End the turns that are bound to the connection, and those of the session unless that goes on.

        The other senders go on, to the next connection or its queue. They still go one by one: else a message that is
        sent right after the drop would overtake them.
        """
        if not self._waiting:
            return
        lost = [
            woken for woken, turn in self._waiting.items() if turn.bound or (turn.of_session and not session_goes_on)
        ]
        for woken in lost:
            del self._waiting[woken]
            if not woken.done():
                woken.set_result(False)
        self.wake()

    # ------------------------------------------------------------ what a turn does here

    def holds(self, turn: Turn) -> bool:
        """Return whether it is the turn of that sender."""
        return self._holder is turn

    def begin(self, turn: Turn) -> None:
        """Let a sender send without waiting. Only while the queue is not ``busy``."""
        self._holder = turn

    def enter(self, turn: Turn) -> asyncio.Future[bool]:
        """Put a sender at the end of the queue, or at its head if it gives back its turn. Return what it waits for."""
        woken: asyncio.Future[bool] = self._loop.create_future()
        if self._waiting is None:
            self._waiting = OrderedDict()
        self._waiting[woken] = turn
        if self._holder is turn:
            self._holder = None
            self._waiting.move_to_end(woken, last=False)
        return woken

    def leave(self, woken: asyncio.Future[bool]) -> None:
        """Take a sender out of the queue."""
        if self._waiting is not None:
            self._waiting.pop(woken, None)

    def end(self, turn: Turn) -> None:
        """Let the next one send, if it was the turn of that sender."""
        if self._holder is turn:
            self._holder = None
            self.wake()


class Turn:
    """One sender's turn: it may be waited for several times with `wait`, and is ended once with `end`.

    The queue knows whose turn it is, and not the sender. So a sender that is cancelled at any point passes on the turn
    that it has, and never one that belongs to another sender already.

    Args:
        bound: the message belongs to the present connection.
        of_session: the message belongs to the present session.
    """

    __slots__ = ("_turns", "bound", "of_session")

    def __init__(self, turns: SendTurns, *, bound: bool = False, of_session: bool = False) -> None:
        self._turns = turns
        self.bound = bound
        self.of_session = of_session

    @property
    def held(self) -> bool:
        """Whether it is this sender's turn."""
        return self._turns.holds(self)

    def begin(self) -> None:
        """Take the turn without waiting. Only while the queue is not ``busy``."""
        self._turns.begin(self)

    async def wait(self, pending: Pending | None = None) -> None:
        """Wait at the end of the queue, or at its head if it is this sender's turn already.

        Afterwards it is this sender's turn (``held``), unless the request ``pending`` timed out meanwhile, or the turn
        is ``bound`` and its connection ended, or ``of_session`` and that ended. Cancelling is safe.
        """
        woken = self._turns.enter(self)
        if pending is not None:
            pending.turn = woken
        try:
            await woken
        except BaseException:
            self.end()  # it may have been woken in the same turn of the event loop
            raise
        finally:
            self._turns.leave(woken)
            if pending is not None:
                pending.turn = None

    def end(self) -> None:
        """Let the next one send: this sender has sent, or will not. Nothing happens if it was not its turn."""
        self._turns.end(self)
