"""What wsrpc answers otherwise wherever it comes up; interop/DEVIATIONS.md has the reasons.

Each rule looks at the content of a scenario, not at its name, and rewrites the recorded reactions to those that wsrpc
must show: they are compared as exactly as the recorded ones. `deviations` has what is particular to one scenario.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from wsrpc.errors import ReservedEvent

from .connection_rules import QUEUE_FULL, ConnectionRules
from .conversations import Conversations
from .listeners import Listeners
from .middleware_rules import MiddlewareRules
from .scenario import Step, Stimulus, parsed
from .steps import (
    CONNECTION_LOST,
    error,
    frame,
    has_lone_surrogate,
    is_id,
    lost,
    outcome,
    says,
    told,
    wire,
    with_plain_id,
)

RESERVED = frozenset({"open", "connect", "error", "message", "close", "disconnect"})
NOBODY = "nobody asked for a channel"
_TYPE_NAMES = {int: "int", float: "float", bool: "bool", type(None): "NoneType", list: "list", dict: "dict"}


class Rules:
    """The state that the rules need, over one scenario."""

    def __init__(self, conversations: Conversations) -> None:
        self.applied = conversations.applied
        self._conversations = conversations
        self._all_requests = conversations.requests
        self._connection = ConnectionRules(self._connection_lost, self.applied)
        self._middleware = MiddlewareRules(conversations)
        self._requests: dict[int, str] = {}
        """JavaScript's ids of our requests, by the frames sent."""
        self._open: dict[str, bool] = {}
        """Our requests without an answer: whether they were sent."""
        self._settled: set[str] = set()
        self._refused: set[str] = set()
        self._active: dict[int, str | None] = {}
        """Their requests without an answer, and the handler."""
        self._told: set[int] = set()
        """Those whose handler knows that nobody waits."""
        self._aborted: set[int] = set()
        self._orphans: set[int] = set()
        self._given_up: set[int] = set()
        """Our requests that were cancelled."""
        self._stolen: dict[int, str] = {}
        """Our requests that JavaScript took something else for the answer to."""
        self._deferred: dict[str, str] = {}
        """The handler of each deferred result."""
        self._ending: list[int] = []
        self._listeners = Listeners()

    def adapt(self, stimulus: Stimulus) -> Stimulus:
        reactions = list(stimulus.reactions)
        value = stimulus.value
        if stimulus.kind == "do":
            if value["op"] in ("request", "emit") and value.get("channel") is None and value["event"] in RESERVED:
                return self._reserved(stimulus)
            if value["op"] in ("request", "emit") and has_lone_surrogate(value["args"]):
                self.applied.add("lone surrogates")
                reactions = [outcome("threw", op=value["op"], error="NotEncodable")]
            elif value["op"] == "request" and value["ref"] not in self._all_requests.unasked:
                self._open[value["ref"]] = False
            elif value["op"] == "abort":
                reactions = self._abort(value.get("error"), reactions)
            else:
                if value["op"] == "emit":
                    self._connection.emitted(value, reactions)
                self._handlers(value)
        elif stimulus.kind == "feed":
            message = with_plain_id(parsed(value))
            reactions = self._fed(message, self._middleware.fed(message, reactions))
            reactions = self._rejected_with_nothing(message, reactions)
        reactions = [step for old in reactions for step in self._reaction(old, stimulus)]
        if stimulus.kind == "do":
            for i in self._ending:
                self._active.pop(i, None)
            self._ending = []
            reactions = self._connection.done(value, reactions)
        reactions = [self._state(step) for step in reactions]
        return replace(stimulus, reactions=tuple(reactions))

    def at_the_end(self, pending: list[Step]) -> list[Step]:
        """What is open at the end, with what JavaScript took something else for the answer to."""
        kept = [step for step in pending if self._settling(told(step)) is None]
        return kept + [outcome("pending", ref=ref) for ref in self._stolen.values()]

    # ------------------------------------------------------------ what is done

    def _abort(self, reason: Any, reactions: list[Step]) -> list[Step]:
        """There is no `abort`: waiting callers are cancelled, also remotely, and accepted events are still sent."""
        self.applied.add("aborting")
        self._connection.aborted()
        ids = {ref: i for i, ref in self._requests.items()}
        changed: list[Step] = []
        for step in reactions:
            content = told(step)
            if content.get("type") == "rejected":
                ref = content["ref"]
                if self._open.get(ref):
                    changed.append(frame({"i": ids[ref], **wire("x", reason, "Request aborted")}))
                if reason is not None:
                    aborted = {**error("RequestAbortedError", "Request aborted")["$error"], "reason": reason}
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
        self._middleware.registered(operation)
        self._listeners.registered(operation)
        handler = operation.get("handler")
        if isinstance(handler, dict) and handler["kind"] == "deferred":
            self._deferred[handler["ref"]] = handler["id"]
        if operation["op"] == "settle":  # the handler returns, whether or not its answer can be sent now
            ended = self._deferred.get(operation["ref"])
            self._ending = [i for i, name in self._active.items() if name == ended][-1:]

    def _connection_lost(self) -> list[Step]:
        """Nothing outlives its connection: what was sent fails, what runs for the other side is cancelled."""
        changes = [lost(ref) for ref, was_sent in self._open.items() if was_sent]
        for ref in [ref for ref, was_sent in self._open.items() if was_sent]:
            del self._open[ref]
            self._settled.add(ref)
        for i, handler in self._active.items():
            self._orphans.add(i)
            if i not in self._told:
                changes.append(outcome("handler_signal_aborted", handler=handler, reason=CONNECTION_LOST))
        self._active.clear()
        self._aborted.clear()
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
            return [*reactions, frame({"h": i, **says("x", NOBODY)})]
        if not (isinstance(a, list) and a):
            ref = self._stolen.pop(i or 0, None) if is_id(i) and "x" not in message else None
            if ref is None:
                return self._taken_for_an_answer(i, reactions) if "x" in message else reactions
            answer = ("rejected", "error", "e") if "e" in message else ("resolved", "value", "d")
            return [outcome(answer[0], ref=ref, **{answer[1]: message.get(answer[2])})]
        reactions = self._taken_for_an_answer(i, reactions)
        if is_id(i) and a[0] in RESERVED and message.get("h") is None and message.get("c") in (None, ""):
            self.applied.add("reserved names")
            return [*reactions, frame({"i": i, **says("e", str(ReservedEvent(a[0])))})]
        runs_something = any("outcome" in step or "sent" in step for step in reactions)
        if "i" in message and not is_id(message["i"]):
            self._apply_if(runs_something, "ids")
            return []
        if not isinstance(a[0], str):
            self._apply_if(runs_something, "event names")
            if "i" not in message:
                return []
            why = f"an event's name is text, got {_TYPE_NAMES[type(a[0])]}"
            return [frame({"i": message["i"], **says("e", why)})]
        if has_lone_surrogate(message) and "i" not in message:
            self._apply_if(runs_something, "lone surrogates")
            return []
        if (heard := self._listeners.heard(message, self._channel(message), reactions)) is not None:
            self.applied.add("listeners")
            reactions = heard
        if "i" in message and (message.get("c") or a[0] not in RESERVED) and not self._conversations.keeps(message):
            self._active[message["i"]] = None
        return reactions

    def _channel(self, message: dict[str, Any]) -> Any:
        if "h" not in message:
            return message.get("c")
        conversation = self._conversations.find(message["h"])
        return {"ref": None if conversation is None else conversation.ref}

    def _rejected_with_nothing(self, message: Any, reactions: list[Step]) -> list[Step]:
        """``e: null`` is the default error, and a flag on what is no object is ignored."""
        if not isinstance(message, dict) or "e" not in message or isinstance(message.get("a"), list):
            return reactions
        e, flagged = message["e"], bool(message.get("_"))
        changed: list[Step] = []
        for step in reactions:
            content = told(step)
            if content.get("type") == "rejected" and (e is None or (flagged and not isinstance(e, dict))):
                self._apply_if(e is None or isinstance(e, (str, list)), "odd rejections")
                step = outcome("rejected", ref=content["ref"], error=error("Error", "Error") if e is None else e)
            changed.append(step)
        return changed

    def _taken_for_an_answer(self, i: Any, reactions: list[Step]) -> list[Step]:
        """A cancellation, or a request that nobody answers, settles no request of our own."""
        ref = self._requests.get(i) if is_id(i) else None
        kept = [step for step in reactions if told(step).get("type") != "resolved" or told(step)["ref"] != ref]
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
        if "$channel" in str(content.get("value")) and content["ref"] in self._conversations.by_ref:
            self._aborted.discard(self._conversations.by_ref[content["ref"]].id)
            self._settling(content)
            return [step]
        handle: dict[str, Callable[[Any], list[Step] | None]] = {
            "handler_called": self._handler_called,
            "resolved": self._settling,
            "rejected": self._settling,
            "pending": self._settling,
            "handler_signal_aborted": self._handler_told,
        }
        if content["type"] == "threw" and QUEUE_FULL in str(content["error"]):
            return self._queue_full(stimulus.value)
        if content["type"] == "threw" and stimulus.op == "request":
            self._open.pop(stimulus.value["ref"], None)
        changed = handle[content["type"]](content) if content["type"] in handle else None
        if changed is None and content.get("type") == "resolved" and "$channel" in str(content.get("value")):
            # Nobody asked for a channel: JavaScript answers null that way.
            self.applied.add("null results")
            i = self._all_requests.id_of(content["ref"]) or 0
            self._aborted.add(i)
            return [outcome("resolved", ref=content["ref"], value=None), frame({"h": i, **says("x", NOBODY)})]
        return [step] if changed is None else changed

    def _queue_full(self, operation: dict[str, Any]) -> list[Step]:
        """Ten messages fill JavaScript's queue, wsrpc's is longer."""
        number = None
        if operation["op"] == "request":
            number = self._all_requests.invent()
            self._requests[number] = self._stolen[number] = operation["ref"]
        self._connection.queue_full(operation, number)
        return []

    def _handler_called(self, content: Any) -> list[Step] | None:
        for i, handler in self._active.items():
            if handler is None and content["signal"]:
                self._active[i] = content["handler"]
        return None

    def _handler_told(self, content: Any) -> list[Step] | None:
        self._told.update(i for i, handler in self._active.items() if handler == content["handler"])
        return None

    def _settling(self, content: Any) -> list[Step] | None:
        ref = content["ref"]
        if ref in self._settled or ref in self._refused:
            self.applied.add("reserved names" if ref in self._refused else "drops")
            return []
        if content["type"] != "pending":
            self._open.pop(ref, None)
        return None

    def _frame(self, sent: dict[str, Any], step: Step, stimulus: Stimulus) -> list[Step]:
        i = sent.get("i")
        if "a" in sent:
            if is_id(i) and stimulus.op != "emit":
                self._sent_request(sent["i"], stimulus)
            return [step]
        if i in self._orphans and "x" not in sent:
            self._orphans.discard(i)
            self.applied.add("drops")
            return []
        if "h" in sent and "i" in sent and self._conversations.find(i) is not None:
            self._aborted.discard(sent["i"])
            self._active.pop(sent["i"], None)
            return [step]
        if "h" in sent and "i" in sent:
            self.applied.add("null results")
            self._active.pop(sent["i"], None)
            return [frame({"i": i, "d": None})] if is_id(i) else []
        if "h" in sent:
            again = stimulus.kind in ("feed", "feed_burst") and sent["h"] in self._aborted
            self._aborted.add(sent["h"])
            self._apply_if(again, "unknown channels")
            return [] if again else [step]
        if "x" in sent:
            self._given_up.add(i or 0)
            ref = self._requests.get(i or 0)
            return [] if ref in self._refused else [step]
        self._active.pop(i or 0, None)
        return [self._middleware.answered(sent, step) if "i" in sent else step]

    def _sent_request(self, i: int, stimulus: Stimulus) -> None:
        waiting = [ref for ref, was_sent in self._open.items() if not was_sent]
        ref = stimulus.value["ref"] if stimulus.op == "request" else (waiting[0] if waiting else None)
        if ref is None:  # sent by a handler
            ref = f"request {i}"
        self._requests[i] = ref
        if ref in self._open:
            self._open[ref] = True

    def _state(self, step: Step) -> Step:
        content = told(step)
        if content.get("type") != "state":
            return step
        pending = min(content["pending_requests"], len(self._open))
        active = min(content["active_requests"], len(self._active))
        if (pending, active) == (content["pending_requests"], content["active_requests"]):
            return step
        self.applied.add("leaks")
        return {"outcome": {**content, "pending_requests": pending, "active_requests": active}}
