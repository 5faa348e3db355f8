"""Iterating over a channel: what Python gives, beside what JavaScript was recorded to give."""

from __future__ import annotations

from collections import deque
from typing import Any

from .conversations import Conversation
from .iteration import CONSUMER_FAILED
from .scenario import Step
from .steps import error, outcome, told
from .values import recorded, same

OVERFLOW = "async iterator buffer overflow; consumer is too slow"
CLOSED = "channel closed before iteration completed"
CONCURRENT = "cannot call next() concurrently"

DONE: dict[str, Any] = {"value": None, "done": True}


class Reader:
    """One iterator (``loop`` is None) or one loop over a channel. ``told`` collects what it gives."""

    def __init__(self, ref: str, conversation: Conversation | None, told: list[Step], loop: dict[str, Any] | None):
        self.ref = ref
        self.conversation = conversation
        self.apart: str | None = None
        """The rule by which JavaScript's iterator is not where this one is."""
        self.waiting = None if loop is None else ref
        self._told = told
        self._loop = loop
        self._count = 0
        self._items: deque[Any] = deque()
        self._error: Any = None
        self.ended = False
        """The reader knows that there is no more."""
        self._over = conversation is None

    def arrive(self, message: dict[str, Any]) -> None:
        """A ``next``."""
        item = message["a"][1] if len(message["a"]) > 1 else None
        if self._over:
            return
        if isinstance(item, dict) and item.get("done"):
            self.end(None)
            return
        self._items.append(item.get("value") if isinstance(item, dict) else None)
        self._go_on()

    def end(self, why: Any) -> None:
        """Nothing more comes; ``why`` is raised after what is there, None for a good end."""
        if not self._over:
            self._over, self._error = True, why
            self._go_on()

    def next(self, ref: str) -> None:
        if self.waiting is not None:
            text = {"$text": "two tasks read the same stream"}
            self._told.append(outcome("rejected", ref=ref, error=error("RuntimeError", text)))
        else:
            self.waiting = ref
            self._go_on()

    @property
    def failed(self) -> bool:
        """Whether the channel is over otherwise than by its last item."""
        return self.conversation is not None and self.conversation.state == "closed"

    def leave(self) -> None:
        """Nobody reads any more."""
        self.ended = True
        self._items.clear()
        self._over, self._error = True, None
        self._go_on()
        self._let_go()

    def _let_go(self) -> None:
        if self.conversation is not None and self.conversation.reader is self:
            self.conversation.reader = None

    def _go_on(self) -> None:
        while (ref := self.waiting) is not None and (self._items or self._over):
            if self._loop is None:
                self.waiting = None
                self._give(ref)
            elif self._items:
                self._told.append(outcome("iterated", ref=ref, value=self._items.popleft()))
                self._count += 1
                if self._count == self._loop.get("throw_after"):
                    self._stop(outcome("rejected", ref=ref, error=error("Error", CONSUMER_FAILED)))
                elif self._count == self._loop.get("break_after"):
                    self._stop(outcome("resolved", ref=ref, value=self._count))
            elif self._error is not None:
                self._stop(outcome("rejected", ref=ref, error=self._error))
            else:
                self._stop(outcome("resolved", ref=ref, value=self._count))

    def _stop(self, how: Step) -> None:
        self.waiting = None
        self._told.append(how)
        self.leave()

    def _give(self, ref: str) -> None:
        if self._items:
            self._told.append(outcome("resolved", ref=ref, value={"value": self._items.popleft(), "done": False}))
            return
        self._let_go()
        if self._error is None:
            self.ended = True
            self._told.append(outcome("resolved", ref=ref, value=DONE))
        else:
            self._told.append(outcome("rejected", ref=ref, error=self._error))
            self._error = None


