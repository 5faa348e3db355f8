"""`wsrpc.codegen.typescript`: the text of declarations. That it compiles, and is true, is shown in interop/."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator
from datetime import datetime
from enum import Enum, Flag
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import msgspec
import pydantic
import pytest

from wsrpc import AnonymousChannel, Server, Stream, method
from wsrpc.codegen.typescript import declarations
from wsrpc.schema import Description, describe


def declared(*handlers: Any) -> str:
    server = Server()
    for handler in handlers:
        server.on(handler.__name__, handler)
    return declarations(describe(server))


@pytest.mark.parametrize(
    ("tp", "text"),
    [
        (datetime, "string"),
        (set[str], "string[]"),
        (list[int | None], "(number | null)[]"),
        (tuple[()], "[]"),
        (dict[int, list[str]], "{ [key: string]: string[] }"),
        (Literal["b", "a", 1, None], '1 | "a" | "b" | null'),
    ],
)
def test_types(tp: Any, text: str) -> None:
    def handler() -> Any: ...

    handler.__annotations__ = {"return": tp}
    assert f"  handler: () => {text}\n" in declared(handler)


# ---------------------------------------------------------------- a file as a whole


class Size(Enum):
    LARGE = "l"
    SMALL = "s"


class Rights(Flag):
    """They come in sums."""

    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    left: int
    right: int | str = 0


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str


class Names(pydantic.RootModel[dict[str, "Names | int"]]): ...


class Cup(msgspec.Struct):
    """What one drinks from.

    Not */ a comment's end.
    """

    size: Annotated[int, msgspec.Meta(description="In millilitres.")]
    sugar: Annotated[int | None, msgspec.Meta(description="In g.", extra_json_schema={"deprecated": True})] = None
    milk: Annotated[bool, msgspec.Meta(extra_json_schema={"deprecated": True})] = False
    heat: Annotated[float, msgspec.Meta(extra_json_schema={"unit": "°C"})] | None = None


class Emits(msgspec.Struct):
    number: int = 0


class Doors(Protocol):
    async def opened(self, by: Emits, *others: str | None) -> None:
        """Somebody has come in."""

    @method("door-closed")
    def closed(self, function: bytes = b"") -> None: ...

    async def name(self, by: Emits) -> str | None: ...
    def count(self, stop: int) -> Stream[int]: ...
    async def collect(self, numbers: AsyncIterable[int], item: str = "") -> int: ...
    async def tell(self, numbers: AsyncIterable[int]) -> None: ...
    def sift(self, numbers: AsyncIterable[int]) -> Stream[int]: ...
    async def talk(self) -> AnonymousChannel: ...


def classes(size: Size, pair: Pair, open: Open, names: Names) -> Rights: ...  # type: ignore[empty-body]


def fill(
    cup: Cup, by: Annotated[int, msgspec.Meta(description="How much.", extra_json_schema={"unit": "ml"})] = 1
) -> None:
    """Fill a cup."""


def undescribed(value: int) -> complex: ...  # type: ignore[empty-body]


class Crumb(msgspec.Struct):
    size: int


async def crumbs() -> AsyncIterator[Crumb]:
    yield Crumb(1)


async def upload(name: str, pieces: AsyncIterator[bytes]) -> int: ...  # type: ignore[empty-body]


async def exchange(pieces: AsyncIterator[str]) -> AsyncIterator[int]:
    yield 1


async def talk(channel: AnonymousChannel) -> None: ...


DECLARED = r"""/**
 * What one drinks from.
 *
 * Not *\/ a comment's end.
 */
export interface Cup {
  /** In millilitres. */
  size: number
  /**
   * In g.
   * @deprecated
   */
  sugar?: number | null
  /** @deprecated */
  milk?: boolean
  /** Unit: °C */
  heat?: number | null
}
export interface Emits_ {
  number?: number
}
export type Names = { [key: string]: Names | number }
export interface Open {
  name: string
  [key: string]: unknown
}
export type Pair = [number, (number | string)?]
/** They come in sums. */
export type Rights = number
export type Size = "l" | "s"
/** Bytes, as base64 text. */
export type Base64 = string
/**
 * What pages call, and what the server calls (`handlers`): `const client = new Client<Api>("/ws")`, with python-wsrpc.
 * In `streams`, the result is one item. In `uploads`, the first parameter is one item. In `conversations`, the result
 * describes the channel; `void` if nothing is known of it.
 */
