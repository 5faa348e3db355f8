"""`wsrpc.typescript`: the text of declarations. That it compiles, and is true, is shown in interop/."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from enum import Enum, Flag, IntEnum
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest

from wsrpc import AnonymousChannel, Server, method
from wsrpc.schema import Description, describe
from wsrpc.typescript import declarations


def declared(*handlers: Any, **named: Any) -> str:
    server = Server()
    for handler in handlers:
        server.on(handler.__name__, handler)
    for event, handler in named.items():
        server.on(event, handler)
    return declarations(describe(server))


def line_of(text: str, start: str) -> str:
    [line] = [line.strip() for line in text.splitlines() if line.strip().startswith(start)]
    return line.removeprefix(start).strip()


class Size(Enum):
    LARGE = "l"
    SMALL = "s"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Rights(Flag):
    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    left: int
    right: int | str = 0


class Row(msgspec.Struct, array_like=True):
    name: str
    rest: list[Row] = []


class Options(TypedDict, total=False):
    depth: int


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str


class Names(pydantic.RootModel[dict[str, "Names | int"]]): ...


@pytest.mark.parametrize(
    ("tp", "text"),
    [
        (int, "number"),
        (float, "number"),
        (bool, "boolean"),
        (None, "null"),
        (str, "string"),
        (datetime, "string"),
        (UUID, "string"),
        (Decimal, "string"),
        (bytes, "Base64"),
        (Any, "unknown"),
        (list[int], "number[]"),
        (set[str], "string[]"),
        (list[int | None], "(number | null)[]"),
        (list, "unknown[]"),
        (tuple[int, str], "[number, string]"),
        (tuple[int, ...], "number[]"),
        (tuple[()], "[]"),
        (dict[str, int], "{ [key: string]: number }"),
        (dict[int, list[str]], "{ [key: string]: string[] }"),
        (dict, "{ [key: string]: unknown }"),
        (Literal["b", "a", 1, None], 'null | 1 | "a" | "b"'),
        (str | None, "string | null"),
        (None | int | str, "number | string | null"),
        (Annotated[int, msgspec.Meta(ge=0)], "number"),
    ],
)
def test_types(tp: Any, text: str) -> None:
    def handler() -> Any: ...

    handler.__annotations__ = {"return": tp}
    found = line_of(declared(handler), "handler: () =>")
    assert sorted(found.split(" | ")) == sorted(text.split(" | "))
    assert "null" not in found or found.endswith(("null", "(number | null)[]"))


class Emits(msgspec.Struct):
    number: int = 0


class Doors(Protocol):
    async def opened(self, by: Emits, *others: str | None) -> None:
        """Somebody has come in."""

    @method("door-closed")
    def closed(self, function: bytes = b"") -> None: ...


def test_what_is_emitted() -> None:
    server = Server()
    server.of("main hall").declare(Doors)
    text = declarations(describe(server))
    assert "export interface Emits_ {\n  number: number\n}\n" in text  # it arrives with its field
    assert "export type Base64 = string\n" in text
    assert "export type Events = {}\n" in text and "export type Channels = {}\n" in text
    assert "export type Emits = {}\n" in text
    assert (
        """\
