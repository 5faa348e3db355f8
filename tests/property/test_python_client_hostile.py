"""A Python module generated from any description runs no code of the description, or the generator refuses it.

And any two descriptions can be compared.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from effort import examples
from generated import check_statements, check_types, lint, loaded, proxies_of
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from wsrpc import Client
from wsrpc._schema.contract_diff import compare
from wsrpc.codegen._checking import check_description
from wsrpc.codegen.python_client import InvalidDescription, client_module
from wsrpc.schema import Description

NAMES = (
    "Cup CupInput Cup_2 cup 1st class match None self list str Any dt msgspec wsrpc Caller Main main Protocol __init__ "
    "_x __x _ mro date-time base64 object array integer null field type items tag é ﬁ ª ß 名前 e\u0301 ·x " + "a" * 70
).split()
"""Of modules, keywords, types and members; and what Python's own rules for names change."""
ODD = [
    *("", "a b", '"', '"""', "'''", "\\", '\\"""', 'a"', "a\\", "\n", "a\nb", "\r", "\x0c", "\x00", "\u2028", "\u202e"),
    *("\x85", '"""\nimport os\n"""', "'); import os; ('", "x: int\n    import os", "# type: ignore", "  a\n\tb\n"),
    *("{x}", "%s", "b c " * 30),
]
texts = st.one_of(st.sampled_from([*NAMES, *ODD, "$ref", "properties", "discriminator", "enum"]), st.text(max_size=6))
DEFINITIONS = ["Cup", "CupInput", "Box", "a b", "list", "Ünion", "x\ny"]
numbers = st.one_of(st.integers(-5, 5), st.integers(), st.floats(allow_nan=False, allow_infinity=False))
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=2), max_leaves=4
)
KINDS = ["object", "array", "string", "integer", "number", "boolean", "null"]
kinds = st.sampled_from([*KINDS, "odd"])
plain = st.sampled_from([{"type": kind} for kind in KINDS])
refs = st.sampled_from(DEFINITIONS).map(lambda name: {"$ref": f"#/$defs/{name}"})


def _few(keywords: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keywords)


notes = _few({"title": texts, "description": texts, "default": values})
strings = _few(
    {
        "format": st.sampled_from(["date-time", "date", "time", "duration", "uuid", "decimal", "uri", "\n"]),
        "contentEncoding": st.sampled_from(["base64", "x"]),
        "pattern": st.one_of(texts, st.sampled_from(["^a", "(", "[[a]", "(?u)a", "\\p{L}", "(" * 300, "a" * 600])),
        "minLength": st.integers(0, 2**40),
        "maxLength": st.integers(0, 2**40),
    }
).map(lambda made: {"type": "string", **made})
integers = _few(
    dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), numbers)
).flatmap(lambda made: st.sampled_from([{"type": "integer", **made}, {"type": "number", **made}]))
choices = st.one_of(
    st.lists(texts, min_size=1, max_size=4).map(lambda each: {"enum": each}),
    st.lists(st.integers(-3, 3) | st.integers(), min_size=1, max_size=4).map(lambda each: {"enum": each}),
    st.lists(values, max_size=4).map(lambda each: {"enum": each}),
    values.map(lambda each: {"const": each}),
    st.tuples(st.lists(texts, min_size=1, max_size=3), st.lists(texts, max_size=3)).map(
        lambda each: {"enum": each[0], "x-enum-varnames": each[1]}
    ),
)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=4)
    properties = st.dictionaries(texts, inner, max_size=4)
    objects = properties.flatmap(
        lambda made: st.lists(st.sampled_from([*made, "other"]), max_size=4).map(
            lambda required: {"type": "object", "properties": made, "required": required}
        )
    )
    # Classes that can be told apart, and classes that cannot.
    tagged = st.tuples(st.sampled_from(["kind", "type", "a b"]), texts, properties).map(
        lambda each: {"properties": {each[0]: {"const": each[1]}, **each[2]}, "required": [each[0]]}
    )
    arrays = _few(
        {"items": inner, "prefixItems": several, "minItems": st.integers(0, 3), "maxItems": st.integers(0, 3)}
    )
    return st.one_of(
        objects,
        tagged,
        arrays.map(lambda made: {"type": "array", **made}),
        inner.map(lambda each: {"type": "array", "items": each, "uniqueItems": True}),
        inner.map(lambda each: {"type": "object", "additionalProperties": each}),
        several.map(lambda each: {"anyOf": each}),
        st.tuples(several, texts).map(lambda each: {"oneOf": each[0], "discriminator": {"propertyName": each[1]}}),
        several.map(lambda each: {"allOf": each}),
        st.lists(kinds, min_size=1, max_size=3).map(lambda each: {"type": each}),
        st.lists(refs, min_size=2, max_size=3).map(lambda each: {"anyOf": each}),
        st.tuples(inner, notes).map(lambda each: {**each[0], **each[1]} if isinstance(each[0], dict) else each[0]),
    )


schemas = st.recursive(
    st.one_of(plain, refs, strings, integers, choices, st.just({}), notes), _containers, max_leaves=8
)
parameters = st.lists(
    st.fixed_dictionaries({"name": texts, "schema": schemas}, optional={"optional": st.booleans()}), max_size=4
)
events = st.fixed_dictionaries(
    {"event": texts, "kind": st.sampled_from(["value", "stream", "upload", "exchange", "conversation"])},
    optional={
        "channel": st.none() | texts,
        "doc": texts | st.text(max_size=40),
        "parameters": parameters,
        "sends": schemas,
        "items": schemas,
        "result": schemas,
        "notes": st.lists(texts, max_size=2),
    },
)
descriptions = st.fixed_dictionaries(
    {
        "events": st.lists(events, max_size=4),
        "emits": st.lists(events, max_size=2),
        "$defs": st.fixed_dictionaries(dict.fromkeys(DEFINITIONS, schemas)),
    }
)


@pytest.mark.timeout(600)
def test_nothing_of_a_description_is_run(tmp_path: Path) -> None:
    made = count(1)

    @settings(max_examples=examples(300), database=None)
    @given(descriptions)
    def judge(raw: dict[str, Any]) -> None:
        description = msgspec.convert(raw, Description)
        try:
            text = client_module(description)
        except InvalidDescription:
            reject()  # so that another one is tried in its place
        assert text == client_module(description)
        check_statements(text)
        (tmp_path / f"m{next(made)}.py").write_text(text, "utf-8")
        with loaded(text) as module:
            check_types(module)
            proxies_of(module, Client("ws://127.0.0.1:1"))

    judge()
    assert next(made) > examples(300) // 2
    assert lint(tmp_path) == ""


@settings(max_examples=examples(500))
@given(descriptions, descriptions)
def test_any_two_descriptions_can_be_compared(one: dict[str, Any], other: dict[str, Any]) -> None:
    old, new = msgspec.convert(one, Description), msgspec.convert(other, Description)
    try:
        check_description(old)
        check_description(new)
    except InvalidDescription:
        reject()
    assert compare(old, old) == compare(new, new) == []
    msgspec.json.encode([compare(old, new), compare(new, old)])
