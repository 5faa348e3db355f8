"""Who validates which type: docs/reference/types.md shows the rows of `type_table`, and each row is played.

A row has a value that fits and one that does not. Both are sent to a handler, in a container, and as an answer with
``returns=``. tests/unit/test_values.py has the other places of a value.
"""

from __future__ import annotations

import enum
import gc
import json
import re
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import GenericAlias
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    TypeVar,
    Union,
)

import annotated_types
import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import pytest
import typing_extensions
from msgspec import Meta
from pydantic import Field, HttpUrl, PositiveInt
from type_table import MORE, ROWS, Account, Crow, Limited, Lion, Row, T, evaluated

from wsrpc import BadArguments, BadResult, Peer, Server, schema, typescript
from wsrpc._conversion.convert import converter, prepare
from wsrpc._conversion.pydantic_types import is_pydantic
from wsrpc._conversion.validation import Checked as Substitute
from wsrpc.testing import connect

ROOT = Path(__file__).parents[3]


F = TypeVar("F", bound=Callable[..., Any])


def validator_of(tp: Any) -> str:
    """The library that validates a type, as wsrpc decides it."""
    wire = prepare(tp, None, False).type
    return "pydantic" if wire.__class__ is Substitute or is_pydantic(wire) else "msgspec"


def typed(**annotations: Any) -> Callable[[F], F]:
    """Decorator: annotations that are known only now."""

    def annotate(function: F) -> F:
        function.__annotations__ = annotations
        return function

    return annotate


@pytest.mark.parametrize("row", ROWS + MORE, ids=[row.code for row in ROWS + MORE])
async def test_the_table_says_who_validates_and_the_wrong_value_is_refused(row: Row) -> None:
    assert validator_of(row.type) == row.by
    server = Server()
    seen: list[Any] = []

    @typed(given=row.type, **{"return": row.type})
    def take(given: Any) -> Any:
        seen.append(given)
        return given

    @typed(given=row.type)
    def take_all(*given: Any) -> None:
        seen.extend(given)

    @typed(given=GenericAlias(list, row.type))
    def take_list(given: Any) -> None:
        seen.extend(given)

    for handler in (take, take_all, take_list):
        server.on(handler.__name__, handler)
    server.on("give", lambda value: value)
    async with connect(server) as client:
        await client.request("take", row.right)
        await client.request("take_all", row.right)
        await client.request("take_list", [row.right])
        right = await client.request("give", row.right, returns=row.type)
        assert len(seen) == 3 and {type(item) for item in seen} == {type(right)}
        for event, argument in [("take", row.wrong), ("take_all", row.wrong), ("take_list", [row.wrong])]:
            with pytest.raises(BadArguments):
                await client.request(event, argument)
        with pytest.raises(BadResult):
            await client.request("give", row.wrong, returns=row.type)
    assert len(seen) == 3
    [described] = [each for each in schema.describe(server).events if each.event == "take"]
    assert described.notes == () and described.parameters[0].schema and described.result


@pytest.mark.parametrize("row", [row for row in ROWS if "Annotated[int" in row.code], ids=lambda row: row.code)
async def test_lax_rules_hold_for_pydantic_too(row: Row) -> None:
    value = json.loads(re.sub(r"\b\d+\b", r'"\g<0>"', json.dumps(row.right)))

    @typed(given=row.type)
    def take(given: Any) -> None:
        pass

    strict, lax = Server(), Server(lax=True)
    for server in (strict, lax):
        server.on("take", take)
    async with connect(strict) as client:
        if value != row.right:
            with pytest.raises(BadArguments):
                await client.request("take", value)
    async with connect(lax) as client:
        await client.request("take", value)


# ---------------------------------------------------------------- what is refused at registration


class Opaque: ...


class Badge(msgspec.Struct):
    number: Annotated[int, Field(gt=0)]


class Plain(msgspec.Struct):
    x: int


class Other(Plain): ...


class Holder(msgspec.Struct):
    account: Account


@attrs.define
class Converted:
    seats: int = attrs.field(converter=int)


