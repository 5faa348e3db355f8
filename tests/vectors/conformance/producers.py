"""Streams that this side sends: what Python's do otherwise than JavaScript's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .channel_endings import Endings
from .conversations import Conversation, reason_of
from .scenario import Step, Stimulus, parsed
from .steps import frame, says
from .values import recorded, same


class Producers(Endings):
    """The generators and lists of recorded handlers."""

    def finalized(self, handler: str, step: Step) -> list[Step]:
        """A generator of ``handler`` has run its finally block; here that may have been sooner."""
        running = [
            one
            for one in self.latest.values()
            if one.handler is not None and one.handler["id"] == handler and one.started
        ]
        for conversation in running:
            if not conversation.finalized:
                conversation.finalized = True
                return [step]
        return [] if running else [step]

    def failed(self, conversation: Conversation, sent: dict[str, Any], step: Step) -> list[Step]:
        """A generator has raised."""
        assert conversation.handler is not None
        source = conversation.handler["iterable"]
        reason = reason_of(sent["x"], sent.get("_"))
        given = self.close(conversation, reason, reason)
        if source.get("then_throw", 0) in (None, {"$undefined": True}):
            # Nothing cannot be raised.
            self.applied.add("odd rejections")
            step = frame({"h": conversation.id, **says("x", "Error")})
        return [step, *given]

    def paced(self, stimulus: Stimulus) -> list[Stimulus]:
        """Items to a plain consumer are requests, and the next one waits for the answer."""
        if stimulus.op == "emit":
            return [stimulus]
        found = [stimulus]
        reactions: list[Step] = []
        for step in stimulus.reactions:
            sent = parsed(step["sent"]) if isinstance(step.get("sent"), str) else None
            conversation = self.find(sent.get("h")) if isinstance(sent, dict) else None
            if conversation is None or not conversation.streams or sent is None or sent.get("a", [""])[0] != "next":
                reactions.append(step)
            elif sent["a"][1].get("done"):
                conversation.state = "closed"
                reactions.append(step)
            elif (item := self._next_item(conversation, sent["a"][1])) is not None:
                i = self.requests.invent()
                reactions.append(frame({**sent, "a": ["next", item], "i": i}))
                found[-1] = replace(found[-1], reactions=tuple(reactions))
                found.append(Stimulus("feed", f'{{"i":{i}}}', stimulus.socket, ()))
                reactions = []
        found[-1] = replace(found[-1], reactions=tuple(reactions))
        return found

    def _next_item(self, conversation: Conversation, item: dict[str, Any]) -> dict[str, Any] | None:
        """What is sent for ``item``: each once, however often JavaScript's consumer has said `start`."""
        assert conversation.handler is not None
        items = conversation.handler["iterable"]["items"]
        self.applied.add("items")
        if conversation.items == len(items):
            self.applied.add("second start")
            return None
        ours: dict[str, Any] = recorded({"value": items[conversation.items], "done": False})
        if not same(ours, recorded({"value": None, **item})):
            self.applied.add("second start")
        conversation.items += 1
        return ours
