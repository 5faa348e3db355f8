"""What wsrpc does otherwise while there is no connection, and when one ends; interop/DEVIATIONS.md has the reasons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .scenario import Step
from .steps import frame, outcome, told

ENDS_CONNECTION = frozenset({"socket_close", "disconnect", "close"})
CLOSING = frozenset({"disconnect", "close"})
QUEUE_FULL = "WebSocket is not connected and send queue is full"


class ConnectionRules:
    """The connection of one scenario, and the queue. ``lost`` makes the steps for what does not outlive it."""

    def __init__(self, lost: Callable[[], list[Step]], applied: set[str]) -> None:
        self._lost = lost
        self._applied = applied
        self._connected = False
        self._kept: list[Step] = []
        """What JavaScript's queue had no room for."""
        self._queued: list[Step] = []
        """Events that wait for a connection."""
        self._kept_first: list[Step] = []
        """Those of them that JavaScript has thrown away."""

    def emitted(self, operation: dict[str, Any], reactions: list[Step]) -> None:
        if not self._connected and not reactions:
            self._queued.append(frame(message_of(operation)))

    def aborted(self) -> None:
        """JavaScript's `abort` empties the queue; here events that were accepted are sent."""
        self._kept_first += self._queued
        self._queued.clear()

    def queue_full(self, operation: dict[str, Any], number: int | None) -> None:
        """Ten messages fill JavaScript's queue, wsrpc's is longer. ``number``: the id of a request."""
        self._applied.add("offline queue")
        message = message_of(operation)
        if number is not None:
            message["i"] = number
        self._kept.append(frame(message))

    def done(self, operation: dict[str, Any], reactions: list[Step]) -> list[Step]:
        """The reactions to an operation, with what it does to the connection."""
        op = operation["op"]
        if op in CLOSING:
            # Closing happens once, and with a code.
            self._applied.add("closing")
            given = operation.get("args", [])
            args = [*given, *[1000, ""][len(given) :]]
            reactions = [step for step in reactions if told(step).get("type") != "socket_close_called"]
            if self._connected:
                reactions.append(outcome("socket_close_called", args=args))
        if op == "bind" and self._connected and operation["socket"] == "open":
            self._applied.add("drops")
            reactions.append(outcome("socket_close_called", args=[1001, "another connection was bound"]))
        if op in ENDS_CONNECTION | {"bind"}:
            lost = self._lost()
            if lost:
                self._applied.add("drops")
            reactions += lost
            self._connected = False
        if op == "socket_open" or operation.get("socket") == "open":
            self._connected = not operation.get("fail_sends")
            reactions = [*self._kept_first, *reactions, *self._kept]
            for sent in (self._kept_first, self._kept, self._queued):
                sent.clear()
        return reactions


def message_of(operation: dict[str, Any]) -> dict[str, Any]:
    """What an `emit` or a `request` sends, besides the id."""
    message: dict[str, Any] = {"a": [operation["event"], *operation["args"]]}
    if operation.get("channel") is not None:
        message["c"] = operation["channel"]
    return message
