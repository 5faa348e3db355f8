"""What a stranger may say: messages as they should be, nearly so, and not at all."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st

from interop.fuzz.session import Answer, Give, Say, Step

IDS = (21, 22, 23, 24, 1, 2, 3, 2**31, 2**53 - 1)
KEYS = ("key a", "key b")

texts = st.sampled_from(
    ["", "text", "ünï €", "\U0001f600", "\u2028\u0000\u007f", '"\\/', "echo", "__proto__", "a" * 300]
)
scalars = st.sampled_from(
    [None, True, False, 0, 1, -1, 7, 1.5, -0.0, 1e21, 5e-324, 2**53 + 1, 2**64, -(2**63), 10**30, ""]
)
leaves = scalars | texts
values = st.one_of(
    leaves,
    leaves,
    st.lists(leaves, max_size=3),
    st.dictionaries(texts, leaves, max_size=2),
    st.recursive(leaves, lambda v: st.lists(v, max_size=2) | st.dictionaries(texts, v, max_size=2), max_leaves=6),
)
arguments = st.lists(values, max_size=3)
ids = st.sampled_from(IDS)
odd_ids: st.SearchStrategy[Any] = st.sampled_from(
    [0, -1, -7, 1.5, 21.0, 2**53, 2**53 + 1, 2**70, True, False, "21", "", None, [], [21], {}, "abc"]
)
small = st.integers(0, 3)

calls: st.SearchStrategy[list[Any]] = st.one_of(
    st.tuples(st.sampled_from(["echo", "args", "log", "nothing", "nil"]), arguments).map(lambda t: [t[0], *t[1]]),
    st.tuples(st.just("echo"), values).map(list),
    st.tuples(
        st.just("fail"),
        st.sampled_from(["", "error", "type", "string", "object", "null", "undefined", "async", 5, None]),
    ).map(list),
    st.just(["hang"]),
    st.tuples(st.just("wait"), st.sampled_from(KEYS)).map(list),
    st.tuples(st.just("ask"), st.sampled_from(["theirs", "echo", "ünï"]), values).map(list),
    st.tuples(st.sampled_from(["none such", "", "toString", "__proto__"]), values).map(list),
    st.tuples(st.sampled_from(["open", "close", "message", "error", "connect", "disconnect"]), values).map(list),
)
making: st.SearchStrategy[list[Any]] = st.one_of(
    st.just(["channel_make"]),
    st.tuples(st.sampled_from(["count", "count_list", "count_then_fail", "channel_talk"]), small).map(list),
    st.tuples(st.just("wait"), st.sampled_from(KEYS), st.just("channel")).map(list),
    st.tuples(st.just("steps"), st.lists(st.sampled_from(KEYS), max_size=2)).map(list),
)
places: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [{}, {}, {}, {"c": "math"}, {"c": "none such"}, {"c": None}]
)


def joined(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    def join(fields: tuple[dict[str, Any], ...]) -> dict[str, Any]:
        return {key: value for part in fields for key, value in part.items()}

    return st.tuples(*parts).map(join)


def field(key: str, value: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return value.map(lambda content: {key: content})


with_id = field("i", ids)
events = joined(field("a", calls), places)
requests = joined(with_id, field("a", calls), places)
called: st.SearchStrategy[dict[str, Any]] = st.one_of(events, requests)
reasons: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {"x": "bored"},
        {"x": {"message": "bored"}, "_": 1},
        {"x": {"message": 5}, "_": 1},
        {"x": {"message": "bored", "k": [1]}, "_": True},
        {"x": {"k": 1}},
        {"x": None},
        {"x": 0},
        {"x": False},
        {"x": ""},
        {"x": []},
    ]
)
results = st.one_of(
    field("d", values),
    field("d", values),
    st.just({}),
    st.sampled_from(
        [
            {"e": "no"},
            {"e": {"message": "no", "code": 5}, "_": 1},
            {"e": {"message": 404}, "_": 1},
            {"e": {"message": "no"}},
            {"e": {}, "_": 1},
            {"e": None},
            {"e": False},
            {"e": 0, "_": 1},
            {"e": "no", "_": 1},
            {"e": ["no"], "_": True},
            {"e": "no", "_": 0},
            {"h": 1},
            {"h": True, "d": 1},
            {"h": 0},
            {"h": False, "d": 1},
            {"h": None, "d": 1},
            {"d": 1, "e": "no"},
        ]
    ),
)
on_channels = joined(field("h", ids), field("a", calls | st.just(["start"])))
channel_ids = st.sampled_from(
    ["21", "021", "22", "21.0", " 21 ", "0x15", "x", "", 21.0, 1.5, 0, -7, True, False, [21], [], {}]
)

ODD = {
    "i": odd_ids,
    "a": st.sampled_from([None, [], {}, "echo", 5, {"0": "log"}, [None], [5], [True], [["echo"]], [{}], [1.5, 1]]),
    "c": st.sampled_from([0, 5, 1.5, True, False, "", [], ["math"], {}, "c" * 300, "\U0001f600" * 70]),
    "h": channel_ids,
    "d": values,
    "e": values,
    "x": values,
    "_": scalars,
}


def mutated(messages: st.SearchStrategy[dict[str, Any]], keys: str) -> st.SearchStrategy[dict[str, Any]]:
    """With one more field, or one that is odd, or without one."""
    odd = st.one_of([field(key, ODD[key]) for key in keys])
    return st.one_of(
        joined(messages, odd),
        joined(messages, odd),
        joined(messages, messages),
        st.tuples(messages, st.sampled_from(list(keys))).map(lambda t: {k: v for k, v in t[0].items() if k != t[1]}),
    )


def text_of(message: dict[str, Any]) -> str:
    return json.dumps(message, ensure_ascii=len(message) % 2 == 0)


not_json = [
    "",
    " ",
    "hello",
    "{",
    '{"a":["log"]',
    '{"i":21,}',
    "\ufeff{}",
    '{"a":["log"]}x',
    "[[[",
    '{"a":["log",NaN]}',
]
no_object = ["null", "5", "true", '"text"', "[]", "[1,2]", '["log",1]', "{}"]
odd_json = [' {"a":["log","spaces"]} ', '{"i":21,"i":22,"a":["echo","twice"]}']
foreign = st.sampled_from([*not_json, *no_object, *odd_json])
undecodable = st.sampled_from(
    [
        '{"i":%d,"x":"\\ud800"}',
        '{"h":%d,"x":1e400}',
        '{"i":%d,"a":["echo","\\ud800"]}',
        '{"a":["log","\\udc00"],"k":%d}',
        '{"i":%d,"a":["echo",1e400]}',
        '{"a":["log",%d,-1e999]}',
    ]
)
unreadable = st.tuples(undecodable, st.sampled_from([21, 25])).map(lambda t: t[0] % t[1])
crowded: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [{"i": 22, "a": ["args", *range(70)]}, {"a": ["log", *range(70)]}, {"i": 23, "a": ["e" * 300]}]
)


def said(messages: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[Step]:
    return messages.map(lambda message: Say(text_of(message)))


asking = joined(
    with_id, field("a", st.tuples(st.just("ask"), st.sampled_from(["theirs", "echo"]), values).map(list)), places
)
marked: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [{"ws-wrapper": False}, {"ws-wrapper": True}, {"ws-wrapper": 0}, {"ws-wrapper": None}, {"k": [1]}]
)
at_no_handler = results.filter(lambda fields: "h" not in fields)

# How often each of them is said, of a hundred times; and whether 3.x knows of it.
SHARES: list[tuple[int, bool, st.SearchStrategy[Step]]] = [
    (9, True, said(events)),
    (13, True, said(requests)),
    (5, True, said(asking)),
    (3, True, said(joined(with_id, at_no_handler))),
    (3, True, said(joined(marked, called))),
    (4, True, foreign.map(Say)),
    (3, True, unreadable.map(Say)),
    (1, True, said(crowded)),
    (5, True, st.sampled_from(KEYS).map(Give)),
    (7, False, said(joined(with_id, field("a", making), places))),
    (7, False, said(joined(with_id, reasons))),
    (4, False, said(joined(field("h", ids), reasons))),
    (7, False, said(on_channels)),
    (6, False, said(joined(with_id, on_channels))),
    (10, True, st.builds(Answer, st.integers(0, 3), results)),
    (4, True, said(mutated(called, "ic"))),
    (5, False, said(mutated(requests, "iachdex_"))),
    (4, False, said(mutated(joined(with_id, on_channels), "iach"))),
]


@st.composite
def sequences(draw: st.DrawFn, version: int) -> list[Step]:
    """A sequence for peers of 3.x or 4.x."""
    shares = [(share, steps) for share, older, steps in SHARES if version == 4 or older]
    kinds = st.sampled_from([steps for share, steps in shares for _ in range(share)])
    found = [draw(draw(kinds)) for _ in range(draw(st.integers(5, 40)))]
    return found if version == 4 else [step for step in found if _known_in_3(step)]


def _known_in_3(step: Step) -> bool:
    """Before 4.x there are no channels in answers, text as an error becomes an error, and throwing nothing succeeds."""
    if isinstance(step, Answer):
        return "h" not in step.fields and isinstance(step.fields.get("e"), (dict, type(None)))
    return not isinstance(step, Say) or "undefined" not in step.text
