"""`wsrpc.codegen.python_client`: the text of a Python client. tests/property show whether it works with a server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest
from generated import check_statements, check_types, loaded, proxies_of
from wide_server import server as wide_server

from wsrpc import Client, Server
from wsrpc.codegen.python_client import InvalidDescription, client_module
from wsrpc.codegen.typescript import declarations
from wsrpc.schema import Description, describe

INTEGER, STRING = {"type": "integer"}, {"type": "string"}
NUMBERS = {"type": "array", "items": INTEGER, "default": []}


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def union(*names: str) -> dict[str, Any]:
    return {"anyOf": [ref(name) for name in names]}


def definition(properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), **more}


def event(name: str, *parameters: Any, **fields: Any) -> dict[str, Any]:
    return {"event": name, "kind": "value", "parameters": list(parameters), "result": {"type": "null"}, **fields}


def parameter(name: str, schema: Any = INTEGER, **fields: Any) -> dict[str, Any]:
    return {"name": name, "schema": schema, **fields}


def described(*events: Any, emits: Any = (), definitions: dict[str, Any] | None = None, **results: Any) -> Description:
    """A description with these events, and one request for each result."""
    calls = [event(name, result=schema) for name, schema in results.items()]
    return msgspec.convert({"events": [*events, *calls], "emits": emits, "$defs": definitions or {}}, Description)


def module_of(description: Description) -> list[str]:
    """The lines of a module that consists of what one is made of, with types that wsrpc converts to."""
    text = client_module(description)
    check_statements(text)
    with loaded(text) as module:
        check_types(module)
        proxies_of(module, Client("ws://127.0.0.1:1"))
    return [line for line in text.splitlines() if line]


def result_of(schema: Any, definitions: dict[str, Any] | None = None) -> str:
    """The Python type of a result."""
    lines = module_of(described(definitions=definitions, call=schema))
    [line] = [line for line in lines if "async def call(self) -> " in line]
    return line.partition(" -> ")[2].removesuffix(": ...")


def fields_of(made: Any, definitions: dict[str, Any] | None = None) -> list[str]:
    """The lines of the class of a definition."""
    lines = module_of(described(definitions={**(definitions or {}), "Made": made}, call=ref("Made")))
    [head] = [number for number, line in enumerate(lines) if line.startswith("class Made")]
    end = next(number for number in range(head + 1, len(lines)) if not lines[number].startswith(" "))
    return [line.strip() for line in lines[head:end]]


# ---------------------------------------------------------------- a module as a whole

FIELDS = ["class", "a-b", "a b", "_x", "1", "", "é", "ﬁ", "Any", "dt", "self"]
ROW = [{**INTEGER, "title": "x"}, {**STRING, "title": "class"}, {"type": "number", "default": 0.5}]
DEFINITIONS = {
    "Names": definition(dict.fromkeys(FIELDS, INTEGER), *FIELDS),
    "Hides": definition({"list": {"type": "array", "items": STRING, "default": []}, "str": STRING}),
    "Late": definition({"a": {**INTEGER, "default": 1, "deprecated": True}, "b": {**INTEGER, "unit": "s"}}, "b"),
    "Quoted": definition({'a"b': INTEGER}),  # msgspec cannot have such a name
    "Words": {"enum": ["in-progress", "inProgress", "", "1st"]},
    "Named": {"enum": [1, -3, 4], "x-enum-varnames": ["ok", "__init__", "mro"]},
    "Mixed": {"enum": ["a", 1]},
    "Row": {"type": "array", "prefixItems": ROW, "minItems": 2},
    "Itself": {"anyOf": [INTEGER, {"type": "array", "items": ref("Itself")}]},
    # Classes in two forms, as they are sent and as they come back.
    "Cup": definition({"a": STRING}, "a"),
    "CupInput": definition({"a": {**INTEGER, "default": 1}}),
    "Holder": definition({"both": union("Cup", "Late")}, "both"),
    # Classes that a tag tells from others.
    "One": definition({"name": STRING, "kind": {"const": "one"}}, "kind", "name"),
    "Two": definition({"kind": {"enum": ["two"], "default": "two"}}),
}
EVENTS = [
    *(event(name) for name in ("list", "get name", "_x", "Any", "\u202e\n")),
    event("tagged", result=union("One", "Two")),
    event("names", *map(parameter, ["self", "class", "a", "a", "items"]), kind="upload", sends={}),
    event(
        "defaults",
        parameter("a", {**STRING, "format": "date", "default": "2026-01-01"}, optional=True),
        parameter("b", {}, optional=True),
        parameter("c", NUMBERS, optional=True),
    ),
    event("needed", parameter("a", {**INTEGER, "default": 1}, optional=True), parameter("b")),
    event(
        "described",
        parameter("a", {**INTEGER, "description": "How many.", "unit": "g"}),
        parameter("b", {"anyOf": [True, {**INTEGER, "unit": "s"}], "unit": 1}),
        doc='Say "so".\n\nMore.',
        notes=["parameter 'a': it has no JSON Schema"],
    ),
    event("echo", kind="exchange", sends=ref("Late"), items=ref("Late")),
    event(
        "upload",
        parameter("name", {**STRING, "default": ""}, optional=True),
        kind="upload",
        sends={**STRING, "contentEncoding": "base64"},
    ),
    event("talk", kind="conversation", result=None, events=[event("say")], emits=[event("said", result=None)]),
]
EMITS = [
    event("start", result=None, doc="It begins."),
    event("name", result=STRING),
    event("tell", kind="upload", sends=INTEGER),
    event("count", parameter("stop"), kind="stream", items=INTEGER),
]
MODULE = '''\
# Made by `python -m wsrpc client`. Make it anew when the server changes, instead of changing it here.
# fmt: off
# ruff: noqa: E501, B006
from __future__ import annotations
import builtins
import datetime as dt
import enum
from collections.abc import AsyncIterable
from typing import Any, Literal, Protocol, TypeAlias
import msgspec
import wsrpc
import wsrpc.cluster
CONTRACT = "cda43bd84889b646"
class Named(enum.Enum):
    ok = 1
    VALUE_MINUS_3 = -3
    mro_ = 4
class Words(enum.Enum):
    IN_PROGRESS = "in-progress"
    IN_PROGRESS_ = "inProgress"
    EMPTY = ""
    VALUE_1ST = "1st"
class Cup(msgspec.Struct):
    a: str
class CupInput(msgspec.Struct):
    a: int = 1
class Hides(msgspec.Struct):
    list: builtins.list[builtins.str] = []
    str: builtins.str | msgspec.UnsetType = msgspec.UNSET
class Holder(msgspec.Struct):
    # Nothing tells the members of Cup | Late apart: it is Any.
    both: Any
class Late(msgspec.Struct, kw_only=True):
    # deprecated
    a: int = 1
    # Unit: s
    b: int
class Names(msgspec.Struct):
    class_: int = msgspec.field(name="class")
    a_b: int = msgspec.field(name="a-b")
    a_b_: int = msgspec.field(name="a b")
    x: int = msgspec.field(name="_x")
    field_1: int = msgspec.field(name="1")
    field: int = msgspec.field(name="")
    é: int
    fi: int = msgspec.field(name="ﬁ")
    Any_: int = msgspec.field(name="Any")
    dt_: int = msgspec.field(name="dt")
    self: int
class One(msgspec.Struct, tag_field="kind", tag="one"):
    name: str
class Two(msgspec.Struct, tag_field="kind", tag="two"):
    pass
class Row(msgspec.Struct, array_like=True):
    x: int
    item_2: str
    item_3: float = 0.5
# The type contains itself: it is Any there.
Itself: TypeAlias = int | list[Any]
Mixed: TypeAlias = Literal["a", 1]
Quoted: TypeAlias = dict[str, Any]
class Main(Protocol):
    """Calls that you can make on the main channel."""
    async def list(self) -> None: ...
    @wsrpc.method("get name")
    async def get_name(self) -> None: ...
    @wsrpc.method("_x")
    async def x(self) -> None: ...
    @wsrpc.method("Any")
    async def Any_(self) -> None: ...
    @wsrpc.method("\\u202e\\n")
    async def event(self) -> None: ...
    async def tagged(self) -> One | Two: ...
    async def names(self, self_: int, class_: int, a: int, a_: int, items: int, items_: AsyncIterable[Any]) -> None: ...
    async def defaults(self, a: dt.date = dt.date(2026, 1, 1), b: Any = ..., c: builtins.list[int] = []) -> None: ...
    async def needed(self, a: int, b: int) -> None: ...
    async def described(self, a: int, b: Any) -> None:
        """Say "so".
        More.
        Args:
            a: How many. Unit: g
            b: Unit: s
        Not described: parameter 'a': it has no JSON Schema.
        """
        ...
    def echo(self, items: AsyncIterable[Late]) -> wsrpc.Stream[Late]: ...
    async def upload(self, name: str = "", *, items: AsyncIterable[bytes]) -> None: ...
    async def talk(self) -> wsrpc.AnonymousChannel: ...
class MainEvents(Protocol):
    """Events and requests that are sent on the main channel."""
    async def start(self) -> None:
        """It begins."""
        ...
    async def name(self) -> str: ...
    async def tell(self, items: AsyncIterable[int]) -> None: ...
    def count(self, stop: int) -> wsrpc.Stream[int]: ...
class TalkCalls(Protocol):
    """Calls in the conversation "talk"."""
    async def say(self) -> None: ...
class TalkEvents(Protocol):
    """Events that arrive in the conversation "talk"."""
    async def said(self) -> None: ...
Caller: TypeAlias = wsrpc.Client | wsrpc.Peer | wsrpc.cluster.ClusterPeer
def main(caller: Caller, /) -> Main:
    """Return a proxy for the main channel."""
    return caller.proxy(Main)
'''


def test_a_module() -> None:
    description = described(*EVENTS, emits=EMITS, definitions=DEFINITIONS)
    assert "\n".join(module_of(description)) + "\n" == MODULE


def test_deprecated_events() -> None:
    lines = module_of(described(event("deprecated", deprecated='use\n"b"'), event("b")))
    [at] = [number for number, line in enumerate(lines) if line.startswith("    @deprecated(")]
    assert lines[at : at + 3] == [
        """    @deprecated('use\\n"b"')""",
        '    @wsrpc.method("deprecated")',
        "    async def deprecated_(self) -> None: ...",
    ]
    assert "from typing import TYPE_CHECKING, Protocol, TypeAlias" in lines


def test_names_of_channels() -> None:
    channels = [None, "main", "a b", "wsrpc", "Main", "été"]
    lines = module_of(described(*(event("e", channel=channel) for channel in channels)))
    functions = [line.partition("(")[0] for line in lines if line.startswith("def ")]
    assert functions == [f"def {name}" for name in ("main", "main_", "a_b", "wsrpc_", "main_2", "été")]
    contracts = [line.partition("(")[0] for line in lines if "(Protocol)" in line]
    assert contracts == [f"class {name}" for name in ("Main", "Main_", "AB", "Wsrpc", "Main_2", "Été")]


def test_a_description_in_json_gives_the_same_and_both_forms_of_a_class_are_one() -> None:
    description = describe(wide_server)
    again = msgspec.json.decode(msgspec.json.encode(description), type=Description)
    text = client_module(again)
    assert text == client_module(description)
    assert "CupInput" not in text and "HostInput" not in text and text.count("class Size") == 1
    text = client_module(describe(Server()))
    assert re.search(r'\n\nfrom __future__ import annotations\n\nCONTRACT = "[0-9a-f]{16}"\n$', text)


def test_what_is_only_defined_is_not_imported() -> None:
    """A member of an Enum with the name of a module imported that module."""
    named = {"enum": [1], "x-enum-varnames": ["dt"]}
    lines = module_of(described(definitions={"Named": named}, call=ref("Named")))
    assert "    dt = 1" in lines and "import datetime as dt" not in lines


def test_the_page_shows_what_is_made() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "python-client.md").read_text("utf-8")
    [code, *_] = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    shown = re.findall(r"^```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    [module_shown] = [text for text in shown if "class Size" in text]
    with loaded(code) as module:
        made = client_module(describe(module.server)).strip().split("\n\n\n")
    assert [part for part in module_shown.strip().split("\n\n\n") if part not in made] == []


# ---------------------------------------------------------------- types


UNIQUE = {"type": "array", "uniqueItems": True}
ARRAY_CLASS = {"type": "array", "prefixItems": [INTEGER], "minItems": 1}
ONE = definition({"a": INTEGER}, "a")
TWO = definition({"b": INTEGER}, "b")


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, "Any"),
        ({"type": ["integer", "null"]}, "int | None"),
        ({"const": 1.5}, "float"),
        ({"enum": [True, "a"]}, 'Literal[True, "a"]'),
        ({"enum": [[1], {"a": 1}]}, "list[Any] | dict[str, Any]"),
        ({"enum": [2**70]}, "int"),
        ({"allOf": [INTEGER]}, "int"),
        ({"allOf": [INTEGER, {"minimum": 1}]}, "Any"),
        ({**UNIQUE, "items": {"type": ["integer", "string"]}}, "set[int | str]"),
        ({**UNIQUE, "items": {"anyOf": [STRING, NUMBERS]}}, "list[str | list[int]]"),
        ({"type": "array", "prefixItems": [INTEGER, STRING], "minItems": 2, "items": False}, "tuple[int, str]"),
        ({"type": "array", "prefixItems": [INTEGER, STRING], "items": False}, "list[int | str]"),
        ({"anyOf": [STRING, {**STRING, "format": "date"}]}, "str"),
        ({"anyOf": [{"const": "a"}, {"const": "b"}]}, 'Literal["a", "b"]'),
        ({"type": "array", "prefixItems": [INTEGER, STRING], "minItems": 1}, "list[Any]"),
        ({"type": "array", "prefixItems": [INTEGER], "items": STRING}, "list[int | str]"),
    ],
)
def test_types_of_json_schema(schema: Any, expected: str) -> None:
    assert result_of(schema) == expected


@pytest.mark.parametrize("classes", [{"A": ONE, "B": TWO}, {"A": ARRAY_CLASS, "B": ONE}], ids=["no tag", "array"])
def test_unions_of_classes_that_nothing_tells_apart(classes: Any) -> None:
    assert result_of(union(*classes), classes) == "Any"


UNSET = "msgspec.UnsetType = msgspec.UNSET"


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        (STRING, f"str | {UNSET}"),
        ({}, f"Any | {UNSET}"),
        ({**ref("Size"), "default": "s"}, "Size = Size.S"),
        ({**STRING, "format": "date", "default": "2026-01-01"}, "dt.date = dt.date(2026, 1, 1)"),
        ({**STRING, "format": "date", "default": "soon"}, f"dt.date | {UNSET}"),
        ({**STRING, "format": "decimal", "default": "1.50"}, "Decimal = Decimal('1.50')"),
        ({**INTEGER, "default": None}, f"int | {UNSET}"),
        ({"anyOf": [STRING, {"type": "null"}], "default": None}, "str | None = None"),
        ({"type": "number", "default": 1}, "float = 1"),
        ({"type": "array", "default": []}, "list[Any] = []"),
        ({**NUMBERS, "default": [1, 2]}, f"list[int] | {UNSET}"),
        ({**NUMBERS, "uniqueItems": True}, "set[int] = set()"),
        ({**INTEGER, "minimum": 1, "default": 1}, "int = 1"),
    ],
)
def test_fields_that_are_not_required(schema: Any, field: str) -> None:
    made, size = definition({"a": schema}), {"Size": {"enum": ["s", "l"]}}
    assert fields_of(made, size) == ["class Made(msgspec.Struct):", f"a: {field}"]


def test_fields_of_a_class_that_is_only_received() -> None:
    """A later version of the server may leave out what may be null or has a default. A tag is always there."""
    nullable: dict[str, Any] = {"anyOf": [STRING, {"type": "null"}]}
    row = [INTEGER, {**nullable, "title": "b"}]
    kind = {"const": "made", "default": "made"}
    made = definition({"kind": kind, "a": INTEGER, "b": nullable, "c": {"enum": [1, None]}}, *("kind", "a", "b", "c"))
    fields = ["a: int", "b: str | None = None", "c: Literal[1] | None = None"]
    assert fields_of(made) == ['class Made(msgspec.Struct, tag_field="kind", tag="made"):', *fields]
    array = {"type": "array", "prefixItems": row, "minItems": 2}
    assert fields_of(array)[1:] == ["item_1: int", "b: str | None = None"]
    lines = module_of(
        described(event("send", parameter("made", ref("Made"))), definitions={"Made": made}, got=ref("Made"))
    )
    assert "    b: str | None" in lines, "in a class that is sent, too, it is not optional"


def test_a_default_that_looks_like_a_reference() -> None:
    """The generators raised KeyError."""
    parameters = [{"name": "a", "schema": {"default": ref("None")}, "optional": True}]
    description = described({**event("call"), "parameters": parameters})
    assert "a: Any = ..." in client_module(description) and "call: (a?: unknown)" in declarations(description)


def test_a_computed_field_does_not_make_another_class_of_what_is_sent() -> None:
    class Person(pydantic.BaseModel):
        name: str

        @pydantic.computed_field  # type: ignore[prop-decorator]
        @property
        def upper(self) -> str:
            return self.name.upper()

    def put(person: Any) -> Any: ...

    put.__annotations__ = {"person": Person, "return": Person}
    server = Server()
    server.on("put", put)
    text = client_module(describe(server))
    assert "async def put(self, person: Person) -> Person" in text and "PersonInput" not in text
    assert f"    upper: str | {UNSET}\n" in text


# ---------------------------------------------------------------- what is refused

DEEP: dict[str, Any] = INTEGER
for _ in range(5000):
    DEEP = {"type": "array", "items": DEEP}


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        (ref("None"), "'#/$defs/None' refers to no definition of the description"),
        ({"anyOf": []}, "in its schema: a union has members"),
        ({"properties": {"a": 5}}, "in its schema: Expected `bool | object`, got `int` - at `$.properties[...]`"),
        ({"items": {"type": ["array", "array"]}}, "in its schema: a list of types has different ones - at `$.items`"),
    ],
)
def test_schemas_that_are_none(schema: Any, problem: str) -> None:
    with pytest.raises(InvalidDescription) as caught:
        client_module(described(call=schema))
    assert str(caught.value) == f"event 'call': {problem}"


@pytest.mark.parametrize("schema", [{"$ref": 1}, {"anyOf": 1}])
@pytest.mark.parametrize("write", [client_module, declarations])
def test_definitions_that_are_none(write: Any, schema: Any) -> None:
    with pytest.raises(InvalidDescription):
        write(Description((), (), {"A": schema}))


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ([event("a"), event("a")], "event 'a' is there twice on one channel"),
        ([event("a", channel="")], "event 'a': a channel's name is a non-empty string, got ''"),
        (
            [event("a", events=[event("b", emits=[event("c")])])],
            "event 'a': event 'b': a conversation within a conversation is not described",
        ),
        (
            [event("a", parameter("b", rest=True), parameter("c"))],
            "event 'a' has a parameter after the one that takes all further arguments",
        ),
    ],
)
def test_events_that_cannot_be_called(events: Any, problem: str) -> None:
    with pytest.raises(InvalidDescription) as caught:
        client_module(described(*events))
    assert str(caught.value) == problem


def chain(count: int, schema: Any) -> dict[str, Any]:
    """Definitions of aliases, each of which has the next one inside."""
    inner = [{**schema, "items": ref(f"c{n + 1}")} for n in range(count)]
    return {f"c{n}": each for n, each in enumerate([*inner, INTEGER])}


@pytest.mark.parametrize(
    ("written", "schema"),
    [(client_module, DEEP), (declarations, DEEP), (client_module, {"const": DEEP}), (client_module, ref("c0"))],
    ids=["arrays", "TypeScript", "a value", "aliases"],
)
def test_what_is_nested_too_deeply(written: Any, schema: Any) -> None:
    with pytest.raises(InvalidDescription, match="its types are nested too deeply"):
        written(described(definitions=chain(1000, {"type": "array"}), call=schema))


def test_aliases_of_aliases() -> None:
    assert result_of(ref("c0"), chain(29, {"type": "array"})) == "C0"
