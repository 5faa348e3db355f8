"""Who validates which type: docs/reference/types.md shows the rows of `type_table`, and each row is played.

A row has a value that fits and one that does not. Both are sent to a handler, in a container, and as an answer with
``returns=``. tests/unit/test_values.py has the other places of a value.
"""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys
import warnings
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, Generic, Union

import annotated_types
import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import pytest
import typing_extensions
from msgspec import Meta
from pydantic import Field, PositiveInt
from type_table import MORE, ROWS, Account, Row, T, evaluated

from wsrpc import BadArguments, BadResult, Peer, Server, schema
from wsrpc._values.convert import converter, prepare
from wsrpc._values.pydantic_types import is_pydantic
from wsrpc._values.validation import Checked as Substitute
from wsrpc.testing import connect

ROOT = Path(__file__).parents[3]


def validator_of(tp: Any) -> str:
    """The library that validates a type, as wsrpc decides it."""
    wire = prepare(tp, None).type
    return "pydantic" if wire.__class__ is Substitute or is_pydantic(wire) else "msgspec"


@pytest.mark.parametrize("row", ROWS + MORE, ids=[row.code for row in ROWS + MORE])
async def test_the_table_says_who_validates_and_the_wrong_value_is_refused(row: Row) -> None:
    assert validator_of(row.type) == row.by
    server = Server()
    seen: list[Any] = []

    def take(given: Any) -> Any:
        seen.append(given)
        return given

    def take_list(given: Any) -> None:
        seen.extend(given)

    take.__annotations__ = {"given": row.type, "return": row.type}
    take_list.__annotations__ = {"given": GenericAlias(list, row.type)}
    for handler in (take, take_list):
        server.on(handler.__name__, handler)
    server.on("give", lambda value: value)
    async with connect(server) as client:
        await client.request("take", row.right)
        await client.request("take_list", [row.right])
        right = await client.request("give", row.right, returns=row.type)
        assert len(seen) == 2 and {type(item) for item in seen} == {type(right)}
        for event, argument in [("take", row.wrong), ("take_list", [row.wrong])]:
            with pytest.raises(BadArguments):
                await client.request(event, argument)
        with pytest.raises(BadResult):
            await client.request("give", row.wrong, returns=row.type)
    assert len(seen) == 2
    [described] = [each for each in schema.describe(server).events if each.event == "take"]
    assert described.notes == () and described.parameters[0].schema and described.result


async def test_one_parameter_can_be_lax_by_pydantic() -> None:
    def strict(given: Annotated[int, Field(gt=0)]) -> int:
        return given

    def lax(given: Annotated[int, Field(strict=False)], some: Annotated[list[int], Field(strict=False)]) -> int:
        return given + sum(some)

    server = Server()
    server.on("strict", strict)
    server.on("lax", lax)
    async with connect(server) as client:
        assert await client.request("lax", "5", [1, 2]) == 8
        with pytest.raises(BadArguments):
            await client.request("strict", "5")


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


@attrs.define
class Document:
    _id: str
    name: str = ""


@attrs.define(slots=False)
class Draft:
    _cache: int = attrs.field(init=False, default=0)


@dataclass
class Shelf:
    documents: list[Document]


@dataclass
class Mixed:
    x: Annotated[int, Field(gt=0)]
    y: Annotated[int, Meta(gt=0)]


@dataclass
class At:
    when: Annotated[datetime, annotated_types.Timezone(...)]


class Keeps(typing_extensions.TypedDict, Generic[T]):
    value: T


class KeepsInt(Keeps[int]): ...


class Defaulted(msgspec.Struct):
    x: int = Field(default=1, gt=0)


class Decorated(msgspec.Struct):
    x: int

    @pydantic.field_validator("x")
    @classmethod
    def _positive(cls, x: int) -> int:
        return x


class Above(annotated_types.Gt): ...


@attrs.define
class OwnDefault:
    x: int = attrs.field(default=attrs.Factory(lambda self: 1, takes_self=True))


class Robin(pydantic.BaseModel):
    name: str


class Wren(Robin): ...


with warnings.catch_warnings(action="ignore"):  # that it does not know all of Python 3.14
    v1 = importlib.import_module("pydantic.v1")

OLD = "is of pydantic 1, which wsrpc does not support: import it from pydantic 2"

