"""Survey of a type: the constraints and classes in it that msgspec does not know and another library must enforce."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Generator, Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID

import msgspec
from msgspec import inspect as mi

from .caching import memoized
from .pydantic_types import has_core_schema, is_pydantic

__all__ = [
    "META_FIELDS",
    "TEXT",
    "UNIONS",
    "Survey",
    "expanded",
    "has_fields",
    "is_alias",
    "is_constraint",
    "is_sealed",
    "is_tagged",
    "restricts",
    "survey_of",
    "unaliased",
]

UNIONS = (Union, types.UnionType)
_LIBRARIES = frozenset({"annotated_types", "pydantic", "pydantic_core"})
_NO_CONSTRAINTS = frozenset({"Unit", "DocInfo"})
"""Metadata of annotated_types that describes values without restricting them."""
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
"""Constraints of annotated_types: the attribute that holds the bound, and the equivalent field of `msgspec.Meta`."""
_OF_PYDANTIC = frozenset({"Predicate", "Not"})
"""Constraints of annotated_types whose subclasses pydantic also knows."""
_LAZY = frozenset({Iterable, Iterator, Generator})
"""Types whose items pydantic checks only as they are read, which is when the handler already runs."""
TEXT = frozenset({str, bytes, bytearray, memoryview, datetime, date, time, timedelta, UUID, Decimal})
"""Types that are text in JSON."""
_ONLY_MSGSPEC: frozenset[Any] = frozenset({bytearray, memoryview, msgspec.Raw, msgspec.msgpack.Ext, msgspec.UnsetType})


def is_constraint(metadata: Any) -> bool:
    """Whether metadata in an `Annotated` is a constraint. PEP 593 allows any other object there, too."""
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
    """Say why no value of ``inner`` can be compared with the constraint; "" if values can.

    Without this check pydantic would raise for each value.
    """
    if _is_pydantic_field(metadata):
        return next(filter(None, (_cannot_be_met(each, inner) for each in metadata.metadata)), "")
    if get_origin(inner) in UNIONS:
        return next(filter(None, (_cannot_be_met(metadata, member) for member in _members(inner))), "")
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
        return "it requires one certain time zone: write Timezone(...) and check the zone in the handler"
    if name in ("Gt", "Ge", "Lt", "Le", "MultipleOf") and cls in _SIZED:
        bound: Any = getattr(metadata, META_FIELDS[name][0])
        if bound.__class__ != cls:
            return f"{cls.__name__} is not comparable with {bound!r}"
    return ""


def expanded(metadata: Iterable[Any]) -> Iterator[Any]:
    """Yield the single constraints: ``Interval(gt=0, lt=5)`` is two."""
    for each in metadata:
        if getattr(each, "__is_annotated_types_grouped_metadata__", False) is True:
            yield from expanded(each)
        else:
            yield each


class Survey:
    """Finds out which library can enforce a type, by visiting each part of the type once."""

    def __init__(self, hooked: bool, models: set[type[Any]] | None = None) -> None:
        """
        Args:
            hooked: the user has a ``dec_hook``.
            models: the models that were visited already.
        """
        self.hooked = hooked
        self.needs_meta = False
        """The type has constraints of annotated_types that `msgspec.Meta` can replace, or a generic alias.

        Of ``type X[A, B] = dict[B, A]`` msgspec 0.22 takes the arguments in the wrong order.
        """
        self.needs_pydantic: str | None = None
        """The first thing found that msgspec cannot enforce and pydantic may."""
        self.refused: str | None = None
        """Why neither library can enforce all that the type says."""
        self.needs_msgspec: str | None = None
        """The first thing found that pydantic does not know."""
        self.not_for_pydantic: str | None = None
        """Why pydantic must not validate the type: it would choose the wrong class, or ignore something."""
        self._ignored: str | None = None
        """The first constraint that a model would ignore."""
        self._models: set[type[Any]] = set() if models is None else models
        self._seen: set[Any] = set()

    def visit(self, tp: Any, owner: str | None = None, *, sealed: bool = False) -> None:
        """Visit ``tp``.

        Args:
            owner: the class or field that the type belongs to; None if it is the annotation of a parameter.
            sealed: it belongs to a class whose fields pydantic does not see.
        """
        origin = get_origin(tp)
        if origin is Annotated:
            inner, *metadata = get_args(tp)
            for each in expanded(metadata):
                self._metadata(each, inner, owner, sealed)
            self.visit(inner, owner, sealed=sealed)
        elif isinstance(tp, TypeVar):
            # msgspec ignores all constraints there, even its own, so there is an owner in any case.
            for bound in (tp.__bound__, getattr(tp, "__default__", None), *tp.__constraints__):
                self.visit(bound, owner or tp.__name__, sealed=sealed)
        elif origin is Literal:
            pass
        elif not isinstance(tp, type) and hasattr(tp, "__supertype__"):  # NewType
            self.visit(tp.__supertype__, owner, sealed=sealed)
        elif is_alias(origin or tp):
            if self._is_new(tp, sealed):
                if origin is not None and owner is None:
                    self.needs_meta = True
                elif origin is not None and getattr(origin.__value__, "__parameters__", ()) != origin.__type_params__:
                    self._require_pydantic(f"{tp}", owner, sealed)
                self.visit(unaliased(tp), owner, sealed=sealed)
        else:
            for arg in get_args(tp):
                self.visit(arg, owner, sealed=sealed)
            cls = origin or tp
            if cls in UNIONS:
                self._union(tp, owner)
            elif isinstance(cls, type) and self._is_new(cls, sealed):
                self._class(cls, owner, sealed)

    def _is_new(self, tp: Any, sealed: bool) -> bool:
        new = (tp, sealed) not in self._seen
        self._seen.add((tp, sealed))
        return new

    def _metadata(self, metadata: Any, inner: Any, owner: str | None, sealed: bool) -> None:
        if isinstance(metadata, msgspec.Meta):
            if restricts(metadata):
                self.needs_msgspec = self.needs_msgspec or repr(metadata)
                self._ignored = self._ignored or f"{_in(owner)}pydantic ignores {metadata!r}: write Field(...)"
        elif is_constraint(metadata):
            name = type(metadata).__name__ if _is_of_annotated_types(metadata) else ""
            shown = _shown(metadata)
            if name in _NO_CONSTRAINTS:
                return
            if reason := _cannot_be_met(metadata, inner):
                self._refuse(f"{_in(owner)}{shown} cannot be enforced: {reason}")
            elif owner is None and _is_pydantic_field(metadata) and not metadata.is_required():
                self._refuse(f"{shown} has a default, which nothing uses: write it in the signature")
            elif name in META_FIELDS and owner is None:
                self.needs_meta = True
            elif name == "Timezone":  # which pydantic ignores
                self._refuse(f"{_in(owner)}{shown} cannot be enforced there: write msgspec.Meta(tz=...)")
                self._ignored = (
                    self._ignored or f"{_in(owner)}pydantic ignores {shown}: write AwareDatetime or NaiveDatetime"
                )
            elif _is_unknown(metadata):
                self._refuse(f"{_in(owner)}{shown} is a constraint that neither msgspec nor pydantic knows")
                self._ignored = self.refused
            else:
                self._require_pydantic(shown, owner, sealed)

    def _require_pydantic(self, what: str, owner: str | None, sealed: bool) -> None:
        if sealed:
            self._refuse(
                f"{_in(owner)}msgspec cannot enforce {what}: write msgspec.Meta(...) there, or make the class a "
                "dataclass or a pydantic model"
            )
        else:
            self.needs_pydantic = self.needs_pydantic or f"{_in(owner)}{what}"

    def _exclude_pydantic(self, why: str) -> None:
        self.not_for_pydantic = self.not_for_pydantic or why

    def _refuse(self, why: str) -> None:
        self.refused = self.refused or why

    def _union(self, tp: Any, owner: str | None) -> None:
        members = list(_members(tp))
        objects = [cls for cls in members if _is_object(cls)]
        if len([cls for cls in members if _is_text(cls)]) > 1:
            why = "unions may not contain more than one str-like type"
        elif len(objects) > 1 and any(map(is_sealed, objects)) and not all(map(is_tagged, objects)):
            why = "pydantic does not see the fields of Struct types and attrs classes"
        else:
            return
        self._exclude_pydantic(f"{_in(owner)}{tp} cannot be decided: {why}")

    def _class(self, cls: type[Any], owner: str | None, sealed: bool) -> None:
        if is_pydantic(cls):
            self._model(cls)
            return
        hides_fields = is_sealed(cls)
        if hasattr(cls, "__pydantic_validator__") or (has_core_schema(cls) and not (sealed and self.hooked)):
            self._require_pydantic(f"{cls.__qualname__}, a class of pydantic", owner, sealed)
        elif cls in _ONLY_MSGSPEC or hides_fields or (self.hooked and not sealed and _is_custom(cls)):
            self.needs_msgspec = self.needs_msgspec or cls.__qualname__
        elif cls in _LAZY:
            self._refuse(f"{_in(owner)}{cls.__qualname__} cannot be enforced before it is read: write list[...]")
        if has_fields(cls):
            self._fields(cls, sealed or hides_fields)

    def _fields(self, cls: Any, sealed: bool) -> None:
        """Visit the fields of a class that is not a model."""
        self._settings(cls, sealed)
        name = cls.__qualname__
        try:
            hints = typing.get_type_hints(cls, include_extras=True)
        except NameError:
            return  # msgspec cannot resolve it either, and says so
        except Exception as exc:  # anything that evaluating an annotation raises
            self._refuse(f"{name} has a field whose type cannot be resolved: {exc}")
            return
        for field, hint in hints.items():
            if _is_init_var(hint):
                self._require_pydantic("an InitVar", f"{name}.{field}", sealed)
                self.visit(hint.type, f"{name}.{field}", sealed=sealed)
            elif get_origin(hint) is not ClassVar:
                self.visit(hint, f"{name}.{field}", sealed=sealed)
        for base in _parametrized_bases(cls):
            for arg in get_args(base):  # the fields themselves only say T
                self.visit(arg, name, sealed=sealed)
            if _is_typed_dict(cls):
                self._refuse(
                    f"{name} derives from {base}, and no library looks into the brackets: write its fields out"
                )
            elif not sealed:
                self._exclude_pydantic(f"{name} derives from {base}, and pydantic ignores what is in the brackets")

    def _settings(self, cls: Any, sealed: bool) -> None:
        """Look for settings of a class and of its fields that only pydantic knows, or nobody."""
        name = cls.__qualname__
        for each in cls.__attrs_attrs__ if _is_attrs(cls) else ():
            if each.converter is not None:
                self._refuse(f"{name}.{each.name} has a converter, which is never called: use __attrs_post_init__")
        for field, default in _defaults(cls).items():
            if _is_pydantic_field(default):
                self._require_pydantic("Field(...)", f"{name}.{field}", sealed)
        for each in _validators(cls):
            self._require_pydantic("a validator of pydantic", f"{name}.{each}", sealed or hasattr(cls, "_fields"))
        if _is_typed_dict(cls) and (getattr(cls, "__closed__", None) or _extra_items(cls)):
            self._require_pydantic(f"{name}, which restricts further keys", None, sealed)
        if hasattr(cls, "__pydantic_config__"):
            self._require_pydantic("a config of pydantic", name, sealed)

    def _model(self, cls: Any) -> None:
        """Look for constraints that pydantic, which validates the model, ignores."""
        if cls in self._models:
            return
        self._models.add(cls)
        for name, field in getattr(cls, "model_fields", {}).items():
            inside = Survey(self.hooked, self._models)
            metadata = tuple(field.metadata)
            hint = Annotated[(field.annotation, *metadata)] if metadata else field.annotation
            inside.visit(hint, f"{cls.__qualname__}.{name}")
            if inside._ignored:
                self._refuse(inside._ignored)
                self._ignored = inside._ignored


def restricts(meta: msgspec.Meta) -> bool:
    """Whether ``meta`` restricts values, besides describing them."""
    return any(getattr(meta, field) is not None for _, field in META_FIELDS.values()) or meta.pattern is not None


def _is_unknown(metadata: Any) -> bool:
    """Whether this is a constraint of the user's own that pydantic would ignore."""
    if hasattr(metadata, "__get_pydantic_core_schema__"):
        return False
    classes = type(metadata).__mro__
    return classes[0].__module__.partition(".")[0] not in _LIBRARIES and not any(
        cls.__name__ in _OF_PYDANTIC for cls in classes if cls.__module__ == "annotated_types"
    )


