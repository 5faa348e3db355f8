"""Unions that msgspec misreads: they are refused, wherever they are, and msgspec never sees them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, NewType, NotRequired, TypeVar, Union

import msgspec
import pytest
from msgspec import Meta
from typing_extensions import TypeAliasType, TypedDict

from wsrpc import Server
from wsrpc._values.convert import converter

TEXT = "a union of text with a pattern and a collection"
TUPLE = "a union of a tuple of fixed length and a type with bounds"

Name = Annotated[str, Meta(pattern="^a")]
Count = Annotated[int, Meta(ge=1)]
Alias = TypeAliasType("Alias", Name)
Either: Any = Name | int
New: Any = NewType("New", Either)  # type: ignore[misc, valid-newtype]
Bound = TypeVar("Bound", bound=Name)
T = TypeVar("T")
Json: Any = TypeAliasType("Json", list["Json"] | Name)  # type: ignore[misc]


class Box(msgspec.Struct, Generic[T]):
    value: T | list[int]


class Outer(msgspec.Struct, Generic[T]):
    box: Box[T] | None


class Named(Outer[Name]): ...


@dataclass
class Plain:
    x: int


@dataclass
class Node:
    next: "Node | None"
    names: Name | dict[str, int]


class Keys(TypedDict, Generic[T]):
    value: NotRequired[T | tuple[int, str]]


class Pair(NamedTuple):
    value: Count | tuple[()]


class Point(NamedTuple):
    x: int


class Overridden(Named):
    box: None


def refusal(tp: Any, hooked: bool = False) -> str:
    def take(given: Any) -> None: ...

    take.__annotations__ = {"given": tp}
    server = Server(dec_hook=lambda cls, value: value) if hooked else Server()
    with pytest.raises(TypeError, match="parameter 'given': ") as caught:
        server.on("take", take)
    return str(caught.value).partition("parameter 'given': ")[2]


@pytest.mark.parametrize(
    ("tp", "where", "problem"),
    [
        (New | list[int], "", TEXT),
        (Union[Bound, list[int]], "", TEXT),  # noqa: UP007
        (Final[Alias | set[int]], "", TEXT),
        (dict[Name | tuple[int, ...], int], "", TEXT),
        (list[Json], "", TEXT),
        (Named, "Box.value: ", TEXT),
        (list[Node], "Node.names: ", TEXT),
        (Keys[Annotated[dict[str, int], Meta(max_length=2)]], "Keys.value: ", TUPLE),
        (Pair, "Pair.value: ", TUPLE),
    ],
    ids=str,
)
def test_what_msgspec_cannot_decode_is_refused(tp: Any, where: str, problem: str) -> None:
    for hooked in (False, True):
        assert refusal(tp, hooked) == f"{where}msgspec cannot decode {problem}: put one of the two into a dataclass"


@pytest.mark.parametrize(
    ("tp", "name"),
    [
        (Count | Literal[-1], "int"),
        (Annotated[int, Meta(gt=10)] | Annotated[int, Meta(lt=0)], "int"),
        (Annotated[float, Meta(gt=1)] | Annotated[float, Meta(ge=2, le=5)], "float"),
        (str | New, "str"),
    ],
    ids=str,
)
def test_bounds_of_one_of_two_members_of_a_type_are_refused(tp: Any, name: str) -> None:
    """msgspec would refuse -1, and 20."""
    assert refusal(tp) == f"msgspec applies the bounds of one {name} in a union to every {name}: write one of them"


@pytest.mark.parametrize(
    ("tp", "good", "bad"),
    [
        (Box[str], {"value": "b"}, {"value": 1}),
        (Overridden, {"box": None}, {"box": 1}),
        (Name | Point, "a", "b"),
        (Count | list[int] | dict[str, int], 1, 0),
    ],
    ids=str,
)
def test_unions_like_these_are_accepted(tp: Any, good: Any, bad: Any) -> None:
    convert = converter(tp)
    convert(good)
    with pytest.raises(msgspec.ValidationError):
        convert(bad)


@pytest.mark.parametrize("tp", [str | datetime | Any, list[Plain | Box[int] | Any]])
def test_a_union_with_any_needs_no_decision(tp: Any) -> None:
    value = [1, {"x": 1}]
    assert converter(tp)(value) == value
