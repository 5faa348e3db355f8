"""Table of types, with values that fit and values that do not.

docs/reference/types.md shows it, and several tests play it.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterable
from dataclasses import InitVar, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Required,
    TypedDict,
    TypeVar,
)

import annotated_types
import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import typing_extensions
from msgspec import Meta
from pydantic import AfterValidator, Field, HttpUrl, PositiveInt, StringConstraints

if sys.version_info >= (3, 15):
    from typing import TypedDict as ExtendedDict
else:
    from typing_extensions import TypedDict as ExtendedDict

USED_IN_ROWS = (AfterValidator, HttpUrl, Iterable, Literal, HttpUrl, StringConstraints, Decimal, datetime)


def even(number: int) -> int:
    if number % 2:
        raise ValueError("not even")
    return number


T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")
P = TypeVar("P", bound=Annotated[int, annotated_types.Gt(0)])
D = typing_extensions.TypeVar("D", default=Annotated[int, annotated_types.Gt(0)])
UserId = NewType("UserId", int)
PositiveId = NewType("PositiveId", PositiveInt)  # pyright: ignore[reportGeneralTypeIssues]


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


@dataclass
class Point:
    x: int
    y: int = 0


@dataclass
class Checked:
    x: Annotated[int, Field(gt=0)]


@dataclass
class WithField:
    x: int = Field(default=1, gt=0)


@dataclass
class Circle:
    radius: float


@dataclass
class Box(Generic[T]):
    value: T


class Cat(msgspec.Struct, tag=True):
    name: str


class Dog(msgspec.Struct, tag=True):
    name: str


class Limited(msgspec.Struct):
    x: Annotated[int, Meta(gt=0)]


@pydantic.dataclasses.dataclass
class Account:
    name: str
    balance: int = Field(default=0, ge=0)

    @pydantic.field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        if not name:
            raise ValueError("a name is needed")
        return name


@attrs.define
class Room:
    seats: int = attrs.field(validator=attrs.validators.gt(0))


class Movie(TypedDict, total=False):
    title: Required[str]
    year: int


class Song(TypedDict):
    title: str
    year: NotRequired[int]


class Closed(ExtendedDict, closed=True):
    title: str


class Pair(NamedTuple):
    left: int
    right: PositiveInt


class Lion(pydantic.BaseModel):
    kind: Literal["lion"]
    mane: bool


class Crow(pydantic.BaseModel):
    kind: Literal["crow"]
    age: int


class Seat(NamedTuple):
    number: int = Field(default=1, gt=0)


@dataclass
class Guarded:
    x: int
    factor: InitVar[Annotated[int, Field(gt=0)]] = 1
    LIMIT: ClassVar[PositiveInt] = 5

    @pydantic.field_validator("x")
    @classmethod
    def _even(cls, x: int) -> int:
        return even(x)


@dataclass
class Exact:
    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    x: int


class Frozen(typing_extensions.TypedDict):
    x: typing_extensions.ReadOnly[Annotated[int, Field(gt=0)]]


Swapped = typing_extensions.TypeAliasType("Swapped", dict[V, K], type_params=(K, V))


@dataclass
class IntBox(Box[int]): ...


class Row(NamedTuple):
    code: str
    by: str
    right: Any
    wrong: Any
    called: str = ""
    """What the docs call it if its code says too little."""

    @property
    def type(self) -> Any:
        return evaluated(self.code)


def evaluated(code: str, names: dict[str, Any] | None = None) -> Any:
    """Return the type that ``code`` is; it may use what this module has, and ``names``."""
    return eval(code, {**vars(annotated_types), **globals(), **(names or {})})


ROWS = [
    Row("int", "msgspec", 5, "5"),
    Row("float", "msgspec", 5, "5"),
    Row("datetime", "msgspec", "2026-01-02T03:04:05Z", 1767322800),
    Row("Literal['a', 1]", "msgspec", 1, "b"),
    Row("Size", "msgspec", "s", "SMALL", "an `Enum`, by value"),
    Row("UserId", "msgspec", 5, "5", "`NewType('UserId', int)`"),
    Row("PositiveId", "pydantic", 5, -5, "`NewType('PositiveId', PositiveInt)`"),
    Row("Point", "msgspec", {"x": 1}, {"x": "1"}, "a dataclass"),
    Row("Box[int]", "msgspec", {"value": 1}, {"value": "1"}, "a generic dataclass, `Box[int]`"),
    Row("Box[Annotated[int, Gt(0)]]", "pydantic", {"value": 1}, {"value": 0}),
    Row("Movie", "msgspec", {"title": "Alien"}, {"year": 1979}, "a `TypedDict` with `Required[...]`"),
    Row("Song", "msgspec", {"title": "One"}, {"title": "One", "year": "1991"}, "a `TypedDict` with `NotRequired[...]`"),
    Row("Closed", "pydantic", {"title": "One"}, {"title": "One", "more": 1}, "a `TypedDict` with `closed=True`"),
    Row("Pair", "pydantic", [1, 2], [1, -2], "a `NamedTuple` with a field `PositiveInt`"),
    Row("Room", "msgspec", {"seats": 4}, {"seats": 0}, "an attrs class, with its validators"),
    Row("Limited", "msgspec", {"x": 1}, {"x": -1}, "a `Struct`"),
    Row("Cat | Dog", "msgspec", {"type": "Cat", "name": "Tom"}, {"name": "Tom"}, "two tagged Structs, `Cat | Dog`"),
    Row("Annotated[int, Meta(gt=0)]", "msgspec", 1, 0),
    Row("Annotated[int, Gt(0)]", "pydantic", 1, 0),
    Row("Annotated[int, Interval(ge=0, lt=5)]", "pydantic", 0, 5),
    Row("Annotated[int, MultipleOf(2)]", "pydantic", 2, 3),
    Row("Annotated[str, Len(1, 3)]", "pydantic", "a", "abcd"),
    Row("Annotated[list[int], MinLen(1)]", "pydantic", [1], []),
    Row("list[Annotated[int, Gt(0)]]", "pydantic", [1], [1, 0]),
    Row("Annotated[datetime, Meta(tz=True)]", "msgspec", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05"),
    Row("Annotated[Decimal, Gt(Decimal(0))]", "pydantic", "1.5", "-1.5"),
    Row("Annotated[int, Gt(0), Gt(5)]", "pydantic", 6, 5),
    Row("Annotated[int, Gt(0), Ge(0)]", "pydantic", 1, 0),
    Row("Annotated[str, Predicate(str.islower)]", "pydantic", "a", "A"),
    Row("PositiveInt", "pydantic", 1, 0),
    Row("Annotated[int, Field(gt=0)]", "pydantic", 1, 0),
    Row("Annotated[str, StringConstraints(pattern='^a')]", "pydantic", "ab", "ba"),
    Row("Annotated[int, AfterValidator(even)]", "pydantic", 2, 3),
    Row("dict[str, list[Annotated[int, Field(gt=0)]]]", "pydantic", {"a": [1]}, {"a": [1, -1]}),
    Row("Annotated[int, Field(gt=0)] | None", "pydantic", None, 0),
    Row("HttpUrl", "pydantic", "http://example.com/", "example"),
    Row("Lion", "pydantic", {"kind": "lion", "mane": True}, {"kind": "lion"}, "a pydantic model"),
    Row("Account", "pydantic", {"name": "Ada"}, {"name": "Ada", "balance": -1}, "a `pydantic.dataclasses.dataclass`"),
    Row("Checked", "pydantic", {"x": 1}, {"x": 0}, "a dataclass with a field `Annotated[int, Field(gt=0)]`"),
    Row("WithField", "pydantic", {"x": 1}, {"x": 0}, "a dataclass with a default `Field(default=1, gt=0)`"),
    Row("Box[Annotated[int, Field(gt=0)]]", "pydantic", {"value": 1}, {"value": 0}),
    Row("Point | Circle", "pydantic", {"radius": 2}, {"y": 2}, "two dataclasses, `Point | Circle`"),
    Row(
        "Lion | Crow",
        "pydantic",
        {"kind": "crow", "age": 2},
        {"kind": "crow", "mane": True},
        "two models, `Lion | Crow`",
    ),
    Row(
        "Annotated[Lion | Crow, Field(discriminator='kind')]",
        "pydantic",
        {"kind": "crow", "age": 2},
        {"kind": "dog", "age": 2},
    ),
    Row("Lion | str", "pydantic", "lion", 5, "a model or `str`, `Lion | str`"),
    Row(
        "Account | Point",
        "pydantic",
        {"name": "Ada"},
        {"name": ""},
        "a pydantic dataclass and a plain dataclass, `Account | Point`",
    ),
]

MORE = [
    Row("P", "pydantic", 1, 0),
    Row("list[D]", "pydantic", [1], [0]),
    Row("Seat", "pydantic", [1], [0]),
    Row("Guarded", "pydantic", {"x": 2, "factor": 1}, {"x": 2, "factor": 0}),
    Row("Exact", "pydantic", {"x": 1}, {"x": 1, "y": 1}),
    Row("Frozen", "pydantic", {"x": 1}, {"x": 0}),
    Row("Swapped[PositiveInt, str]", "pydantic", {"a": 1}, {"a": 0}),
    Row("Annotated[list[Annotated[int, Field(gt=0)]], Meta(title='Numbers')]", "pydantic", [1], [0]),
]
"""Further ones, which are not worth a row in the docs."""


class Level(enum.IntEnum):
    LOW = 1


MOMENT = "2024-01-02T03:04:05Z"
CONVERSIONS: list[tuple[Any, Any, Any]] = [
    (Any, {"a": [1]}, {"a": [1]}),
    (int, 2**70, 2**70),
    (float, 3, 3.0),
    (bytes, "YQ==", b"a"),
    (dict, {1: 2}, {1: 2}),
    (float | None, 5, 5.0),
    (tuple[int, str], [1, "a"], (1, "a")),
    (list[dict[Level, str]], [{"1": "x"}], [{Level.LOW: "x"}]),
    (list[Point], [{"x": 1, "y": 2}], [Point(1, 2)]),
    (Pair, [1, 2], Pair(1, 2)),
    (datetime, MOMENT, datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
    (Annotated[int, ["unhashable"]], 1, 1),
    (Crow, {"kind": "crow", "age": 1}, Crow(kind="crow", age=1)),
]
"""Types, values as they travel, and what these become."""
