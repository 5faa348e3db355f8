"""Whatever types handlers have, the declarations compile, and the values that are sent have the types declared."""

from __future__ import annotations

import json
from keyword import iskeyword
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typed_values import Typed, types

from interop.test_typescript import tsc
from wsrpc import Server
from wsrpc._values.convert import make_enc_hook
from wsrpc.codegen._checking import check_description
from wsrpc.codegen.typescript import declarations
from wsrpc.schema import Description, EventSchema, ParameterSchema, describe

ROUNDS = 100
WORDS = [
    *("class", "this", "in", "default", "string", "Record", "Promise", "Events", "Typed", "Items", "type", "arguments"),
    *("a b", "1st", "é", "", "*/", 'quo"te', "back\\slash", "line\nbreak", "__proto__", "a-b", "$x"),
]

names = st.sampled_from([*(word for word in WORDS if word.isidentifier() and not iskeyword(word)), "Cup", "Box", "_y"])
texts = st.one_of(st.sampled_from(WORDS), st.text(st.characters(codec="utf-8"), max_size=5))
encode = msgspec.json.Encoder(enc_hook=make_enc_hook(None)).encode


@pytest.mark.timeout(120)
async def test_declarations_compile_and_are_true(tmp_path: Path) -> None:
    server = Server()
    values: list[str] = []

    @settings(max_examples=ROUNDS, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(types, names, texts.filter(bool), st.data())
    def collect(found: Typed, name: str, event: str, data: st.DataObject) -> None:
        event = f"{event}{len(values)}"
        namespace: dict[str, Any] = {"T": found.type}
        exec(f"def handler({name}: T, *more: T) -> T: ...", namespace)
        server.on(event, namespace["handler"])
        sent = json.loads(encode(data.draw(found.values)))
        for group in ("Events", 'Api["requests"]'):
            values.append(f"ReturnType<{group}[{json.dumps(event)}]> = {written(sent)}")

    collect()
    assert len(values) >= 2 * ROUNDS
    text = declarations(describe(server))
    (tmp_path / "events.ts").write_text(text, "utf-8")
    lines = [f"export const v{number}: {value}" for number, value in enumerate(values)]
    (tmp_path / "values.ts").write_text("\n".join(['import type { Api, Events } from "./events.js"', *lines]), "utf-8")
    found = await tsc(tmp_path, "events.ts", "values.ts")
    assert [error(tmp_path, *each) for each in found] == []


# ------------------------------------------------------------ descriptions from elsewhere

NAMED = ["Cup", "Box", "class", "string", "a b", "Api"]
LEAVES = st.sampled_from([{}, True, *({"type": kind} for kind in ("string", "number", "null", "array", "object"))])


def composed(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Schemas that TypeScript writes with brackets, commas and operators. The members of a tuple may be omitted."""
    several = st.lists(inner, min_size=1, max_size=3)
    of_object = {
        "type": st.sampled_from(["object", ["object", "null"], ["array", "object"]]),
        "properties": st.dictionaries(texts, inner, max_size=2),
        "required": st.lists(texts, max_size=1),
        "additionalProperties": st.booleans() | inner,
        "description": texts,
    }
    members = st.lists(LEAVES, min_size=1, max_size=2)  # not tuples of types that refer to themselves
    return st.one_of(
        st.tuples(st.sampled_from(["anyOf", "oneOf", "allOf"]), several).map(lambda each: {each[0]: each[1]}),
        st.fixed_dictionaries({}, optional=of_object),
        inner.map(lambda each: {"type": "array", "items": each}),
        st.tuples(members, inner, st.integers(0, 2)).map(
            lambda each: {"type": "array", "prefixItems": each[0], "items": each[1], "minItems": each[2]}
        ),
        st.lists(texts | st.integers() | st.none(), max_size=2).map(lambda each: {"enum": each}),
        texts.map(lambda text: {"const": {text: [text]}}),
    )


references = st.sampled_from(NAMED).map(lambda name: {"$ref": f"#/$defs/{name}"})
schemas = st.recursive(LEAVES | references, composed, max_leaves=8).filter(lambda each: isinstance(each, dict))
parameters = st.builds(ParameterSchema, names, schemas, optional=st.booleans())
definitions = st.fixed_dictionaries(dict.fromkeys(NAMED, schemas))


@pytest.mark.timeout(120)
async def test_declarations_of_any_description_compile(tmp_path: Path) -> None:
    """An interface was also written for a union that begins with an object: ``interface X {...} | null``."""
    files: list[str] = []

    @settings(max_examples=ROUNDS, database=None)
    @given(st.lists(parameters, max_size=3), schemas, definitions)
    def collect(takes: list[ParameterSchema], result: Any, named: Any) -> None:
        event = EventSchema("event", "value", parameters=tuple(takes), result=result)
        description = Description((event,), (msgspec.structs.replace(event, kind="stream", items=result),), named)
        check_description(description)
        files.append(f"d{len(files)}.ts")
        (tmp_path / files[-1]).write_text(declarations(description), "utf-8")

    collect()
    assert [error(tmp_path, *each) for each in await tsc(tmp_path, *files)] == []


def written(value: object) -> str:
    """A value in JavaScript, where ``__proto__`` in an object is no key unless it is computed."""
    return json.dumps(value).replace('"__proto__":', '["__proto__"]:')


def error(folder: Path, file: str, line: int, number: int) -> str:
    return f"TS{number}: {(folder / file).read_text('utf-8').splitlines()[line - 1]}"
