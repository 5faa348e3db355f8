"""`wsrpc.python_client`: the text of a Python client. Whether it works with a server is shown in tests/property."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import msgspec
import pytest
from generated import check_statements, check_types, loaded, proxies_of
from wide_server import server as wide_server

from wsrpc import AnonymousChannel, BadArguments, Client, Server, Stream
from wsrpc.python_client import InvalidDescription, client_module
from wsrpc.schema import Description, describe
from wsrpc.testing import connect


def described(definitions: dict[str, Any] | None = None, **result: Any) -> Description:
    """A description with one request for each result."""
    events = [{"event": event, "kind": "value", "result": schema} for event, schema in result.items()]
    return msgspec.convert({"events": events, "emits": [], "$defs": definitions or {}}, Description)


def result_of(schema: Any, definitions: dict[str, Any] | None = None) -> str:
    """The Python type of a result."""
    text = client_module(described(definitions, call=schema))
    check_statements(text)
    with loaded(text) as module:
        check_types(module)
        proxies_of(module, Client("ws://127.0.0.1:1"))
    [line] = [line for line in text.splitlines() if "async def call(self) -> " in line]
    return line.partition(" -> ")[2].removesuffix(": ...")


def class_of(name: str, text: str) -> str:
    """The lines of one class, with its decorator."""
    [found] = [part for part in text.split("\n\n\n") if f"class {name}" in "".join(part.splitlines()[:2])]
    return found.strip()


def fields_of(definition: Any, definitions: dict[str, Any] | None = None, **options: Any) -> list[str]:
    """The lines of the class of a definition."""
    used = {**(definitions or {}), "Made": definition}
    text = client_module(described(used, call={"$ref": "#/$defs/Made"}), **options)
    check_statements(text)
    with loaded(text) as module:
        check_types(module)
    return [line.strip() for line in class_of("Made", text).splitlines()]


def definition(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


# ---------------------------------------------------------------- the module as a whole

CHAT = '''\
# Made by `python -m wsrpc client`. Make it anew when the server changes, instead of
# changing it here.

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Protocol, TypeAlias

import msgspec
import wsrpc
import wsrpc.cluster


class Line(msgspec.Struct):
    """What somebody has said."""

    who: str
    text: str = ""


class Main(Protocol):
    """Calls that you can make on the main channel."""

    async def add(self, a: int, b: int = 1) -> int:
        """Add two numbers."""
        ...


class Chat(Protocol):
    """Calls that you can make on the channel "chat"."""

    def echo(self, items: AsyncIterable[Line]) -> wsrpc.Stream[Line]: ...

    def history(self, since: int, *more: str) -> wsrpc.Stream[Line]: ...

    @wsrpc.method("say it")
    async def say_it(self, line: Line) -> Line: ...

    async def talk(self) -> wsrpc.AnonymousChannel: ...

    async def upload(
        self, name: str = "", *, items: AsyncIterable[bytes]
    ) -> int: ...


Caller: TypeAlias = wsrpc.Client | wsrpc.Peer | wsrpc.cluster.ClusterPeer


def main(caller: Caller, /) -> Main:
    """Return a proxy for the main channel."""
    return caller.proxy(Main)


def chat(caller: Caller, /) -> Chat:
    """Return a proxy for the channel "chat"."""
    return caller.of("chat").proxy(Chat)
'''


class Line(msgspec.Struct):
    """What somebody has said."""

    who: str
    text: str = ""


def chat_server() -> Server:
    server = Server()
    chat = server.of("chat")

    @server.on("add")
    def add(a: int, b: int = 1) -> int:
        """Add two numbers."""
        return a + b

    @chat.on("say it")
    def say(line: Line) -> Line:
        return line

    @chat.on("history")
    async def history(since: int, *more: str) -> AsyncIterator[Line]:
        for text in more:
            yield Line(str(since), text)

    @chat.on("upload")
    async def upload(chunks: AsyncIterator[bytes], name: str = "") -> int:
        return len(name) + sum([len(chunk) async for chunk in chunks])

    @chat.on("echo")
    async def echo(lines: AsyncIterator[Line]) -> AsyncIterator[Line]:
        async for line in lines:
            yield line

    @chat.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        await channel.emit("hello")

    return server


def test_a_module() -> None:
    assert client_module(describe(chat_server())) == CHAT.replace(
        """    async def upload(
        self, name: str = "", *, items: AsyncIterable[bytes]
    ) -> int: ...
