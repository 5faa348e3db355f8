"""JavaScript calls every listener of an event; wsrpc has one handler, the one registered last, `once` before `on`."""

from __future__ import annotations

from typing import Any

from .scenario import Step
from .steps import frame, says, told, wire

Spec = dict[str, Any]
Key = tuple[str, str]
"""A channel, in the recordings' notation as text, and an event."""


class Listeners:
    """Who hears an event there and here, over one scenario."""

    def __init__(self) -> None:
        self._theirs: dict[Key, list[tuple[Spec, bool]]] = {}
        self._once: dict[Key, Spec] = {}
        self._on: dict[Key, Spec] = {}

    def registered(self, operation: dict[str, Any]) -> None:
        """Take note of an `on`, `once` or `off`."""
        if operation["op"] not in ("on", "once", "off"):
            return
        key = (str(operation["channel"]), operation["event"])
        if operation["op"] == "off":
            name = operation["handler"]
            self._theirs[key] = [entry for entry in self._theirs.get(key, []) if entry[0]["id"] != name]
            if self._on.get(key, {}).get("id") == name:
                del self._on[key]
            return
        once = operation["op"] == "once"
        self._theirs.setdefault(key, []).append((operation["handler"], once))
        (self._once if once else self._on)[key] = operation["handler"]
        made = {"ref": operation["handler"].get("channel_ref")}
        for entry in operation["handler"].get("channel_on", ()):
            self.registered({"op": "on", "channel": made, **entry})

    def heard(self, message: dict[str, Any], channel: Any, reactions: list[Step]) -> list[Step] | None:
        """The reactions to an event or request whose handler here is not all that its listeners are there."""
        a = message["a"]
        key = (str(channel), a[0])
        theirs = self._theirs.get(key, [])
        called = [step["outcome"] for step in reactions if step.get("outcome", {}).get("type") == "handler_called"]
        if not called:
            return None
        spec = self._once.pop(key, None) or self._on.get(key)
        self._theirs[key] = [entry for entry in theirs if not entry[1]]
        if not theirs or [entry[0] for entry in theirs] == [spec]:
            return None
        kept = [step for step in reactions if told(step).get("type") == "middleware_called"]
        if spec is None:
            answer: dict[str, Any] | None = says("e", f"No event listener for '{a[0]}'")
        else:
            answer = answer_of(spec, called[0]["args"])
            kept.append({"outcome": {**called[0], "handler": spec["id"]}})
        if answer is None:  # one of a kind whose answer the recording would have to show
            return None
        return [*kept, frame({"i": message["i"], **answer})] if "i" in message else kept


def answer_of(spec: Spec, args: list[Any]) -> dict[str, Any] | None:
    """What a handler of a simple kind answers; None for other kinds."""
    if "do" in spec or "channel_ref" in spec:
        return None
    match spec["kind"]:
        case "none":
            return {"d": None}
        case "return" | "async_return":
            return {"d": spec["value"]}
        case "return_args":
            return {"d": args}
        case "return_arg":
            return {"d": args[spec["index"]]}
        case "throw" | "async_throw":
            return wire("e", spec["value"], "Error")
        case _:
            return None
