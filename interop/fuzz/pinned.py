"""Sequences by hand: one at least for each rule, and what was once answered otherwise than thought."""

from __future__ import annotations

from typing import Any

from interop.fuzz.messages import text_of
from interop.fuzz.session import Answer, Give, Say, Step


def said(*steps: dict[str, Any] | str | Give | Answer) -> list[Step]:
    return [
        Say(text_of(step)) if isinstance(step, dict) else Say(step) if isinstance(step, str) else step for step in steps
    ]


ASK = {"i": 21, "a": ["ask", "theirs", 5]}
CANCEL = {"i": 21, "x": {"message": "bored", "k": 1}, "_": 1}
MAKE = {"i": 21, "a": ["channel_make"]}

ODD_IDS: list[Any] = [0, -1, 1.5, 21.0, 2**53, True, "21", None, [], {}]
ODD_NAMES: list[Any] = [5, None, True, 1.5, ["echo"], {}]
ODD_PLACES: list[Any] = [0, True, False, 1.5, [], ["math"], {}]
ODD_CHANNELS: list[Any] = ["21", "021", "21.0", " 21 ", "0x15", 21.0, [21], True, [], {}, "x", "", 0, -7]

BOTH = {
    "null results": said({"i": 21, "a": ["nil"]}, {"a": ["nil"]}, {"i": 22, "a": ["echo", None], "c": "math"}),
    "ids": said(
        *({"i": i, "a": ["log", "ran"]} for i in ODD_IDS),
        {"i": 2**70, "a": ["wait", "key a"]},
        Give("key a"),
    ),
    "malformed messages": said(
        *["{", '{"a":["log"]}x'] * 5,
        {"i": 21, "a": ["echo", 1]},
        *("[", "hello", {"i": 21, "a": []}, {"ws-wrapper": False, "i": 0, "a": ["log"]}),
        {"i": 22, "a": ["echo", 1]},
        {"i": 0, "a": ["log", 1]},
    ),
    "`requests/active-id-reuse`": said(
        {"i": 21, "a": ["wait", "key a"]}, {"i": 21, "a": ["echo", 1]}, Give("key a"), {"i": 21, "a": ["echo", 2]}
    ),
    "event names": said(
        *({"i": 21, "a": [name]} for name in ODD_NAMES),
        {"a": [["echo"], 1]},
        {"i": 22, "a": [["echo"], 1], "c": "math"},
    ),
    "channel names": said(
        *({"i": 21, "a": ["echo"], "c": c} for c in ODD_PLACES),
        {"a": ["log"], "c": ["math"]},
    ),
    "lone surrogates": said(
        '{"i":21,"a":["echo","\\ud800"]}', '{"a":["log","\\udc00"]}', '{"i":21,"a":["echo","\\ud83d\\ude00"]}'
    ),
    "`events/receive-numbers`": said(
        '{"i":21,"a":["echo",1e400]}', '{"a":["log",-1e999]}', '{"i":21,"a":["echo",1e308]}'
    ),
    "many arguments, long names": said(
        {"i": 21, "a": ["args", *range(64)]},
        {"i": 21, "a": ["args", *range(65)]},
        {"a": ["log", *range(65)]},
        {"i": 21, "a": ["e" * 256]},
        {"i": 21, "a": ["e" * 257]},
        {"i": 21, "a": ["echo"], "c": "ü" * 129},
    ),
    "late cancellations": said(ASK, {"i": 1, "x": "too late"}, {"i": 22, "a": ["echo", 1]}),
    "odd rejections": said(
        ASK,
        Answer(0, {"e": None}),
        ASK,
        Answer(0, {"e": "no", "_": 1}),
        ASK,
        Answer(0, {"e": ["no"], "_": 1}),
        ASK,
        Answer(0, {"e": {"message": 404}, "_": 1}),
    ),
    "reserved names": said(
        {"i": 21, "a": ["open"]},
        {"a": ["close"]},
        {"i": 21, "a": ["open"], "c": "math"},
        {"i": 23, "a": ["open"], "c": ""},
        {"i": 22, "a": ["echo"]},
    ),
    "answers": said(
        ASK,
        Answer(0, {"d": [None, 0, ""]}),
        ASK,
        Answer(0, {}),
        {**ASK, "c": "math"},
        Answer(0, {"e": {"message": "no", "code": 5}, "_": 1}),
        {"a": ["ask", "theirs"]},
        Answer(0, {"e": {"message": "nobody hears"}, "_": 1}),
        {"i": 22, "a": ["echo"]},
    ),
    "foreign": said(
        *("", " ", "hello", "null", "5", "[]", '["log",1]', "{", '{"a":["log"]}x', ' {"a":["log","spaces"]} ', "[[["),
        {"ws-wrapper": False, "i": 21, "a": ["log"]},
        {"ws-wrapper": 0, "i": 21, "a": ["log"]},
        '{"i":21,"i":22,"a":["echo","twice"]}',
        {"i": 21, "a": ["echo", 1], "k": 1, "d": 2, "e": 3, "h": None, "c": None, "_": []},
    ),
}
"""Of 3.x and 4.x, by row, or by what it is about."""