""",
        """    async def upload(self, name: str = "", *, items: AsyncIterable[bytes]) -> int: ...
""",
    )


@pytest.mark.parametrize("models", ["structs", "dataclasses"])
async def test_it_calls_the_server(models: Any) -> None:
    with loaded(client_module(describe(chat_server()), models=models)) as module:
        async with connect(chat_server()) as client:
            main, chat = module.main(client), module.chat(client)
            assert await main.add(2) == 3 and await main.add(2, 3) == 5
            assert await chat.say_it(module.Line("Ada")) == module.Line("Ada", "")
            async with chat.history(5, "a", "b") as lines:
                assert [line async for line in lines] == [module.Line("5", "a"), module.Line("5", "b")]
            assert await chat.upload(items=[b"ab", b"c"]) == 3
            assert await chat.upload("name", items=[b"ab"]) == 6
            async with chat.echo([module.Line("Ada")]) as lines:
                assert [line async for line in lines] == [module.Line("Ada")]
            async with await chat.talk() as channel:
                assert await channel.wait_for("hello") is None
            with pytest.raises(BadArguments):
                await main.add("2")


async def test_what_came_back_can_be_sent_again() -> None:
    with loaded(client_module(describe(wide_server))) as module:
        async with connect(wide_server) as client:
            main = module.main(client)
            [cup] = await main.brew([module.Cup("tea", module.Size.LARGE)])
            assert cup == module.Cup("tea", module.Size.LARGE, []) and await main.brew([cup]) == [cup]
            host = await main.host(module.Host("db"), set())
            assert host == module.Host("db", 443) and await main.host(host, {"a"}, host) == host
            shape = await main.pets([module.Cat("Tom"), module.Dog("Rex")], module.Crow(), module.Circle(2))
            assert shape == module.Circle(2)


async def test_events_are_heard_by_what_implements_their_contract() -> None:
    heard: list[tuple[str, str, bool]] = []

    class Listener:
        async def said(self, who: str, text: str, *, urgent: bool = False) -> None:
            heard.append((who, text, urgent))

    with loaded(client_module(describe(wide_server))) as module:
        async with connect(wide_server) as client:
            client.of("chat").implement(module.ChatEvents, Listener())
            await wide_server.of("chat").emitter(module.ChatEvents).said("Ada", "hi", urgent=True)
            assert await module.chat(client).say("hello") == 5
    assert heard == [("Ada", "hi", True)]


def test_a_description_in_json_gives_the_same() -> None:
    description = describe(wide_server)
    again = msgspec.json.decode(msgspec.json.encode(description), type=Description)
    for models in ("structs", "dataclasses"):
        assert client_module(again, models=models) == client_module(description, models=models)


def test_nothing_to_call() -> None:
    text = client_module(describe(Server()))
    assert text.endswith("\n\nfrom __future__ import annotations\n")


# ---------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("tp", "expected"),
    [
        (int, "int"),
        (float, "float"),
        (str, "str"),
        (bool, "bool"),
        (None, "None"),
        (Any, "Any"),
        (bytes, "bytes"),
        (datetime, "dt.datetime"),
        (date, "dt.date"),
        (time, "dt.time"),
        (timedelta, "dt.timedelta"),
        (UUID, "UUID"),
        (Decimal, "Decimal"),
        (Literal["a", "b", 1, None], 'Literal[1, "a", "b"] | None'),
        (list[int], "list[int]"),
        (set[str], "set[str]"),
        (set[tuple[int, str]], "list[tuple[int, str]]"),
        (tuple[int, ...], "list[int]"),
        (tuple[int, datetime | None], "tuple[int, dt.datetime | None]"),
        (tuple[()], "tuple[()]"),
        (dict[int, list[time]], "dict[str, list[dt.time]]"),
        (dict[str, Any] | list[date] | None, "list[dt.date] | dict[str, Any] | None"),
    ],
)
def test_types_of_a_server(tp: Any, expected: str) -> None:
    namespace = {"T": tp}
    exec("def call() -> T: ...", namespace)
    server = Server()
    server.on("call", namespace["call"])
    [result] = [event.result for event in describe(server).events]
    assert result_of(result) == expected


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, "Any"),
        ({"type": "odd"}, "Any"),
        ({"type": ["integer", "null"]}, "int | None"),
        ({"const": 5}, "Literal[5]"),
        ({"const": None}, "None"),
        ({"const": 1.5}, "float"),
        ({"enum": [True, "a"]}, 'Literal[True, "a"]'),
        ({"enum": []}, "Any"),
        ({"enum": [[1], {"a": 1}]}, "list[Any] | dict[str, Any]"),
        ({"enum": [2**70]}, "int"),
        ({"allOf": [{"type": "integer"}]}, "int"),
        ({"allOf": [{"type": "integer"}, {"minimum": 1}]}, "Any"),
        ({"anyOf": [{"type": "integer"}, {}]}, "Any"),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, "int | float"),
        ({"anyOf": [{"type": "string"}, {"type": "string", "format": "date"}]}, "str"),
        ({"anyOf": [{"type": "string", "format": "uuid"}, {"type": "string", "format": "date"}]}, "str"),
        ({"anyOf": [{"const": "a"}, {"const": "b"}]}, 'Literal["a", "b"]'),
        ({"anyOf": [{"const": 1}, {"type": "integer"}]}, "int"),
        ({"anyOf": [{"const": True}, {"type": "boolean"}]}, "bool"),
        ({"anyOf": [{"type": "array"}, {"type": "array", "items": {"type": "integer"}}]}, "list[Any]"),
        ({"anyOf": [{"type": "object"}, {"additionalProperties": {}, "type": "object"}]}, "dict[str, Any]"),
        ({"type": "object", "properties": {"a": {}}}, "dict[str, Any]"),
        ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 1}, "list[Any]"),
        ({"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "string"}}, "list[int | str]"),
    ],
)
def test_types_of_json_schema(schema: Any, expected: str) -> None:
    assert result_of(schema) == expected


def test_a_union_of_very_many_members_is_any() -> None:
    definitions = {f"c{n}": definition({"kind": {"const": n}}, "kind") for n in range(250)}
    assert result_of({"anyOf": [{"$ref": f"#/$defs/{name}"} for name in definitions]}, definitions) == "Any"


# ---------------------------------------------------------------- classes


def test_fields_with_and_without_defaults() -> None:
    size = {"enum": ["s", "l"]}
    properties = {
        "a": {"type": "integer"},
        "b": {"type": "integer", "default": 5},
        "c": {"type": "string"},
        "d": {"$ref": "#/$defs/Size", "default": "s"},
        "e": {"type": "array", "default": []},
        "f": {"type": "array", "items": {"type": "integer"}, "default": [1, 2]},
        "g": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "default": []},
        "h": {"type": "object", "default": {}},
        "i": {"type": "string", "format": "date", "default": "2026-01-01"},
        "j": {"type": "integer", "default": None},
        "k": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "l": {},
        "m": {"type": "string", "default": 'a"b\n'},
        "n": {"type": "number", "default": 1},
    }
    common = [
        "a: int",
        "b: int = 5",
        "c: str | msgspec.UnsetType = msgspec.UNSET",
        "d: Size = Size.S",
    ]
    later = [
        "i: dt.date | msgspec.UnsetType = msgspec.UNSET",
        "j: int | msgspec.UnsetType = msgspec.UNSET",
        "k: str | None = None",
        "l: Any | msgspec.UnsetType = msgspec.UNSET",
        "m: str = 'a\"b\\n'",
        "n: float = 1",
    ]
    assert fields_of(definition(properties, "a"), {"Size": size}) == [
        "class Made(msgspec.Struct):",
        *common,
        "e: list[Any] = []",
        "f: list[int] = msgspec.field(default_factory=lambda: [1, 2])",
        "g: set[int] = set()",
        "h: dict[str, Any] = {}",
        *later,
    ]
    assert fields_of(definition(properties, "a"), {"Size": size}, models="dataclasses") == [
        "@dataclasses.dataclass(slots=True)",
        "class Made:",
        *common,
        "e: list[Any] = dataclasses.field(default_factory=lambda: [])",
        "f: list[int] = dataclasses.field(default_factory=lambda: [1, 2])",
        "g: set[int] = dataclasses.field(default_factory=lambda: set())",
        "h: dict[str, Any] = dataclasses.field(default_factory=lambda: {})",
        *later,
    ]


def test_a_required_field_after_an_optional_one() -> None:
    made = definition({"a": {"type": "integer", "default": 1}, "b": {"type": "integer"}}, "b")
    assert fields_of(made)[0] == "class Made(msgspec.Struct, kw_only=True):"
    assert fields_of(made, models="dataclasses")[0] == "@dataclasses.dataclass(slots=True, kw_only=True)"


def test_names_of_fields() -> None:
    names = ["class", "a-b", "a b", "_x", "__init__", "1", "", "é", "ﬁ", "Any", "list", "dt", "self", "Made"]
    lines = fields_of(definition({name: {"type": "integer"} for name in names}, *names), models="dataclasses")
    assert lines == [
        "class Made(msgspec.Struct):",  # it cannot be a dataclass
        'class_: int = msgspec.field(name="class")',
        'a_b: int = msgspec.field(name="a-b")',
        'a_b_: int = msgspec.field(name="a b")',
        'x: int = msgspec.field(name="_x")',
        'init: int = msgspec.field(name="__init__")',
        'field_1: int = msgspec.field(name="1")',
        'field: int = msgspec.field(name="")',
        "é: int",
        'fi: int = msgspec.field(name="ﬁ")',
        'Any_: int = msgspec.field(name="Any")',
        "list: int",
        'dt_: int = msgspec.field(name="dt")',
        "self: int",
        'Made_: int = msgspec.field(name="Made")',
    ]


def test_a_field_that_hides_a_builtin() -> None:
    strings = {"type": "array", "items": {"type": "string"}, "default": []}
    assert fields_of(definition({"list": strings, "str": {"type": "string"}}))[1:] == [
        "list: builtins.list[builtins.str] = []",
        "str: builtins.str | msgspec.UnsetType = msgspec.UNSET",
    ]


def test_a_field_that_msgspec_cannot_name() -> None:
    made = {"Made": definition({'a"b': {"type": "integer"}})}
    assert "Made: TypeAlias = dict[str, Any]" in client_module(described(made, call={"$ref": "#/$defs/Made"}))


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "integer", "exclusiveMinimum": 0, "maximum": 9}, "Annotated[int, msgspec.Meta(gt=0, le=9)]"),
        ({"type": "integer", "minimum": 0, "exclusiveMinimum": 1}, "Annotated[int, msgspec.Meta(gt=1)]"),
        ({"type": "integer", "minimum": 0.5}, "int"),
        ({"type": "integer", "minimum": 0.0, "multipleOf": 2}, "Annotated[int, msgspec.Meta(ge=0, multiple_of=2)]"),
        ({"type": "integer", "minimum": -(2**70), "multipleOf": -2}, "int"),
        ({"type": "number", "minimum": 0.5, "multipleOf": 0.1}, "Annotated[float, msgspec.Meta(ge=0.5)]"),
        ({"type": "string", "minLength": 1, "maxLength": 2**40}, "Annotated[str, msgspec.Meta(min_length=1)]"),
        ({"type": "string", "pattern": '^a"'}, "Annotated[str, msgspec.Meta(pattern='^a\"')]"),
        ({"type": "string", "pattern": "\\p{L}("}, "str"),
        ({"type": "string", "pattern": "(" * 400}, "str"),
        ({"type": "string", "pattern": "[[a]"}, "str"),  # Python warns of it
        ({"type": "string", "pattern": "a" * 501}, "str"),
        ({"type": "string", "contentEncoding": "base64", "minLength": 4}, "bytes"),
        ({"type": "array", "items": {}, "minItems": 1}, "Annotated[list[Any], msgspec.Meta(min_length=1)]"),
        ({"type": "object", "maxProperties": 3}, "Annotated[dict[str, Any], msgspec.Meta(max_length=3)]"),
    ],
)
def test_constraints(schema: Any, expected: str) -> None:
    assert fields_of(definition({"a": schema}, "a"))[1:] == [f"a: {expected}"]
    assert "Meta" not in result_of(schema)  # what comes back is taken as it is


def test_constraints_in_a_union_with_a_container_are_left_out() -> None:
    """msgspec 0.22 crashes the interpreter with some of them."""
    text = {"type": "string", "pattern": "^a"}
    array = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1}
    definitions = {"Name": text}
    for member in (text, {"$ref": "#/$defs/Name"}):
        made = fields_of(definition({"a": {"anyOf": [member, array]}}, "a"), definitions)
        assert made[1:] == ["a: str | list[Annotated[int, msgspec.Meta(ge=1)]]"]
    made = fields_of(definition({"a": {"anyOf": [text, {"type": "null"}]}}, "a"))
    assert made[1:] == ['a: Annotated[str, msgspec.Meta(pattern="^a")] | None']


def test_enumerations() -> None:
    def members(schema: Any) -> list[str]:
        return fields_of(schema)[1:]

    assert members({"enum": ["in-progress", "inProgress", "", "1st", "done", "done"]}) == [
        'IN_PROGRESS = "in-progress"',
        'IN_PROGRESS_ = "inProgress"',
        'EMPTY = ""',
        'VALUE_1ST = "1st"',
        'DONE = "done"',
    ]
    assert members({"enum": [1, -1]}) == ["VALUE_1 = 1", "VALUE_MINUS_1 = -1"]
    names = ["ok", "a b", "mro", "__init__"]
    assert members({"enum": [1, 2, 3, 4], "x-enum-varnames": names}) == [
        "ok = 1",
        "VALUE_2 = 2",
        "mro_ = 3",
        "VALUE_4 = 4",
    ]
    assert "Made: TypeAlias = Literal" in client_module(described({"Made": {"enum": ["a", 1]}}))


def test_both_forms_of_a_class_are_one() -> None:
    text = client_module(describe(wide_server))
    assert "CupInput" not in text and "HostInput" not in text and text.count("class Size") == 1


@pytest.mark.parametrize(
    "given",
    [
        definition({"a": {"type": "string"}}, "a"),  # another type
        definition({"b": {"type": "integer"}}, "b"),  # another name
        {**definition({"a": {"type": "integer"}}, "a"), "title": "Other"},
    ],
)
def test_forms_that_differ_are_two_classes(given: Any) -> None:
    definitions = {
        "Cup": given,
        "CupInput": definition({"a": {"type": "integer", "default": 1}}),
        "Box": definition({"cup": {"$ref": "#/$defs/Cup"}}, "cup"),
        "BoxInput": definition({"cup": {"$ref": "#/$defs/CupInput"}}, "cup"),
        "Lid": definition({"box": {"type": "integer"}}, "box"),
        "LidInput": definition({"box": {"type": "integer", "default": 1}}),
    }
    text = client_module(described(definitions))
    for name in ("Cup", "CupInput", "Box", "BoxInput", "Lid"):
        assert f"class {name}(" in text
    assert "LidInput" not in text


def test_classes_that_travel_as_arrays() -> None:
    items = [
        {"type": "integer", "title": "x"},
        {"type": "string", "title": "class"},
        {"type": "number", "default": 0.5},
    ]
    made = {"type": "array", "prefixItems": items, "minItems": 2}
    assert fields_of(made) == [
        "class Made(msgspec.Struct, array_like=True):",
        "x: int",
        "item_2: str",
        "item_3: float = 0.5",
    ]


def test_an_alias_that_contains_itself_is_any_there() -> None:
    made = {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#/$defs/Made"}}]}
    text = client_module(described({"Made": made}, call={"$ref": "#/$defs/Made"}))
    assert "# The type contains itself: it is Any there.\nMade: TypeAlias = int | list[Any]\n" in text


# ---------------------------------------------------------------- unions of classes


def union_of(*definitions: Any) -> tuple[str, str]:
    """The type of a union of classes A, B, and so on, and the module."""
    named = dict(zip("ABCD", definitions, strict=False))
    union = {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in named]}
    return result_of(union, named), client_module(described(named, call=union))


def test_classes_with_a_field_that_tells_them_apart_get_tags() -> None:
    one = definition({"name": {"type": "string"}, "kind": {"const": "one"}}, "kind", "name")
    two = definition({"kind": {"enum": ["two"], "default": "two"}})
    tp, text = union_of(one, two)
    assert tp == "A | B"
    assert 'class A(msgspec.Struct, tag_field="kind", tag="one"):\n    name: str\n' in text
    assert 'class B(msgspec.Struct, tag_field="kind", tag="two"):\n    pass\n' in text


def test_classes_that_have_tags_for_other_unions_are_not_told_apart_by_them() -> None:
    kinds = {"A": "same", "B": "same", "C": "other"}
    classes = {name: definition({"kind": {"const": kind}, "x": {}}, "kind") for name, kind in kinds.items()}
    refs = {name: {"$ref": f"#/$defs/{name}"} for name in classes}
    pairs = {"one": {"anyOf": [refs["A"], refs["C"]]}, "two": {"anyOf": [refs["B"], refs["C"]]}}
    text = client_module(described(classes, **pairs, both={"anyOf": [refs["A"], refs["B"]]}))
    assert "def one(self) -> A | C: ..." in text and "def two(self) -> B | C: ..." in text
    assert "def both(self) -> Any: ..." in text


def test_classes_that_only_pydantic_tells_apart_are_dataclasses_to_the_last_one() -> None:
    inner = definition({"x": {"type": "integer", "minimum": 1}}, "x")
    one = definition({"c": {"$ref": "#/$defs/C"}}, "c")
    two = definition({"b": {"type": "integer", "default": 1}})
    definitions = {"A": one, "B": two, "C": inner}
    union = {"anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}, {"type": "null"}]}
    assert result_of(union, definitions) == "A | B | None"
    text = client_module(described(definitions, call=union))
    assert "# pydantic must be installed" in text and "Struct" not in text and "Annotated" not in text


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (definition({"a": {"type": "integer"}}), "a field of unknown default"),
        (definition({"a-b": {"type": "integer"}}, "a-b"), "a field that cannot have its name"),
        (definition({"a": {"$ref": "#/$defs/A"}}, "a"), "it contains itself"),
    ],
)
def test_what_nothing_tells_apart_is_any(one: Any, why: str) -> None:
    tp, text = union_of(one, definition({"b": {"type": "integer"}}, "b"))
    assert tp == "Any" and "    # Nothing tells the members of A | B apart: it is Any.\n" in text, why


def test_a_struct_that_travels_as_an_array_beside_one_that_does_not_is_any() -> None:
    array = {"type": "array", "prefixItems": [{"type": "integer"}], "minItems": 1}
    one = definition({"a": {"type": "integer"}}, "a")
    union = {"anyOf": [{"$ref": "#/$defs/Row"}, {"$ref": "#/$defs/One"}]}
    assert result_of(union, {"Row": array, "One": one}) == "Any"
    text = client_module(described({"Row": array, "One": one}, call=union), models="dataclasses")
    assert "async def call(self) -> Row | One: ..." in text
    with loaded(text) as module:
        check_types(module)


def test_a_union_without_tags_in_a_class_is_any() -> None:
    classes = {name: definition({name: {"type": "integer"}}, name) for name in ("A", "B")}
    union = {"anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]}
    assert fields_of(definition({"both": union}, "both"), classes)[1:] == [
        "# Nothing tells the members of A | B apart: it is Any.",
        "both: Any",
    ]


# ---------------------------------------------------------------- contracts


def event(name: str, *parameters: Any, **fields: Any) -> dict[str, Any]:
    return {"event": name, "kind": "value", "parameters": list(parameters), "result": {"type": "null"}, **fields}


def parameter(name: str, schema: Any = None, **fields: Any) -> dict[str, Any]:
    return {"name": name, "schema": {"type": "integer"} if schema is None else schema, **fields}


def contract_of(*events: Any, emits: Any = ()) -> str:
    description = msgspec.convert({"events": events, "emits": emits, "$defs": {}}, Description)
    text = client_module(description)
    check_statements(text)
    with loaded(text) as module:
        check_types(module)
        proxies_of(module, Client("ws://127.0.0.1:1"))
    return text


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("getName", ["async def getName(self) -> None: ..."]),
        ("list", ["async def list(self) -> None: ..."]),
        ("get name", ['@wsrpc.method("get name")', "async def get_name(self) -> None: ..."]),
        ("class", ['@wsrpc.method("class")', "async def class_(self) -> None: ..."]),
        ("_x", ['@wsrpc.method("_x")', "async def x(self) -> None: ..."]),
        ("", ['@wsrpc.method("")', "async def event(self) -> None: ..."]),
        ("Any", ['@wsrpc.method("Any")', "async def Any_(self) -> None: ..."]),
        ("\u202e\n", ['@wsrpc.method("\\u202e\\n")', "async def event(self) -> None: ..."]),
    ],
)
def test_names_of_methods(name: str, lines: list[str]) -> None:
    text = contract_of(event(name))
    assert [line.strip() for line in class_of("Main", text).splitlines()[3:]] == lines


def test_names_of_parameters_are_unique() -> None:
    names = ["self", "class", "a", "a", "__b", "", "1", "items"]
    text = contract_of(event("e", *map(parameter, names), kind="upload", sends={}))
    shown = ["self", "self_", "class_", "a", "a_", "b", "argument", "argument_1", "items", "items_"]
    assert [
        line.strip().partition(":")[0].strip(",") for line in text.partition("def e(")[2].splitlines()[1:11]
    ] == shown


def test_defaults_of_parameters() -> None:
    text = contract_of(
        event(
            "e",
            parameter("a", {"type": "integer", "default": 1}, optional=True),
            parameter("b", {"type": "string", "format": "date", "default": "2026-01-01"}, optional=True),
            parameter("c", {}, optional=True),
            parameter("d", {"type": "array", "default": []}, optional=True),
        )
    )
    assert "self, a: int = 1, b: dt.date = ..., c: Any = ..., d: list[Any] = []\n" in text


def test_what_ruff_would_say_is_answered_at_the_top() -> None:
    numbers = {"type": "array", "items": {"type": "integer"}, "default": []}
    assert "# ruff" not in contract_of(event("e", doc="Short."))
    text = contract_of(event("e", parameter("a", numbers, optional=True), doc="x " * 50))
    assert "a: list[int] = []" in text and text.splitlines()[2] == "# ruff: noqa: B006, E501"
    assert "a: set[int] = ..." in contract_of(
        event("e", parameter("a", {**numbers, "uniqueItems": True}, optional=True))
    )


def test_a_parameter_before_one_that_is_needed_is_needed() -> None:
    text = contract_of(event("e", parameter("a", {"type": "integer", "default": 1}, optional=True), parameter("b")))
    assert "async def e(self, a: int, b: int) -> None: ..." in text


def test_names_of_channels() -> None:
    channels = [None, "main", "a b", "list", "wsrpc", "Main", "", "été"]
    text = contract_of(*(event("e", channel=channel) for channel in channels if channel != ""))
    functions = [line.partition("(")[0].removeprefix("def ") for line in text.splitlines() if line.startswith("def ")]
    assert functions == ["main", "main_", "a_b", "list_", "wsrpc_", "main_2", "été"]
    contracts = [line.partition("(")[0].removeprefix("class ") for line in text.splitlines() if "(Protocol)" in line]
    assert contracts == ["Main", "Main_", "AB", "List", "Wsrpc", "Main_2", "Été"]


def test_events_that_are_emitted() -> None:
    said = event("said", parameter("who", {"type": "string"}), doc="Somebody said it.", result=None, channel="chat")
    text = contract_of(emits=[said, event("start", result=None)])
    assert class_of("ChatEvents", text).splitlines()[1:] == [
        '    """Events that are emitted on the channel "chat"."""',
        "",
        "    async def said(self, who: str) -> None:",
        '        """Somebody said it."""',
        "        ...",
    ]
    assert "class MainEvents(Protocol)" in text and "Caller" not in text


def test_docstrings_say_what_is_known() -> None:
    described = parameter("a", {"type": "integer", "description": "How many."})
    text = contract_of(event("e", described, doc='Say "so".\n\nMore.', notes=["parameter 'a': it has no JSON Schema"]))
    said = text.partition("def e(self, a: int) -> None:\n")[2].partition("        ...")[0]
    assert said == (
        '        """Say "so".\n\n        More.\n\n        Args:\n            a: How many.\n\n'
        '        Not described: parameter \'a\': it has no JSON Schema.\n        """\n'
    )


