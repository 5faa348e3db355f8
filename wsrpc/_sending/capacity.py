"""How many requests the remote peer takes at once, and the callers that wait here until it takes one more."""

from __future__ import annotations

import sys
from collections.abc import Callable

from .._base.scheduler import Scheduler
from .._protocol.control import Announced
from .pending import Pending, PendingRequests
from .turns import SendTurns, Turn

__all__ = ["RemoteCapacity"]

UNLIMITED = Announced(*(sys.maxsize,) * len(Announced.__struct_fields__))
"""What a plain peer takes, as far as is known."""


class RemoteCapacity:
    """The places for requests that the remote peer has announced.

    Another wsrpc peer says how many handlers it runs at once and how much may wait for that. A request beyond it waits
    on this side, in turn, instead of being refused by the remote peer. Towards a plain peer there is no bound.
    """

    __slots__ = ("_announced", "_full", "_requests", "_room_for_any", "_turns")

    def __init__(self, loop: Scheduler, requests: PendingRequests) -> None:
        self._requests = requests
        self._announced = UNLIMITED
        self._room_for_any = sys.maxsize
        """While no more bytes are in flight, there is room for any message."""
        self._full = False
        """The caller whose turn it is has to wait."""
        self._turns = SendTurns(loop, lambda: self._full)

    def announced(self, limits: Announced) -> None:
        """The remote peer takes as much as ``limits`` say."""
        self._announced = limits
        self._room_for_any = max(0, limits.running_bytes - limits.message)

    def connection_lost(self) -> None:
        """Nothing is known of the next remote peer: whoever waits goes on."""
        self._announced, self._room_for_any = UNLIMITED, sys.maxsize
        self._full = False
        self._turns.connection_lost()
        if self._turns.busy:  # nobody overtakes those that were woken
            self._requests.flight.freed = self._freed

    @property
    def scarce(self) -> bool:
        """Whether a request has to `take` a place before it is sent."""
        flight = self._requests.flight
        return (
            flight.requests >= self._announced.running or flight.bytes > self._room_for_any or flight.freed is not None
        )

    def turn(self) -> Turn:
        """A turn to `take` a place in."""
        return Turn(self._turns)

    async def take(self, pending: Pending, turn: Turn, size: Callable[[], int]) -> None:
        """Wait for a place for a request of ``size()`` bytes, encoded, and for its ``turn``.

        Call `leave` afterwards, whatever happens. Cancelling is safe.
        """
        requests, turns = self._requests, self._turns
        while not pending.future.done():  # it may time out in the queue
            flight, limits = requests.flight, self._announced
            needed = size()
            if flight.requests < limits.running and (
                flight.bytes == 0 or flight.bytes + needed <= limits.running_bytes
            ):
                needed = 0
            self._full = needed > 0 and (
                flight.requests >= limits.running + limits.waiting or flight.waiting + needed > limits.waiting_bytes
            )
            if not self._full and (turn.held or not turns.busy):
                requests.enter_waiting_room(pending, needed)
                return
            flight.freed = self._freed
            await turn.wait(pending)

    def leave(self, pending: Pending, turn: Turn) -> None:
        """The request was sent, or will not be."""
        if pending.flight is None:
            self._requests.leave_waiting_room(pending)
        if turn.held:
            turn.end()
            self._forget_if_idle()

    def _freed(self) -> None:
        self._full = False
        self._turns.wake()
        self._forget_if_idle()

    def _forget_if_idle(self) -> None:
        if not self._turns.busy:
            self._requests.flight.freed = None