def _is_init_var(hint: Any) -> bool:
    return isinstance(hint, dataclasses.InitVar)


def _is_custom(cls: type[Any]) -> bool:
    """Whether msgspec leaves the class to the hook."""
    if has_fields(cls):  # msgspec looks into it, but must not do so before its unions have been checked
        return False
    try:
        return isinstance(mi.type_info(cls), mi.CustomType)
    except Exception:  # msgspec raises it again when it converts to the class
        return False


def _members(union: Any) -> Iterator[Any]:
    """Yield the classes of a union."""
    for each in get_args(union):
        while get_origin(each) is Annotated or (not isinstance(each, type) and hasattr(each, "__supertype__")):
            each = get_args(each)[0] if get_args(each) else each.__supertype__
        yield get_origin(each) or each


def _is_text(cls: Any) -> bool:
    if not isinstance(cls, type) or not issubclass(cls, enum.Enum):
        return cls in TEXT
    members: list[enum.Enum] = list(cls)
    return all(isinstance(member.value, str) for member in members)


def has_fields(cls: Any) -> bool:
    return dataclasses.is_dataclass(cls) or is_sealed(cls) or _is_typed_dict(cls) or hasattr(cls, "_fields")


def is_sealed(cls: Any) -> bool:
    """Whether pydantic does not see the fields of a class."""
    return isinstance(cls, type) and (issubclass(cls, msgspec.Struct) or _is_attrs(cls))