# ---------------------------------------------------------------- what is refused

DEEP: dict[str, Any] = {"type": "integer"}
for _ in range(5000):
    DEEP = {"type": "array", "items": DEEP}


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        (DEEP, "event 'call': the schema is nested deeper than 40 levels"),
        ({"$ref": "#/$defs/None"}, "event 'call': '#/$defs/None' refers to no definition of the description"),
        ({"$ref": 5}, "event 'call': '$ref' in a schema is text, got 5"),
        ({"anyOf": []}, "event 'call': 'anyOf' in a schema is a list of schemas, got a list"),
        ({"properties": {"a": 5}}, "event 'call': 'properties' in a schema is an object of schemas, got a dict"),
        ({"type": []}, "event 'call': 'type' in a schema is text, or a list of different texts, got a list"),
        (
            {"type": ["array", "array"]},
            "event 'call': 'type' in a schema is text, or a list of different texts, got a list",
        ),
        (
            {"type": list("12345678")},
            "event 'call': 'type' in a schema is text, or a list of different texts, got a list",
        ),
        ({"minimum": float("inf")}, "event 'call': 'minimum' in a schema is a number, got inf"),
        ({"minLength": -1}, "event 'call': 'minLength' in a schema is a number from 0 on, got -1"),
        ({"minimum": "x" * 100}, f"event 'call': 'minimum' in a schema is a number, got '{'x' * 59}..."),
        ({"const": DEEP}, "event 'call': 'const' in a schema is a value that is not nested deeply, got a dict"),
    ],
)
def test_schemas_that_are_none(schema: Any, problem: str) -> None:
    with pytest.raises(InvalidDescription) as caught:
        client_module(described(call=schema))
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ([event("a"), event("a")], "event 'a' is there twice on one channel"),
        ([event("open")], "event 'open' is a lifecycle event on the main channel, and never sent"),
        ([event("a", channel="")], "event 'a': a channel's name is a non-empty string, got ''"),
        (
            [event("a", parameter("b", rest=True), parameter("c"))],
            "event 'a' has a parameter after the one that takes all further arguments",
        ),
    ],
)
def test_events_that_cannot_be_called(events: Any, problem: str) -> None:
    with pytest.raises(InvalidDescription) as caught:
        client_module(msgspec.convert({"events": events, "emits": [], "$defs": {}}, Description))
    assert str(caught.value) == problem