FOUR = {
    "Cancelling": said(
        {"i": 21, "a": ["hang"]},
        CANCEL,
        CANCEL,
        {"i": 22, "a": ["wait", "key a"]},
        {"i": 22, "x": 0},
        Give("key a"),
        ASK,
        CANCEL,
        {"i": 23, "x": "for nobody"},
        {"i": 22, "a": ["echo", 1]},
    ),
    "lone surrogates": said(
        MAKE,
        {"i": 22, "h": 21, "a": ["hang"]},
        '{"h":21,"x":"\\ud800"}',
        {"h": 21, "a": ["log"]},
        {"i": 23, "a": ["hang"]},
        '{"i":23,"x":1e400}',
    ),
    "a rejection that names a channel": said(
        ASK, Answer(0, {"e": {"message": "no"}, "h": 1, "_": 1}), {"i": 22, "a": ["echo", 1]}
    ),
    "two kinds": said({"i": 21, "a": ["hang"]}, {"i": 21, "a": None, "x": 1}, {"i": 21, "x": 1}),
    "channel ids": said(
        MAKE,
        *({"i": 22, "h": h, "a": ["echo", 1]} for h in ODD_CHANNELS),
        {"h": "21.0", "a": ["log"]},
        {"h": 0, "x": 1},
        {"h": 21, "a": ["log"]},
        {"h": "x", "x": 1},
        {"h": [21], "x": "odd"},
    ),
    "unknown channels": said(
        {"h": 21, "a": ["log"]},
        {"h": 21, "a": ["log"]},
        {"i": 22, "h": 21, "a": ["log"]},
        MAKE,
        {"h": 21, "a": ["log"]},
        {"h": 21, "x": 1},
        {"h": 21, "a": ["log"]},
        {"h": 21, "x": 1},
    ),
    "requests on a channel that ends": said(
        MAKE,
        {"i": 22, "h": 21, "a": ["hang"]},
        {"i": 23, "h": 21, "a": ["wait", "key a"]},
        {"h": 21, "x": "bored"},
        Give("key a"),
    ),
    "items": said(
        {"i": 21, "a": ["count", 3]},
        {"h": 21, "a": ["start"]},
        {"h": 21, "a": ["start"]},
        {"i": 22, "a": ["count_then_fail", 2]},
        {"h": 22, "a": ["start"]},
        {"i": 23, "a": ["steps", ["key a", "key b"]]},
        {"h": 23, "a": ["start"]},
        Give("key a"),
        {"h": 23, "x": "enough"},
        Give("key b"),
    ),
    "falsy channels": said(
        ASK, Answer(0, {"h": 0, "d": 1}), ASK, Answer(0, {"h": False}), ASK, Answer(0, {"h": None, "d": 2})
    ),
    "null results": said(ASK, Answer(0, {"h": 1}), {"i": 22, "a": ["echo", 1]}),
    "event names": said(MAKE, {"i": 22, "h": 21, "a": [5]}, {"h": 21, "a": [None]}, {"i": 22, "h": 24, "a": [5]}),
    "conversations": said(
        MAKE,
        {"h": 21, "a": ["log", 1]},
        {"i": 22, "h": 21, "a": ["ask", "theirs", 1]},
        Answer(0, {"d": "theirs"}),
        {"i": 22, "h": 21, "a": ["channel_make"]},
        {"i": 23, "h": 22, "a": ["args", 1, 2]},
        {"i": 23, "h": 22, "a": ["none such"]},
        {"i": 23, "h": 21, "a": ["open"]},
        {"h": 21, "x": {"message": "over"}, "_": 1},
        {"i": 23, "h": 22, "a": ["echo", "still there"]},
        {"i": 21, "a": ["channel_talk", 2], "c": "math"},
        {"i": 23, "a": ["wait", "key a", "channel"]},
        Give("key a"),
        {"h": 23, "a": ["log"]},
    ),
}
"""Of 4.x alone."""
