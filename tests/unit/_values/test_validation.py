"""Which values fit which type: docs/reference/types.md shows the rows of `type_table`, and each row is played.

A row has a value that fits and one that does not. Both are sent to a handler, in a container, and as an answer with
``returns=``. tests/unit/test_values.py has the other places of a value.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator
from dataclasses import InitVar, dataclass
from types import GenericAlias
from typing import Annotated, Any, Generic, TypeVar

import annotated_types
import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import pytest
import typing_extensions
from msgspec import Meta
from pydantic import Field, PositiveInt
from type_table import ROWS, Row, T, evaluated
from typing_extensions import TypedDict as ExtendedDict

from wsrpc import BadArguments, BadResult, Peer, Server, schema
from wsrpc.testing import connect

# ---------------------------------------------------------------- what is refused at registration


class Opaque: ...


class Badge(msgspec.Struct):
    number: Annotated[int, Field(gt=0)]


class Plain(msgspec.Struct):
    x: int


class Other(Plain): ...


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


@attrs.define
class OwnDefault:
    x: int = attrs.field(default=attrs.Factory(lambda self: 1, takes_self=True))


@pydantic.dataclasses.dataclass
class Account:
    name: str


@dataclass
class Holder:
    account: Account


class Closed(ExtendedDict, closed=True):
    title: str


@dataclass
class Scaled:
    factor: InitVar[int]


@dataclass
class Exact:
    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    x: int


class Marked(pydantic.BaseModel):
    x: Annotated[int, Meta(gt=0)]


class Blob(pydantic.BaseModel):
    data: dict[str, bytes | None]


class Own(annotated_types.Gt): ...


P = typing_extensions.TypeVar("P", default=PositiveInt)
K = TypeVar("K")
Swapped = typing_extensions.TypeAliasType("Swapped", dict[T, K], type_params=(K, T))


@dataclass
class Decided:
    x: int

    @pydantic.field_validator("x")
    @classmethod
    def _positive(cls, x: int) -> int:
        return sorted_only([1, x])[1]


@dataclass
class Renamed:
    x: Annotated[int, Field(alias="X")]


@dataclass
class Written:
    x: PositiveInt

    @pydantic.field_serializer("x")
    def _as_text(self, x: int) -> str:
        return str(x)


def sorted_only(numbers: list[int]) -> list[int]:
    if numbers != sorted(numbers):
        raise ValueError("they are not sorted")
    return numbers


AS_TEXT = pydantic.PlainSerializer(str)
NEEDS = "pydantic has to validate this annotation, and cannot validate"

REFUSED = [
    ("Opaque", r"values from the wire cannot be converted to test_validation\.Opaque: make it a dataclass.* dec_hook="),
    ("typing_extensions.Iterable[int]", "values from the wire cannot be converted to collections.abc.Iterable"),
    (
        "int | Opaque",
        "Type unions containing a custom type .*: put one of the two into a dataclass, or write a pydantic model",
    ),
    ("Plain | Box[int]", "Type unions may not contain more than one dict-like type"),
    ("Plain | Other", "If a type union contains multiple Struct types, all Struct types must be tagged"),
    ("str | datetime", "unions may not contain more than one str-like type"),
    ("3", "'3' is not supported"),
    ("Annotated[int, Own(0)]", r"pydantic, which has to validate this annotation, ignores Own\(gt=0\): write Field"),
    ("list[Annotated[PositiveInt, Meta(lt=9)]]", r"pydantic, which .*, ignores msgspec.Meta\(lt=9\): write Field"),
    (
        "Annotated[int, Field(gt=0), AS_TEXT]",
        "PlainSerializer.* is ignored outside of pydantic models: make it a field",
    ),
    ("Written", "Written has a serializer, which is ignored outside of pydantic models: make it a model"),
    ("Renamed", "only pydantic models are sent with aliases such as 'X': make its class a model"),
    ("Annotated[bytes, annotated_types.Len(1, 3)]", "holds bytes, which pydantic takes for UTF-8 text"),
    ("list[PositiveInt] | Opaque", "pydantic cannot validate .*: Unable to generate pydantic-core schema for .*Opaque"),
    ("pydantic.EmailStr", "pydantic has to validate this annotation: email-validator is not installed"),
    ("Badge", f"{NEEDS} Badge: make it a dataclass or a pydantic model, or write msgspec.Meta"),
    ("Defaulted", f"{NEEDS} Defaulted"),
    ("Decorated", f"{NEEDS} Decorated"),
    ("Converted", "Converted.seats has a converter, which is never called: use __attrs_post_init__"),
    ("Document", r"Document\._id would not be sent: rename it, or make the class a dataclass"),
    ("dict[str, Shelf | None]", "Document._id would not be sent"),
    ("Draft", "Draft._cache would not be sent"),
    ("Scaled", "Scaled.factor: msgspec cannot set an InitVar: make it a field"),
    ("Closed", "Closed is closed, which msgspec ignores: use a msgspec.Struct with forbid_unknown_fields=True"),
    ("KeepsInt", "KeepsInt derives from .*, and msgspec does not look into the brackets: write its fields out"),
    ("Swapped[str, int]", r"msgspec confuses the arguments of Swapped\[str, int\]: write the type out"),
    ("Marked", r"Marked.x: pydantic ignores .*Meta\(gt=0\): write Field"),
    ("Blob", r"Blob holds bytes, which pydantic takes for UTF-8 text: give the class of the field model_config ="),
    ("OwnDefault", "takes_self=True"),
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


def take_several(given: Annotated[int, Field(gt=0)] = 5, *others: PositiveInt) -> list[int]:
    return [given, *others]


BY_PYDANTIC = [
    ("dict[str, PositiveInt | None]", {"a": 1, "b": None}, {"a": 0}),
    ("Annotated[list[int], pydantic.AfterValidator(sorted_only)]", [1, 2], [2, 1]),
    ("Annotated[float, annotated_types.Interval(gt=0, lt=1)]", 0.5, 1),
    ("annotated_types.LowerCase[str]", "tea", "Tea"),
    ("P", 5, -5),
    ("Box[PositiveInt]", {"value": 5}, {"value": 0}),
    ("Exact", {"x": 1}, {"x": 1, "y": 2}),
    ("Decided", {"x": 1}, {"x": 0}),
    ("list[Holder]", [{"account": {"name": "ada"}}], [{"account": {}}]),
    ("Lion | Point | None", {"x": 1}, {"kind": "lion"}),
    ("pydantic.HttpUrl | int", "https://example.org/", "1x"),
    ("pydantic.Json[list[int]]", "[1]", "[true, null]"),
]
"""Types outside of models that pydantic validates, a value that fits, and one that does not."""


@pytest.mark.parametrize(
    ("code", "right", "wrong"), [*((row.code, row.right, row.wrong) for row in ROWS), *BY_PYDANTIC]
)
async def test_the_right_value_fits_and_the_wrong_value_is_refused(code: str, right: Any, wrong: Any) -> None:
    row = Row(code, right, wrong)
    tp = evaluated(code, globals())
    server = Server()
    seen: list[Any] = []

    def take(given: Any) -> Any:
        seen.append(given)
        return given

    def take_list(given: Any) -> None:
        seen.extend(given)

    take.__annotations__ = {"given": tp, "return": tp}
    take_list.__annotations__ = {"given": GenericAlias(list, tp)}
    for handler in (take, take_list):
        server.on(handler.__name__, handler)
    server.on("give", lambda value: value)
    async with connect(server) as client:
        await client.request("take", row.right)
        await client.request("take_list", [row.right])
        right = await client.request("give", row.right, returns=tp)
        assert len(seen) == 2 and {type(item) for item in seen} == {type(right)}
        for event, argument in [("take", row.wrong), ("take_list", [row.wrong])]:
            with pytest.raises(BadArguments):
                await client.request(event, argument)
        with pytest.raises(BadResult):
            await client.request("give", row.wrong, returns=tp)
    assert len(seen) == 2
    [described] = [each for each in schema.describe(server).events if each.event == "take"]
    assert described.notes == () and described.parameters[0].schema and described.result


async def test_pydantic_validates_defaults_and_further_arguments_like_others() -> None:
    server = Server()
    server.on("take", take_several)
    async with connect(server) as client:
        assert await client.request("take") == [5]
        assert await client.request("take", 1, "2", 3) == [1, 2, 3]
        with pytest.raises(BadArguments, match=r"argument 'given' \(1st\): Input should be greater than 0"):
            await client.request("take", 0)
        with pytest.raises(BadArguments, match=r"argument 'others'\[1\]: Input should be greater than 0"):
            await client.request("take", 1, 1, 0)


def test_a_constraint_on_what_is_not_converted_is_refused() -> None:
    async def take(given: Any) -> None: ...

    for tp in (Annotated[AsyncIterator[int], Meta(max_length=1)], Annotated[Peer, Field(repr=False)]):
        take.__annotations__["given"] = tp
        with pytest.raises(TypeError, match=r"parameter 'given': a constraint on a stream or on an injected value"):
            Server().on("take", take)

    def pay(amount: int = Field(gt=0)) -> None: ...  # as in FastAPI

    with pytest.raises(TypeError, match=r"parameter 'amount': its default is pydantic's Field.* Annotated"):
        Server().on("pay", pay)


def test_no_cache_keeps_a_hook() -> None:
    kept = weakref.WeakSet[Any]()

    def serve() -> None:
        def hook(tp: Any, value: Any) -> Any: ...

        def take(given: Opaque, other: int) -> None: ...

        kept.add(hook)
        Server(dec_hook=hook).on("take", take)

    serve()
    gc.collect()
    assert not kept