export type ChannelEmits = {
  "main hall": {
    "door-closed": (function_?: Base64) => void
    /** Somebody has come in. */
    opened: (by: Emits_, ...others: (string | null)[]) => void
  }
}
"""
        in text
    )
    server.declare(Doors)
    text = declarations(describe(server))
    assert 'export type Emits = {\n  "door-closed": (function_?: Base64) => void\n' in text


def test_classes() -> None:
    def handler(size: Size, level: Level, pair: Pair, row: Row, options: Options) -> None: ...

    text = declared(handler)
    assert 'export type Size = "l" | "s"\n' in text
    assert "export type Level = 1 | 2\n" in text
    assert "export type Pair = [number, (number | string)?]\n" in text
    assert "export type Row = [string, Row[]?]\n" in text
    assert "export interface Options {\n  depth?: number\n}\n" in text
    assert "handler: (size: Size, level: Level, pair: Pair, row: Row, options: Options) => null" in text


def test_flags_come_in_sums() -> None:
    def handler(rights: Rights) -> Rights:
        return rights

    assert msgspec.json.decode(msgspec.json.encode(Rights.READ | Rights.WRITE), type=Rights) == Rights(3)
    assert "export type Rights = number\n" in declared(handler)


def test_models() -> None:
    def handler(open: Open, names: Names) -> None: ...

    text = declared(handler)
    assert "export interface Open {\n  name: string\n  [key: string]: unknown\n}\n" in text
    assert "export type Names = { [key: string]: Names | number }\n" in text


def test_what_is_said_of_it() -> None:
    class Cup(msgspec.Struct):
        """What one drinks from.

        Not */ a comment's end.
        """

        size: Annotated[int, msgspec.Meta(description="In millilitres.")]

    def fill(cup: Any, by: Annotated[int, msgspec.Meta(description="How much.")] = 1) -> None:
        """Fill a cup."""

    fill.__annotations__["cup"] = Cup
    text = declared(fill)
    assert (
        "/**\n * What one drinks from.\n *\n * Not *\\/ a comment's end.\n */\n"
        "export interface Cup {\n  /** In millilitres. */\n  size: number\n}\n"
    ) in text
    assert "  /**\n   * Fill a cup.\n   * @param by How much.\n   */\n  fill: (cup: Cup, by?: number) => null\n" in text


def test_what_cannot_be_declared_is_unknown_and_says_so() -> None:
    def handler(value: int) -> complex:
        raise NotImplementedError

    text = declared(handler)
    assert (
        "  /** Not described: result: complex has no JSON Schema. */\n  handler: (value: number) => unknown\n" in text
    )


def test_types_that_are_nothing_but_themselves_are_unknown() -> None:
    """TypeScript refuses them. In arrays and objects a type may name itself."""

    def ref(name: str) -> dict[str, Any]:
        return {"$ref": f"#/$defs/{name}"}

    schemas: dict[str, Any] = {
        "A": ref("A"),
        "B": {"anyOf": [{"type": "string"}, {"allOf": [ref("C")]}]},
        "C": ref("B"),
        "D": {"anyOf": [{"type": "null"}, {"type": "array", "items": ref("D")}]},
        "E": {"type": "object", "properties": {"e": ref("E")}},
        "F": ref("E"),
    }
    text = declarations(Description((), (), schemas))
    for name in "ABC":
        assert f"export type {name} = unknown\n" in text
    assert "export type D = D[] | null\n" in text
    assert "export interface E {\n  e?: E\n" in text and "export type F = E\n" in text


def test_names_that_mean_something_in_typescript() -> None:
    namespace: dict[str, Any] = {}
    exec("def handler(function, this, new, new_, string, größe, *in_): ...", namespace)
    assert line_of(declared(namespace["handler"]), "handler:") == (
        "(function_: unknown, this_: unknown, new_: unknown, new__: unknown, string: unknown, größe: unknown, "
        "...in_: unknown[]) => unknown"
    )

    def taken(*values: Any) -> None: ...

    classes = [msgspec.defstruct(name, [("a", int)]) for name in ("Events", "Promise", "string", "readonly")]
    taken.__annotations__["values"] = tuple[tuple(classes)]  # type: ignore[misc]
    text = declared(taken)
    for cls in classes:
        assert f"export interface {cls.__name__}_ {{\n  a: number\n}}\n" in text
    assert "taken: (...values: [Events_, Promise_, string_, readonly_][]) => null" in text


def test_names_that_become_the_same_are_numbered() -> None:
    names = ["a-", "a!", "a?", "a_", "a_3", *("a" + "-" * n for n in range(2, 102))]
    parameters = [{"name": name, "schema": {"type": "null"}} for name in names]
    event = {"event": "e", "kind": "value", "parameters": parameters}
    made = {
        "events": [event],
        "emits": [],
        "$defs": {name: {"type": "object", "properties": {"a": {}}} for name in names},
    }
    text = declarations(msgspec.convert(made, Description))
    found = re.findall(r"^export interface (\w+) {", text, re.MULTILINE)[: len(names)]
    assert found[:5] == ["a_", "a__", "a__2", "a__3", "a_3"] and found[-1] == "a__103"
    assert re.findall(r"(\w+): null", text) == found


def test_names_that_are_no_identifiers() -> None:
    server = Server()
    server.on("set-name", lambda: None)
    server.of('say "hi"').on("1st", lambda: None)
    server.of("class").on("new", lambda: None)
    text = declarations(describe(server))
    assert '  "set-name": () => unknown\n' in text
    assert '  "say \\"hi\\"": {\n    "1st": () => unknown\n  }\n' in text
    assert "  class: {\n    new: () => unknown\n  }\n" in text


def test_events_that_open_channels() -> None:
    async def stream() -> AsyncIterator[int]:
        yield 1

    async def upload(name: str, pieces: AsyncIterator[bytes]) -> int:
        return 1

    async def exchange(pieces: AsyncIterator[str]) -> AsyncIterator[int]:
        yield 1

    async def talk(channel: AnonymousChannel) -> None: ...

    text = declared(stream)
    assert "  stream: () => Items<number>\n" in text
    assert "export interface Items<T> extends AnonymousChannel {" in text and "interface Upload" not in text
    text = declared(stream, upload, exchange, talk)
    assert "  upload: (name: string) => Upload<Base64, number>\n" in text
    assert "  exchange: () => Exchange<string, number>\n" in text
    assert "  talk: () => AnonymousChannel\n" in text
    for name in ("AnonymousChannel", "Items<T>", "Upload<T, Result>", "Exchange<T, Item>"):
        assert text.count(f"export interface {name} ") == 1
    assert text.count("export type Base64 = string\n") == 1


def test_for_ws_wrapper_3_what_it_lacks_is_left_out() -> None:
    class Cup(msgspec.Struct):
        drink: str

    class Crumb(msgspec.Struct):
        size: int

    async def stream() -> AsyncIterator[Any]:
        yield 1

    async def upload(pieces: AsyncIterator[bytes]) -> int:
        return 1

    async def talk(channel: AnonymousChannel) -> None: ...

    def brew() -> Any: ...

    brew.__annotations__["return"] = Cup
    stream.__annotations__["return"] = AsyncIterator[Crumb]
    server = Server()
    for handler in (stream, upload, talk, brew):
        server.on(handler.__name__, handler)
        server.of("kitchen").on(handler.__name__, handler)
    server.of("empty").on("stream", stream)
    server.declare(Doors)
    described = describe(server)
    text = declarations(described, ws_wrapper=3)
    assert "export type Events = {\n  brew: () => Cup\n}\n" in text
    assert "export type Channels = {\n  kitchen: {\n    brew: () => Cup\n  }\n}\n" in text
    assert "opened: (by: Emits_" in text and "export type Base64 = string\n" in text  # of the events that are emitted
    for name in ("AnonymousChannel", "Items", "Upload", "Crumb", "AbortSignal"):
        assert name not in text
    assert "  signal: never\n}\n" in text
    assert declarations(described, ws_wrapper=4) == declarations(described)
    assert "  signal(signal: AbortSignal): this\n}\ntype Others" in declarations(described)
    with pytest.raises(ValueError, match="ws_wrapper is 3 or 4, got 2"):
        declarations(described, ws_wrapper=2)  # type: ignore[arg-type]


def test_a_server_without_handlers() -> None:
    text = declared()
    assert "export type Events = {}\n" in text and "export type Channels = {}\n" in text
    assert "Base64" not in text and "AnonymousChannel" not in text
