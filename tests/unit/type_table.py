"""Table of types, with values that fit and values that do not.

docs/reference/types.md shows it, and several tests play it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, Required, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
from annotated_types import Len
from msgspec import Meta
from pydantic import Field, HttpUrl, PositiveInt

USED_IN_ROWS = (Literal, datetime, Field, HttpUrl, Len, PositiveInt)

T = TypeVar("T")
UserId = NewType("UserId", int)


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


@dataclass
class Point:
    x: int
    y: int = 0


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


@attrs.define
class Room:
    seats: int = attrs.field(validator=attrs.validators.gt(0))


class Movie(TypedDict, total=False):
    title: Required[str]
    year: int


class Song(TypedDict):
    title: str
    year: NotRequired[int]


class Pair(NamedTuple):
    left: int
    right: Annotated[int, Meta(gt=0)]


class Lion(pydantic.BaseModel):
    kind: Literal["lion"]
    mane: bool


class Crow(pydantic.BaseModel):
    kind: Literal["crow"]
    age: int


class Animal(pydantic.RootModel[Lion | Crow]): ...


@dataclass
class Tea:
    kind: Literal["tea"]
    minutes: int


@dataclass
class Coffee:
    kind: Literal["coffee"]
    milk: bool = False


class Row(NamedTuple):
    code: str
    right: Any
    wrong: Any
    called: str = ""
    """What the docs call it if its code says too little."""

    @property
    def type(self) -> Any:
        return evaluated(self.code)


def evaluated(code: str, names: dict[str, Any] | None = None) -> Any:
    """Return the type that ``code`` is; it may use what this module has, and ``names``."""
    return eval(code, {**globals(), **(names or {})})


ROWS = [
    Row("int", 5, "5"),
    Row("float", 5, "5"),
    Row("datetime", "2026-01-02T03:04:05Z", 1767322800),
    Row("Literal['a', 1]", 1, "b"),
    Row("Size", "s", "SMALL", "an `Enum`, by value"),
    Row("UserId", 5, "5", "`NewType('UserId', int)`"),
    Row("Point", {"x": 1}, {"x": "1"}, "a dataclass"),
    Row("Box[int]", {"value": 1}, {"value": "1"}, "a generic dataclass, `Box[int]`"),
    Row("Movie", {"title": "Alien"}, {"year": 1979}, "a `TypedDict` with `Required[...]`"),
    Row("Song", {"title": "One"}, {"title": "One", "year": "1991"}, "a `TypedDict` with `NotRequired[...]`"),
    Row("Pair", [1, 2], [1, -2], "a `NamedTuple` with a field `Annotated[int, Meta(gt=0)]`"),
    Row("Room", {"seats": 4}, {"seats": 0}, "an attrs class, with its validators"),
    Row("Limited", {"x": 1}, {"x": -1}, "a `Struct`"),
    Row("Cat | Dog", {"type": "Cat", "name": "Tom"}, {"name": "Tom"}, "two tagged Structs, `Cat | Dog`"),
    Row("Annotated[int, Meta(gt=0)]", 1, 0),
    Row("Annotated[datetime, Meta(tz=True)]", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05"),
    Row("Lion", {"kind": "lion", "mane": True}, {"kind": "lion"}, "a pydantic model"),
    Row("Lion | None", {"kind": "lion", "mane": True}, 5, "a model or `None`, `Lion | None`"),
    Row("Lion | Crow", {"kind": "crow", "age": 2}, {"kind": "crow", "mane": True}, "two models, `Lion | Crow`"),
    Row("PositiveInt", 1, 0, "`pydantic.PositiveInt`"),
    Row("HttpUrl", "https://example.org/", "example", "`pydantic.HttpUrl`"),
    Row("Annotated[int, Field(gt=0)]", 1, 0),
    Row("Annotated[str, Len(1, 3)]", "tea", "", "`Annotated[str, annotated_types.Len(1, 3)]`"),
    Row("Annotated[Tea | Coffee, Field(discriminator='kind')]", {"kind": "tea", "minutes": 3}, {"kind": "tea"}),
    Row("Animal", {"kind": "crow", "age": 2}, {"kind": "crow", "mane": True}, "a `RootModel[Lion | Crow]`"),
]
