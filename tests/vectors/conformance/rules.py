"""What wsrpc answers otherwise wherever it comes up; interop/DEVIATIONS.md has the reasons.

Each rule looks at the content of a scenario, not at its name, and rewrites the recorded reactions to those that wsrpc
must show: they are compared as exactly as the recorded ones. `deviations` has what is particular to one scenario.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .handlers import THROWN_LATE
from .listeners import Listeners
from .scenario import Scenario, Step, Stimulus, parsed

RESERVED = frozenset({"open", "connect", "error", "message", "close", "disconnect"})
MAX_ID = 2**53 - 1
ENDS_CONNECTION = frozenset({"socket_close", "disconnect", "close"})
CLOSING = frozenset({"disconnect", "close"})
QUEUE_FULL = "WebSocket is not connected and send queue is full"
_TYPE_NAMES = {int: "int", float: "float", bool: "bool", type(None): "NoneType", list: "list", dict: "dict"}


def is_id(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_ID


def frame(content: dict[str, Any]) -> Step:
    return {"sent": content}


def outcome(kind: str, **fields: Any) -> Step:
    return {"outcome": {"type": kind, **fields}}


def lost(ref: str) -> Step:
    return outcome("rejected", ref=ref, error=_error("ConnectionLost", "unknown"))


def _error(name: str, message: str) -> dict[str, Any]:
    return {"$error": {"class": name, "message": message}}


def _message(operation: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"a": [operation["event"], *operation["args"]]}
    if operation.get("channel") is not None:
        message["c"] = operation["channel"]
    return message


class Rules:
    """The state that the rules need, over one scenario. ``applied`` has the names of those that changed something."""

    def __init__(self) -> None:
        self.applied: set[str] = set()
        self._requests: dict[int, str] = {}
        """JavaScript's ids of our requests, by the frames sent."""
        self._open: dict[str, bool] = {}
        """Our requests without an answer: whether they were sent."""
        self._settled: set[str] = set()
        self._refused: set[str] = set()
        self._active: dict[int, str | None] = {}
        """Their requests without an answer, and the handler."""
        self._aborted: set[int] = set()
        self._orphans: set[int] = set()
        self._given_up: set[int] = set()
        """Our requests that were cancelled."""
        self._stolen: dict[int, str] = {}
        """Our requests that JavaScript took something else for the answer to."""
        self._deferred: dict[str, str] = {}
        """The handler of each deferred result."""
        self._kept: list[Step] = []
        """What JavaScript's queue had no room for."""
        self._queued: list[Step] = []
        """Events that wait for a connection."""
        self._kept_first: list[Step] = []
        """Those of them that JavaScript has thrown away."""
        self._connected = False
        self._ending: list[int] = []
        self._listeners = Listeners()
        self._main_middleware: list[dict[str, Any]] = []
        self._falsy_throwers: dict[str, dict[str, Any]] = {}
        """Middleware that throws what JavaScript takes for nothing, by its name."""
        self._late_throwers: set[str] = set()
        """Middleware that throws after it has let the message pass."""
        self._spoiled: set[int] = set()
        """Requests that such a middleware has seen."""

    def adapt(self, stimulus: Stimulus) -> Stimulus:
        reactions = list(stimulus.reactions)
        value = stimulus.value
        if stimulus.kind == "do":
            if value["op"] in ("request", "emit") and value.get("channel") is None and value["event"] in RESERVED:
                return self._reserved(stimulus)
            if value["op"] in ("request", "emit") and has_lone_surrogate(value["args"]):
                self.applied.add("lone surrogates")
                reactions = [outcome("threw", op=value["op"], error="NotEncodable")]
            elif value["op"] == "request":
                self._open[value["ref"]] = False
            elif value["op"] == "abort":
                reactions = self._abort(value.get("error"), reactions)
            else:
                if value["op"] == "emit" and not self._connected and not reactions:
                    self._queued.append(frame(_message(value)))
                self._handlers(value)
        elif stimulus.kind == "feed":
            message = parsed(value)
            seen_by = {step.get("outcome", {}).get("middleware") for step in reactions}
            if isinstance(message, dict) and is_id(message.get("i")) and seen_by & self._late_throwers:
                self._spoiled.add(message["i"])
            reactions = self._seen_on_main(message, reactions)
            reactions = self._fed(message, self._stopped_by_nothing(message, reactions))
            reactions = self._rejected_with_nothing(message, reactions)
        reactions = [step for old in reactions for step in self._reaction(old, stimulus)]
        if stimulus.kind == "do":
            reactions = self._sockets(value, reactions)
        reactions = [self._state(step) for step in reactions]
        return replace(stimulus, reactions=tuple(reactions))

    def still_pending(self) -> list[Step]:
        """What must be open at the end and was not in the recording."""
        return [outcome("pending", ref=ref) for ref in self._stolen.values()]

    # ------------------------------------------------------------ what is done

    def _abort(self, reason: Any, reactions: list[Step]) -> list[Step]:
        """There is no `abort`: whoever waits is cancelled, which cancels remotely; accepted events are still sent."""
        self.applied.add("aborting")
        self._kept_first += self._queued
        self._queued.clear()
        ids = {ref: i for i, ref in self._requests.items()}
        changed: list[Step] = []
        for step in reactions:
            content = step.get("outcome", {})
            if content.get("type") == "rejected":
                ref = content["ref"]
                if self._open.get(ref):
                    is_error = isinstance(reason, dict) and "$error" in reason
                    text = reason["$error"]["message"] if is_error else "Request aborted"
                    x = {"x": {"message": text}, "_": 1} if is_error or reason is None else {"x": reason}
                    changed.append(frame({"i": ids[ref], **x}))
                if reason is not None:
                    aborted = {**_error("RequestAbortedError", "Request aborted")["$error"], "reason": reason}
                    step = outcome("rejected", ref=ref, error={"$error": aborted})
            changed.append(step)
        return changed

    def _reserved(self, stimulus: Stimulus) -> Stimulus:
        """Reserved names are refused here, because nobody would ever answer them."""
        self.applied.add("reserved names")
        if stimulus.op == "request":
            self._refused.add(stimulus.value["ref"])
        for step in stimulus.reactions:
            sent = parsed(step["sent"]) if "sent" in step else None
            if isinstance(sent, dict) and is_id(sent.get("i")):
                self._requests[sent["i"]] = stimulus.value.get("ref", "")
        return replace(stimulus, reactions=(outcome("threw", op=stimulus.op, error="ReservedEvent"),))

    def _handlers(self, operation: dict[str, Any]) -> None:
        if operation["op"] == "use":
            middleware = operation["middleware"]
            if operation["channel"] is None:
                self._main_middleware.append(middleware)
            if middleware["kind"] == "next_then_throw":
                self._late_throwers.add(middleware["id"])
            elif middleware["kind"] in ("throw", "next_err") and not middleware["value"]:
                self._falsy_throwers[middleware["id"]] = middleware
        self._listeners.registered(operation)
        handler = operation.get("handler")
        if isinstance(handler, dict) and handler["kind"] == "deferred":
            self._deferred[handler["ref"]] = handler["id"]
        if operation["op"] == "settle":  # the handler returns, whether or not its answer can be sent now
            ended = self._deferred.get(operation["ref"])
            self._ending = [i for i, name in self._active.items() if name == ended][-1:]

    def _sockets(self, operation: dict[str, Any], reactions: list[Step]) -> list[Step]:
        op = operation["op"]
        for i in self._ending:
            self._active.pop(i, None)
        self._ending = []
        if op in CLOSING:
            # Closing happens once, and with a code.
            self.applied.add("closing")
            given = operation.get("args", [])
            args = [*given, *[1000, ""][len(given) :]]
            reactions = [step for step in reactions if step.get("outcome", {}).get("type") != "socket_close_called"]
            if self._connected:
                reactions.append(outcome("socket_close_called", args=args))
        if op == "bind" and self._connected and operation["socket"] == "open":
            self.applied.add("drops")
            reactions.append(outcome("socket_close_called", args=[1001, "another connection was bound"]))
        if op in ENDS_CONNECTION | {"bind"}:
            reactions += self._connection_lost()
            self._connected = False
        if op == "socket_open" or operation.get("socket") == "open":
            self._connected = not operation.get("fail_sends")
            socket = next((step["socket"] for step in reactions if "socket" in step), None)
            for kept, position in ((self._kept, len(reactions)), (self._kept_first, 0)):
                reactions[position:position] = [step if socket is None else {**step, "socket": socket} for step in kept]
                kept.clear()
            self._queued.clear()
        return reactions

    def _connection_lost(self) -> list[Step]:
        """Nothing outlives its connection: what was sent fails, what runs for the other side is cancelled."""
        changes = [lost(ref) for ref, was_sent in self._open.items() if was_sent]
        for ref in [ref for ref, was_sent in self._open.items() if was_sent]:
            del self._open[ref]
            self._settled.add(ref)
        for i, handler in self._active.items():
            self._orphans.add(i)
            changes.append(
                outcome("handler_signal_aborted", handler=handler, reason=_error("ConnectionLost", "unknown"))
            )
        self._active.clear()
        self._aborted.clear()
        if changes:
            self.applied.add("drops")
        return changes

    # ------------------------------------------------------------ what arrives

    def _fed(self, message: Any, reactions: list[Step]) -> list[Step]:
        if not isinstance(message, dict) or message.get("ws-wrapper") is False:
            return reactions
        a = message.get("a")
        i = message.get("i")
        if is_id(i) and message.get("h") and i in self._given_up and not {"a", "e", "x"} & message.keys():
            self._given_up.discard(i)
            self.applied.add("late channels")
            return [*reactions, frame({"h": i, "x": {"message": "nobody asked for a channel"}, "_": 1})]
        if not (isinstance(a, list) and a):
            ref = self._stolen.pop(i or 0, None) if is_id(i) and "x" not in message else None
            if ref is None:
                return self._taken_for_an_answer(i, reactions) if "x" in message else reactions
            answer = ("rejected", "error", "e") if "e" in message else ("resolved", "value", "d")
            return [outcome(answer[0], ref=ref, **{answer[1]: message.get(answer[2])})]
        reactions = self._taken_for_an_answer(i, reactions)
        runs_something = any("outcome" in step or "sent" in step for step in reactions)
        if "i" in message and not is_id(message["i"]):
            self._apply_if(runs_something, "ids")
            return []
        if not isinstance(a[0], str):
            self._apply_if(runs_something, "event names")
            if "i" not in message:
                return []
            why = f"an event's name is text, got {_TYPE_NAMES[type(a[0])]}"
            return [frame({"i": message["i"], "e": {"message": why}, "_": 1})]
        if has_lone_surrogate(message) and "i" not in message:
            self._apply_if(runs_something, "lone surrogates")
            return []
        if (heard := self._listeners.heard(message, reactions)) is not None:
            self.applied.add("listeners")
            reactions = heard
        if "i" in message and (message.get("c") or a[0] not in RESERVED):
            self._active[message["i"]] = None
        return reactions

    def _seen_on_main(self, message: Any, reactions: list[Step]) -> list[Step]:
        """Middleware of the main channel sees the messages of named ones, too."""
        if not isinstance(message, dict) or not isinstance(message.get("c"), str) or "h" in message:
            return reactions
        a = message.get("a")
        if not (isinstance(a, list) and a and isinstance(a[0], str)) or message.get("ws-wrapper") is False:
            return reactions
        seen = [
            outcome("middleware_called", middleware=middleware["id"], event=a[0], args=a[1:])
            for middleware in self._main_middleware
            if middleware["kind"] == "next"
        ]
        if seen:
            self.applied.add("named channels")
        return [*seen, *reactions]

    def _stopped_by_nothing(self, message: Any, reactions: list[Step]) -> list[Step]:
        """Middleware that throws ``null`` or ``0`` lets the message pass in JavaScript."""
        for position, step in enumerate(reactions):
            content = step.get("outcome", {})
            middleware = self._falsy_throwers.get(content.get("middleware", ""))
            if middleware is None or middleware.get("only_event", content["event"]) != content["event"]:
                continue
            self.applied.add("throwing nothing")
            kept = reactions[: position + 1]
            if is_id(message.get("i")):
                value = middleware["value"]
                e = {"e": {"message": "Error"}, "_": 1} if value is None else {"e": value}
                kept.append(frame({"i": message["i"], **e}))
            return kept
        return reactions

    def _rejected_with_nothing(self, message: Any, reactions: list[Step]) -> list[Step]:
        """``e: null`` is the default error, and a flag on what is no object is ignored."""
        if not isinstance(message, dict) or "e" not in message or isinstance(message.get("a"), list):
            return reactions
        e, flagged = message["e"], bool(message.get("_"))
        changed: list[Step] = []
        for step in reactions:
            content = step.get("outcome", {})
            if content.get("type") == "rejected" and (e is None or (flagged and not isinstance(e, dict))):
                self._apply_if(e is None or isinstance(e, (str, list)), "odd rejections")
                step = outcome("rejected", ref=content["ref"], error=_error("Error", "Error") if e is None else e)
            changed.append(step)
        return changed

    def _taken_for_an_answer(self, i: Any, reactions: list[Step]) -> list[Step]:
        """A cancellation, or a request that nobody answers, settles no request of our own."""
        kept = [step for step in reactions if step.get("outcome", {}).get("type") != "resolved"]
        for step in reactions:
            if step not in kept:
                self.applied.add("late cancellations")
                self._stolen[i] = step["outcome"]["ref"]
        return kept

    def _apply_if(self, condition: bool, rule: str) -> None:
        if condition:
            self.applied.add(rule)

    # ------------------------------------------------------------ what it causes

    def _reaction(self, step: Step, stimulus: Stimulus) -> list[Step]:
        if "sent" in step:
            sent = step["sent"] if isinstance(step["sent"], dict) else parsed(step["sent"])
            return self._frame(sent, step, stimulus) if isinstance(sent, dict) else [step]
        content = step["outcome"]
        handle: dict[str, Callable[[Any], list[Step] | None]] = {
            "handler_called": self._handler_called,
            "resolved": self._settling,
            "rejected": self._settling,
            "pending": self._settling,
            "threw": self._threw,
        }
        if content["type"] == "threw" and QUEUE_FULL in str(content["error"]):
            return self._queue_full(stimulus.value)
        changed = handle[content["type"]](content) if content["type"] in handle else None
        if changed is None and content.get("type") == "resolved" and "$channel" in str(content.get("value")):
            # Nobody asked for a channel: JavaScript answers null that way.
            self.applied.add("null results")
            i = next(
                answer["i"] for answer in stimulus.frames() if self._requests.get(answer.get("i")) == content["ref"]
            )
            nobody = {"h": i, "x": {"message": "nobody asked for a channel"}, "_": 1}
            return [outcome("resolved", ref=content["ref"], value=None), frame(nobody)]
        return [step] if changed is None else changed

    def _queue_full(self, operation: dict[str, Any]) -> list[Step]:
        """Ten messages fill JavaScript's queue, wsrpc's is longer."""
        self.applied.add("offline queue")
        message = _message(operation)
        if operation["op"] == "request":
            message["i"] = number = 1_000_000 + len(self._kept)
            self._requests[number] = self._stolen[number] = operation["ref"]
        self._kept.append(frame(message))
        return []

    def _handler_called(self, content: Any) -> list[Step] | None:
        for i, handler in self._active.items():
            if handler is None and content["signal"]:
                self._active[i] = content["handler"]
        return None

    def _settling(self, content: Any) -> list[Step] | None:
        ref = content["ref"]
        if ref in self._settled or ref in self._refused:
            self.applied.add("reserved names" if ref in self._refused else "drops")
            return []
        if content["type"] != "pending":
            self._open.pop(ref, None)
        return None

    def _threw(self, content: Any) -> list[Step] | None:
        if content["op"] == "request" and self._open:
            self._open.popitem()
        return None

    def _frame(self, sent: dict[str, Any], step: Step, stimulus: Stimulus) -> list[Step]:
        i = sent.get("i")
        if "a" in sent:
            if is_id(i) and stimulus.op != "emit":
                self._sent_request(sent["i"], stimulus)
            return [step]
        if "h" in sent and "i" in sent:
            self.applied.add("null results")
            self._active.pop(sent["i"], None)
            return [frame({"i": i, "d": None})] if is_id(i) else []
        if "h" in sent:
            again = stimulus.kind == "feed" and sent["h"] in self._aborted
            self._aborted.add(sent["h"])
            self._apply_if(again, "unknown channels")
            return [] if again else [step]
        if "x" in sent:
            self._given_up.add(i or 0)
            ref = self._requests.get(i or 0)
            return [] if ref in self._refused else [step]
        if i in self._orphans:
            self._orphans.discard(i)
            self.applied.add("drops")
            return []
        self._active.pop(i or 0, None)
        if i in self._spoiled and "e" not in sent:
            # In Python middleware is around the handler: what it raises afterwards is the answer.
            self.applied.add("late throws")
            return [frame({"i": i, "e": {"message": THROWN_LATE}, "_": 1})]
        return [step]

    def _sent_request(self, i: int, stimulus: Stimulus) -> None:
        waiting = [ref for ref, was_sent in self._open.items() if not was_sent]
        ref = stimulus.value["ref"] if stimulus.op == "request" else (waiting[0] if waiting else None)
        if ref is None:  # sent by a handler
            ref = f"request {i}"
        self._requests[i] = ref
        if ref in self._open:
            self._open[ref] = True

    def _state(self, step: Step) -> Step:
        content = step.get("outcome", {})
        if content.get("type") != "state":
            return step
        pending = min(content["pending_requests"], len(self._open))
        active = min(content["active_requests"], len(self._active))
        if (pending, active) == (content["pending_requests"], content["active_requests"]):
            return step
        self.applied.add("leaks")
        return {"outcome": {**content, "pending_requests": pending, "active_requests": active}}


def has_lone_surrogate(value: Any) -> bool:
    left = [value]  # a list instead of recursion, because recordings nest deeper than Python calls
    while left:
        part = left.pop()
        if isinstance(part, str):
            if any(0xD800 <= ord(character) < 0xE000 for character in part):
                return True
        elif isinstance(part, list):
            left += part
        elif isinstance(part, dict):
            left += part
            left += part.values()
    return False


def adapted(scenario: Scenario) -> tuple[Scenario, set[str]]:
    """The scenario as wsrpc must play it, and the names of the rules that made a difference."""
    rules = Rules()
    stimuli = [rules.adapt(stimulus) for stimulus in scenario.stimuli]
    if stimuli and (pending := rules.still_pending()):
        stimuli[-1] = replace(stimuli[-1], reactions=(*stimuli[-1].reactions, *pending))
    return scenario.having(stimuli), rules.applied