def is_tagged(cls: Any) -> bool:
    """Whether a class is a Struct with a tag, by which msgspec knows it among others."""
    cls = get_origin(cls) or cls
    return isinstance(cls, type) and issubclass(cls, msgspec.Struct) and cls.__struct_config__.tag is not None


def _is_object(cls: Any) -> bool:
    """Whether values of a class come from objects in JSON."""
    if not isinstance(cls, type):
        return False
    return dataclasses.is_dataclass(cls) or is_sealed(cls) or is_pydantic(cls) or issubclass(cls, Mapping)


def _defaults(cls: Any) -> dict[str, Any]:
    """Return the defaults of the fields of a class of any kind."""
    if _is_attrs(cls):
        return {field.name: field.default for field in cls.__attrs_attrs__}
    if dataclasses.is_dataclass(cls):
        return {field.name: field.default for field in dataclasses.fields(cls)}
    if issubclass(cls, msgspec.Struct):
        defaults = cls.__struct_defaults__
        return dict(zip(reversed(cls.__struct_fields__), reversed(defaults), strict=False))
    return getattr(cls, "_field_defaults", {})


def _validators(cls: Any) -> Iterator[str]:
    """Yield the names of validators: methods that pydantic calls."""
    for name in dir(cls):
        if "Validator" in type(getattr(inspect.getattr_static(cls, name), "decorator_info", None)).__name__:
            yield name


