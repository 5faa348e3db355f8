"""How wsrpc's anonymous channels end, where that is not as JavaScript's do."""

from __future__ import annotations

from typing import Any

from .conversations import Conversation, Conversations
from .scenario import Step
from .steps import CONNECTION_LOST, error, frame, outcome, says, wire

ENDS_CONNECTION = frozenset({"socket_close", "disconnect", "close"})


class Endings(Conversations):
    """Marks conversations as over, and makes the steps that this causes."""

    _connected = False

    def close(
        self, conversation: Conversation, reason: Any, why: Any, *, tell: bool = False, by_other: bool = False
    ) -> list[Step]:
        """It is over: ``why`` is what readers get, and ``tell`` says that JavaScript does not know."""
        given: list[Step] = []
        conversation.late = by_other and not conversation.attached
        conversation.state, conversation.reason, conversation.error = "closed", reason, why
        if tell and conversation.ref is not None:
            given.append(outcome("channel_closed", channel=conversation.ref, reason=reason))
        if conversation.reader is not None:
            if tell:
                conversation.reader.apart = conversation.reader.apart or "drops"
            conversation.reader.end(why)
        if not tell:  # else the end of the connection is what they hear of
            given += self._calls_over(conversation, reason, None if by_other else reason)
        conversation.waiting.clear()
        conversation.active.clear()
        for message in [] if conversation.late else conversation.kept:
            if message.get("i") is not None:
                self.applied.add("early messages")
                given.append(frame({"i": message["i"], **says("e", {"$text": "is closed"})}))
        if conversation.has_generator and conversation.started and not conversation.finalized:
            self.applied.add("streams left")
            conversation.finalized = True
            assert conversation.handler is not None
            given.append(outcome("generator_finalized", handler=conversation.handler["id"]))
        return given

    def _calls_over(self, conversation: Conversation, reason: Any, told: Any) -> list[Step]:
        """Nobody waits any more for what was requested on it, in either direction. The other side is ``told`` why."""
        closed = error("ChannelClosed", "", reason=reason)
        self.requests.settled.update(conversation.waiting)
        given: list[Step] = []
        for ref in conversation.waiting:
            given.append(frame({"i": self.requests.id_of(ref), **wire("x", told, "Request aborted")}))
            given.append(outcome("rejected", ref=ref, error=closed))
        for handler in conversation.active.values():
            given.append(outcome("handler_signal_aborted", handler=handler, reason=reason))
        if given:
            self.applied.add("closed channels")
        return given

    def thrown(self, conversation: Conversation, reason: Any) -> list[Step]:
        """Somebody has thrown into an iterator that is over for JavaScript, and here it is not."""
        given = self.close(conversation, reason, error("ChannelClosed", "", reason=reason), tell=True)
        conversation.apart = "overflow"
        return [frame({"h": conversation.id, **wire("x", reason)}), *given]

    def closed(self, content: dict[str, Any], step: Step, messages: list[Any]) -> list[Step]:
        """JavaScript's channel has ended."""
        conversation = self.by_ref.get(content["channel"])
        if conversation is None:  # a named channel, or one that JavaScript has by mistake
            return [] if content["channel"] in self.requests.refs else [step]
        if conversation.state == "closed":
            return [] if conversation.apart else [step]
        reason = content["reason"]
        if isinstance(reason, dict) and reason.get("$error", {}).get("class") == "DOMException":
            reason = None
        x = next((message for message in messages if "x" in message), None)
        if x is not None and "h" not in x and conversation.state == "new":
            # The request was cancelled, and its handler goes on.
            conversation.state, conversation.reason = "cancelled", None
            return []
        if x is not None and "h" in x:  # what that means to us is up to who reads the message
            if isinstance(x["x"], str) and reason != x["x"]:
                self.applied.add("odd rejections")
                return [outcome("channel_closed", channel=content["channel"], reason=x["x"])]
            return [step]
        return [step, *self.close(conversation, reason, error("ChannelClosed", "", reason=reason))]

    def returned(self, i: int, step: Step) -> list[Step]:
        """A handler's channel is the answer to request ``i``."""
        made = self.answered(i)
        if made is None:  # a null
            return [step]
        if made.state == "new" and made.apart is None:
            self.delivered(made)
            return [step]
        self.latest[made.id] = made
        if made.apart == "drops":  # it ended with the connection
            return [step]
        self.applied.add("closed before returned")
        made.apart = "closed before returned"
        given: list[Step] = []
        reason = made.reason
        if made.state == "cancelled":
            reason = error("Error", "Request aborted")
            given = self.close(made, None, None, tell=True)
        elif reason is None:
            reason = error("Error", {"$text": "the channel was closed"})
        return [frame({"i": i, **wire("e", reason)}), *given]

    def not_returned(self, i: int) -> list[Step]:
        """Request ``i`` was answered with something else."""
        made = self.answered(i)
        if made is None or made.state != "new" or made.ref is None:
            return []
        self.applied.add("not returned")
        return self.close(made, None, None, tell=True)

    def with_connection(self, operation: dict[str, Any]) -> list[Step]:
        """What an operation does to the connection, and so to all channels."""
        op = operation["op"]
        given: list[Step] = []
        if op in ENDS_CONNECTION or (op == "bind" and self._connected):
            for conversation in self.open():
                self.applied.add("drops")
                given += self.close(conversation, CONNECTION_LOST, CONNECTION_LOST, tell=True, by_other=True)
                conversation.apart = "drops"
            for conversation in self.undelivered():
                given += self.close(conversation, CONNECTION_LOST, CONNECTION_LOST, tell=True)
                conversation.apart = "drops"
            for conversation in self.by_ref.values():  # those that are over already
                conversation.kept = [{**message, "i": None} for message in conversation.kept]
            self._connected = False
        opens = op in ("create", "bind", "socket_open") and operation.get("socket", "open") == "open"
        self._connected = self._connected or (opens and not operation.get("fail_sends"))
        return given
