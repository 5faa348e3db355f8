"""Requests that wait on this side until the remote peer can accept one more."""

from __future__ import annotations

from collections.abc import Callable

from .._base.scheduler import Scheduler
from .._protocol.settings import Terms
from .._session.waiting import WaitingMessage
from .pending import Pending, PendingRequests
from .turns import SendTurns, Turn

__all__ = ["RemoteCapacity"]


class RemoteCapacity:
    """Capacity for requests that the remote peer has announced, and the queue of the callers that wait for it.

    A wsrpc peer announces how many handlers it runs at once, and how much may wait for them. A request beyond that
    waits on this side, in turn, so that the remote peer need not refuse it. A plain peer has no limit.

    It belongs to one session. Nothing is known of the remote peer of the next one.

    Args:
        terms: returns the present terms of the session.
    """

    __slots__ = ("_flight", "_full", "_requests", "_terms", "_turns")

    def __init__(self, loop: Scheduler, requests: PendingRequests, terms: Callable[[], Terms]) -> None:
        self._requests = requests
        self._flight = requests.flight
        self._terms = terms
        self._full = False
        """Whether the caller whose turn it is has to wait."""
        self._turns = SendTurns(loop, lambda: self._full)

    def end(self, *, leave: bool) -> None:
        """End the queue with the session; see `SendTurns.end_all`."""
        self._full = False
        self._turns.end_all(leave=leave)

    def turn(self, leave: Callable[[], WaitingMessage] | None) -> Turn:
        """Return a turn for `take`."""
        return Turn(self._turns, leave=leave)

    async def take(self, pending: Pending, turn: Turn, size: Callable[[], int]) -> None:
        """Wait until the remote peer can accept a request of ``size()`` bytes, encoded, and for its ``turn``.

        Call `leave` afterwards, whatever happens. Cancelling is safe.
        """
        requests, turns, flight = self._requests, self._turns, self._flight
        while not pending.future.done() and turn.left is None:  # it may time out in the queue, or leave it
            limits = self._terms().announced
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
            flight.watch(self._freed)
            await turn.wait(pending)

    def leave(self, pending: Pending, turn: Turn) -> None:
        """End a turn: the request was sent, or will not be."""
        if pending.flight is None:
            self._requests.leave_waiting_room(pending)
        if turn.held:
            turn.end()
            self._stop_watching_if_idle()

    def _freed(self) -> None:
        self._full = False
        self._turns.wake()
        self._stop_watching_if_idle()

    def _stop_watching_if_idle(self) -> None:
        if not self._turns.busy:
            self._flight.watch(None)
