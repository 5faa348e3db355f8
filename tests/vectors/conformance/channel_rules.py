"""What wsrpc does otherwise with anonymous channels and streams; interop/DEVIATIONS.md has the reasons.

As `rules`, which sees what comes out here: by content, and one recorded stimulus may become several.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .channel_arrivals import Arrivals
from .conversations import Conversation, channel_of, is_request, reason_of
from .listeners import answer_of
from .producers import Producers
from .readers import Readers
from .scenario import Step, Stimulus, parsed
from .steps import frame, outcome, says, told

CLOSED_TEXTS = ("Cannot emit on a closed channel", "Cannot send request on a closed channel")


class ChannelRules(Arrivals, Producers):
    """The state that the rules need, over one scenario."""

    def __init__(self, opens: frozenset[str], applied: set[str]) -> None:
        super().__init__(opens, applied)
        self._readers = Readers(applied)
        self._thrown: list[Step] = []
        """What somebody has caused who throws into an iterator that is over for JavaScript."""
        self._named: set[str] = set()
        """Iterators of named channels."""
        self._displaced: list[str] = []
        """Our requests that JavaScript has refused and Python makes."""

    def adapt(self, stimulus: Stimulus) -> list[Stimulus]:
        """The stimulus with wsrpc's reactions, or several, where it takes more for the same."""
        reactions = list(stimulus.reactions)
        messages = [message for message in stimulus.frames() if isinstance(message, dict)]
        if stimulus.kind == "do":
            reactions = self._done(stimulus.value, reactions)
        elif stimulus.kind == "feed" and messages:
            reactions = self.instead(messages[0], reactions)
        elif stimulus.kind == "feed_burst":
            reactions += [step for message in messages for step in self.in_burst(message)]
        reactions = [kept for step in reactions for kept in self._reaction(step, stimulus, messages)]
        for message in messages:
            reactions = self.after(message, reactions)
        if stimulus.kind == "do":
            reactions += [*self._thrown, *self.with_connection(stimulus.value)]
            self._thrown = []
        reactions = self._readers.merged(reactions)
        return self.paced(replace(stimulus, reactions=tuple(reactions)))

    def at_the_end(self, pending: list[Step]) -> list[Step]:
        """What is open at the end."""
        over = self.requests.settled | self.requests.unasked
        pending = [step for step in pending if told(step)["ref"] not in over]
        return self._readers.at_the_end(pending) + [outcome("pending", ref=ref) for ref in self._displaced]

    # ------------------------------------------------------------ what is done

    def _done(self, operation: dict[str, Any], reactions: list[Step]) -> list[Step]:
        op, ref = operation["op"], channel_of(operation)
        self.learn(operation)
        conversation = self.by_ref.get(ref or "")
        if op == "request":
            self.requests.asked(operation)
        if (op.startswith("iter_") or op == "for_await") and not self._iterates_named(operation):
            reactions = self._iterated(operation, conversation, reactions)
        if ref is None:
            return reactions
        if conversation is None:  # JavaScript has it by mistake
            return self._nothing(operation)
        if op in ("on", "once", "use", "off"):
            return self._registered(operation, conversation, reactions)
        if op in ("emit", "request"):
            return self._called(operation, conversation, reactions)
        if op in ("close_channel", "abort_channel"):
            conversation.late = False  # who ends it here has no use for what was kept
        return reactions

    def _iterates_named(self, operation: dict[str, Any]) -> bool:
        """Whether it iterates over a named channel, where Python does as JavaScript does."""
        if isinstance(operation.get("channel"), str):
            self._named.add(operation["ref"])
        return operation["ref"] in self._named or operation.get("iter") in self._named

    def _nothing(self, operation: dict[str, Any]) -> list[Step]:
        if operation["op"] == "request":
            self.requests.not_asked(operation)
        return []

    def _called(self, operation: dict[str, Any], conversation: Conversation, reactions: list[Step]) -> list[Step]:
        """An `emit` or a `request`."""
        op = operation["op"]
        refused = any(told(step).get("type") == "threw" for step in reactions)
        if refused and op == "request":
            self.requests.not_asked(operation)
        if conversation.apart and not refused:
            self.applied.add(conversation.apart)
            if op == "request":
                self.requests.not_asked(operation)
            return [outcome("threw", op=op, error="ChannelClosed")]
        if refused and conversation.state == "open" and _is_closed(reactions):
            # JavaScript has forgotten it for one of the other direction.
            self.applied.add("one table")
            message: dict[str, Any] = {"a": [operation["event"], *operation["args"]], "h": conversation.id}
            if op == "request":
                message["i"] = self.requests.invent()
                self._displaced.append(operation["ref"])
            return [frame(message)]
        return reactions

    def _iterated(
        self, operation: dict[str, Any], conversation: Conversation | None, reactions: list[Step]
    ) -> list[Step]:
        reader = self._readers.done(operation, conversation)
        if reader is None:
            return [step for step in reactions if "sent" not in step]
        if operation["op"] in ("iter_open", "for_await") and conversation is not None:
            reactions = [*reactions, *self._hand_over(operation, conversation)]
        if reader.conversation is None or reader.conversation.state != "open":
            return reactions
        if operation["op"] == "iter_throw" and not reader.ended and not any("sent" in step for step in reactions):
            self._thrown = self.thrown(reader.conversation, operation.get("error"))
            return reactions
        if _is_closed(reactions):
            reader.apart = "one table"
            self.applied.add(reader.apart)
            kept = [step for step in reactions if told(step).get("type") != "threw"]
            return [*kept, frame({"a": ["start"], "h": reader.conversation.id})]
        return reactions

    def _registered(self, operation: dict[str, Any], conversation: Conversation, reactions: list[Step]) -> list[Step]:
        if conversation.state == "closed" and not conversation.late:
            self.applied.add("closed channels")
            return [outcome("threw", op=operation["op"], error="ChannelClosed")]
        if operation["op"] == "on" or operation["op"] == "once":
            conversation.attached, conversation.late = True, False
            return [*reactions, *self._hand_over(operation, conversation)]
        return reactions

    def _hand_over(self, operation: dict[str, Any], conversation: Conversation) -> list[Step]:
        """What was kept for the first handler, or the first reader, who has what is for it already."""
        event, handler = operation.get("event", "next"), operation.get("handler")
        given: list[Step] = []
        for message in conversation.kept:
            name, *args = message["a"]
            # After the connection nobody can be answered.
            waits = message.get("i") is not None
            answer: dict[str, Any] | None = None
            if name == event and handler is not None:
                self.applied.add("early messages")
                given.append(outcome("handler_called", handler=handler["id"], args=args, signal=waits))
                answer = answer_of(handler, args)
            elif name != event:
                answer = says("e", f"No event listener for '{name}' on channel '{conversation.id}'")
            if waits and answer is not None:
                given.append(frame({"i": message["i"], **answer}))
        conversation.kept.clear()
        return given

    # ------------------------------------------------------------ what it causes

    def _reaction(self, step: Step, stimulus: Stimulus, messages: list[Any]) -> list[Step]:
        if "sent" in step:
            sent = step["sent"] if isinstance(step["sent"], dict) else parsed(step["sent"])
            return self._sent(sent, step, stimulus) if isinstance(sent, dict) else [step]
        content = told(step)
        match content["type"]:
            case "handler_called":
                for operation in self.called(content["handler"], messages):
                    if operation["op"] == "request":
                        self.requests.asked(operation)
            case "channel_closed":
                return self.closed(content, step, messages)
            case "generator_finalized":
                return self.finalized(content["handler"], step)
            case "resolved" | "rejected":
                return self._settling(content, step)
        return [step]

    def _sent(self, sent: dict[str, Any], step: Step, stimulus: Stimulus) -> list[Step]:
        h = sent.get("h")
        conversation = self.find(h)
        if "a" in sent:
            if conversation is not None and conversation.apart:
                return []  # from before, or queued
            if is_request(sent):
                self._request_sent(sent)
        elif "x" not in sent and "i" in sent:
            for one in self.open():
                one.active.pop(sent["i"], None)
            if h is not None:
                return self.returned(sent["i"], step)
            return [step, *self.not_returned(sent["i"])]
        elif h is not None and not _is_fail_safe(sent):
            made = self.served(h)
            if made is not None and stimulus.kind == "feed":  # before the other side has heard of it
                made.reason = reason_of(sent["x"], sent.get("_"))
                return []
            if conversation is not None and conversation.apart:
                return []
            if conversation is not None and conversation.streams and conversation.state == "open":
                return self.failed(conversation, sent, step)
        return [step]

    def _request_sent(self, sent: dict[str, Any]) -> None:
        operation = self.requests.sent(sent)
        if operation is not None:
            conversation = self.by_ref.get(channel_of(operation) or "")
            if conversation is not None:
                conversation.waiting.append(operation["ref"])

    def _settling(self, content: dict[str, Any], step: Step) -> list[Step]:
        ref = content["ref"]
        if ref in self.requests.unasked | self.requests.settled:
            return []
        for conversation in self.open():
            if ref in conversation.waiting:
                conversation.waiting.remove(ref)
        i = self.requests.id_of(ref)
        is_channel = content["type"] == "resolved" and "$channel" in str(content["value"])
        if is_channel and ref in self.opens and i is not None:
            self.opened(i, ref)
        return [step]


def _is_closed(reactions: list[Step]) -> bool:
    return any(text in str(told(step).get("error")) for step in reactions for text in CLOSED_TEXTS)


def _is_fail_safe(sent: dict[str, Any]) -> bool:
    return "x" in sent and isinstance(sent["x"], dict) and "does not exist" in str(sent["x"].get("message"))
