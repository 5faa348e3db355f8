"""Types of all kinds that handlers can have, each with values of it, for Hypothesis.

Integers stay within what JavaScript can hold, so that the same values serve clients in TypeScript.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

import hypothesis.strategies as st
import msgspec
import pydantic
from msgspec import Meta
from type_table import ROWS, Circle

from wsrpc import Server
from wsrpc._values.convert import converter

__all__ = ["ROW_TYPES", "Typed", "accepted", "same", "types"]

T = TypeVar("T")


class Typed(NamedTuple):
    """A type, and values of it."""

    type: Any
    values: st.SearchStrategy[Any]


def generic(origin: Any, *arguments: Any) -> Any:
    """Return ``origin[arguments]``, which type checkers need not understand."""
    return origin[arguments if len(arguments) != 1 else arguments[0]]


# ---------------------------------------------------------------- scalars

INTEGERS = st.integers(-(2**53), 2**53)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=5)
ZONES = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
EARLIEST, LATEST = datetime(1800, 1, 1), datetime(2400, 1, 1)
"""So that no datetime leaves the years that Python has when it is expressed in another time zone."""


class Color(enum.IntEnum):
    RED = 1
    GREEN = 2


class Rights(enum.IntFlag):
    READ = 1
    WRITE = 2


class Word(enum.StrEnum):
    YES = "yes"
    NO = "no"


SCALARS = [
    Typed(int, INTEGERS),
    Typed(float, FLOATS),
    Typed(str, TEXTS),
    Typed(bool, st.booleans()),
    Typed(None, st.none()),
    Typed(datetime, st.datetimes(EARLIEST, LATEST) | st.datetimes(EARLIEST, LATEST, timezones=ZONES)),
    Typed(Annotated[datetime, Meta(tz=True)], st.datetimes(EARLIEST, LATEST, timezones=ZONES)),
    Typed(date, st.dates()),
    Typed(time, st.times() | st.times(timezones=ZONES)),
    Typed(timedelta, st.timedeltas(timedelta(-99_999), timedelta(99_999))),
    Typed(UUID, st.uuids()),
    Typed(Decimal, st.decimals(allow_nan=False, allow_infinity=False, places=5) | st.integers(-9, 9).map(Decimal)),
    Typed(bytes, st.binary(max_size=5)),
    Typed(Color, st.sampled_from(Color)),
    Typed(Rights, st.sampled_from([*Rights, Rights(0), Rights(3)])),
    Typed(Word, st.sampled_from(Word)),
    Typed(Literal["a", "b c", ""], st.sampled_from(["a", "b c", ""])),
    Typed(Literal["auto", 5, None], st.sampled_from(["auto", 5, None])),
    Typed(Annotated[str, Meta(min_length=1, max_length=3)], st.text("abc", min_size=1, max_size=3)),
    Typed(Annotated[float, Meta(ge=0)], st.floats(0, 1e300)),
]

KEYS = [
    each
    for each in SCALARS
    if each.type in (int, float, str, date, datetime, time, timedelta, UUID, Decimal, Color, Word)
    or each.type == Literal["a", "b c", ""]
]
"""Types that the keys of a dict may have. (Not a ``Literal`` of numbers: pydantic does not read what it writes.)"""

# ---------------------------------------------------------------- classes that refer to themselves, and generic ones


@dataclass
class Tree:
    name: str
    children: list[Tree] = dataclasses.field(default_factory=list)


class Chain(msgspec.Struct):
    value: int
    next: Chain | None = None


class Leaf(msgspec.Struct, tag="leaf"):
    value: int


class Branch(msgspec.Struct, tag="branch"):
    left: Leaf | Branch
    right: Leaf | Branch


class Packed(msgspec.Struct, Generic[T]):
    value: T
    other: T | None = None


class Wire(msgspec.Struct, tag=1, array_like=True):
    volts: int


class Pipe(msgspec.Struct, tag=2, array_like=True):
    liters: float


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]
    number: int = 1


def _recursive(leaf: st.SearchStrategy[Any], extend: Callable[[Any], st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    return st.recursive(leaf, extend, max_leaves=3)


LEAVES = st.builds(Leaf, INTEGERS)
CHAINS = _recursive(st.builds(Chain, INTEGERS), lambda inner: st.builds(Chain, INTEGERS, inner))

CLASSES = [
    Typed(Tree, _recursive(st.builds(Tree, TEXTS), lambda inner: st.builds(Tree, TEXTS, st.lists(inner, max_size=2)))),
    Typed(generic(Packed, Chain), st.builds(Packed, CHAINS, st.none() | CHAINS)),
    Typed(Leaf | Branch, _recursive(LEAVES, lambda inner: st.builds(Branch, inner, inner))),
    Typed(Wire | Pipe, st.builds(Wire, INTEGERS) | st.builds(Pipe, FLOATS)),
    Typed(generic(Page, int), st.builds(generic(Page, int), items=st.lists(INTEGERS, max_size=2))),
    Typed(Circle, st.builds(Circle, FLOATS)),
]

# ---------------------------------------------------------------- the rows of the docs

ROW_TYPES = {row.code: Typed(tp, st.just(row.right).map(converter(tp))) for row in ROWS for tp in [row.type]}
"""The types of the table in docs/reference/types.md, by their code."""

# ---------------------------------------------------------------- types that are made up

FIELDS = st.lists(st.sampled_from(["name", "items", "first_name", "camelCase", "é", "type"]), max_size=3, unique=True)


@st.composite
def structs(draw: st.DrawFn, inner: st.SearchStrategy[Typed]) -> Typed:
    """Structs with fields of any types, some with defaults."""
    fields = {name: draw(inner) for name in draw(FIELDS)}
    defaults = {name: draw(each.values) for name, each in fields.items() if each in SCALARS and draw(st.booleans())}
    options: dict[str, Any] = dict.fromkeys(["array_like", "omit_defaults", "forbid_unknown_fields", "frozen"])
    options = {name: draw(st.booleans()) for name in options}
    options["rename"] = draw(st.sampled_from([None, "camel", "kebab", "upper"]))
    if "type" not in fields:
        options["tag"] = draw(st.sampled_from([None, True, 5, "made"]))
    listed: list[Any] = [(name, each.type) for name, each in fields.items() if name not in defaults]
    listed += [(name, fields[name].type, default) for name, default in defaults.items()]
    cls: Any = msgspec.defstruct("Structure", listed, **options)
    return Typed(cls, st.builds(cls, **{name: each.values for name, each in fields.items()}))


def containers(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    return st.one_of(
        inner.map(lambda each: Typed(generic(list, each.type), st.lists(each.values, max_size=2))),
        st.tuples(inner, inner).map(
            lambda two: Typed(generic(tuple, *(t for t, _ in two)), st.tuples(*(v for _, v in two)))
        ),
        st.sampled_from(SCALARS).map(lambda each: Typed(generic(set, each.type), st.sets(each.values, max_size=2))),
        st.tuples(st.sampled_from(KEYS), inner).map(
            lambda two: Typed(generic(dict, *(t for t, _ in two)), st.dictionaries(*(v for _, v in two), max_size=2))
        ),
        inner.map(lambda each: each if each.type is None else Typed(each.type | type(None), st.none() | each.values)),
        inner.map(lambda each: Typed(generic(Packed, each.type), st.builds(Packed, each.values, each.values))),
        structs(inner),
    )


LEAF_TYPES = st.one_of(*map(st.sampled_from, (SCALARS, CLASSES, list(ROW_TYPES.values()))))
types: st.SearchStrategy[Typed] = st.recursive(LEAF_TYPES, containers, max_leaves=4).filter(
    lambda each: accepted(each.type)
)
"""All kinds of types that a handler accepts, with values."""


def accepted(tp: Any) -> bool:
    """Return whether a handler may have this type: msgspec refuses some combinations, and wsrpc some more."""
    namespace: dict[str, Any] = {"T": tp}
    exec("def handler(value: T, *more: T) -> T: ...", namespace)
    try:
        Server().on("any", namespace["handler"])
        converter(tp)
    except TypeError:
        return False
    return True


def same(one: Any, other: Any) -> bool:
    """Return whether two values are equal and of the same types."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return bool(one == other)
