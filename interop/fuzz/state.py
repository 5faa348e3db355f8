"""What is known of a sequence that is being played: what runs, what is open, which of their ids are the same."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Frame = dict[str, Any]

MAX_ID = 2**53 - 1
MOST_MALFORMED = 10
"""Malformed messages within a minute, longer than any sequence takes, for which wsrpc does not close."""
RESERVED = frozenset({"open", "connect", "message", "error", "close", "disconnect"})
MAKERS = frozenset({"channel_make", "channel_talk", "count", "count_list", "count_then_fail", "steps"})
STREAMS = MAKERS - {"channel_make", "channel_talk"}
SLOW = frozenset({"wait", "ask", "hang", "start"}) | MAKERS
"""Handlers that do not answer in the turn in which they are called, or go on after that."""


def is_id(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_ID


def plain_id(value: Any) -> Any:
    """The id as both sides read it: ``1.0`` is 1, and ``null`` means no id."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def channel_id(value: Any) -> int | None:
    """As wsrpc reads ``h``."""
    value = plain_id(value)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 16:
        value = int(value)
    return value if is_id(value) else None


def number(value: Any) -> float | None:
    """As JavaScript reads ``h``: ``+value``. None for NaN."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, list):
        value = ",".join(map(str, value)) if len(value) != 1 else value[0]
        return number(value)
    if isinstance(value, str):
        text = value.strip()
        try:
            return float(int(text, 16) if text.lower().startswith("0x") else float(text or 0))
        except ValueError:
            return None
    return None


def truthy(value: Any) -> bool:
    """As JavaScript sees it."""
    return bool(value) or isinstance(value, (list, dict))


class Message:
    """One text of a sequence, as far as it can be read. ``m`` is empty where it is no protocol message at all."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            parsed = None
        self.m: dict[str, Any] = parsed if isinstance(parsed, dict) and parsed.get("ws-wrapper") is not False else {}
        a = self.m.get("a")
        self.calls = isinstance(a, list) and bool(a)
        """Whether it is an event or a request."""
        self.a: list[Any] = a if isinstance(a, list) else []
        self.name: Any = self.a[0] if self.a else None
        self.i: Any = plain_id(self.m.get("i"))
        self.h: Any = self.m.get("h")
        self.c: Any = self.m.get("c")
        self.requests = self.calls and is_id(self.i)
        self.is_malformed = (self.calls and self.i is not None and not self.requests) or (
            parsed is None and text.lstrip().startswith("{")
        )
        """Whether wsrpc counts it as malformed."""

    def has(self, *keys: str) -> bool:
        return all(key in self.m for key in keys)

    @property
    def is_slow(self) -> bool:
        return isinstance(self.name, str) and (self.name in SLOW or self.a[:2] == ["fail", "async"])

    @property
    def is_ignored(self) -> bool:
        """Whether it has a reserved name where that is reserved."""
        # Any empty value of `c` names the main channel for JavaScript, in this respect.
        return isinstance(self.name, str) and self.name in RESERVED and not (truthy(self.c) or truthy(self.h))


@dataclass
class Own:
    """A request that both peers have sent, each under an id of its own."""

    js: int
    py: int
    asker: int | None
    """The request that made the peer ask, None where it was an event."""


@dataclass
class State:
    """As it is in Python: what JavaScript has more of, or less, is for the rules to know."""

    active: dict[int, str] = field(default_factory=dict[int, str])
    """Their requests without an answer, and the event's name."""
    on_channel: dict[int, int] = field(default_factory=dict[int, int])
    """Those of them that came on an anonymous channel, and which."""
    channels: dict[int, str] = field(default_factory=dict[int, str])
    """Open anonymous channels, and the event that made them."""
    ghosts: set[int] = field(default_factory=set[int])
    """Requests that Python has answered and JavaScript is still going to answer."""
    unclear: set[int] = field(default_factory=set[int])
    """Channels of which the two think otherwise."""
    aborted: set[int] = field(default_factory=set[int])
    """Channels of which Python has said that they are not there."""
    own: list[Own] = field(default_factory=list[Own])
    """Requests of the peers that were not answered yet."""
    stolen: set[int] = field(default_factory=set[int])
    """Of these, by JavaScript's id, those for which it has taken something else for the answer."""
    only_js: set[int] = field(default_factory=set[int])
    """Requests of JavaScript's that Python has not made."""
    makers: dict[int, str] = field(default_factory=dict[int, str])
    malformed: int = 0
    """Messages that wsrpc has counted as malformed."""

    def pending(self, i: Any) -> Own | None:
        """The request of the peer that has this id in JavaScript."""
        if isinstance(i, bool) or not isinstance(i, (int, float)):
            return None
        return next((own for own in self.own if own.js == i), None)

    def asked_by(self, i: int) -> list[Own]:
        return [own for own in self.own if own.asker == i]

    def sent(self, messages: Iterable[Message]) -> None:
        """Note requests that are about to be sent."""
        for message in messages:
            if message.requests and not message.is_ignored and message.i not in self.active:
                self.active[message.i] = str(message.name)
                h = channel_id(message.h)
                if h is not None:
                    self.on_channel[message.i] = h

    def happened(self, messages: Iterable[Message], frames: Iterable[Frame]) -> None:
        """Note what Python has made of them."""
        for message in messages:
            if message.has("x") and not message.has("a"):
                self.channels.pop(channel_id(message.h) or 0, None)
        for frame in frames:
            i: Any = frame.get("i")
            h: Any = frame.get("h")
            if "a" in frame or (isinstance(i, str) and "x" in frame):
                if h in self.channels and frame.get("a", [None])[0] == "next" and frame["a"][1].get("done"):
                    del self.channels[h]
            elif "i" in frame:
                if "h" in frame:
                    self.channels[i] = self.active.get(i, "")
                    self.aborted.discard(i)
                self.active.pop(i, None)
                self.on_channel.pop(i, None)
            elif "h" in frame:
                self.channels.pop(h, None)
                self.aborted.add(h)
