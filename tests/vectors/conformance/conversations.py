"""The anonymous channels of a recorded session: which there are, for JavaScript and for Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from .scenario import CHANNEL_KINDS
from .steps import error, is_id


@dataclass(eq=False)
class Conversation:
    """One anonymous channel. ``id`` is JavaScript's; ``ref`` is the recording's name for it, if it has one."""

    id: int
    ref: str | None
    handler: dict[str, Any] | None = None
    """Whose answer it is; None if this side requested it."""
    state: str = "open"
    """For Python: "new" until the other side knows of it, "open", "cancelled" before that, "closed"."""
    apart: str | None = None
    """The rule by which it is over here, while JavaScript goes on with it."""
    reason: Any = None
    """Why it is over, in the recordings' notation."""
    error: Any = None
    """The error that a reader then gets. None if a reader gets no error."""
    late: bool = False
    """The other side has ended it before anybody listened, so that one may still do so."""
    waiting: list[str] = field(default_factory=list)
    """Our requests on it that have no answer, by ``ref``."""
    attached: bool = False
    """Somebody has registered a handler or begun to read."""
    kept: list[dict[str, Any]] = field(default_factory=list)
    """The messages that came before that."""
    reader: Any = None
    started: bool = False
    """It streams, and the consumer has begun to read."""
    finalized: bool = False
    items: int = 0
    """How many were sent."""
    active: dict[int, str] = field(default_factory=dict)
    """Their requests on it that wait for an answer, and the handler."""

    @property
    def streams(self) -> bool:
        return self.handler is not None and self.handler["kind"] == "iterable"

    @property
    def has_generator(self) -> bool:
        return self.streams and self.handler is not None and "generator" in self.handler["iterable"]["kind"]


class OurRequests:
    """``unasked`` are those that JavaScript made and Python does not, ``settled`` those that are over only here."""

    def __init__(self) -> None:
        self.refs: set[str] = set()
        self.unasked: set[str] = set()
        self.settled: set[str] = set()
        self._unseen: list[dict[str, Any]] = []
        """Not on the wire yet."""
        self._ids: dict[str, int] = {}
        self._invented = count(2_000_001)

    def asked(self, operation: dict[str, Any]) -> None:
        self._unseen.append(operation)
        self.refs.add(operation["ref"])

    def not_asked(self, operation: dict[str, Any]) -> None:
        """Python does not make it."""
        self.unasked.add(operation["ref"])
        self._unseen = [request for request in self._unseen if request["ref"] != operation["ref"]]

    def sent(self, frame: dict[str, Any]) -> dict[str, Any] | None:
        """The operation by which a request was made."""
        for request in self._unseen:
            if request["event"] == frame["a"][0]:
                self._unseen.remove(request)
                self._ids[request["ref"]] = frame["i"]
                return request
        return None

    def id_of(self, ref: str) -> int | None:
        return self._ids.get(ref)

    def invent(self) -> int:
        """An id for a request that JavaScript did not make."""
        return next(self._invented)


class Conversations:
    """All of one scenario. ``latest``: JavaScript has one table for both directions, and the later one wins.

    ``opens`` are our requests that ask for a channel. ``applied`` has the names of the rules that changed something.
    """

    def __init__(self, opens: frozenset[str], applied: set[str]) -> None:
        self.opens, self.applied = opens, applied
        self.requests = OurRequests()
        self.by_ref: dict[str, Conversation] = {}
        self.latest: dict[int, Conversation] = {}
        self._specs: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._serving: dict[int, Conversation] = {}

    # ------------------------------------------------------------ handlers

    def learn(self, operation: dict[str, Any]) -> None:
        """Take note of the handlers that an operation registers, now or later."""
        handler = operation.get("handler")
        if not isinstance(handler, dict):
            return
        self._specs[handler["id"]] = operation.get("event"), handler
        for inner in [*handler.get("do", ()), *handler.get("channel_on", ())]:
            self.learn(inner)

    def called(self, name: str, messages: list[Any]) -> list[dict[str, Any]]:
        """A handler was called, by one of ``messages``: perhaps it makes a channel. Returns what else it does."""
        event, handler = self._specs.get(name, (None, {}))
        for message in messages:
            found = self.find(message.get("h")) if is_request(message) and message["a"][0] == event else None
            if found is not None and found.state == "open":
                found.active[message["i"]] = name
        makes = {"channel_ref", "channel_on", "channel_use"} & handler.keys()
        if makes or handler.get("kind") in CHANNEL_KINDS | {"iterable"}:
            calls = (message for message in messages if is_request(message) and message["a"][0] == event)
            i = next((message["i"] for message in calls if message["i"] not in self._serving), None)
            if i is not None:
                self._made(i, handler)
        operations: list[dict[str, Any]] = handler.get("do", [])
        return operations

    def _made(self, i: int, handler: dict[str, Any]) -> None:
        made = self._serving[i] = Conversation(i, handler.get("channel_ref"), handler, state="new")
        made.attached = made.streams or bool(handler.get("channel_on"))
        if made.ref is not None:
            self.by_ref[made.ref] = made

    def undelivered(self) -> list[Conversation]:
        """Those whose handlers are at work."""
        return [made for made in self._serving.values() if made.state == "new"]

    def served(self, i: Any) -> Conversation | None:
        """What the handler of request ``i`` has made and not returned yet."""
        return self._serving.get(i)

    def answered(self, i: Any) -> Conversation | None:
        """Request ``i`` has its answer."""
        return self._serving.pop(i, None)

    # ------------------------------------------------------------ coming

    def opened(self, i: int, ref: str) -> Conversation:
        """Our request ``i`` was answered with a channel."""
        made = self.by_ref[ref] = self.latest[i] = Conversation(i, ref)
        return made

    def delivered(self, conversation: Conversation) -> None:
        """A handler's channel is known to the other side."""
        conversation.state = "open"
        self.latest[conversation.id] = conversation

    # ------------------------------------------------------------ asking

    def find(self, h: Any) -> Conversation | None:
        """The one that a message is for."""
        number = int(h) if isinstance(h, str) and h.isdecimal() else h
        return self.latest.get(number) if is_id(number) else None

    def open(self) -> list[Conversation]:
        return [one for one in dict.fromkeys([*self.latest.values(), *self.by_ref.values()]) if one.state == "open"]

    def keeps(self, message: dict[str, Any]) -> bool:
        """Whether a message waits for the first handler of its channel."""
        found = self.find(message.get("h"))
        return found is not None and message in found.kept

    def dispatches(self, message: dict[str, Any]) -> bool:
        """Whether a message on an anonymous channel gets as far as the handlers."""
        found = self.find(message.get("h"))
        if found is None or found.state != "open" or not found.attached:
            return False
        taken = ("start", "stop") if found.streams else ("next",) if found.reader is not None else ()
        return message["a"][0] not in taken


def is_request(message: Any) -> bool:
    return isinstance(message, dict) and bool(message.get("a")) and isinstance(message["a"], list) and "i" in message


def reason_of(x: Any, flag: Any) -> Any:
    """The reason that an abort or a rejection brings, in the recordings' notation."""
    if not (flag and isinstance(x, dict)):
        return x
    fields = dict(x)
    message, name = fields.pop("message", ""), fields.pop("name", "Error")
    return error("Error", message, name=name, **({"props": fields} if fields else {}))


def channel_of(operation: dict[str, Any]) -> str | None:
    """The ``ref`` of the anonymous channel that something is done on."""
    channel = operation.get("channel")
    return channel["ref"] if isinstance(channel, dict) else None
