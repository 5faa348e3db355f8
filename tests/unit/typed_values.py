"""Types of all kinds that handlers can have, each with values of it, for Hypothesis.

Integers stay within what JavaScript can hold, so that the same values serve clients in TypeScript.
"""

from __future__ import annotations

import dataclasses
import enum
import operator
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import reduce
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar
from uuid import UUID

import hypothesis.strategies as st
import msgspec
import pydantic
import typing_extensions
from msgspec import Meta
from type_table import ROWS, Circle, Point

from wsrpc import Server
from wsrpc._conversion.convert import converter

__all__ = ["ROW_TYPES", "Typed", "accepted", "same", "types"]

T = TypeVar("T")


@dataclass(frozen=True)
class Typed:
    """A type, and values of it.

    ``json`` names the kinds of JSON that the values are, if the type may be a member of a union.
    """

    type: Any
    values: st.SearchStrategy[Any]
    json: frozenset[str] = frozenset()


def generic(origin: Any, *arguments: Any) -> Any:
    """Return ``origin[arguments]``, which type checkers need not understand."""
    return origin[arguments if len(arguments) != 1 else arguments[0]]


def _of(tp: Any, values: st.SearchStrategy[Any], *json: str) -> Typed:
    return Typed(tp, values, frozenset(json))


ARRAY_OF_FIELDS = ("array", "object")
"""The kinds of a class that travels as an array. It is in no union with an object, because a generated client has two
Structs for them, and msgspec takes no union of two Structs without tags."""

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
    _of(int, INTEGERS, "number"),
    _of(float, FLOATS, "number"),
    _of(str, TEXTS, "text"),
    _of(bool, st.booleans(), "bool"),
    _of(None, st.none(), "null"),
    _of(datetime, st.datetimes(EARLIEST, LATEST) | st.datetimes(EARLIEST, LATEST, timezones=ZONES), "text"),
    _of(Annotated[datetime, Meta(tz=True)], st.datetimes(EARLIEST, LATEST, timezones=ZONES), "text"),
    _of(date, st.dates(), "text"),
    _of(time, st.times() | st.times(timezones=ZONES), "text"),
    _of(timedelta, st.timedeltas(timedelta(-99_999), timedelta(99_999)), "text"),
    _of(UUID, st.uuids(), "text"),
    _of(
        Decimal, st.decimals(allow_nan=False, allow_infinity=False, places=5) | st.integers(-9, 9).map(Decimal), "text"
    ),
    _of(bytes, st.binary(max_size=5), "text"),
    _of(Color, st.sampled_from(Color), "number"),
    _of(Rights, st.sampled_from([*Rights, Rights(0), Rights(3)]), "number"),
    _of(Word, st.sampled_from(Word), "text"),
    _of(Literal["a", "b c", ""], st.sampled_from(["a", "b c", ""]), "text"),
    _of(Literal["auto", 5, None], st.sampled_from(["auto", 5, None]), "text", "number", "null"),
    _of(Annotated[str, Meta(min_length=1, max_length=3)], st.text("abc", min_size=1, max_size=3), "text"),
    _of(Annotated[float, Meta(ge=0)], st.floats(0, 1e300), "number"),
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
    _of(
        Tree,
        _recursive(st.builds(Tree, TEXTS), lambda inner: st.builds(Tree, TEXTS, st.lists(inner, max_size=2))),
        "object",
    ),
    _of(generic(Packed, Chain), st.builds(Packed, CHAINS, st.none() | CHAINS), "object"),
    _of(Leaf | Branch, _recursive(LEAVES, lambda inner: st.builds(Branch, inner, inner)), "object"),
    _of(Wire | Pipe, st.builds(Wire, INTEGERS) | st.builds(Pipe, FLOATS), *ARRAY_OF_FIELDS),
    _of(generic(Page, int), st.builds(generic(Page, int), items=st.lists(INTEGERS, max_size=2))),
    _of(Point | Circle, st.builds(Point, INTEGERS, INTEGERS) | st.builds(Circle, FLOATS)),
]

# ---------------------------------------------------------------- the rows of the docs


ROW_TYPES = {row.code: Typed(tp, st.just(row.right).map(converter(tp))) for row in ROWS for tp in [row.type]}
"""The types of the table in docs/reference/types.md, by their code."""

# ---------------------------------------------------------------- types that are made up

FIELDS = st.lists(st.sampled_from(["name", "items", "first_name", "camelCase", "é", "type"]), max_size=3, unique=True)


@dataclass(frozen=True)
class Fields:
    """The fields of a class: their types, and the defaults of those that have one."""

    types: dict[str, Typed]
    defaults: dict[str, Any]

    def listed(self) -> list[Any]:
        """``(name, type)`` and ``(name, type, default)``, those without default first."""
        plain = [(name, each.type) for name, each in self.types.items() if name not in self.defaults]
        return [*plain, *((name, self.types[name].type, value) for name, value in self.defaults.items())]

    def instances(self, make: Callable[..., Any]) -> st.SearchStrategy[Any]:
        """Return a strategy for what ``make`` makes of values of all the fields."""
        values = {name: each.values for name, each in self.types.items()}
        optional = {name: values.pop(name) for name in self.defaults}
        return st.fixed_dictionaries(values, optional=optional).map(lambda given: make(**given))


