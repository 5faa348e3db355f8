"""`Backpressure`: what a transport does while the remote peer does not read."""

from __future__ import annotations

import asyncio

from ..limits import Limits
from .delivery import Delivery
from .heartbeat import StallWatch, WatchedOutput


class Backpressure:
    """Pauses the senders of a connection while there is no room, and drops the connection if no bytes leave.

    There is no room between the calls of `filled` and `has_room`. `StallWatch` limits how long no bytes may leave.

    Args:
        delivery: its receiver is paused and resumed.
        limits: the limits of the connection.
    """

    __slots__ = ("_delivery", "_drained", "_limits", "_watch")

    def __init__(self, delivery: Delivery, limits: Limits) -> None:
        self._delivery = delivery
        self._limits = limits
        self._watch: StallWatch | None = None
        """None while there is room."""
        self._drained: asyncio.Future[None] | None = None
        """Done when there is room again. None while nobody waits."""

    @property
    def full(self) -> bool:
        """Whether there is no room."""
        return self._watch is not None

    def filled(self, output: WatchedOutput) -> None:
        """Pause senders, because more bytes of ``output`` than the high-water mark are unsent."""
        self._watch = StallWatch(output, asyncio.get_running_loop(), self._limits)
        self._watch.start()
        if self._delivery.receiver is not None:
            self._delivery.receiver.pause_sending()

    def has_room(self) -> None:
        """Resume senders."""
        self.end()
        if self._delivery.receiver is not None:
            self._delivery.receiver.resume_sending()

    def end(self) -> None:
        """Stop watching, because there is room, or the connection has ended. Idempotent."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop()
        drained, self._drained = self._drained, None
        if drained is not None:
            drained.set_result(None)

    async def drain(self) -> None:
        """Wait until there is room, or the connection has ended. Cancelling is safe."""
        if self.full:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)