@dataclass
class Mixed:
    x: Annotated[int, Field(gt=0)]
    y: Annotated[int, Meta(gt=0)]


@dataclass
class At:
    when: Annotated[datetime, annotated_types.Timezone(...)]


class Holds(msgspec.Struct, Generic[T]):
    value: T


class HoldsPositive(Holds[PositiveInt]): ...


class Keeps(typing_extensions.TypedDict, Generic[T]):
    value: T


class KeepsInt(Keeps[int]): ...


class Defaulted(msgspec.Struct):
    x: int = Field(default=1, gt=0)


@attrs.define
class Attributes:
    x: int = Field(default=1, gt=0)


class Decorated(msgspec.Struct):
    x: int

    @pydantic.field_validator("x")
    @classmethod
    def _positive(cls, x: int) -> int:
        return x


class Ignoring(pydantic.BaseModel):
    numbers: list[Annotated[int, Meta(gt=0)]]


class Nested(pydantic.BaseModel):
    inner: Ignoring | None = None
    again: Nested | None = None


class AnyZone(pydantic.BaseModel):
    when: Annotated[datetime, annotated_types.Timezone(...)]


class Odd(annotated_types.BaseMetadata): ...


class Above(annotated_types.Gt): ...


@attrs.define
class OwnDefault:
    x: int = attrs.field(default=attrs.Factory(lambda self: 1, takes_self=True))


@dataclass
class NoSuchName:
    x: enum.NoSuchType  # type: ignore[name-defined]  # pyright: ignore


@dataclass
class NoType:
    x: "1 +"  # type: ignore[valid-type]  # pyright: ignore # noqa: F722


class Robin(pydantic.BaseModel):
    name: str


class Wren(Robin): ...


@dataclass
class Left:
    name: str


@dataclass
class Right:
    name: str


class Incomplete(pydantic.BaseModel):
    x: NoWhere  # type: ignore[name-defined]  # pyright: ignore # noqa: F821


