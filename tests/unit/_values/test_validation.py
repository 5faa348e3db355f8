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


@pytest.mark.parametrize("row", ROWS, ids=[row.code for row in ROWS])
async def test_the_right_value_fits_and_the_wrong_value_is_refused(row: Row) -> None:
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
INSTEAD = r": write msgspec.Meta\(...\), or make it a field of a pydantic model$"

REFUSED = [
    ("Opaque", r"values from the wire cannot be converted to test_validation\.Opaque: make it a dataclass.* dec_hook="),
    ("pydantic.HttpUrl", r"values from the wire cannot be converted to pydantic\.networks\.HttpUrl: make it"),
    ("typing_extensions.Iterable[int]", "values from the wire cannot be converted to collections.abc.Iterable"),
    ("int | Opaque", "Type unions containing a custom type .*: for pydantic models, write a RootModel of the union"),
    ("Lion | Crow", "Type unions may not contain more than one custom type"),
    ("Plain | Box[int]", "Type unions may not contain more than one dict-like type"),
    ("Plain | Other", "If a type union contains multiple Struct types, all Struct types must be tagged"),
    ("str | datetime", "unions may not contain more than one str-like type"),
    ("3", "'3' is not supported"),
    ("Annotated[int, annotated_types.Gt(0)]", rf"msgspec cannot enforce Gt\(gt=0\){INSTEAD}"),
    ("list[Annotated[str, annotated_types.Len(1, 3)]]", rf"msgspec cannot enforce Len.*{INSTEAD}"),
    ("dict[str, PositiveInt | None]", rf"msgspec cannot enforce Gt\(gt=0\){INSTEAD}"),
    ("Annotated[int, Field(gt=0)]", rf"msgspec cannot enforce Field\(...\){INSTEAD}"),
    ("Annotated[int, pydantic.AfterValidator(abs)]", rf"msgspec cannot enforce AfterValidator.*{INSTEAD}"),
    ("Annotated[int, Own(0)]", rf"msgspec cannot enforce Own.*{INSTEAD}"),
    ("P", r"msgspec cannot enforce Gt\(gt=0\)"),
    ("Box[PositiveInt]", r"Box.value: msgspec cannot enforce Gt\(gt=0\)"),
    ("Badge", r"Badge.number: msgspec cannot enforce Field\(...\)"),
    ("Defaulted", r"Defaulted has a default Field\(...\), which msgspec cannot enforce"),
    ("Decorated", "Decorated has a config or a validator of pydantic, which msgspec ignores: make it a pydantic model"),
    ("Exact", "Exact has a config or a validator of pydantic"),
    ("list[Holder]", "Holder.account: msgspec cannot enforce Account, a class of pydantic: make it a pydantic model"),
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
