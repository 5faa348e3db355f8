"""Survey of a type: the facts that decide whether msgspec or pydantic validates it, found in one walk over its parts.

msgspec 0.22 misreads some unions. It keeps the facts of a union in one array, and computes the place of each entry from
the entries before it. In two cases, the functions of msgspec disagree about the order. They then read foreign memory,
which usually ends the process:

- The function that frees a union mistakes a pattern for a type, if a collection follows.
- The items of a tuple of fixed length are written before the constraints of the other members, and read after them.

The array has room for one set of constraints per type. Therefore ``Annotated[int, Meta(ge=1)] | Literal[-1]`` loses its
``Literal``, and if there are two sets of constraints, the last set applies to all values.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID

import msgspec
from msgspec import inspect as mi

from .caching import memoized
from .pydantic_types import has_core_schema, is_of_pydantic_1, is_pydantic

UNIONS = (Union, types.UnionType)

Place = Literal["open", "sealed", "model"]
"""Where a part of a type is: ``"open"``, where both libraries see it; ``"sealed"``, in a class whose fields only
msgspec sees (a Struct or a class of attrs); or ``"model"``, in a pydantic model."""

_LIBRARIES = frozenset({"annotated_types", "pydantic", "pydantic_core"})
_NO_CONSTRAINTS = frozenset({"Unit", "DocInfo"})
"""Metadata of annotated_types that describes values without restricting them."""
_OF_PYDANTIC = frozenset({"Predicate", "Not"})
"""Constraints of annotated_types whose subclasses pydantic also knows."""
_LAZY = frozenset({Iterable, Iterator, Generator})
"""Types whose items pydantic checks only when they are read. The handler already runs then."""
_TEXT = frozenset({str, bytes, bytearray, memoryview, datetime, date, time, timedelta, UUID, Decimal})
"""Types that are text in JSON."""
_ONLY_MSGSPEC: frozenset[Any] = frozenset({bytearray, memoryview, msgspec.Raw, msgspec.msgpack.Ext, msgspec.UnsetType})
_SIZED = frozenset({str, bytes, bytearray, list, tuple, set, frozenset, dict})
_NOT_SIZED = frozenset({int, float, bool, Decimal, datetime, date, time, timedelta, UUID})
_NUMBERS = ("gt", "ge", "lt", "le", "multiple_of")
_LENGTHS = ("min_length", "max_length")

OF_PYDANTIC_1 = "is of pydantic 1, which wsrpc does not support: import it from pydantic 2"
_META_HINT = "use msgspec.Meta(...) or a class that checks itself in __post_init__"


class Survey:
    """Finds out which library can enforce a type, by visiting each part of the type once."""

    def __init__(self, hooked: bool) -> None:
        """
        Args:
            hooked: the user has a ``dec_hook``.
        """
        self._hooked = hooked
        self.refused = ""
        """Why neither library can enforce all that the type says."""
        self.needs_pydantic = ""
        """The first thing found that msgspec cannot enforce and pydantic may."""
        self.instead = ""
        """What the user can write instead of ``needs_pydantic``, without pydantic."""
        self.needs_msgspec = ""
        """The first thing found that pydantic does not know."""
        self.meta = ""
        """The first constraint of msgspec, which pydantic ignores."""
        self.not_for_pydantic = ""
        """Why pydantic must not validate the type, for example because it would ignore a constraint."""
        self.misread = ""
        """What msgspec does wrong with the first union found that it misreads."""
        self.unsent = ""
        """Which attribute msgspec would leave out of values that are sent, and what to do."""
        self._seen: list[tuple[Any, Place]] = []
        self._inside: list[Any] = []
        """The types around the present one."""

    def visit(self, tp: Any, owner: str = "", place: Place = "open") -> None:
        """Visit ``tp``, which belongs to the class or field ``owner``, or is the annotation of a parameter."""
        origin = get_origin(tp)
        if origin is Annotated:
            for each in _expanded(tp.__metadata__):
                self._metadata(each, tp.__origin__, owner, place)
            parts = (tp.__origin__,)
            if any(getattr(each, "discriminator", None) is not None for each in tp.__metadata__):
                parts = _alternatives(tp.__origin__)  # a union in which no member has to be chosen
            for part in parts:
                self.visit(part, owner, place)
        elif isinstance(tp, TypeVar):
            # msgspec ignores all constraints in a bound, even its own. So there always is an owner, for the error.
            for bound in (tp.__bound__, getattr(tp, "__default__", None), *tp.__constraints__):
                self.visit(bound, owner or tp.__name__, place)
        elif origin is not Literal and (tp, place) not in self._seen:
            self._seen.append((tp, place))
            self._inside.append(tp)
            self._part(tp, origin or tp, owner, place)
            self._inside.pop()
        elif place != "model" and origin in UNIONS and tp in self._inside and _needs_exponential_time(tp):
            self._refuse(
                owner,
                f"{tp} is a union of dataclasses that contain the union, and validating that would take twice as long "
                "with each level: give the union a Field(discriminator=...), or make its classes Structs with tags",
            )

    def _part(self, tp: Any, cls: Any, owner: str, place: Place) -> None:
        if (inner := unwrapped(tp)) is not None:
            if cls is not tp and getattr(cls.__value__, "__parameters__", ()) != cls.__type_params__:
                # For ``type X[A, B] = dict[B, A]``, msgspec 0.22 uses the arguments in the wrong order.
                self._require_pydantic(f"{tp}", owner, place)
            self.visit(inner, owner, place)
            return
        if cls in UNIONS and place != "model":
            self._union(tp, owner, place)
        if isinstance(cls, type):
            self._class(cls, owner, place)
        if _has_fields(cls):
            self._fields(tp, cls, "sealed" if _is_sealed(cls) and place == "open" else place)
        else:
            for arg in get_args(tp):
                self.visit(arg, owner, place)

    def _metadata(self, metadata: Any, inner: Any, owner: str, place: Place) -> None:
        if isinstance(metadata, msgspec.Meta):
            if _restricts(metadata) and place == "model":
                self._refuse(owner, f"pydantic ignores {metadata!r}: write Field(...)")
            elif _restricts(metadata) and place == "open":
                self.meta = self.meta or repr(metadata)
            return
        name = type(metadata).__name__ if type(metadata).__module__.partition(".")[0] == "annotated_types" else ""
        if not _is_constraint(metadata) or name in _NO_CONSTRAINTS:
            return
        is_field = _is_pydantic_field(metadata)
        shown = "Field(...)" if is_field else repr(metadata)
        if is_of_pydantic_1(metadata):
            self._refuse(owner, f"Field(...) {OF_PYDANTIC_1}")
        elif name == "Timezone":
            self._refuse(
                owner, f"neither msgspec nor pydantic enforces {shown}: write msgspec.Meta(tz=...) or AwareDatetime"
            )
        elif _is_unknown(metadata):
            self._refuse(owner, f"{shown} is a constraint that neither msgspec nor pydantic knows")
        elif place != "model" and (reason := _cannot_be_met(metadata, inner)):
            self._refuse(owner, f"{shown} cannot be enforced: {reason}")
        elif is_field and not owner and not metadata.is_required():
            self._refuse(owner, f"{shown} has a default, which nothing uses: write it in the signature")
        else:
            self._require_pydantic(shown, owner, place)

    def _require_pydantic(self, what: str, owner: str, place: Place, instead: str = _META_HINT) -> None:
        if place == "sealed":
            fix = "write msgspec.Meta(...) there, or make the class a dataclass or a pydantic model"
            self._refuse(owner, f"msgspec cannot enforce {what}: {fix}")
        elif place == "open" and not self.needs_pydantic:
            self.needs_pydantic, self.instead = f"{_in(owner)}{what}", instead

    def _refuse(self, owner: str, why: str) -> None:
        self.refused = self.refused or f"{_in(owner)}{why}"

    # ---------------------------------------------------------------- unions

    def _union(self, tp: Any, owner: str, place: Place) -> None:
        members = list(_members(tp))
        if problem := _misread(members):
            self.misread = self.misread or f"{_in(owner)}msgspec {problem}"
        classes = [get_origin(each) or each for each, _ in members if each not in (None, types.NoneType)]
        objects = [cls for cls in classes if _is_object(cls)]
        tag = f"give each class of the union a tag, as in class {_first_name(objects)}(msgspec.Struct, tag=True)"
        why = ""
        if len({cls for cls in classes if _is_text(cls)}) > 1:
            why = "unions may not contain more than one str-like type"
        elif len(objects) > 1 and any(map(_is_sealed, objects)):
            if not all(map(_is_tagged, objects)):
                why = f"pydantic does not see the fields of Struct types and attrs classes: {tag}"
        elif Any not in classes and (len(objects) > 1 or (len(classes) > 1 and any(map(_is_custom, classes)))):
            self._require_pydantic(f"{tp}", owner, place, tag)
        if why and Any in classes:  # msgspec accepts any value for such a union
            self.not_for_pydantic = f"{_in(owner)}{tp} cannot be decided: {why}"
        elif why:
            self._refuse(owner, f"{tp} cannot be decided: {why}")

    # ---------------------------------------------------------------- classes

    def _class(self, cls: Any, owner: str, place: Place) -> None:
        if not self._hooked and is_of_pydantic_1(cls):
            self._refuse(owner, f"{cls.__qualname__} {OF_PYDANTIC_1}, or pass a dec_hook= that converts to it")
        elif is_pydantic(cls):
            for name, field in getattr(cls, "model_fields", {}).items():
                hint: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
                self.visit(hint, f"{cls.__qualname__}.{name}", "model")
        elif hasattr(cls, "__pydantic_validator__") or (
            has_core_schema(cls) and not (place == "sealed" and self._hooked)
        ):
            self._require_pydantic(f"{cls.__qualname__}, a class of pydantic", owner, place)
        elif place == "open" and (cls in _ONLY_MSGSPEC or _is_sealed(cls) or (self._hooked and _is_custom(cls))):
            self.needs_msgspec = self.needs_msgspec or cls.__qualname__
        elif place != "model" and cls in _LAZY:
            self._refuse(owner, f"{cls.__qualname__} cannot be enforced before it is read: write list[...]")

    def _fields(self, tp: Any, cls: Any, place: Place) -> None:
        """Visit the fields of a class that is not a model."""
        name = cls.__qualname__
        if place != "model":
            self._settings(cls, place)
        try:
            fields = _fields_of(tp)
        except Exception as exc:  # anything that evaluating an annotation raises
            self._refuse("", f"{name} has a field whose type cannot be resolved: {exc}")
            return
        for field, hint in fields.items():
            if hint.__class__ is dataclasses.InitVar:
                self._require_pydantic("an InitVar", f"{name}.{field}", place)
                hint = hint.type
            if get_origin(hint) is not ClassVar:
                self.visit(hint, f"{name}.{field}", place)

    def _settings(self, cls: Any, place: Place) -> None:
        """Find settings of a class and of its fields that only pydantic supports, or no library."""
        name = cls.__qualname__
        for each in getattr(cls, "__attrs_attrs__", ()):
            if each.name.startswith("_"):  # msgspec takes it for private, in classes of attrs only
                self.unsent = f"{name}.{each.name} would not be sent: rename it, or make the class a dataclass"
                self._refuse("", self.unsent)
            if each.converter is not None:
                self._refuse("", f"{name}.{each.name} has a converter, which is never called: use __attrs_post_init__")
        for field, default in _defaults(cls):
            if _is_pydantic_field(default):
                self._require_pydantic("Field(...)", f"{name}.{field}", place)
        for each in _validators(cls):  # pydantic ignores validators in a NamedTuple
            place_of_methods: Place = "sealed" if hasattr(cls, "_fields") else place
            self._require_pydantic("a validator of pydantic", f"{name}.{each}", place_of_methods)
        if _is_typed_dict(cls) and (getattr(cls, "__closed__", None) or _extra_items(cls)):
            self._require_pydantic(f"{name}, which restricts further keys", "", place)
        if hasattr(cls, "__pydantic_config__"):
            self._require_pydantic("a config of pydantic", name, place)
        for base in _parametrized_bases(cls):
            if _is_typed_dict(cls):
                self._refuse(
                    "", f"{name} derives from {base}, and no library looks into the brackets: write its fields out"
                )
            elif place == "open":
                self.not_for_pydantic = f"{name} derives from {base}, and pydantic ignores what is in the brackets"


@memoized
def survey_of(tp: Any, hooked: bool) -> Survey:
    """Return the survey of a type. ``hooked``: the user has a ``dec_hook``."""
    survey = Survey(hooked)
    survey.visit(tp)
    return survey


def _in(owner: str) -> str:
    return f"{owner}: " if owner else ""


# ---------------------------------------------------------------- metadata


def _restricts(meta: msgspec.Meta) -> bool:
    """Whether ``meta`` restricts values, besides describing them."""
    return _has_limits(meta) or meta.pattern is not None or meta.tz is not None


def _has_limits(meta: msgspec.Meta) -> bool:
    return any(getattr(meta, name) is not None for name in _NUMBERS + _LENGTHS)


def _expanded(metadata: Iterable[Any]) -> Iterator[Any]:
    """Yield the single constraints of metadata. ``Interval(gt=0, lt=5)`` consists of two constraints."""
    for each in metadata:
        if getattr(each, "__is_annotated_types_grouped_metadata__", False) is True:
            yield from _expanded(each)
        else:
            yield each


def _is_constraint(metadata: Any) -> bool:
    """Whether metadata in an `Annotated` is a constraint. PEP 593 allows any other object there, too."""
    if hasattr(metadata, "__get_pydantic_core_schema__"):
        return True
    return any(base.__module__.partition(".")[0] in _LIBRARIES for base in type(metadata).__mro__)


def _is_unknown(metadata: Any) -> bool:
    """Whether metadata is a constraint of the user's own, which pydantic would ignore."""
    if hasattr(metadata, "__get_pydantic_core_schema__"):
        return False
    classes = type(metadata).__mro__
    return classes[0].__module__.partition(".")[0] not in _LIBRARIES and not any(
        cls.__name__ in _OF_PYDANTIC for cls in classes if cls.__module__ == "annotated_types"
    )


