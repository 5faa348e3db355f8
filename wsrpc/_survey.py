"""What a type says beyond what msgspec knows: the constraints, and the classes, that another library must enforce."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin
from uuid import UUID

import msgspec
from msgspec import inspect as mi

from ._pydantic import has_core_schema, is_pydantic

__all__ = ["META_FIELDS", "expanded", "is_alias", "is_attrs", "is_constraint", "survey_of", "unaliased"]

_LIBRARIES = frozenset({"annotated_types", "pydantic", "pydantic_core"})
_NO_CONSTRAINTS = frozenset({"Unit", "DocInfo"})
"""Metadata of annotated_types that describes values and does not restrict them."""
META_FIELDS: dict[str, tuple[str, str]] = {
    "Gt": ("gt", "gt"),
    "Ge": ("ge", "ge"),
    "Lt": ("lt", "lt"),
    "Le": ("le", "le"),
    "MultipleOf": ("multiple_of", "multiple_of"),
    "MinLen": ("min_length", "min_length"),
    "MaxLen": ("max_length", "max_length"),
    "Timezone": ("tz", "tz"),
}
"""Constraints of annotated_types: the attribute with the bound, and the field of `msgspec.Meta` that means the same."""
_ONLY_MSGSPEC: frozenset[Any] = frozenset({bytearray, memoryview, msgspec.Raw, msgspec.msgpack.Ext, msgspec.UnsetType})


def is_constraint(metadata: Any) -> bool:
    """Whether metadata in an `Annotated` is a constraint. PEP 593 lets everybody else put anything there."""
    if hasattr(metadata, "__get_pydantic_core_schema__"):
        return True
    return any(base.__module__.partition(".")[0] in _LIBRARIES for base in type(metadata).__mro__)


def _is_pydantic_field(value: Any) -> bool:
    return type(value).__module__ == "pydantic.fields"


def _is_of_annotated_types(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "annotated_types"


def _shown(metadata: Any) -> str:
    return "Field(...)" if _is_pydantic_field(metadata) else repr(metadata)


_SIZED = frozenset({str, bytes, bytearray, list, tuple, set, frozenset, dict})
_NOT_SIZED = frozenset({int, float, bool, Decimal, datetime, date, time, timedelta, UUID})


def _cannot_be_met(metadata: Any, inner: Any) -> str:
    """Why no value of ``inner`` can be compared with the constraint; "" if that is not so.

    Without this, pydantic would raise for each value.
    """
    if _is_pydantic_field(metadata):
        return next(filter(None, (_cannot_be_met(each, inner) for each in metadata.metadata)), "")
    cls = get_origin(inner) or inner
    if not isinstance(cls, type):
        return ""
    name = type(metadata).__name__
    if not _is_of_annotated_types(metadata):
        pattern = getattr(metadata, "pattern", None)
        return f"a pattern is for text, not for {cls.__name__}" if pattern is not None and cls in _NOT_SIZED else ""
    if name in ("MinLen", "MaxLen") and cls in _NOT_SIZED:
        return f"{cls.__name__} has no length"
    if name == "Timezone" and not (metadata.tz is None or metadata.tz is Ellipsis):
        return "one certain time zone cannot be asked for, take Timezone(...) and check the rest in the handler"
    if name in ("Gt", "Ge", "Lt", "Le", "MultipleOf") and cls in _SIZED:
        bound: Any = getattr(metadata, META_FIELDS[name][0])
        if bound.__class__ != cls:
            return f"{cls.__name__} is not comparable with {bound!r}"
    return ""


def expanded(metadata: Iterable[Any]) -> Iterator[Any]:
    """The single constraints: ``Interval(gt=0, lt=5)`` is two."""
    for each in metadata:
        if getattr(each, "__is_annotated_types_grouped_metadata__", False) is True:
            yield from expanded(each)
        else:
            yield each


class _Survey:
    """What is found in a type by looking at each part of it once."""

    def __init__(self, hooked: bool) -> None:
        self.hooked = hooked
        self.has_simple = False
        """Constraints of annotated_types where they can be replaced by `msgspec.Meta`."""
        self.foreign: str | None = None
        """The first thing found that takes pydantic."""
        self.stuck: str | None = None
        """Why neither library can enforce all that the type says."""
        self.only_msgspec: str | None = None
        """Something that pydantic does not know."""
        self._seen: set[Any] = set()

    def look(self, tp: Any, owner: str | None = None, *, sealed: bool = False) -> None:
        """Look into ``tp``, which is a field of ``owner``; ``sealed``: of a class that pydantic does not know."""
        origin = get_origin(tp)
        if origin is Annotated:
            inner, *metadata = get_args(tp)
            for each in expanded(metadata):
                self._metadata(each, inner, owner, sealed)
            self.look(inner, owner, sealed=sealed)
        elif isinstance(tp, TypeVar):
            for bound in (tp.__bound__, *tp.__constraints__):
                self.look(bound, owner, sealed=sealed)
        elif origin is Literal:
            pass
        elif not isinstance(tp, type) and hasattr(tp, "__supertype__"):  # NewType
            self.look(tp.__supertype__, owner, sealed=sealed)
        elif is_alias(origin or tp):
            if self._is_new(tp, sealed):
                self.look(unaliased(tp), owner, sealed=sealed)
        else:
            for arg in get_args(tp):
                self.look(arg, owner, sealed=sealed)
            cls = origin or tp
            if isinstance(cls, type) and cls is not types.UnionType and self._is_new(cls, sealed):
                self._class(cls, owner, sealed)

    def _is_new(self, tp: Any, sealed: bool) -> bool:
        new = (tp, sealed) not in self._seen
        self._seen.add((tp, sealed))
        return new

    def _metadata(self, metadata: Any, inner: Any, owner: str | None, sealed: bool) -> None:
        if isinstance(metadata, msgspec.Meta):
            self.only_msgspec = self.only_msgspec or repr(metadata)
        elif is_constraint(metadata):
            name = type(metadata).__name__ if _is_of_annotated_types(metadata) else ""
            shown = _shown(metadata)
            if name in _NO_CONSTRAINTS:
                return
            if reason := _cannot_be_met(metadata, inner):
                self._stuck(f"{_in(owner)}{shown} cannot be enforced: {reason}")
            elif owner is None and _is_pydantic_field(metadata) and not metadata.is_required():
                self._stuck(f"{shown} has a default, which nothing uses: write it in the signature")
            elif name in META_FIELDS and owner is None:
                self.has_simple = True
            elif name == "Timezone":  # which pydantic ignores
                self._stuck(f"{_in(owner)}{shown} cannot be enforced there: write msgspec.Meta(tz=...)")
            else:
                self._foreign(shown, owner, sealed)

    def _foreign(self, what: str, owner: str | None, sealed: bool) -> None:
        if sealed:
            self._stuck(
                f"{_in(owner)}msgspec cannot enforce {what}: write msgspec.Meta(...) there, or make the class a "
                "dataclass or a pydantic model"
            )
        else:
            self.foreign = self.foreign or f"{_in(owner)}{what}"

    def _stuck(self, why: str) -> None:
        self.stuck = self.stuck or why

    def _class(self, cls: type[Any], owner: str | None, sealed: bool) -> None:
        if is_pydantic(cls):
            return
        is_struct, of_attrs = issubclass(cls, msgspec.Struct), is_attrs(cls)
        if hasattr(cls, "__pydantic_validator__") or (has_core_schema(cls) and not (sealed and self.hooked)):
            self._foreign(f"{cls.__qualname__}, a class of pydantic's", owner, sealed)
        elif (
            cls in _ONLY_MSGSPEC
            or is_struct
            or of_attrs
            or (self.hooked and not sealed and isinstance(mi.type_info(cls), mi.CustomType))
        ):
            self.only_msgspec = self.only_msgspec or cls.__qualname__
        inside = sealed or is_struct or of_attrs
        if of_attrs:
            for field in cls.__attrs_attrs__:
                if field.converter is not None:
                    self._stuck(
                        f"{cls.__qualname__}.{field.name} has a converter, which nothing runs: use __attrs_post_init__"
                    )
        elif dataclasses.is_dataclass(cls):
            for each in dataclasses.fields(cls):
                if _is_pydantic_field(each.default):
                    self._foreign("Field(...)", f"{cls.__qualname__}.{each.name}", inside)
        elif _is_typed_dict(cls) and (getattr(cls, "__closed__", None) or _extra_items(cls)):
            self._foreign(f"{cls.__qualname__}, which restricts further keys", owner, sealed)
        elif not (is_struct or _is_typed_dict(cls) or hasattr(cls, "_fields")):
            return
        try:
            hints = typing.get_type_hints(cls, include_extras=True)
        except NameError:
            return  # msgspec cannot resolve it either, and says so
        for name, hint in hints.items():
            self.look(hint, f"{cls.__qualname__}.{name}", sealed=inside)


def is_attrs(cls: Any) -> bool:
    return hasattr(cls, "__attrs_attrs__")


def _is_typed_dict(cls: Any) -> bool:
    return hasattr(cls, "__required_keys__")  # of typing_extensions, too


def _extra_items(cls: Any) -> bool:
    """Whether a `TypedDict` says which types further keys have (PEP 728)."""
    return type(getattr(cls, "__extra_items__", None)).__name__ not in {"NoneType", "_NoExtraItemsType", "NoExtraItems"}


def is_alias(tp: Any) -> bool:
    return type(tp).__name__ == "TypeAliasType"  # of typing, from Python 3.12 on, or of typing_extensions


def unaliased(tp: Any) -> Any:
    """What ``type X[T] = ...`` stands for."""
    args = get_args(tp)
    value = (get_origin(tp) or tp).__value__
    return value[args] if args else value


def _in(owner: str | None) -> str:
    return "" if owner is None else f"{owner}: "


@functools.lru_cache(maxsize=1024)
def _survey(tp: Any, hooked: bool) -> _Survey:
    survey = _Survey(hooked)
    survey.look(tp)
    return survey


def survey_of(tp: Any, hooked: bool) -> _Survey:
    try:
        hash(tp)
    except TypeError:  # Annotated[int, []], say
        return _survey.__wrapped__(tp, hooked)
    return _survey(tp, hooked)