@st.composite
def fields(draw: st.DrawFn, inner: st.SearchStrategy[Typed]) -> Fields:
    found = {name: draw(inner) for name in draw(FIELDS)}
    immutable = {name: each for name, each in found.items() if each in SCALARS}
    defaults = {name: draw(each.values) for name, each in immutable.items() if draw(st.booleans())}
    return Fields(found, defaults)


def dataclass_of(draw: st.DrawFn, found: Fields) -> Any:
    given = [(*field[:2], dataclasses.field(default=field[2])) if field[2:] else field for field in found.listed()]
    return dataclasses.make_dataclass("Made", given, slots=draw(st.booleans()), frozen=draw(st.booleans()))


def struct_of(draw: st.DrawFn, found: Fields) -> Any:
    options: dict[str, Any] = dict.fromkeys(["array_like", "omit_defaults", "forbid_unknown_fields", "frozen"])
    options = {name: draw(st.booleans()) for name in options}
    options["rename"] = draw(st.sampled_from([None, "camel", "kebab", "upper"]))
    if "type" not in found.types:
        options["tag"] = draw(st.sampled_from([None, True, 5, "made"]))
    return msgspec.defstruct("Structure", found.listed(), **options)


def named_tuple_of(_: st.DrawFn, found: Fields) -> Any:
    made: Any = NamedTuple("Named", [field[:2] for field in found.listed()])  # type: ignore[misc]
    made.__new__.__defaults__ = tuple(found.defaults.values())
    made._field_defaults = found.defaults
    return made


@st.composite
def classes_of(draw: st.DrawFn, inner: st.SearchStrategy[Typed]) -> Typed:
    make = draw(st.sampled_from([dataclass_of, struct_of, named_tuple_of]))
    found = draw(fields(inner))
    cls = make(draw, found)
    is_array = make is named_tuple_of or (make is struct_of and cls.__struct_config__.array_like)
    return _of(cls, found.instances(cls), *(ARRAY_OF_FIELDS if is_array else ["object"]))


@st.composite
def dicts_with_keys(draw: st.DrawFn, inner: st.SearchStrategy[Typed]) -> Typed:
    found = {name: draw(inner) for name in draw(FIELDS)}
    missing = {name for name in found if draw(st.booleans())}
    make: Any = typing_extensions.TypedDict
    hints = {name: generic(NotRequired, each.type) if name in missing else each.type for name, each in found.items()}
    values = {name: each.values for name, each in found.items()}
    optional = {name: values.pop(name) for name in missing}
    return _of(make("Keyed", hints), st.fixed_dictionaries(values, optional=optional), "object")


@st.composite
def unions_of(draw: st.DrawFn, inner: st.SearchStrategy[Typed]) -> Typed:
    """Members of which JSON can tell one from another."""
    members: list[Typed] = []
    taken: set[str] = set()
    for each in draw(st.lists(inner, min_size=2, max_size=4)):
        if each.json and not each.json & taken:
            members.append(each)
            taken |= each.json
    if not members:
        return draw(inner)
    union = reduce(operator.or_, (type(None) if each.type is None else each.type for each in members))
    return _of(union, st.one_of([each.values for each in members]), *taken)


def optional(each: Typed) -> Typed:
    return _of(each.type | type(None) if each.type is not None else None, st.none() | each.values, *each.json, "null")


def containers(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    some = st.lists(inner, max_size=3)
    keys = st.sampled_from(KEYS)
    return st.one_of(
        inner.map(lambda each: _of(generic(list, each.type), st.lists(each.values, max_size=2), "array")),
        inner.map(
            lambda each: _of(generic(tuple, each.type, ...), st.lists(each.values, max_size=2).map(tuple), "array")
        ),
        some.map(
            lambda all: _of(
                generic(tuple, *(each.type for each in all)) if all else tuple[()],
                st.tuples(*(each.values for each in all)),
                "array",
            )
        ),
        inner.filter(SCALARS.__contains__).map(
            lambda each: _of(generic(set, each.type), st.sets(each.values, max_size=2), "array")
        ),
        st.builds(
            lambda key, each: _of(
                generic(dict, key.type, each.type), st.dictionaries(key.values, each.values, max_size=2), "object"
            ),
            keys,
            inner,
        ),
        inner.map(optional),
        unions_of(inner),
        inner.map(lambda each: _of(generic(Packed, each.type), st.builds(Packed, each.values, each.values), "object")),
        classes_of(inner),
        dicts_with_keys(inner),
    )


LEAF_TYPES = st.one_of(*map(st.sampled_from, (SCALARS, CLASSES, list(ROW_TYPES.values()))))
types: st.SearchStrategy[Typed] = st.one_of(
    LEAF_TYPES,
    st.recursive(LEAF_TYPES, containers, max_leaves=4),
).filter(lambda each: accepted(each.type))
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