def _is_pydantic_field(value: Any) -> bool:
    return type(value).__module__ == "pydantic.fields"


def _cannot_be_met(metadata: Any, tp: Any) -> str:
    """Return why values of a type cannot be compared with a constraint. Return an empty text if they can.

    Without this check, pydantic would raise an exception for each value.
    """
    for each in metadata.metadata if _is_pydantic_field(metadata) else [metadata]:
        for member, _ in _members(tp):
            cls: Any = get_origin(member) or member
            if cls in _NOT_SIZED and getattr(each, "pattern", None) is not None:
                return f"a pattern is for text, not for {cls.__name__}"
            if cls in _NOT_SIZED and any(hasattr(each, name) for name in _LENGTHS):
                return f"{cls.__name__} has no length"
            bounds = [getattr(each, name) for name in _NUMBERS if hasattr(each, name)] if cls in _SIZED else []
            if bounds and bounds[0].__class__ is not cls:
                return f"{cls.__name__} is not comparable with {bounds[0]!r}"
    return ""


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


def _alternatives(union: Any) -> tuple[Any, ...]:
    """Return the members of a union as they are written. ``union`` may also be an alias of a union."""
    inner = unwrapped(union)
    return get_args(union) if inner is None else _alternatives(inner)


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
        return f"cannot decode a union of {pair}: put one of the two into a dataclass"
    for tp, metadata in members:
        if any(map(_restricts, metadata)) and sum(tp in each for each in kinds) > 1:
            return f"applies the bounds of one {tp.__name__} in a union to every {tp.__name__}: write one of them"
    return ""


