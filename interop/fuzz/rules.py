"""Where wsrpc answers otherwise than JavaScript, message by message; interop/DEVIATIONS.md has the reasons.

A rule says to which messages it applies, and what Python answers to them, given what JavaScript has answered. What no
rule applies to is answered the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from interop.fuzz.state import MAKERS, Frame, Message, State, channel_id, is_id, number, truthy

ABORTED = "Request aborted"


@dataclass(frozen=True)
class Rule:
    """``row`` is how its row in DEVIATIONS.md begins. Several rules may share one."""

    row: str
    applies: Callable[[Message, State], bool]
    answer: Callable[[Message, list[Frame], State], list[Frame]]


def rejected(i: Any, text: Any) -> Frame:
    return {"i": i, "e": {"message": text}, "_": 1}


def _no_id(message: Message, js: list[Frame], state: State) -> list[Frame]:
    return []


def _reused(message: Message, js: list[Frame], state: State) -> list[Frame]:
    state.unclear.add(message.i)  # when the second one is over, JavaScript has forgotten that the first one runs
    return []


def refused(text: Callable[[Message], Any]) -> Callable[[Message, list[Frame], State], list[Frame]]:
    """A request is rejected with that text, an event dropped."""

    def answer(message: Message, js: list[Frame], state: State) -> list[Frame]:
        if not message.requests:
            return []
        if message.name in ("wait", "ask"):
            state.ghosts.add(message.i)  # JavaScript runs it, and answers when it is over
        return [rejected(message.i, text(message))]

    return answer


# ---------------------------------------------------------------- what does not decode


def _is_too_large(message: Message, state: State) -> bool:
    return "Infinity" in json.dumps(message.m)


def _has_lone_surrogate(message: Message, state: State) -> bool:
    try:
        json.dumps(message.m, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _does_not_decode(message: Message, js: list[Frame], state: State) -> list[Frame]:
    if message.requests and message.i not in state.active:
        return [rejected(message.i, {"$text": "does not decode"})]
    if _cancels(message, state):
        return _ended(message.i, state, {"x": {"message": ABORTED}, "_": 1})
    return _channel_ended(message, js, state) if _ends_channel(message, state) else []


# ---------------------------------------------------------------- what is said of requests that run


def _cancels(message: Message, state: State) -> bool:
    return (
        is_id(message.i)
        and message.i in state.active
        and message.has("x")
        and not message.has("a")
        and message.h is None
    )


def _cancelled(message: Message, js: list[Frame], state: State) -> list[Frame]:
    return _ended(message.i, state, reason(message))


def _ended(i: int, state: State, why: Frame | None) -> list[Frame]:
    """The handler is cancelled, with what it has itself asked; in JavaScript most go on."""
    if state.active[i] != "hang":
        state.ghosts.add(i)
        if state.makers.get(i) == "channel":
            state.unclear.add(i)  # JavaScript is going to have one that is dead
    told = [] if why is None else [{"i": f"own {own.py}", **why} for own in state.asked_by(i)]
    state.own = [own for own in state.own if own.asker != i]
    return [*told, rejected(i, ABORTED)]


def reason(message: Message) -> Frame:
    """A reason as it is passed on."""
    x, flag = message.m["x"], message.m.get("_")
    if x is None:
        return {"x": {"message": ABORTED}, "_": 1}
    if flag and isinstance(x, dict):
        return {"x": {**x, "message": str(x.get("message", ""))}, "_": 1}
    return {"x": x}


def _ends_channel(message: Message, state: State) -> bool:
    h = channel_id(message.h)
    return h is not None and message.has("x") and not message.has("a") and h in state.on_channel.values()


def _channel_ended(message: Message, js: list[Frame], state: State) -> list[Frame]:
    h = channel_id(message.h)
    left = [i for i, on in state.on_channel.items() if on == h]
    return [frame for i in left for frame in _ended(i, state, None)]


# ---------------------------------------------------------------- the rules


def _steals(message: Message, state: State) -> bool:
    if state.pending(message.i) is None or (message.calls and not message.is_ignored):
        return False
    if message.h is None and message.i in state.active and message.has("x"):
        return False  # there is something to cancel
    return message.has("x") or message.has("a")


def _stolen(message: Message, js: list[Frame], state: State) -> list[Frame]:
    own = state.pending(message.i)
    assert own is not None
    state.stolen.add(own.js)
    refuses = next(
        (rule for rule in RULES if message.requests and rule.answer is not _stolen and rule.applies(message, state)),
        None,
    )
    return [] if refuses is None else refuses.answer(message, js, state)


def _has_reserved_name(message: Message, state: State) -> bool:
    return message.requests and message.is_ignored and message.h is None and message.c in (None, "")


def _refused_name(message: Message, js: list[Frame], state: State) -> list[Frame]:
    return [rejected(message.i, {"$text": f"'{message.name}' is reserved"})]


def _two_kinds(message: Message, state: State) -> bool:
    return message.has("a", "x") and not message.calls


def _two_kinds_of(message: Message, js: list[Frame], state: State) -> list[Frame]:
    h = number(message.h)
    if h in state.channels:
        state.unclear.add(int(h or 0))
    return []


def _odd_channel(message: Message, state: State) -> bool:
    return message.h is not None and channel_id(message.h) is None and (message.calls or message.has("x"))


def _on_odd_channel(message: Message, js: list[Frame], state: State) -> list[Frame]:
    if not message.calls:
        h = number(message.h)
        if h in state.channels:
            state.unclear.add(int(h or 0))
    return refused(lambda message: f"Anonymous channel '{message.h}' does not exist")(message, js, state)


def _unknown_again(message: Message, js: list[Frame], state: State) -> list[Frame]:
    return [frame for frame in js if "x" not in frame]


NAMES = {int: "int", float: "float", bool: "bool", type(None): "NoneType", list: "list", dict: "dict"}

RULES = (
    Rule("`events/receive-numbers`", _is_too_large, _does_not_decode),
    Rule("lone surrogates", _has_lone_surrogate, _does_not_decode),
    Rule("ids", lambda m, s: m.i is not None and not is_id(m.i) and (m.calls or (m.has("x") and m.h is None)), _no_id),
    Rule("late cancellations", _steals, _stolen),
    Rule("`requests/active-id-reuse`", lambda m, s: m.requests and m.i in s.active, _reused),
    Rule("two kinds", _two_kinds, _two_kinds_of),
    Rule("Cancelling", _cancels, _cancelled),
    Rule("requests on a channel that ends", _ends_channel, _channel_ended),
    Rule(
        "event names",
        lambda m, s: m.calls and not isinstance(m.name, str) and (m.h is None or channel_id(m.h) in s.channels),
        refused(lambda m: f"an event's name is text, got {NAMES[type(m.name)]}"),
    ),
    Rule(
        "channel names",
        lambda m, s: m.calls and m.c is not None and not isinstance(m.c, str) and m.h is None,
        refused(lambda m: f"Channel '{m.c}' does not exist"),
    ),
    Rule(
        "many arguments, long names",
        lambda m, s: m.calls and len(m.a) > 65,
        refused(lambda m: f"got {len(m.a) - 1} arguments, at most 64 are accepted"),
    ),
    Rule(
        "many arguments, long names",
        lambda m, s: m.calls and max(_size(m.name), _size(m.c) if m.h is None else 0) > 256,
        refused(lambda m: "a name of more than 256 bytes"),
    ),
    Rule("channel ids", _odd_channel, _on_odd_channel),
    Rule(
        "unknown channels",
        lambda m, s: m.calls and channel_id(m.h) is not None and channel_id(m.h) in s.aborted - s.channels.keys(),
        _unknown_again,
    ),
    Rule("reserved names", _has_reserved_name, _refused_name),
)


def _size(name: Any) -> int:
    return len(name.encode(errors="replace")) if isinstance(name, str) else 0


# ---------------------------------------------------------------- answers to what the peer itself has asked


@dataclass(frozen=True)
class Answering:
    """As `Rule`, for an answer to a request of the peer's own, whose handler passes it on to the request ``asker``."""

    row: str
    applies: Callable[[Frame], bool]
    answer: Callable[[Frame, int | None, int], list[Frame]]


