"""Order of the senders that wait until there is room: in a connection, or at the remote peer for another request."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from .._base.scheduler import Scheduler


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

    def drop_bound(self) -> None:
        """End the turns that are bound to the connection, which has ended. The others are for the session, too."""
        for woken, turn in list((self._waiting or {}).items()):
            if turn.bound:
                self.leave(woken)
                if not woken.done():
                    woken.set_result(False)

    def end_all(self) -> None:
        """End all turns, because there is nothing to wait for any more. The senders go on in order."""
        waiting, self._holder, self._waiting = self._waiting, None, None
        for woken in waiting or ():
            if not woken.done():
                woken.set_result(False)

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
    """

    __slots__ = ("_turns", "_woken", "bound")

    def __init__(self, turns: SendTurns, *, bound: bool = False) -> None:
        self._turns = turns
        self._woken: asyncio.Future[bool] | None = None
        """What the sender waits for."""
        self.bound = bound

    @property
    def held(self) -> bool:
        """Whether it is this sender's turn."""
        return self._turns.holds(self)

    def begin(self) -> None:
        """Take the turn without waiting. Only while the queue is not ``busy``."""
        self._turns.begin(self)

    async def wait(self) -> None:
        """Wait at the end of the queue, or at its head if it is this sender's turn already.

        Afterwards it is this sender's turn (``held``), unless it was passed by, the turn is ``bound`` and its
        connection ended, or all turns ended. Cancelling is safe.
        """
        self._woken = woken = self._turns.enter(self)
        try:
            await woken
        except BaseException:
            self.end()  # it may have been woken in the same turn of the event loop
            raise
        finally:
            self._woken = None
            self._turns.leave(woken)

    def pass_by(self) -> None:
        """End the sender's wait, if it waits: its request has failed."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(False)

    def end(self) -> None:
        """Let the next one send: this sender has sent, or will not. Nothing happens if it was not its turn."""
        self._turns.end(self)