def _kinds(tp: Any) -> list[Any]:
    """Return the kind of a member for msgspec: its class, "fixed", "collection", or the classes of its values."""
    if get_origin(tp) is Literal:
        return [each.__class__ for each in get_args(tp)]
    cls = get_origin(tp) or tp
    if cls is tuple and tp not in (tuple, typing.Tuple) and get_args(tp)[-1:] != (Ellipsis,):  # noqa: UP006
        return ["fixed"]
    if _derives(cls, Collection) and cls not in _TEXT and not _has_fields(cls):
        return ["collection"]
    return [cls]


def _needs_exponential_time(union: Any) -> bool:
    """Whether pydantic tries several classes on each level of a recursive union, down to the last level.

    A few hundred bytes could then block the event loop for seconds. (Models with such unions are accepted: the author
    of a model has decided to use pydantic.)
    """
    classes = [get_origin(tp) or tp for tp, _ in _members(union)]
    fieldwise = any(dataclasses.is_dataclass(cls) or _is_typed_dict(cls) for cls in classes)
    return fieldwise and Any not in classes and sum(map(_is_object, classes)) > 1


def _is_text(cls: Any) -> bool:
    if not _derives(cls, enum.Enum):
        return cls in _TEXT
    members: list[enum.Enum] = list(cls)
    return all(isinstance(member.value, str) for member in members)


