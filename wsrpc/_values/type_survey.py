"""Survey of a type: finds what msgspec would ignore or misread, in one walk over the parts of the type.

msgspec 0.22 misreads some unions. It keeps the facts of a union in one array, and computes the place of each entry from
the entries before it. In two cases, the functions of msgspec disagree about the order. They then read foreign memory,
which usually ends the process:

- The function that frees a union mistakes a pattern for a type, if a collection follows.
- The items of a tuple of fixed length are written before the constraints of the other members, and read after them.

The array has room for one set of constraints per type. Therefore ``Annotated[int, Meta(ge=1)] | Literal[-1]`` loses its
``Literal``, and if there are two sets of constraints, the last set applies to all values.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import InitVar
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, TypeVar, Union, get_args, get_origin
from uuid import UUID

import msgspec

from .caching import memoized
from .pydantic_types import Adapted, has_core_schema, is_pydantic

UNIONS = (Union, types.UnionType)

_LIBRARIES = frozenset({"annotated_types", "pydantic", "pydantic_core"})
_NO_CONSTRAINTS = frozenset({"Unit", "DocInfo"})
"""Metadata of annotated_types that describes values without restricting them."""
_TEXT = frozenset({str, bytes, bytearray, memoryview, datetime, date, time, timedelta, UUID, Decimal})
"""Types that are text in JSON."""
_LIMITS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length")
_FIELDS = ("__dataclass_fields__", "__attrs_attrs__", "__struct_fields__", "__required_keys__", "_fields")
"""Attributes that only classes with fields have. Each kind of class has one of them."""


class Part(NamedTuple):
    """A type that is found in another type."""

    type: Any
    owner: str
    """The class and the field to which the part belongs, followed by a colon. Empty outside of classes."""


@memoized
def problem_of(tp: Any) -> str:
    """Return what msgspec would ignore or misread in a type, and what to do. Empty if there is no such part."""
    return next((part.owner + why for part in _parts(Part(tp, ""), []) if (why := _problem(part.type))), "")


@memoized
def is_for_pydantic(tp: Any) -> bool:
    """Return whether pydantic has to validate a type, because something in it says what msgspec cannot enforce.

    Raises:
        TypeError: something else in it says what pydantic cannot enforce, or the type of a field cannot be resolved.
    """
    parts = list(_parts(Part(tp, ""), []))
    if not any(_is_of_pydantic(part.type) for part in parts):
        return False
    if problem := next((part.owner + why for part in parts if (why := _lost_with_pydantic(part.type))), ""):
        raise TypeError(problem)
    return True


@memoized
def unsent(tp: Any) -> str:
    """Return which attribute msgspec would leave out of values of a type, and what to do. Otherwise an empty text."""
    with suppress(TypeError):  # the type of a field cannot be resolved, which concerns only descriptions
        return next((why for part in _parts(Part(tp, ""), []) if (why := _private(part.type))), "")
    return ""


def _parts(part: Part, seen: list[Any]) -> Iterator[Part]:
    """Yield a type and all types inside it, except those in pydantic models.

    Raises:
        TypeError: the type of a field cannot be resolved.
    """
    tp, owner = part
    origin = get_origin(tp)
    if origin is Literal or tp in seen:
        return
    seen.append(tp)
    yield part
    inner = unwrapped(tp)
    if origin is Annotated:
        inside = [Part(tp.__origin__, owner)]
    elif isinstance(tp, TypeVar):
        inside = [Part(each, owner) for each in (tp.__bound__, getattr(tp, "__default__", None), *tp.__constraints__)]
    elif inner is not None:
        inside = [Part(inner, owner)]
    elif _has_fields(cls := origin or tp):
        inside = [Part(hint, f"{cls.__qualname__}.{field}: ") for field, hint in _hints_of(tp, cls)]
    else:
        inside = [Part(each, owner) for each in get_args(tp)]
    for each in inside:
        yield from _parts(each, seen)


def _hints_of(tp: Any, cls: Any) -> Iterator[tuple[str, Any]]:
    try:
        fields = _fields_of(tp)
    except Exception as exc:  # anything that evaluating an annotation raises
        raise TypeError(f"{cls.__qualname__} has a field whose type cannot be resolved: {exc}") from exc
    return ((field, hint) for field, hint in fields.items() if get_origin(hint) is not ClassVar)


def _problem(tp: Any) -> str:
    """Return what msgspec would ignore or misread in one part of a type, and what to do."""
    origin = get_origin(tp)
    if origin in UNIONS:
        return _misread(list(_members(tp)))
    cls: Any = origin or tp
    if cls.__class__ is InitVar:
        return "msgspec cannot set an InitVar: make it a field"
    if type(cls).__name__ == "TypeAliasType" and getattr(cls.__value__, "__parameters__", ()) != cls.__type_params__:
        # For ``type X[A, B] = dict[B, A]``, msgspec 0.22 uses the arguments in the wrong order.
        return f"msgspec confuses the arguments of {tp}: write the type out" if origin else ""
    if is_pydantic(cls) and not isinstance(cls, Adapted):
        for name, field in cls.model_fields.items():
            for each in field.metadata:
                if isinstance(each, msgspec.Meta) and _restricts(each):
                    return f"{cls.__qualname__}.{name}: pydantic ignores {each!r}: write Field(...)"
    return _problem_of_class(cls) if isinstance(cls, type) else ""


def _problem_of_class(cls: Any) -> str:
    """Return which setting of a class or of its fields msgspec would ignore, and what to do."""
    name = cls.__qualname__
    if not _has_fields(cls):
        return ""
    attributes = getattr(cls, "__attrs_attrs__", ())
    if why := _private(cls):
        return why
    if each := next((each for each in attributes if each.converter is not None), None):
        return f"{name}.{each.name} has a converter, which is never called: use __attrs_post_init__"
    if hasattr(cls, "__required_keys__"):  # a TypedDict, of typing_extensions, too
        if getattr(cls, "__closed__", None):
            return f"{name} is closed, which msgspec ignores: use a msgspec.Struct with forbid_unknown_fields=True"
        if base := next(_parametrized_bases(cls), None):
            return f"{name} derives from {base}, and msgspec does not look into the brackets: write its fields out"
    return ""


def _private(cls: Any) -> str:
    """Return which attribute of a class of attrs msgspec takes for private. (In other classes, it sends all.)"""
    for each in getattr(cls, "__attrs_attrs__", ()):
        if each.name.startswith("_"):
            return f"{cls.__qualname__}.{each.name} would not be sent: rename it, or make the class a dataclass"
    return ""


# ---------------------------------------------------------------- what pydantic validates


def _is_of_pydantic(tp: Any) -> bool:
    """Return whether one part of a type says what msgspec cannot enforce, and pydantic can."""
    origin = get_origin(tp)
    if origin is Annotated:
        return any(map(_is_foreign, tp.__metadata__))
    if origin in UNIONS:
        members = [member for member, _ in _members(tp) if member is not types.NoneType]
        return len(members) > 1 and Any not in members and any(map(is_pydantic, members))
    cls: Any = origin or tp
    if not isinstance(cls, type) or is_pydantic(cls):
        return False
    if hasattr(cls, "__pydantic_validator__") or has_core_schema(cls):  # a dataclass of pydantic, HttpUrl
        return True
    if not _has_fields(cls):
        return False
    fields = getattr(cls, "__attrs_attrs__", ()) or getattr(cls, "__dataclass_fields__", {}).values()
    defaults = [*(each.default for each in fields), *getattr(cls, "__struct_defaults__", ())]
    defaults += getattr(cls, "_field_defaults", {}).values()
    if any(type(default).__module__ == "pydantic.fields" for default in defaults):
        return True
    return hasattr(cls, "__pydantic_config__") or any(_is_decorated(cls, each, "Validator") for each in dir(cls))


def _lost_with_pydantic(tp: Any) -> str:
    """Return what pydantic, or msgspec when the value is sent, would ignore in one part of a type, and what to do."""
    if get_origin(tp) is Annotated:
        for each in tp.__metadata__:
            if isinstance(each, msgspec.Meta) or (_is_foreign(each) and not _is_known_to_pydantic(each)):
                return f"pydantic, which has to validate this annotation, ignores {each!r}: write Field(...)"
            if "Serializer" in type(each).__name__:
                return f"{each!r} is ignored outside of pydantic models: make it a field of a model"
    cls: Any = get_origin(tp) or tp
    if hasattr(cls, "__struct_fields__") or hasattr(cls, "__attrs_attrs__"):
        return (
            f"pydantic has to validate this annotation, and cannot validate {cls.__qualname__}: make it a dataclass or "
            "a pydantic model, or write msgspec.Meta(...)"
        )
    if _has_fields(cls) and any(_is_decorated(cls, each, "Serializer", "Computed") for each in dir(cls)):
        return f"{cls.__qualname__} has a serializer, which is ignored outside of pydantic models: make it a model"
    return ""


# ---------------------------------------------------------------- metadata


def _is_foreign(metadata: Any) -> bool:
    """Whether metadata in an `Annotated` is a constraint of another library than msgspec.

    PEP 593 allows any other object there, too.
    """
    if hasattr(metadata, "__get_pydantic_core_schema__"):
        return True
    homes = {base.__module__.partition(".")[0] for base in type(metadata).__mro__}
    return not homes.isdisjoint(_LIBRARIES) and type(metadata).__name__ not in _NO_CONSTRAINTS


def _restricts(meta: msgspec.Meta) -> bool:
    """Whether ``meta`` restricts values, besides describing them."""
    return _has_limits(meta) or meta.pattern is not None or meta.tz is not None


def _has_limits(meta: msgspec.Meta) -> bool:
    return any(getattr(meta, name) is not None for name in _LIMITS)


def _is_known_to_pydantic(metadata: Any) -> bool:
    """Whether pydantic enforces metadata: it does not look at subclasses of constraints."""
    return has_core_schema(metadata) or type(metadata).__module__.partition(".")[0] in _LIBRARIES


def _is_decorated(cls: Any, name: str, *kinds: str) -> bool:
    """Whether an attribute of a class is a function with a decorator of pydantic of one of the kinds."""
    decorator = type(getattr(inspect.getattr_static(cls, name), "decorator_info", None)).__name__
    return any(kind in decorator for kind in kinds)


# ---------------------------------------------------------------- members of unions


def unwrapped(tp: Any) -> Any:
    """Return the type for which an alias or a NewType stands. Return None for any other type."""
    alias: Any = get_origin(tp) or tp
    if type(alias).__name__ == "TypeAliasType":  # of typing, from Python 3.12 on, or of typing_extensions
        return _with_arguments(alias.__value__, dict(zip(alias.__type_params__, get_args(tp), strict=False)))
    return None if isinstance(tp, type) else getattr(tp, "__supertype__", None)


def _with_arguments(tp: Any, arguments: dict[Any, Any]) -> Any:
    """Return a type with other types in place of type parameters."""
    if isinstance(tp, TypeVar):
        return arguments.get(tp, tp)
    parameters = getattr(tp, "__parameters__", ()) if get_args(tp) else ()
    return tp[tuple(arguments.get(each, each) for each in parameters)] if arguments and parameters else tp


def _members(tp: Any, metadata: tuple[Any, ...] = ()) -> Iterator[tuple[Any, list[msgspec.Meta]]]:
    """Yield the members of a union and of unions in it, as msgspec reads them. For any other type, yield the type.

    Aliases and other wrappers are removed from each member. Their metadata is yielded with the member.
    """
    origin = get_origin(tp)
    if origin is Annotated:
        yield from _members(tp.__origin__, metadata + tp.__metadata__)
    elif origin is Final:
        yield from _members(get_args(tp)[0], metadata)
    elif isinstance(tp, TypeVar):
        yield from _members(Any if tp.__bound__ is None else tp.__bound__, metadata)
    elif (inner := unwrapped(tp)) is not None:
        yield from _members(inner, metadata)
    elif origin in UNIONS:
        for each in get_args(tp):
            yield from _members(each)
    else:
        yield tp, [each for each in metadata if isinstance(each, msgspec.Meta)]


def _misread(members: list[tuple[Any, list[msgspec.Meta]]]) -> str:
    """Return what msgspec does wrong with a union of these members. An empty text if it reads the union right."""
    kinds = [_kinds(tp) for tp, _ in members]
    if [Any] in kinds:  # msgspec reads a union with Any as Any
        return ""
    metas = [meta for _, metadata in members for meta in metadata]
    pair = ""
    if any(meta.pattern is not None for meta in metas) and ["collection"] in kinds:
        pair = "text with a pattern and a collection"
    elif any(map(_has_limits, metas)) and ["fixed"] in kinds:
        pair = "a tuple of fixed length and a type with bounds"
    if pair:
        return f"msgspec cannot decode a union of {pair}: put one of the two into a dataclass"
    for tp, metadata in members:
        if any(map(_restricts, metadata)) and sum(tp in each for each in kinds) > 1:
            return (
                f"msgspec applies the bounds of one {tp.__name__} in a union to every {tp.__name__}: write one of them"
            )
    return ""


def _kinds(tp: Any) -> list[Any]:
    """Return the kind of a member for msgspec: its class, "fixed", "collection", or the classes of its values."""
    if get_origin(tp) is Literal:
        return [each.__class__ for each in get_args(tp)]
    cls = get_origin(tp) or tp
    if cls is tuple and tp not in (tuple, typing.Tuple) and get_args(tp)[-1:] != (Ellipsis,):  # noqa: UP006
        return ["fixed"]
    if isinstance(cls, type) and issubclass(cls, Collection) and cls not in _TEXT and not _has_fields(cls):
        return ["collection"]
    return [cls]


# ---------------------------------------------------------------- classes


def _has_fields(cls: Any) -> bool:
    """Whether msgspec knows the fields of a class: a dataclass, a class of attrs, a Struct, TypedDict or NamedTuple."""
    return any(hasattr(cls, name) for name in _FIELDS)


def _fields_of(tp: Any) -> dict[str, Any]:
    """Return the types of the fields of a class, with its type arguments in place of T."""
    cls: Any = get_origin(tp) or tp
    found: dict[str, Any] = {}
    for base in reversed(cls.__dict__.get("__orig_bases__", cls.__bases__)):
        if _has_fields(get_origin(base) or base):
            found |= _fields_of(base)
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError:
        return found  # msgspec cannot resolve the annotation either, and its error says so
    arguments = dict(zip(getattr(cls, "__parameters__", ()), get_args(tp), strict=False))
    return found | {name: _with_arguments(hints[name], arguments) for name in inspect.get_annotations(cls)}


def _parametrized_bases(cls: Any) -> Iterator[Any]:
    """Yield the generic classes, with their type arguments, from which a class and its bases derive."""
    for base in cls.__dict__.get("__orig_bases__", cls.__bases__):
        origin = get_origin(base)
        if _has_fields(origin) and get_args(base) != getattr(origin, "__parameters__", get_args(base)):
            yield base
        if isinstance(origin or base, type):
            yield from _parametrized_bases(origin or base)
