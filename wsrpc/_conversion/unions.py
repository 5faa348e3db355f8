"""Unions that msgspec 0.22 misreads. `misread_union` finds them before msgspec sees the type.

msgspec keeps what it knows of a union in one array, and finds each entry by the entries before it. Two of its functions
disagree about the order, and then read memory that is not theirs, which usually ends the process:

- What frees a union takes a pattern for a type, if a collection follows.
- The items of a tuple of fixed length are written before the bounds of the other members, and read after them.

The array has room for one set of bounds per type. ``Annotated[int, Meta(ge=1)] | Literal[-1]`` therefore loses its
``Literal``, and of two sets of bounds the last counts for all values.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Collection, Iterator
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin

import msgspec

from .survey import TEXT, UNIONS, has_fields, is_alias, restricts, unaliased

__all__ = ["misread_union"]


def misread_union(tp: Any) -> str:
    """Return what is wrong with the first union in ``tp`` that msgspec misreads; an empty text if there is none."""
    for owner, union in _unions(tp, "", []):
        if problem := _problem(list(_members(union))):
            return f"{owner}msgspec {problem}"
    return ""


def _problem(members: list[tuple[Any, list[msgspec.Meta]]]) -> str:
    """Return what msgspec does wrong with a union of these members; an empty text if it reads the union right."""
    kinds = [_kinds(tp) for tp, _ in members]
    if [Any] in kinds:  # it takes the place of the whole union
        return ""
    metas = [meta for _, metadata in members for meta in metadata]
    pair = ""
    if any(meta.pattern is not None for meta in metas) and ["collection"] in kinds:
        pair = "text with a pattern and a collection"
    elif any(map(_has_bounds, metas)) and ["fixed"] in kinds:
        pair = "a tuple of fixed length and a type with bounds"
    if pair:
        return f"cannot decode a union of {pair}: put one of the two into a dataclass"
    for tp, metadata in members:
        if any(map(restricts, metadata)) and sum(tp in each for each in kinds) > 1:
            return f"applies the bounds of one {tp.__name__} in a union to every {tp.__name__}: write one of them"
    return ""


def _kinds(tp: Any) -> list[Any]:
    """Return what a member counts as: its class, "fixed", "collection", or the classes of its values."""
    if get_origin(tp) is Literal:
        return [each.__class__ for each in get_args(tp)]
    cls = get_origin(tp) or tp
    args = get_args(tp)
    if cls is tuple and tp not in (tuple, typing.Tuple) and args[-1:] != (Ellipsis,):  # noqa: UP006
        return ["fixed"]
    if isinstance(cls, type) and issubclass(cls, Collection) and cls not in TEXT and not has_fields(cls):
        return ["collection"]
    return [cls]


def _has_bounds(meta: msgspec.Meta) -> bool:
    numbers = (meta.gt, meta.ge, meta.lt, meta.le, meta.multiple_of, meta.min_length, meta.max_length)
    return any(each is not None for each in numbers)


# ---------------------------------------------------------------- types as msgspec reads them


def _bare(tp: Any) -> tuple[Any, list[msgspec.Meta]]:
    """Return a type without aliases and other wrappers, and the metadata in them."""
    metadata: list[msgspec.Meta] = []
    while True:
        origin = get_origin(tp)
        if origin is Annotated:
            metadata += (each for each in tp.__metadata__ if isinstance(each, msgspec.Meta))
            tp = tp.__origin__
        elif origin is Final:
            tp = get_args(tp)[0]
        elif isinstance(tp, TypeVar):
            tp = Any if tp.__bound__ is None else tp.__bound__
        elif is_alias(origin or tp):
            tp = unaliased(tp)
        elif not isinstance(tp, type) and hasattr(tp, "__supertype__"):  # NewType
            tp = tp.__supertype__
        else:
            return tp, metadata


def _members(union: Any) -> Iterator[tuple[Any, list[msgspec.Meta]]]:
    """Yield the members of a union, and of unions in it, each with its metadata."""
    for each in get_args(union):
        tp, metadata = _bare(each)
        if get_origin(tp) in UNIONS:
            yield from _members(tp)
        else:
            yield tp, metadata


def _unions(tp: Any, owner: str, seen: list[Any]) -> Iterator[tuple[str, Any]]:
    """Yield each union in a type, after the name of the field that it is in."""
    tp, _ = _bare(tp)
    if get_origin(tp) is Literal or tp in seen:
        return
    seen.append(tp)
    if get_origin(tp) in UNIONS:
        yield owner, tp
    for arg in get_args(tp):
        yield from _unions(arg, owner, seen)
    cls = get_origin(tp) or tp
    if isinstance(cls, type) and has_fields(cls):
        for name, hint in _fields(tp).items():
            yield from _unions(hint, f"{cls.__qualname__}.{name}: ", seen)


def _fields(tp: Any) -> dict[str, Any]:
    """Return the types of the fields of a class, with its type arguments in place of T."""
    cls: Any = get_origin(tp) or tp
    found: dict[str, Any] = {}
    for base in reversed(cls.__dict__.get("__orig_bases__", cls.__bases__)):
        if has_fields(get_origin(base) or base):
            found |= _fields(base)
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError:
        return found  # msgspec cannot resolve it either, and says so
    arguments = dict(zip(getattr(cls, "__parameters__", ()), get_args(tp), strict=False))
    return found | {name: _with_arguments(hints[name], arguments) for name in inspect.get_annotations(cls)}


def _with_arguments(tp: Any, arguments: dict[Any, Any]) -> Any:
    if isinstance(tp, TypeVar):
        return arguments.get(tp, tp)
    parameters = getattr(tp, "__parameters__", ())
    return tp[tuple(arguments.get(each, each) for each in parameters)] if arguments and parameters else tp