REFUSED = [
    ("Opaque", r"values from the wire cannot be converted to test_validation\.Opaque: make it a dataclass.* dec_hook="),
    ("list[dict[str, Opaque | None]]", r"converted to test_validation\.Opaque"),
    ("list[Callable[[int], int]]", r"converted to collections\.abc\.Callable"),
    ("int | Opaque", "pydantic refuses the type: Unable to generate"),
    ("3", "'3' is not supported"),
    ("Badge", r"Badge.number: msgspec cannot enforce Field\(...\): write msgspec.Meta"),
    ("Holder", "Holder.account: msgspec cannot enforce Account, a class of pydantic"),
    ("Converted", "Converted.seats has a converter, which is never called: use __attrs_post_init__"),
    ("Mixed", "something that only msgspec enforces .* something that only pydantic enforces"),
    ("At", r"At.when: neither msgspec nor pydantic enforces Timezone.*: write msgspec.Meta\(tz="),
    ("Annotated[datetime, annotated_types.Timezone(...)]", "neither msgspec nor pydantic enforces Timezone"),
    ("Annotated[str, Gt(0)]", "str is not comparable with 0"),
    ("Annotated[list[int], Field(gt=3)]", "list is not comparable with 3"),
    ("Annotated[int, MinLen(3)]", "int has no length"),
    ("Annotated[int, Field(pattern='a')]", "a pattern is for text, not for int"),
    ("Annotated[int, Field(default=5)]", "has a default, which nothing uses: write it in the signature"),
    ("Annotated[int, Field(alias='b')]", "pydantic refuses the type: The 'alias' attribute"),
    ("Annotated[int, Field(gt='a')]", "pydantic refuses the type: .*'gt'"),
    ("Annotated[Opaque, Predicate(bool)]", r"msgspec cannot enforce Predicate\(bool\), and pydantic refuses"),
    ("Plain | Other", r"as in class Plain\(msgspec.Struct, tag=True\)"),
    ("list[Plain | Point]", r"as in class Plain\(msgspec.Struct, tag=True\)"),
    ("str | datetime", "unions may not contain more than one str-like type"),
    ("tuple[str | datetime, HttpUrl]", "unions may not contain more than one str-like type"),
    ("Annotated[str, Field(max_length=9)] | Word", "unions may not contain more than one str-like type"),
    ("tuple[Plain | Other, HttpUrl]", r"as in class Plain\(msgspec.Struct, tag=True\)"),
    ("Plain | Lion", r"as in class Plain\(msgspec.Struct, tag=True\)"),
    ("Cat | Lion", "pydantic does not see the fields of Struct types"),
    ("Room | dict[str, HttpUrl]", "pydantic does not see the fields of Struct types and attrs classes"),
    ("tuple[IntBox, HttpUrl]", r"IntBox derives from .*Box\[int\], and pydantic ignores"),
    ("HoldsPositive", "HoldsPositive.value: msgspec cannot enforce Gt"),
    ("KeepsInt", "KeepsInt derives from .*, and no library looks into the brackets: write its fields out"),
    ("Defaulted", r"Defaulted.x: msgspec cannot enforce Field\(...\)"),
    ("Attributes", r"Attributes.x: msgspec cannot enforce Field\(...\)"),
    ("Decorated", "Decorated._positive: msgspec cannot enforce a validator of pydantic"),
    ("Ignoring", r"Ignoring.numbers: pydantic ignores msgspec.Meta\(gt=0\): write Field"),
    ("list[Nested]", r"Ignoring.numbers: pydantic ignores msgspec.Meta\(gt=0\): write Field"),
    ("AnyZone", "AnyZone.when: neither msgspec nor pydantic enforces Timezone.* or AwareDatetime"),
    ("Annotated[int, Odd()]", "a constraint that neither msgspec nor pydantic knows"),
    ("Annotated[int, Above(0)]", "a constraint that neither msgspec nor pydantic knows"),
    ("Iterable[HttpUrl]", r"Iterable cannot be enforced before it is read: write list\[...\]"),
    ("Annotated[int | str, Field(gt=0)]", "str is not comparable with 0"),
    (
        "Annotated[list[HttpUrl], Meta(max_length=1)]",
        "something that only msgspec enforces .* something that only pydantic enforces",
    ),
    ("OwnDefault", "takes_self=True"),
    ("NoSuchName", "NoSuchName has a field whose type cannot be resolved: module 'enum' has no attribute"),
    ("NoType", "NoType has a field whose type cannot be resolved"),
    ("Incomplete", "Incomplete has a field whose type cannot be resolved"),
]


@pytest.mark.parametrize(("code", "text"), REFUSED)
async def test_what_nothing_can_enforce_is_refused(code: str, text: str) -> None:
    tp = evaluated(code, globals())

    @typed(given=tp)
    def take(given: Any) -> None:
        pass

    with pytest.raises(TypeError, match=f"parameter 'given': .*{text}"):
        Server().on("take", take)

    @typed(given=GenericAlias(AsyncIterator, tp))
    async def upload(given: Any) -> None:
        pass

    with pytest.raises(TypeError, match=f"parameter 'given': .*{text}"):
        Server().on("upload", upload)
    async with connect(Server()) as client:
        with pytest.raises(TypeError, match=text):
            await client.request("give", returns=tp)


def test_a_constraint_on_what_is_not_converted_is_refused() -> None:
    async def take(given: Any) -> None: ...

    for tp in (Annotated[AsyncIterator[int], Meta(max_length=1)], Annotated[Peer, Field(repr=False)]):
        take.__annotations__["given"] = tp
        with pytest.raises(TypeError, match=r"parameter 'given': a constraint on a stream or on an injected value"):
            Server().on("take", take)

    def pay(amount: int = Field(gt=0)) -> None: ...  # as in FastAPI

    with pytest.raises(TypeError, match=r"parameter 'amount': its default is pydantic's Field.* Annotated"):
        Server().on("pay", pay)


@dataclass
class Plus:
    left: Plus | Minus | None = None
    plus: int = 0


@dataclass
class Minus:
    right: Plus | Minus | None = None
    minus: int = 0