REFUSED = [
    ("Opaque", r"values from the wire cannot be converted to test_validation\.Opaque: make it a dataclass.* dec_hook="),
    ("int | Opaque", "pydantic refuses the type: Unable to generate"),
    ("3", "'3' is not supported"),
    ("Badge", r"Badge.number: msgspec cannot enforce Field\(...\): write msgspec.Meta"),
    ("Holder", "Holder.account: msgspec cannot enforce Account, a class of pydantic"),
    ("Converted", "Converted.seats has a converter, which is never called: use __attrs_post_init__"),
    ("Document", r"Document\._id would not be sent: rename it, or make the class a dataclass"),
    ("dict[str, Shelf | None]", "Document._id would not be sent"),
    ("Draft", "Draft._cache would not be sent"),
    ("Mixed", "something that only msgspec enforces .* something that only pydantic enforces"),
    (
        "tuple[Plain, HttpUrl]",
        r"only msgspec enforces \(Plain\) .* \(HttpUrl, a class of pydantic\): write both for one",
    ),
    ("At", r"At.when: neither msgspec nor pydantic enforces Timezone.*: write msgspec.Meta\(tz="),
    ("Annotated[str, Gt(0)]", "str is not comparable with 0"),
    ("Annotated[int, MinLen(3)]", "int has no length"),
    ("Annotated[int, Field(pattern='a')]", "a pattern is for text, not for int"),
    ("Annotated[int, Field(default=5)]", "has a default, which nothing uses: write it in the signature"),
    ("Annotated[int, Field(alias='b')]", "pydantic refuses the type: The 'alias' attribute"),
    ("Annotated[Opaque, Predicate(bool)]", r"msgspec cannot enforce Predicate\(bool\), and pydantic refuses"),
    ("Plain | Other", r"as in class Plain\(msgspec.Struct, tag=True\)"),
    ("str | datetime", "unions may not contain more than one str-like type"),
    ("Cat | Lion", "pydantic does not see the fields of Struct types"),
    ("tuple[IntBox, HttpUrl]", r"IntBox derives from .*Box\[int\], and pydantic ignores"),
    ("KeepsInt", "KeepsInt derives from .*, and no library looks into the brackets: write its fields out"),
    ("Defaulted", r"Defaulted.x: msgspec cannot enforce Field\(...\)"),
    ("Decorated", "Decorated._positive: msgspec cannot enforce a validator of pydantic"),
    ("Annotated[int, Above(0)]", "a constraint that neither msgspec nor pydantic knows"),
    ("Iterable[HttpUrl]", r"Iterable cannot be enforced before it is read: write list\[...\]"),
    ("OwnDefault", "takes_self=True"),
    # The texts said that a model of pydantic 1 must become one, and that an int has no length.
    ("v1.BaseModel", rf"BaseModel {OLD}, or pass a dec_hook= that converts to it"),
    ("list[v1.HttpUrl]", rf"HttpUrl {OLD}, or pass a dec_hook="),
    ("Annotated[int, v1.Field(gt=0)]", rf"Field\(...\) {OLD}$"),
]


@pytest.mark.parametrize(("code", "text"), REFUSED)
async def test_what_nothing_can_enforce_is_refused(code: str, text: str) -> None:
    tp = evaluated(code, globals())

    def take(given: Any) -> None: ...

    take.__annotations__["given"] = tp
    with pytest.raises(TypeError, match=f"parameter 'given': .*{text}"):
        Server().on("take", take)

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


def test_a_union_that_takes_exponential_time_is_refused() -> None:
    for tp in (Plus, list[Plus | Minus]):
        with pytest.raises(TypeError, match=r"twice as long with each level: give the union a Field\(discriminator"):
            converter(tp)


# ---------------------------------------------------------------- together with hooks, and without pydantic


@pytest.mark.parametrize(
    ("tp", "wrong", "text"),
    [
        (dict[str, list[Annotated[int, Field(gt=0)]]], {"a": [1, -5]}, "a.1: Input should be greater than 0"),
        (list[Annotated[int, Field(gt=0)]], [0] * 100_000, "0: Input should be greater than 0"),  # the first one only
        (Annotated[Any, Field(gt=0)], "secret", "Unable to apply constraint 'gt'"),
    ],
)
def test_what_is_said_of_the_wrong_value(tp: Any, wrong: Any, text: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        converter(tp)(wrong)
    assert str(caught.value) == text


def test_no_cache_keeps_a_hook() -> None:
    kept = weakref.WeakSet[Any]()

    def serve() -> None:
        def hook(tp: Any, value: Any) -> Any: ...

        def take(given: Opaque, other: PositiveInt) -> None: ...

        kept.add(hook)
        Server(dec_hook=hook).on("take", take)

    serve()
    gc.collect()
    assert not kept


@dataclass
class Renamed:
    x: Annotated[int, Field(alias="ex")]


class Wrapped(pydantic.BaseModel):
    renamed: int = Field(alias="re-named")


def test_a_dataclass_is_described_with_the_names_that_it_is_sent_with() -> None:
    def take(given: Renamed, model: Wrapped) -> tuple[Renamed, Wrapped]: ...  # type: ignore[empty-body]

    server = Server()
    server.on("take", take)
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
from wsrpc._values.convert import converter

@dataclass
class Point: ...

@dataclass
class Circle: ...

def refusal(tp):
    try:
        converter(tp)
    except TypeError as exc:
        return str(exc)

assert converter(Annotated[int, msgspec.Meta(gt=0)])(1) == 1
assert "msgspec cannot enforce Gt(gt=0): use msgspec.Meta" in refusal(Annotated[int, Gt(0)])
assert "or install pydantic" in refusal(Annotated[str, Predicate(str.islower)])
assert "class Point(msgspec.Struct, tag=True), or install pydantic" in refusal(Point | Circle)
"""


def test_without_pydantic_it_is_said_what_to_install() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_PYDANTIC], check=True, timeout=20, cwd=ROOT)


async def test_the_order_of_a_unions_members_counts_for_each_request() -> None:
    """`Robin | Wren` equals `Wren | Robin` and has its hash, but pydantic takes the first of two models that fit."""
    server = Server()
    server.on("bird", lambda: {"name": "x"})
    server.on("birds", lambda: [{"name": "x"}])
    async with connect(server) as client:
        pairs: list[tuple[Any, Any]] = [(Robin, Wren), (Wren, Robin)]
        for first, second in pairs:
            both: list[Any] = [first | second, Union[first, second]]  # noqa: UP007
            for either in both:
                assert type(await client.request("bird", returns=either)) is first
                several: Any = GenericAlias(list, either)
                assert type((await client.request("birds", returns=several))[0]) is first