export type Api = {
  requests: {
    classes: (size: Size, pair: Pair, open: Open, names: Names) => Rights
    /**
     * Fill a cup.
     * @param by How much.
     * Unit: ml
     */
    fill: (cup: Cup, by?: number) => null
    /** Not described: result: complex has no JSON Schema. */
    undescribed: (value: number) => unknown
  }
  streams: {
    crumbs: () => Crumb
  }
  uploads: {
    upload: (item: Base64, name: string) => number
  }
  conversations: {
    exchange: () => {
      requests: {
        next: (item: { value: string; done: false } | { done: true }) => null
        start: () => null
      }
      handlers: {
        next: (item: { value: number; done: false } | { value: undefined; done: true }) => void
        stop: () => void
      }
    }
    talk: () => void
  }
  channels: {
    "main hall": {
      handlers: {
        collect: (item?: string) => number
        count: (stop: number) => AsyncIterable<number> | IterableIterator<number>
        "door-closed": (function_?: Base64) => void
        name: (by: Emits_) => string | null
        /** Somebody has come in. */
        opened: (by: Emits_, ...others: (string | null)[]) => void
        sift: () => void
        talk: () => void
        tell: () => void
      }
    }
    "say \"hi\"": {
      requests: {
        /** @deprecated use *\/ 2nd */
        "1st": () => unknown
      }
    }
  }
}
"""


def test_a_file_of_declarations() -> None:
    server = Server()
    for handler in (classes, fill, undescribed, crumbs, upload, exchange, talk):
        server.on(handler.__name__, handler)
    server.of('say "hi"').on("1st", lambda: None, deprecated="use */ 2nd")
    server.of("main hall").declare(Doors)
    description = describe(server)
    text = declarations(description)
    of_the_server = text[text.index("/**\n * What one") : text.index("/** Events that")]
    assert re.sub(r"\n+(/\*\* Events .*\n)?", "\n", of_the_server) == DECLARED
    for line in ("exchange: () => Exchange<string, number>", "upload: (name: string) => Upload<Base64, number>"):
        assert f"  {line}\n" in text  # of Events
    for line in ("name: (by: Emits_) => string | null | Promise<string | null>", "tell: () => unknown"):
        assert f"    {line}\n" in text  # of ChannelEmits
    assert text.count("export type Base64 = string\n") == 1
    for name in ("AnonymousChannel", "Items<T>", "Upload<T, Result>", "Exchange<T, Item>"):
        assert text.count(f"export interface {name} ") == 1
    assert "export interface Items<T> extends AnonymousChannel {" in text
    assert "interface Upload" not in declared(crumbs)
    nothing = declared()
    assert "export type Events = {}\n" in nothing and "export type Channels = {}\n" in nothing
    assert "Base64" not in nothing and "AnonymousChannel" not in nothing
    assert "export type Api = {}\n" in nothing


def test_a_default_that_looks_like_a_schema_is_data() -> None:
    def paint(options: dict[str, str] = {"contentEncoding": "base64", "$ref": "#/$defs/Cup"}) -> None: ...  # noqa: B006

    server = Server()
    server.on("paint", paint)
    assert "Base64" not in declarations(describe(server))


def test_with_messagepack_bytes_are_bytes() -> None:
    server = Server()
    server.on("upload", upload)
    server.declare(Doors)
    text = declarations(describe(server), msgpack=True)
    assert "    upload: (item: Uint8Array, name: string) => number\n" in text
    assert '    "door-closed": (function_?: Uint8Array) => void\n' in text
    assert text.endswith("\n  }\n}\n")  # of Api: there is nothing for ws-wrapper
    with pytest.raises(TypeError, match="msgpack"):
        declarations(describe(server), msgpack=1)  # type: ignore[arg-type]


# ---------------------------------------------------------------- names


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
        "G": {"anyOf": [{"type": "object", "properties": {"g": {}}}, {"type": "boolean"}]},
        "H": {"allOf": [{"type": "object", "properties": {"h": {}}}] * 2 + [ref("E")]},
    }
    text = declarations(Description((), (), schemas))
    for name in "ABC":
        assert f"export type {name} = unknown\n" in text
    assert "export type D = D[] | null\n" in text
    assert "export interface E {\n  e?: E\n" in text and "export type F = E\n" in text
    # Only an object is an interface, and not what begins with one.
    assert "export type G = {\n  g?: unknown\n} | boolean\n" in text
    assert "export type H = {\n  h?: unknown\n} & E\n" in text


def test_names_that_mean_something_in_typescript() -> None:
    def taken(function, this, new, new_, string, größe, *in_): ...  # type: ignore[no-untyped-def]

    made = [msgspec.defstruct(name, [("a", int)]) for name in ("Events", "Promise", "string", "readonly")]
    taken.__annotations__["in_"] = tuple[tuple(made)]  # type: ignore[misc]
    text = declared(taken)
    for cls in made:
        assert f"export interface {cls.__name__}_ {{\n  a: number\n}}\n" in text
    names = "function_: unknown, this_: unknown, new_: unknown, new__: unknown, string: unknown, größe: unknown"
    assert f"taken: ({names}, ...in_: [Events_, Promise_, string_, readonly_][]) => unknown" in text


def test_names_that_become_the_same_are_numbered() -> None:
    names = ["a-", "a!", "a?", "a_", "a_3", *("a" + "-" * n for n in range(2, 102))]
    parameters = [{"name": name, "schema": {"type": "null"}} for name in names]
    made = {
        "events": [{"event": "e", "kind": "value", "parameters": parameters}],
        "emits": [],
        "$defs": {name: {"type": "object", "properties": {"a": {}}} for name in names},
    }
    text = declarations(msgspec.convert(made, Description))
    found = re.findall(r"^export interface (\w+) {", text, re.MULTILINE)[: len(names)]
    assert found[:5] == ["a_", "a__", "a__2", "a__3", "a_3"] and found[-1] == "a__103"
    assert re.findall(r"(\w+): null", text) == found * 2  # in Api, and for ws-wrapper
