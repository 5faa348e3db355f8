"""`Gate`: a line of callers that wait until there is room. `Waiter`: the place of one caller in it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable


class Gate:
    """A line of callers that wait until there is room, first come, first served.

    The gate does not know what its callers wait for. Its owner wakes the first caller when there may be room. The
    caller then checks, and continues or waits again. When the first caller exits the line, because it continues or was
    cancelled, the gate wakes the next caller.

    Args:
        changed: called when ``has_callers`` has changed.
    """

    __slots__ = ("_changed", "_line", "has_callers")

    def __init__(self, changed: Callable[[], None] | None = None) -> None:
        self._changed = changed
        # In most peers no caller ever waits, so most gates have no table.
        self._line: OrderedDict[Waiter, None] | None = None
        self.has_callers = False
        """Whether a caller is in the line."""

    def enter(self) -> Waiter:
        """Join the end of the line. The caller must call `Waiter.exit`, whatever happens."""
        waiter = Waiter()
        waiter.move_to(self)
        return waiter

    def wake(self) -> None:
        """Let the first caller check whether there is room."""
        if self._line:
            next(iter(self._line)).wake()

    def wake_all(self) -> None:
        """Let all callers check whether they still have to wait."""
        for waiter in self._line or ():
            waiter.wake()

    # ------------------------------------------------------------ for `Waiter`

    def add(self, waiter: Waiter) -> None:
        """Add a caller at the end of the line."""
        if self._line is None:
            self._line = OrderedDict()
        self._line[waiter] = None
        self._update_has_callers()

    def is_first(self, waiter: Waiter) -> bool:
        """Return whether ``waiter`` is the first in the line."""
        return self._line is not None and next(iter(self._line), None) is waiter

    def others_first(self, waiter: Waiter) -> bool:
        """Return whether other callers are in the line before ``waiter``, which may not be in it yet."""
        return self.has_callers and not self.is_first(waiter)

    def remove(self, waiter: Waiter) -> None:
        """Remove a caller from the line, and wake the next one if it was the first."""
        line, was_first = self._line, self.is_first(waiter)
        assert line is not None
        del line[waiter]
        self._update_has_callers()
        if was_first:
            self.wake()

    def _update_has_callers(self) -> None:
        has_callers = bool(self._line)
        if has_callers is not self.has_callers:
            self.has_callers = has_callers
            if self._changed is not None:
                self._changed()


class Waiter:
    """The place of one caller, which is in the line of at most one `Gate` at a time."""

    __slots__ = ("_gate", "_woken")

    def __init__(self) -> None:
        self._gate: Gate | None = None
        self._woken: asyncio.Future[None] | None = None

    @property
    def is_first(self) -> bool:
        """Whether the caller is the first in a line."""
        return self._gate is not None and self._gate.is_first(self)

    @property
    def is_waiting(self) -> bool:
        """Whether the caller is in a line."""
        return self._gate is not None

    def waits_at(self, gate: Gate) -> bool:
        """Return whether the caller is in the line of ``gate``."""
        return self._gate is gate

    def move_to(self, gate: Gate) -> None:
        """Exit any other line, and join the end of the line of ``gate``. Nothing happens if it is there."""
        if self._gate is not gate:
            self.exit()
            self._gate = gate
            gate.add(self)

    async def wait(self) -> None:
        """Wait until the caller should check again whether there is room. Cancelling is safe."""
        self._woken = asyncio.get_running_loop().create_future()
        try:
            await self._woken
        finally:
            self._woken = None

    def wake(self) -> None:
        """Let `wait` return. Nothing happens if the caller does not wait."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def exit(self) -> None:
        """Exit the line. Idempotent."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.remove(self)