@dataclass
class Leaf:
    leaf: int


@dataclass
class Branch:
    one: Branch | Leaf
    two: Branch | Leaf | list[Leaf | Branch]


@dataclass
class Tree:
    kind: Literal["tree"]
    children: list[Annotated[Plant, Field(discriminator="kind")]]


@dataclass
class Fruit:
    kind: Literal["fruit"]
    next: Fruit | None = None


Plant = typing_extensions.TypeAliasType("Plant", Tree | Fruit)


def test_a_union_that_takes_exponential_time_is_refused() -> None:
    for tp in (Plus, Plus | Minus, list[Plus | Leaf], Branch | Leaf):
        with pytest.raises(TypeError, match=r"twice as long with each level: give the union a Field\(discriminator"):
            converter(tp)
    fruit = {"kind": "fruit", "next": {"kind": "fruit"}}
    tree = Tree("tree", [Fruit("fruit", Fruit("fruit"))])
    assert converter(Tree)({"kind": "tree", "children": [fruit]}) == tree


# ---------------------------------------------------------------- together with hooks, and without pydantic


def make(tp: Any, value: Any) -> Any:
    if tp is Opaque:
        opaque = Opaque()
        opaque.__dict__["value"] = value
        return opaque
    raise NotImplementedError(tp)


async def test_a_hook_makes_its_classes_inside_a_type_that_pydantic_validates() -> None:
    server = Server(dec_hook=make)
    seen: list[Any] = []

    @server.on("take")
    def take(given: list[tuple[Opaque, Annotated[int, Field(gt=0)]]], one: int | Opaque) -> None:  # pyright: ignore[reportUnusedFunction]
        seen.extend([given, one])

    async with connect(server) as client:
        await client.request("take", [["x", 1]], "y")
        with pytest.raises(BadArguments, match=r"0\.1: Input should be greater than 0"):
            await client.request("take", [["x", 0]], 5)
    [[(opaque, number)], one] = seen
    assert (opaque.value, number, one.value) == ("x", 1, "y")


@pytest.mark.parametrize(
    ("tp", "wrong", "text"),
    [
        (dict[str, list[Annotated[int, Field(gt=0)]]], {"a": [1, -5]}, "a.1: Input should be greater than 0"),
        (list[Annotated[int, Field(gt=0)]], [0] * 100_000, "0: Input should be greater than 0"),  # the first one only
        (Annotated[Any, Field(gt=0)], "secret", "Unable to apply constraint 'gt'"),
    ],
)
async def test_what_is_said_of_the_wrong_value(tp: Any, wrong: Any, text: str) -> None:
    server = Server()

    @typed(given=tp)
    def take(given: Any) -> None: ...

    server.on("take", take)
    async with connect(server) as client:
        with pytest.raises(BadArguments) as caught:
            await client.request("take", wrong)
    assert caught.value.message == f"take(): argument 'given' (1st): {text}"


async def test_values_of_pydantics_own_classes_travel() -> None:
    server = Server()

    @server.on("echo")
    def echo(url: HttpUrl) -> Any:  # pyright: ignore[reportUnusedFunction]
        return {"url": url, "account": Account("Ada", 5)}

    async with connect(server) as client:
        answer = await client.request("echo", HttpUrl("http://example.com/a"))
    assert answer == {"url": "http://example.com/a", "account": {"name": "Ada", "balance": 5}}


class Owner:
    def make(self, tp: Any, value: Any) -> Any:
        return make(tp, value)


def test_no_cache_keeps_a_hook() -> None:
    owner = Owner()
    server = Server(dec_hook=owner.make)

    @typed(given=tuple[Opaque, Annotated[int, Field(gt=0)]])
    def take(given: Any) -> None:
        pass

    server.on("take", take)
    kept = weakref.ref(owner)
    del server, owner
    gc.collect()
    assert kept() is None


def test_with_a_hook_a_name_that_is_not_found_gives_the_same_error() -> None:
    @typed(given=NoSuchName)
    def take(given: Any) -> None: ...

    with pytest.raises(TypeError, match=r"parameter 'given': .*NoSuchName has a field whose type cannot be resolved"):
        Server(dec_hook=make).on("take", take)


