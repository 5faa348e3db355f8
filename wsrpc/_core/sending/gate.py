"""`Gate`: a line of callers that wait for room, in a connection or at the remote peer for another request."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from ..._base.scheduler import Scheduler


class Gate:
    """A line of callers that wait for room, first come, first served.

    The gate does not know what its callers wait for. It wakes the first of them when there may be room. A caller that
    was woken looks again, and goes on or waits again. When the first caller leaves the line, because it goes on or was
    cancelled, the gate wakes the next one.

    Args:
        changed: called when ``busy`` has changed.
    """

    __slots__ = ("_changed", "_line", "_loop", "busy")

    def __init__(self, loop: Scheduler, changed: Callable[[], None] | None = None) -> None:
        self._loop = loop
        self._changed = changed
        # Nobody ever waits in most peers, so most gates have no table.
        self._line: OrderedDict[Turn, None] | None = None
        self.busy = False
        """Whether anybody waits."""

    def enter(self) -> Turn:
        """Join the end of the line. The caller must call `Turn.leave`, whatever happens."""
        turn = Turn()
        turn.join(self)
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

    def add(self, turn: Turn) -> None:
        """Put a caller at the end of the line."""
        if self._line is None:
            self._line = OrderedDict()
        self._line[turn] = None
        self._look()

    def is_first(self, turn: Turn) -> bool:
        """Return whether nobody is in the line before ``turn``."""
        return self._line is not None and next(iter(self._line), None) is turn

    def future(self) -> asyncio.Future[None]:
        """Return a future for a caller to wait for."""
        return self._loop.create_future()

    def leave(self, turn: Turn) -> None:
        """Take a caller out of the line."""
        line, was_first = self._line, self.is_first(turn)
        assert line is not None
        del line[turn]
        self._look()
        if was_first:
            self.wake()

    def _look(self) -> None:
        busy = bool(self._line)
        if busy is not self.busy:
            self.busy = busy
            if self._changed is not None:
                self._changed()


class Turn:
    """The place of one caller, which waits in the line of one `Gate` at a time."""

    __slots__ = ("_gate", "_woken")

    def __init__(self) -> None:
        self._gate: Gate | None = None
        self._woken: asyncio.Future[None] | None = None

    @property
    def first(self) -> bool:
        """Whether the caller is in a line, and nobody is before it."""
        return self._gate is not None and self._gate.is_first(self)

    @property
    def waits(self) -> bool:
        """Whether the caller is in a line."""
        return self._gate is not None

    def waits_at(self, gate: Gate) -> bool:
        """Return whether the caller is in the line of ``gate``."""
        return self._gate is gate

    def join(self, gate: Gate) -> None:
        """Be in the line of ``gate``: at the end, if the caller was not in it. The caller leaves any other line."""
        if self._gate is not gate:
            self.leave()
            self._gate = gate
            gate.add(self)

    async def wait(self) -> None:
        """Wait until this caller should look again. Cancelling is safe."""
        assert self._gate is not None
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
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.leave(self)