def _parametrized_bases(cls: Any) -> Iterator[Any]:
    """Yield the generic classes that a class and its bases derive from with a type in place of T."""
    for base in cls.__dict__.get("__orig_bases__", cls.__bases__):
        origin = get_origin(base)
        if has_fields(origin) and get_args(base) != getattr(origin, "__parameters__", get_args(base)):
            yield base
        if isinstance(origin or base, type):
            yield from _parametrized_bases(origin or base)


_NO_EXTRA_ITEMS = frozenset({"NoneType", "NoExtraItems", "NoExtraItemsType", "_NoExtraItemsType"})
"""Names of the class of ``__extra_items__`` in a `TypedDict` without such types, in all versions of typing and
typing_extensions."""


def _is_attrs(cls: Any) -> bool:
    return hasattr(cls, "__attrs_attrs__")


def _is_typed_dict(cls: Any) -> bool:
    return hasattr(cls, "__required_keys__")  # of typing_extensions, too


def _extra_items(cls: Any) -> bool:
    """Whether a `TypedDict` declares the types of further keys (PEP 728)."""
    return type(getattr(cls, "__extra_items__", None)).__name__ not in _NO_EXTRA_ITEMS


def is_alias(tp: Any) -> bool:
    return type(tp).__name__ == "TypeAliasType"  # of typing, from Python 3.12 on, or of typing_extensions


def unaliased(tp: Any) -> Any:
    """Return the type that an alias ``type X[T] = ...`` stands for."""
    alias = get_origin(tp) or tp
    value = alias.__value__
    by_parameter = dict(zip(alias.__type_params__, get_args(tp), strict=False))
    if isinstance(value, TypeVar):
        return by_parameter.get(value, value)
    used = getattr(value, "__parameters__", ()) if get_args(value) else ()
    # In the order of the parameters in the value, which may differ from their order in the alias.
    return value[tuple(by_parameter.get(each, each) for each in used)] if used and by_parameter else value


def _in(owner: str | None) -> str:
    return "" if owner is None else f"{owner}: "


@memoized
def survey_of(tp: Any, hooked: bool) -> Survey:
    """Return the survey of a type. ``hooked``: the user has a ``dec_hook``."""
    survey = Survey(hooked)
    survey.visit(tp)
    return survey