def chain(count: int, link: Any) -> dict[str, Any]:
    made = {f"c{n}": link({"$ref": f"#/$defs/c{n + 1}"}) for n in range(count)}
    return {**made, f"c{count}": {"type": "integer"}}


def test_definitions_that_nest_on_too_many_levels() -> None:
    classes = chain(199, lambda inner: definition({"a": inner}, "a"))
    assert result_of({"$ref": "#/$defs/c0"}, classes) == "C0"
    classes = chain(5000, lambda inner: definition({"a": inner}, "a"))
    with pytest.raises(InvalidDescription, match="classes are fields of each other on more than 200 levels"):
        client_module(described(classes, call={"$ref": "#/$defs/c0"}))
    aliases = chain(29, lambda inner: {"type": "array", "items": inner})
    assert result_of({"$ref": "#/$defs/c0"}, aliases) == "C0"
    aliases = chain(5000, lambda inner: {"type": "array", "items": inner})
    with pytest.raises(InvalidDescription):
        client_module(described(aliases))


def test_aliases_that_double_on_each_level() -> None:
    def double(inner: Any) -> Any:
        return {"anyOf": [{"type": "array", "items": inner}, {"type": "object", "additionalProperties": inner}]}

    assert result_of({"$ref": "#/$defs/c0"}, chain(8, double)) == "C0"
    wanted = "the types name each other more than 100,000 times, without a class"
    with pytest.raises(InvalidDescription, match=wanted):
        client_module(described(chain(27, double), call={"$ref": "#/$defs/c0"}))
    fields = {f"f{n}": {"$ref": "#/$defs/c0"} for n in range(1000)}
    with pytest.raises(InvalidDescription, match=wanted):
        client_module(described({**chain(8, double), "Made": definition(fields)}))


def test_unions_that_grow_without_end() -> None:
    large = {"anyOf": [{"const": f"a{n}"} for n in range(2000)]}
    many = {f"c{n}": {"anyOf": [{"$ref": "#/$defs/large"}, {"const": n}]} for n in range(2000)}
    with pytest.raises(InvalidDescription, match="the types of the description refer to each other too often"):
        client_module(described({"large": large, **many}))


def test_a_stream_has_the_type_of_its_items() -> None:
    text = contract_of(event("e", kind="stream", items={"type": "integer"}))
    assert f"def e(self) -> wsrpc.{Stream.__name__}[int]: ..." in text


def test_the_page_shows_what_is_made() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "python-client.md").read_text("utf-8")
    [code, *_] = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    [shown] = [
        text for text in re.findall(r"^```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE) if "class Size" in text
    ]
    with loaded(code) as module:
        made = client_module(describe(module.server)).strip().split("\n\n\n")
    assert [part for part in shown.strip().split("\n\n\n") if part not in made] == []
