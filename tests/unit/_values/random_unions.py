"""Program that registers random types with unions, and prints each before msgspec sees it: the last one crashed it.

Arguments: a seed, and the number of types.
"""

from __future__ import annotations

import gc
import random
import sys
from types import GenericAlias
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta
from typing_extensions import TypeAliasType

from wsrpc import Server
from wsrpc._values.convert import converter

T = TypeVar("T")
SIMPLE: list[Any] = [None, bool, int, float, str, Literal[-1, 3], Literal["a", "no"], Literal[True, "a"], Any]
SIMPLE += [Annotated[int, each] for each in (Meta(ge=2), Meta(lt=7), Meta(multiple_of=3), Meta(gt=0, le=5))] * 2
SIMPLE += [Annotated[float, each] for each in (Meta(gt=0), Meta(le=2.5), Meta(ge=-1, lt=9), Meta(description=""))] * 2
SIMPLE += [Annotated[str, each] for each in (Meta(pattern="^a"), Meta(min_length=2), Meta(max_length=2))] * 2
SIMPLE += [Annotated[list, Meta(max_length=2)], Annotated[dict, Meta(min_length=1)]] * 2
VALUES: list[Any] = [None, True, -1, 0, 3, 6, 2.5, 12.5, "", "a", "ab", "xb", "no", [], [1], ["a", 3], {}, {"a": 1}]
VALUES += [{"x": each} for each in (1, "ab", [1, 2], [], None)]


class Record(msgspec.Struct, Generic[T]):
    x: int | T | tuple[int, str]
    next: Record[T] | None = None


def some(rng: random.Random, depth: int) -> Any:
    kind = rng.choice(["simple", "collection", "class", "alias", "bound", "union", "union"] if depth else ["simple"])
    parts = [some(rng, depth - 1) for _ in range(rng.choice((2, 2, 3)))] if kind != "simple" else []
    match kind:
        case "simple":
            return rng.choice(SIMPLE)
        case "union":
            return Union[tuple(parts)]  # noqa: UP007 - it has as many as come out
        case "class":
            return GenericAlias(Record, (parts[0],))
        case "alias":
            return TypeAliasType(f"Alias[{parts[0]}]", parts[0])
        case "bound":
            return TypeVar(f"Bound[{parts[0]}]", bound=parts[0])
    origin, number = rng.choice([(list, 1), (set, 1), (dict, 2), (tuple, 1), (tuple, 2), (tuple, 0)])
    return GenericAlias(origin, tuple(parts[:number]) or (parts[0], ...))


def accepts(tp: Any, value: Any) -> bool:
    try:
        converter(tp)(value)
    except msgspec.ValidationError:
        return False
    return True


def register(tp: Any, hooked: bool = False) -> bool:
    def take(given: Any) -> None: ...

    take.__annotations__ = {"given": tp, "return": None}
    try:
        Server(dec_hook=(lambda cls, value: value) if hooked else None).on("take", take)
    except TypeError:
        return False
    return True


def main(seed: int, number: int) -> None:
    rng, accepted = random.Random(seed), 0
    for each in range(number):
        tp: Any = Union[some(rng, 2), some(rng, 2)]  # noqa: UP007
        print(tp, flush=True)
        ok = register(tp, hooked=each % 2 == 0)
        gc.collect(0)
        members = get_args(tp) if get_origin(tp) is Union else (tp,)
        if not ok or not all(register(each) for each in (tp, *members)):
            continue
        accepted += 1
        for value in VALUES:
            if type(value) is int and "float" in str(tp):
                continue  # msgspec takes an integer for a float only if the union has no type for integers
            expected = any(accepts(member, value) for member in members)
            assert accepts(tp, value) is expected, f"{tp} and {value!r}: a member says {expected}"
    gc.collect()
    print(f"accepted {accepted} of {number}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
