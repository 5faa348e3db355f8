"""What arrives on anonymous channels and means something else to wsrpc than to JavaScript."""

from __future__ import annotations

from typing import Any

from .channel_endings import Endings
from .conversations import Conversation, reason_of
from .scenario import Step, parsed
from .steps import error, frame, is_id, outcome, says, told


class Arrivals(Endings):
    """What each message means."""

    def instead(self, message: dict[str, Any], reactions: list[Step]) -> list[Step]:
        """The reactions to a message that means something else as a whole."""
        if message.get("ws-wrapper") is False:
            return reactions
        h = message.get("h")
        has_event = isinstance(message.get("a"), list) and bool(message["a"])
        if not has_event and "h" in message and "i" in message and not {"e", "x"} & message.keys():
            return self._falsy(message, reactions)
        if h is None or not (has_event or "x" in message):
            return reactions
        if has_event and not _is_channel_id(h):
            return self._no_channel_id(message, reactions)
        conversation = self.find(h)
        if conversation is None or conversation.apart is None:
            return reactions
        return self._gone(message, conversation) if has_event else []

    def in_burst(self, message: dict[str, Any]) -> list[Step]:
        """What one of several messages causes that JavaScript has a channel for, and Python has not any more."""
        conversation = self.find(message.get("h"))
        if conversation is None or conversation.apart is None or not message.get("a"):
            return []
        return self._gone(message, conversation)

    def _gone(self, message: dict[str, Any], conversation: Conversation) -> list[Step]:
        assert conversation.apart is not None
        self.applied.add(conversation.apart)
        gone = f"Anonymous channel '{conversation.id}' does not exist"
        answer = [frame({"i": message["i"], **says("e", gone)})] if "i" in message else []
        return [frame({"h": conversation.id, **says("x", gone)}), *answer]

    def _falsy(self, message: dict[str, Any], reactions: list[Step]) -> list[Step]:
        """``{i, h}`` whose ``h`` is there, but false: it is a channel for JavaScript only."""
        if message["h"] is None or message["h"]:
            return reactions
        changed: list[Step] = []
        for step in reactions:
            if told(step).get("type") == "resolved":
                self.applied.add("falsy channels")
                ref = told(step)["ref"]
                if ref in self.opens:
                    step = outcome("rejected", ref=ref, error=error("BadResult", {"$text": "is not a channel"}))
                else:
                    step = outcome("resolved", ref=ref, value=message.get("d"))
            changed.append(step)
        return changed

    def _no_channel_id(self, message: dict[str, Any], reactions: list[Step]) -> list[Step]:
        answer: list[Step] = []
        if is_id(message.get("i")):
            answer.append(frame({"i": message["i"], **says("e", {"$text": "does not exist"})}))
        if len(answer) != len(reactions) or any("h" in str(parsed(step.get("sent", ""))) for step in reactions):
            self.applied.add("channel ids")
        return answer

    def after(self, message: dict[str, Any], reactions: list[Step]) -> list[Step]:
        """The reactions, with what a message does to the channel that it is for."""
        conversation = self.find(message.get("h"))
        a = message.get("a")
        if conversation is None or conversation.state != "open" or message.get("ws-wrapper") is False:
            return reactions
        if not (isinstance(a, list) and a):
            if "x" not in message:
                return reactions
            reason = reason_of(message["x"], message.get("_"))
            why = error("Error", "Error") if reason is None else reason
            return [*reactions, *self.close(conversation, reason, why, by_other=True)]
        answer = [step for step in reactions if _is_answer(step, message)]
        others = [step for step in reactions if step not in answer]
        if not conversation.attached:
            conversation.kept.append(message)
            if answer:  # a rejection, because nobody listens yet
                self.applied.add("early messages")
            return others
        if a[0] == "start" and conversation.streams:
            conversation.started = True
            return [*answer, *others]  # the handler of `start` is done at once, not when the stream is
        if a[0] == "next" and conversation.reader is not None:
            conversation.reader.arrive(message)
        return reactions


def _is_channel_id(h: Any) -> bool:
    if isinstance(h, str) and h.isascii() and h.isdecimal() and len(h) <= 16:
        h = int(h)
    return is_id(h)


def _is_answer(step: Step, message: dict[str, Any]) -> bool:
    sent = parsed(step["sent"]) if isinstance(step.get("sent"), str) else step.get("sent")
    return isinstance(sent, dict) and "i" in message and sent.get("i") == message["i"] and "a" not in sent