class Readers:
    """All of one scenario."""

    def __init__(self, applied: set[str]) -> None:
        self._applied = applied
        self._told: list[Step] = []
        self._readers: dict[str, Reader] = {}
        """By the ``ref`` of whatever is done with them."""

    def done(self, operation: dict[str, Any], conversation: Conversation | None) -> Reader | None:
        """An operation that iterates, ``conversation`` if it names one; None if that is refused."""
        op, ref = operation["op"], operation["ref"]
        if op in ("iter_open", "for_await"):
            self._open(operation, conversation, operation if op == "for_await" else None)
        else:
            reader = self._readers[ref] = self._readers[operation["iter"]]
            if isinstance(reader, _Nobody):
                if op == "iter_throw" and reader.apart != "null results":
                    self._told.append(outcome("rejected", ref=ref, error=operation.get("error")))
                    return reader
                return None
            if op == "iter_next":
                reader.next(ref)
            elif op == "iter_return":
                reader.leave()
                self._told.append(outcome("resolved", ref=ref, value=DONE))
            else:
                self._told.append(outcome("rejected", ref=ref, error=operation.get("error")))
        reader = self._readers[ref]
        return None if isinstance(reader, _Nobody) else reader

    def _open(self, operation: dict[str, Any], conversation: Conversation | None, loop: dict[str, Any] | None) -> None:
        ref = operation["ref"]
        refused = None
        if conversation is None:
            self._readers[ref] = _Nobody(ref, "null results")
            return
        if conversation.state == "closed" and not conversation.late:
            refused = "closed channels", "ChannelClosed", error("ChannelClosed", "", reason=conversation.reason)
        elif conversation.reader is not None:
            text = {"$text": "is being read on this channel already"}
            refused = "two readers", "RuntimeError", error("RuntimeError", text)
        if refused is None:
            reader = self._readers[ref] = conversation.reader = Reader(ref, conversation, self._told, loop)
            conversation.attached, conversation.late = True, False
            for message in conversation.kept:
                if message["a"][0] == "next":
                    reader.apart = "early messages"
                    reader.arrive(message)
            if conversation.state == "closed":
                reader.apart = reader.apart or conversation.apart
                reader.end(conversation.error)
            return
        rule, name, why = refused
        self._readers[ref] = _Nobody(ref, rule)
        self._applied.add(rule)
        if loop is None:
            self._told.append(outcome("threw", op="iter_open", error=name))
        else:
            self._told.append(outcome("rejected", ref=ref, error=why))

    def merged(self, reactions: list[Step]) -> list[Step]:
        """The reactions with what Python gives where that differs for a known reason."""
        given, self._told[:] = list(self._told), []
        refs = {told(step).get("ref", "") for step in [*reactions, *given]} & self._readers.keys()
        for ref in sorted(refs):
            theirs = [told(step) for step in reactions if _is_result(step, ref)]
            ours = [told(step) for step in given if _is_result(step, ref)]
            if len(theirs) == len(ours) and all(map(same, map(recorded, theirs), map(recorded, ours))):
                continue
            rule = self._why(self._readers[ref], theirs, ours)
            if rule is not None:
                self._applied.add(rule)
                reactions = [step for step in reactions if not _is_result(step, ref)]
                reactions += [{"outcome": content} for content in ours]
        reactions += [step for step in given if "ref" not in told(step)]
        return reactions

    def _why(self, reader: Reader, theirs: list[Any], ours: list[Any]) -> str | None:
        """Return the rule by which the two differ, or None if no rule allows the difference."""
        if reader.apart is not None:
            return reader.apart
        texts = [content["error"]["$error"]["message"] for content in theirs if _is_error(content)]
        if OVERFLOW in texts:
            reader.apart = "overflow"
            return reader.apart
        if CONCURRENT in texts:
            return "two readers"
        if CLOSED in texts or any("ChannelClosed" in str(content.get("error")) for content in ours):
            return "iteration errors"
        kinds = [content["type"] for content in [*theirs, *ours]]
        done = [content["value"]["done"] for content in [*theirs, *ours] if isinstance(content.get("value"), dict)]
        if kinds == ["resolved", "rejected"] and (done == [True] or reader.failed):
            return "iteration errors"
        return "last values" if kinds == ["resolved", "resolved"] and done == [True, True] else None

    def at_the_end(self, pending: list[Step]) -> list[Step]:
        """What is open at the end, with iterators that are elsewhere than JavaScript's."""
        apart = {ref for ref, reader in self._readers.items() if reader.apart is not None}
        waiting = sorted(ref for ref in apart if self._readers[ref].waiting == ref)
        kept = [step for step in pending if told(step)["ref"] not in apart]
        return kept + [outcome("pending", ref=ref) for ref in waiting]


class _Nobody(Reader):
    """Where Python has refused to iterate: nothing more is done."""

    def __init__(self, ref: str, rule: str) -> None:
        super().__init__(ref, None, [], None)
        self.apart = rule


def _is_result(step: Step, ref: str) -> bool:
    content = told(step)
    return content.get("ref") == ref and content["type"] in ("resolved", "rejected", "iterated")


def _is_error(content: dict[str, Any]) -> bool:
    return isinstance(content.get("error"), dict) and "$error" in content["error"]
