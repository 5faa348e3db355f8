"""What wsrpc does otherwise with middleware; interop/DEVIATIONS.md has the reasons."""

from __future__ import annotations

from typing import Any

from .conversations import Conversations
from .handlers import THROWN_LATE
from .scenario import Step
from .steps import frame, is_id, outcome, says, told, wire


class MiddlewareRules:
    """The middleware of one scenario."""

    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations
        self._applied = conversations.applied
        self._on_main: list[dict[str, Any]] = []
        self._falsy_throwers: dict[str, dict[str, Any]] = {}
        """Those that throw what JavaScript takes for nothing, by name."""
        self._late_throwers: set[str] = set()
        """Those that throw after they have let the message pass."""
        self._spoiled: set[int] = set()
        """Requests that such a middleware has seen."""

    def registered(self, operation: dict[str, Any]) -> None:
        """Take note of a `use`."""
        if operation["op"] != "use":
            return
        middleware = operation["middleware"]
        if operation["channel"] is None:
            self._on_main.append(middleware)
        if middleware["kind"] == "next_then_throw":
            self._late_throwers.add(middleware["id"])
        elif middleware["kind"] in ("throw", "next_err") and not middleware["value"]:
            self._falsy_throwers[middleware["id"]] = middleware

    def fed(self, message: Any, reactions: list[Step]) -> list[Step]:
        """The reactions to a message, as far as middleware is concerned."""
        if not isinstance(message, dict):
            return reactions
        if is_id(message.get("i")) and {told(step).get("middleware") for step in reactions} & self._late_throwers:
            self._spoiled.add(message["i"])
        return self._stopped_by_nothing(message, self._seen_on_main(message, reactions))

    def _seen_on_main(self, message: dict[str, Any], reactions: list[Step]) -> list[Step]:
        """Middleware of the main channel sees the messages of other channels, too."""
        a = message.get("a")
        if message.get("ws-wrapper") is False or not (isinstance(a, list) and a and isinstance(a[0], str)):
            return reactions
        if not self._conversations.dispatches(message) if "h" in message else not isinstance(message.get("c"), str):
            return reactions
        seen = [
            outcome("middleware_called", middleware=middleware["id"], event=a[0], args=a[1:])
            for middleware in self._on_main
            if middleware["kind"] == "next"
        ]
        if seen:
            self._applied.add("named channels")
        return [*seen, *reactions]

    def _stopped_by_nothing(self, message: dict[str, Any], reactions: list[Step]) -> list[Step]:
        """Middleware that throws ``null`` or ``0`` lets the message pass in JavaScript."""
        for position, step in enumerate(reactions):
            content = told(step)
            middleware = self._falsy_throwers.get(content.get("middleware", ""))
            if middleware is None or middleware.get("only_event", content["event"]) != content["event"]:
                continue
            self._applied.add("throwing nothing")
            kept = reactions[: position + 1]
            if is_id(message.get("i")):
                kept.append(frame({"i": message["i"], **wire("e", middleware["value"], "Error")}))
            return kept
        return reactions

    def answered(self, sent: dict[str, Any], step: Step) -> Step:
        """In Python middleware is around the handler: what it raises afterwards is the answer."""
        if sent["i"] not in self._spoiled or "e" in sent:
            return step
        self._applied.add("late throws")
        return frame({"i": sent["i"], **says("e", THROWN_LATE)})
