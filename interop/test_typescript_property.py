"""Whatever types handlers have, the declarations compile, and the values that are sent have the types declared."""

from __future__ import annotations

import json
import re
from enum import Enum
from keyword import iskeyword
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, Union

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interop.test_typescript import tsc
from wsrpc import Server
from wsrpc.codegen._checking import check_description
from wsrpc.codegen.typescript import declarations
from wsrpc.schema import Description, EventSchema, ParameterSchema, describe

ROUNDS = 150
WORDS = [
    *("class", "this", "in", "default", "string", "Record", "Promise", "Events", "Typed", "Items", "type", "arguments"),
    *("a b", "1st", "é", "", "*/", 'quo"te', "back\\slash", "line\nbreak", "__proto__", "a-b", "$x"),
]

names = st.sampled_from(
    [word for word in WORDS if word.isidentifier() and not iskeyword(word)] + ["Cup", "Box", "x", "_y"]
)
texts = st.one_of(st.sampled_from(WORDS), st.text(st.characters(codec="utf-8"), max_size=5))
# msgspec refuses others, for it writes them as they are.
keys = texts.filter(lambda key: not re.search(r'[\\"\x00-\x1f]', key))


class Typed(NamedTuple):
    """A type, and values of it."""

    type: Any
    values: st.SearchStrategy[Any]


def generic(origin: Any, *arguments: Any) -> Any:
    """``origin[arguments]``, which type checkers need not understand."""
    return origin[arguments]


SCALARS = [
    Typed(int, st.integers(-(2**53), 2**53)),
    Typed(float, st.floats(allow_nan=False, allow_infinity=False)),
    Typed(str, texts),
    Typed(bool, st.booleans()),
    Typed(None, st.none()),
    Typed(bytes, st.binary(max_size=5)),
]


@st.composite
def literals(draw: st.DrawFn) -> Typed:
    values = draw(st.lists(st.one_of(st.integers(-9, 9), texts), min_size=1, max_size=3, unique=True))
    return Typed(generic(Literal, *values), st.sampled_from(values))


@st.composite
def enums(draw: st.DrawFn) -> Typed:
    values = draw(st.lists(texts, min_size=1, max_size=3, unique=True))
    cls = Enum(draw(names), [(f"m{number}", value) for number, value in enumerate(values)])  # type: ignore[misc]
    return Typed(cls, st.sampled_from(list(cls)))


@st.composite
def structs(draw: st.DrawFn, inner: st.SearchStrategy[Typed]) -> Typed:
    """Fields of any name on the wire, with and without defaults, as an object or an array, tagged or not."""
    options: dict[str, Any] = {"array_like": draw(st.booleans()), "omit_defaults": draw(st.booleans())}
    fields: list[Any] = []
    strategies: dict[str, st.SearchStrategy[Any]] = {}
    called = draw(st.lists(keys, max_size=3, unique=True))
    for number, found in enumerate(draw(inner) for _ in called):
        name = f"f{number}"
        fields.append((name, found.type))
        strategies[name] = found.values
        if not options["array_like"] and draw(st.booleans()):
            fields[-1] = (name, generic(Union, found.type, msgspec.UnsetType))
            strategies[name] |= st.just(msgspec.UNSET)
        if found in SCALARS and draw(st.booleans()):
            fields[-1] = (*fields[-1], draw(found.values))
    if not options["array_like"] and "type" not in called and draw(st.booleans()):
        options["tag"] = draw(names)
    options["rename"] = {f"f{number}": key for number, key in enumerate(called)}
    cls = msgspec.defstruct(draw(names), fields, kw_only=True, **options)
    return Typed(cls, st.fixed_dictionaries(strategies).map(lambda given: cls(**given)))


@st.composite
def dicts_with_keys(draw: st.DrawFn, inner: st.SearchStrategy[Typed]) -> Typed:
    called = draw(st.lists(keys, max_size=3, unique=True))
    found = [draw(inner) for _ in called]
    total = draw(st.booleans())
    make: Any = TypedDict
    cls = make(draw(names), {key: each.type for key, each in zip(called, found, strict=True)}, total=total)
    values = {key: each.values for key, each in zip(called, found, strict=True)}
    return Typed(cls, st.fixed_dictionaries(values) if total else st.fixed_dictionaries({}, optional=values))


def tuples(found: list[Typed]) -> Typed:
    return Typed(generic(tuple, *(each.type for each in found)), st.tuples(*(each.values for each in found)))


def containers(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    return st.one_of(
        inner.map(lambda each: Typed(generic(list, each.type), st.lists(each.values, max_size=2))),
        inner.map(lambda each: Typed(generic(dict, str, each.type), st.dictionaries(texts, each.values, max_size=2))),
        inner.map(lambda each: Typed(generic(Union, each.type, None), st.none() | each.values)),
        st.lists(inner, max_size=3).map(tuples),
        structs(inner),
        dicts_with_keys(inner),
    )


types = st.recursive(st.one_of(st.sampled_from(SCALARS), literals(), enums()), containers, max_leaves=6)


def accepted(tp: Any) -> bool:
    """Whether it can be a parameter: msgspec refuses some combinations, and so does registering."""
    try:
        Server().on("any", annotated(tp))
    except TypeError:
        return False
    return True


def annotated(tp: Any, name: str = "value") -> Any:
    namespace: dict[str, Any] = {"T": tp}
    exec(f"def handler({name}: T, *more: T) -> T: ...", namespace)
    return namespace["handler"]


@pytest.mark.timeout(120)
async def test_declarations_compile_and_are_true(tmp_path: Path) -> None:
    server = Server()
    values: list[str] = []

    @settings(max_examples=ROUNDS, database=None)
    @given(types.filter(lambda each: accepted(each.type)), names, texts.filter(bool), st.data())
    def collect(found: Typed, name: str, event: str, data: st.DataObject) -> None:
        event = f"{event}{len(values)}"
        server.on(event, annotated(found.type, name))
        sent = json.loads(msgspec.json.encode(data.draw(found.values)))
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