def _is_object(cls: Any) -> bool:
    """Whether values of a class come from objects in JSON."""
    if _is_struct(cls):
        return not cls.__struct_config__.array_like
    return _is_sealed(cls) or dataclasses.is_dataclass(cls) or is_pydantic(cls) or _derives(cls, Mapping)


def _first_name(classes: list[Any]) -> str:
    return next((cls.__name__ for cls in classes if _has_fields(cls)), "Cat")


# ---------------------------------------------------------------- classes


def _is_custom(cls: Any) -> bool:
    """Whether msgspec leaves the class to the hook."""
    # msgspec visits the fields of a class only after it has checked the unions.
    if cls in _ONLY_MSGSPEC or _has_fields(cls):
        return False
    try:
        return isinstance(mi.type_info(cls), mi.CustomType)
    except Exception:  # msgspec raises it again when it converts to the class
        return False


def _has_fields(cls: Any) -> bool:
    return dataclasses.is_dataclass(cls) or _is_sealed(cls) or _is_typed_dict(cls) or hasattr(cls, "_fields")


def _is_sealed(cls: Any) -> bool:
    """Whether pydantic does not see the fields of a class."""
    return _is_struct(cls) or hasattr(cls, "__attrs_attrs__")


def _is_struct(cls: Any) -> bool:
    return _derives(cls, msgspec.Struct)