def _passed_on(answer: Callable[[Frame], Frame]) -> Callable[[Frame, int | None, int], list[Frame]]:
    return lambda fields, asker, own: [] if asker is None else [{"i": asker, **answer(fields)}]


def _a_channel(fields: Frame, asker: int | None, own: int) -> list[Frame]:
    told = {"h": f"own {own}", "x": {"message": "nobody asked for a channel"}, "_": 1}
    return [told, *_passed_on(lambda fields: {"d": None})(fields, asker, own)]


ANSWERING = (
    Answering(
        "odd rejections",
        lambda f: "e" in f and f["e"] is None,
        _passed_on(lambda f: {"e": {"message": "Error"}, "_": 1}),
    ),
    Answering(
        "odd rejections",
        lambda f: truthy(f.get("e")) and truthy(f.get("_")) and not isinstance(f["e"], dict),
        _passed_on(lambda f: {"e": f["e"]}),
    ),
    Answering(
        "odd rejections",
        lambda f: (
            truthy(f.get("_")) and isinstance(f.get("e"), dict) and not isinstance(f["e"].get("message", ""), str)
        ),
        _passed_on(lambda f: {"e": {**f["e"], "message": str(f["e"]["message"])}, "_": 1}),
    ),
    Answering(
        "falsy channels",
        lambda f: "e" not in f and f.get("h") is not None and not f["h"],
        _passed_on(lambda f: {"d": f.get("d")}),
    ),
    Answering("null results", lambda f: "e" not in f and bool(f.get("h")), _a_channel),
)

ROWS = {rule.row for rule in (*RULES, *ANSWERING)} | {"items", "malformed messages"}
"""The beginnings of the rows of DEVIATIONS.md that the rules are about: of a table's row, or of a bullet."""


def rewritten(js: list[Frame], state: State, used: set[str]) -> list[Frame]:
    """What JavaScript has sent, without what it sends by mistake whatever the message was."""
    kept: list[Frame] = []
    for frame in js:
        i = frame.get("i")
        if "a" not in frame and is_id(i) and i in state.ghosts:
            state.ghosts.discard(i)
            used.add("Cancelling")
        elif "i" in frame and "h" in frame and "a" not in frame and not _makes(i, state):
            used.add("null results")
            if is_id(i):
                kept.append({"i": i, "d": None})
        elif "e" in frame and frame["e"] is None:  # before 4.x
            used.add("odd rejections")
            kept.append(rejected(i, "Error"))
        elif "i" in frame and "a" not in frame and not is_id(i):
            used.add("ids")  # it has waited until now
        else:
            kept.append(frame)
    return kept


def _makes(i: Any, state: State) -> bool:
    name = state.active.get(i) if is_id(i) else None
    return name in MAKERS or (name == "wait" and state.makers.get(i) == "channel")