@dataclass
class Renamed:
    x: Annotated[int, Field(alias="ex")]


class Wrapped(pydantic.BaseModel):
    renamed: int = Field(alias="re-named")


def test_a_dataclass_is_described_with_the_names_that_it_is_sent_with() -> None:
    server = Server()

    @server.on("take")
    def take(given: Renamed, model: Wrapped) -> tuple[Renamed, Wrapped]: ...  # type: ignore[empty-body]  # pyright: ignore[reportUnusedFunction]

    definitions = schema.describe(server).definitions
    assert [*definitions["RenamedInput"]["properties"]] == ["ex"]
    assert [*definitions["Renamed"]["properties"]] == ["x"]
    assert [*definitions["Wrapped"]["properties"]] == ["re-named"]


WITHOUT_PYDANTIC = """
import sys
sys.modules["pydantic"] = None
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *args: None if name == "pydantic" else found(name, *args)
from dataclasses import dataclass
from typing import Annotated
import msgspec
from annotated_types import Gt, Predicate
from typing_extensions import TypedDict
from wsrpc import Server
from wsrpc._conversion.convert import converter

@dataclass
class Point:
    x: int

@dataclass
class Circle:
    radius: int

def refusal(tp):
    try:
        converter(tp)
    except TypeError as exc:
        return str(exc)

class Movie(TypedDict):
    title: str

assert converter(Annotated[int, msgspec.Meta(gt=0)])(1) == 1
assert converter(Movie)({"title": "Alien"}) == {"title": "Alien"}
assert "msgspec cannot enforce Gt(gt=0): use msgspec.Meta" in refusal(Annotated[int, Gt(0)])
assert "msgspec cannot enforce Predicate" in refusal(Annotated[str, Predicate(str.islower)])
assert "or install pydantic" in refusal(Annotated[str, Predicate(str.islower)])
assert "class Point(msgspec.Struct, tag=True), or install pydantic" in refusal(Point | Circle)
"""


def test_without_pydantic_it_is_said_what_to_install() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_PYDANTIC], check=True, timeout=20, cwd=ROOT)


def test_typescript_and_json_schema_say_the_same() -> None:
    server = Server()

    @server.on("pay")
    def pay(
        amount: Annotated[int, annotated_types.Gt(0)],
        item: Lion | Crow,
        pair: tuple[Limited, Annotated[str, Field(max_length=3)]],
    ) -> Account:
        raise NotImplementedError

    described = schema.describe(server)
    [event] = described.events
    amount, item, pair = (parameter.schema for parameter in event.parameters)
    assert amount == {"type": "integer", "exclusiveMinimum": 0}
    assert item == {"anyOf": [{"$ref": "#/$defs/Lion"}, {"$ref": "#/$defs/Crow"}]}
    assert pair["prefixItems"][0] == {"$ref": "#/$defs/Limited"}
    assert pair["prefixItems"][1]["maxLength"] == 3
    assert described.definitions["Limited"]["properties"]["x"]["exclusiveMinimum"] == 0
    text = typescript.declarations(described)
    assert "amount: number, item: Lion | Crow, pair: [Limited, string]" in text


async def test_the_order_of_a_unions_members_counts_for_each_request() -> None:
    """`Robin | Wren` equals `Wren | Robin` and has its hash, but pydantic takes the first of two models that fit."""
    server = Server()
    server.on("bird", lambda: {"name": "x"})
    server.on("birds", lambda: [{"name": "x"}])
    async with connect(server) as client:
        pairs: list[tuple[Any, Any]] = [(Robin, Wren), (Wren, Robin), (Left, Right), (Right, Left)]
        for first, second in pairs:
            both: list[Any] = [first | second, Union[first, second]]  # noqa: UP007
            for either in both:
                assert type(await client.request("bird", returns=either)) is first
                several: Any = GenericAlias(list, either)
                assert type((await client.request("birds", returns=several))[0]) is first