def _derives(cls: Any, base: type) -> bool:
    return isinstance(cls, type) and issubclass(cls, base)


def _is_tagged(cls: Any) -> bool:
    """Whether a class is a Struct with a tag, by which msgspec distinguishes it from other classes."""
    cls = get_origin(cls) or cls
    return _is_struct(cls) and cls.__struct_config__.tag is not None


def _is_typed_dict(cls: Any) -> bool:
    return hasattr(cls, "__required_keys__")  # of typing_extensions, too


_NO_EXTRA_ITEMS = frozenset({"NoneType", "NoExtraItems", "NoExtraItemsType", "_NoExtraItemsType"})
"""Names of the class that ``__extra_items__`` has in a `TypedDict` without extra items, in all versions of
typing_extensions. From Python 3.15 on, ``NoExtraItems`` is a sentinel of typing, and all sentinels have one class."""


def _extra_items(cls: Any) -> bool:
    """Whether a `TypedDict` declares the types of further keys (PEP 728)."""
    return _NO_EXTRA_ITEMS.isdisjoint((type(given := getattr(cls, "__extra_items__", None)).__name__, str(given)))


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


def _defaults(cls: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields with defaults of a class of any kind."""
    for field in getattr(cls, "__attrs_attrs__", getattr(cls, "__dataclass_fields__", {}).values()):
        yield field.name, field.default
    if defaults := getattr(cls, "__struct_defaults__", ()):
        yield from zip(cls.__struct_fields__[-len(defaults) :], defaults, strict=True)
    yield from getattr(cls, "_field_defaults", {}).items()


def _validators(cls: Any) -> Iterator[str]:
    """Yield the names of validators: methods that pydantic calls."""
    for name in dir(cls):
        if "Validator" in type(getattr(inspect.getattr_static(cls, name), "decorator_info", None)).__name__:
            yield name


def _parametrized_bases(cls: Any) -> Iterator[Any]:
    """Yield the generic classes, with their type arguments, from which a class and its bases derive."""
    for base in cls.__dict__.get("__orig_bases__", cls.__bases__):
        origin = get_origin(base)
        if _has_fields(origin) and get_args(base) != getattr(origin, "__parameters__", get_args(base)):
            yield base
        if isinstance(origin or base, type):
            yield from _parametrized_bases(origin or base)
