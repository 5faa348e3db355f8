"""`Gate`: a line of callers that wait for room, in a connection or at the remote peer for another request."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from .._base.scheduler import Scheduler


class Gate:
    """A line of callers that wait for room, first come, first served.

    The gate does not know what its callers wait for. It wakes the first of them when there may be room. A caller that
    was woken looks again, and goes on or waits again. When the first caller leaves the line, because it goes on or was
    cancelled, the gate wakes the next one.
    """

    __slots__ = ("_line", "_loop", "busy")

    def __init__(self, loop: Scheduler) -> None:
        self._loop = loop
        # Nobody ever waits in most peers, so most gates have no table.
        self._line: OrderedDict[Turn, None] | None = None
        self.busy = False
        """Whether anybody waits."""

    def enter(self) -> Turn:
        """Join the end of the line. The caller must call `Turn.leave`, whatever happens."""
        if self._line is None:
            self._line = OrderedDict()
        turn = Turn(self)
        self._line[turn] = None
        self.busy = True
        return turn

    def wake(self) -> None:
        """Let the first caller look whether there is room."""
        if self._line:
            next(iter(self._line)).wake()

    def wake_all(self) -> None:
        """Let all callers look whether they still have to wait."""
        for turn in self._line or ():
            turn.wake()

    # ------------------------------------------------------------ for `Turn`

    def is_first(self, turn: Turn) -> bool:
        """Return whether nobody is in the line before ``turn``."""
        return self._line is not None and next(iter(self._line), None) is turn

    def future(self) -> asyncio.Future[None]:
        """Return a future for a caller to wait for."""
        return self._loop.create_future()

    def leave(self, turn: Turn) -> None:
        """Take a caller out of the line."""
        if self._line is not None and turn in self._line:
            was_first = self.is_first(turn)
            del self._line[turn]
            self.busy = bool(self._line)
            if was_first:
                self.wake()


class Turn:
    """The place of one caller in the line of a `Gate`."""

    __slots__ = ("_gate", "_woken")

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._woken: asyncio.Future[None] | None = None

    @property
    def first(self) -> bool:
        """Whether nobody is in the line before this caller."""
        return self._gate.is_first(self)

    async def wait(self) -> None:
        """Wait until this caller should look again. Cancelling is safe."""
        self._woken = self._gate.future()
        try:
            await self._woken
        finally:
            self._woken = None

    def wake(self) -> None:
        """Let the caller look again. Nothing happens if it does not wait."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def leave(self) -> None:
        """Leave the line. If this caller was the first, the next one looks whether there is room. Idempotent."""
        self._gate.leave(self)
