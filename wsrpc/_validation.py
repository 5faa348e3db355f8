"""Which library validates a type. This is decided once, when a handler is registered.

msgspec validates a type if it enforces all that the type says. Otherwise pydantic does, if it is installed. A type that
neither of them can enforce is refused. Nothing is ignored silently.

Two things are foreign to msgspec: constraints of annotated_types or pydantic, and classes of pydantic's that are not
models. A constraint of annotated_types that msgspec has, too, becomes a `msgspec.Meta`. Unions that msgspec cannot
decide go to pydantic as well. pydantic then validates the whole type, except for the parts that only msgspec knows.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
import operator
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID

import msgspec
from msgspec import inspect as mi

from ._pydantic import has_core_schema, is_pydantic, summary, type_validator

__all__ = ["PART", "Checked", "wire_type"]

PART = "x-part"
"""Marks, in a JSON Schema that pydantic makes, a part that msgspec describes: the value is a key of `Checked.parts`."""

_LIBRARIES = frozenset({"annotated_types", "pydantic", "pydantic_core"})
_NO_CONSTRAINTS = frozenset({"Unit", "DocInfo"})
"""Metadata of annotated_types that describes values and does not restrict them."""
_META_FIELDS: dict[str, tuple[str, str]] = {
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

_numbers = itertools.count()


class Checked(type):
    """A class that stands for a type that pydantic validates, where msgspec meets it.

    Such a class is never instantiated. msgspec passes it to the ``dec_hook``, which calls `validate`.
    """

    annotation: Any
    """The type itself."""
    translated: Any
    """The type as pydantic reads it."""
    parts: dict[str, Any]
    """The types inside that msgspec validates."""
    validate: Callable[[Any], Any]
    """Makes an instance of the type. Raises `ValueError` with one line of text."""

    def __instancecheck__(cls, instance: object, /) -> bool:
        return True  # msgspec asks for this after it has called the hook


# ---------------------------------------------------------------- what a type says


def _is_constraint(metadata: Any) -> bool:
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
        bound: Any = getattr(metadata, _META_FIELDS[name][0])
        if bound.__class__ != cls:
            return f"{cls.__name__} is not comparable with {bound!r}"
    return ""


def _expanded(metadata: Iterable[Any]) -> Iterator[Any]:
    """The single constraints: ``Interval(gt=0, lt=5)`` is two."""
    for each in metadata:
        if getattr(each, "__is_annotated_types_grouped_metadata__", False) is True:
            yield from _expanded(each)
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
            for each in _expanded(metadata):
                self._metadata(each, inner, owner, sealed)
            self.look(inner, owner, sealed=sealed)
        elif isinstance(tp, TypeVar):
            for bound in (tp.__bound__, *tp.__constraints__):
                self.look(bound, owner, sealed=sealed)
        elif origin is Literal:
            pass
        elif not isinstance(tp, type) and hasattr(tp, "__supertype__"):  # NewType
            self.look(tp.__supertype__, owner, sealed=sealed)
        elif _is_alias(origin or tp):
            if self._is_new(tp, sealed):
                self.look(_unaliased(tp), owner, sealed=sealed)
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
        elif _is_constraint(metadata):
            name = type(metadata).__name__ if _is_of_annotated_types(metadata) else ""
            shown = _shown(metadata)
            if name in _NO_CONSTRAINTS:
                return
            if reason := _cannot_be_met(metadata, inner):
                self._stuck(f"{_in(owner)}{shown} cannot be enforced: {reason}")
            elif owner is None and _is_pydantic_field(metadata) and not metadata.is_required():
                self._stuck(f"{shown} has a default, which nothing uses: write it in the signature")
            elif name in _META_FIELDS and owner is None:
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
        is_struct, is_attrs = issubclass(cls, msgspec.Struct), _is_attrs(cls)
        if hasattr(cls, "__pydantic_validator__") or (has_core_schema(cls) and not (sealed and self.hooked)):
            self._foreign(f"{cls.__qualname__}, a class of pydantic's", owner, sealed)
        elif (
            cls in _ONLY_MSGSPEC
            or is_struct
            or is_attrs
            or (self.hooked and not sealed and isinstance(mi.type_info(cls), mi.CustomType))
        ):
            self.only_msgspec = self.only_msgspec or cls.__qualname__
        inside = sealed or is_struct or is_attrs
        if is_attrs:
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


def _is_attrs(cls: Any) -> bool:
    return hasattr(cls, "__attrs_attrs__")


def _is_typed_dict(cls: Any) -> bool:
    return hasattr(cls, "__required_keys__")  # of typing_extensions, too


def _extra_items(cls: Any) -> bool:
    """Whether a `TypedDict` says which types further keys have (PEP 728)."""
    return type(getattr(cls, "__extra_items__", None)).__name__ not in {"NoneType", "_NoExtraItemsType", "NoExtraItems"}


def _is_alias(tp: Any) -> bool:
    return type(tp).__name__ == "TypeAliasType"  # of typing, from Python 3.12 on, or of typing_extensions


def _unaliased(tp: Any) -> Any:
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


def _look(tp: Any, hooked: bool) -> _Survey:
    try:
        hash(tp)
    except TypeError:  # Annotated[int, []], say
        return _survey.__wrapped__(tp, hooked)
    return _survey(tp, hooked)


# ---------------------------------------------------------------- the type that msgspec converts to


def wire_type(tp: Any, convert: Callable[[Any], Callable[[Any], Any]], *, hooked: bool, lax: bool) -> Any:
    """The type that msgspec converts to in place of ``tp``: itself, one with `msgspec.Meta`, or a `Checked`.

    Args:
        convert: makes the function that converts a value to a type that msgspec validates.
        hooked: whether the user has a ``dec_hook``.
        lax: pydantic's lax rules instead of its strict ones. Models keep those of their own config.

    Raises:
        TypeError: no library enforces all that ``tp`` says. The text says what, and what to do.
    """
    survey = _look(tp, hooked)
    if survey.stuck is not None:
        raise TypeError(survey.stuck)
    reason = survey.foreign
    if reason is None:
        try:
            candidate = _with_meta(tp) if survey.has_simple else tp
            msgspec.json.Decoder(candidate)
        except NameError:
            return tp  # what cannot be resolved is reported by the caller
        except TypeError as exc:
            if not survey.has_simple and not _is_union_of_classes(tp, str(exc)):
                raise TypeError(f"{exc}{_tagged_form(tp, str(exc))}") from exc
            reason = str(exc)
        except ValueError as exc:  # of Meta itself: gt= and ge= at once, say
            reason = str(exc)
        else:
            return candidate
    return _checked(tp, reason, convert, hooked, lax)


def _rebuilt(tp: Any, change: Callable[[Any], Any]) -> Any:
    """A generic type with changed arguments; the same object if nothing changes."""
    origin, args = get_origin(tp), get_args(tp)
    if not args or origin is Literal:
        return tp
    if origin is Annotated:
        inner = change(args[0])
        return tp if inner is args[0] else Annotated[(inner, *args[1:])]
    new = tuple(arg if arg is Ellipsis else change(arg) for arg in args)
    if all(map(operator.is_, new, args)):
        return tp
    if origin in (Union, types.UnionType):
        return Union[new]  # noqa: UP007 - of types that are known only now
    if isinstance(tp, types.GenericAlias):
        return types.GenericAlias(origin, new)
    return tp.copy_with(new)


def _with_meta(tp: Any, which: frozenset[str] = frozenset(_META_FIELDS)) -> Any:
    """A type with `msgspec.Meta` in place of constraints of annotated_types, of those named in ``which``.

    Raises:
        ValueError: one kind of constraint is given twice, or `msgspec.Meta` does not take them together.
    """
    if get_origin(tp) is not Annotated:
        if not _look(tp, hooked=False).has_simple:
            return tp
        if _is_alias(get_origin(tp) or tp):
            return _with_meta(_unaliased(tp), which)
        if not isinstance(tp, type) and hasattr(tp, "__supertype__"):
            return _with_meta(tp.__supertype__, which)
        return _rebuilt(tp, lambda part: _with_meta(part, which))
    inner, *metadata = get_args(tp)
    fields: dict[str, Any] = {}
    others: list[Any] = []
    for each in _expanded(metadata):
        attribute, field = _META_FIELDS.get(type(each).__name__, ("", ""))
        if not field or type(each).__name__ not in which or not _is_constraint(each):
            others.append(each)
        elif field in fields:
            raise ValueError(f"{field} is given twice")
        elif field == "tz":
            fields[field] = each.tz is not None
        elif (bound := getattr(each, attribute)) is not None:  # Len(3) has no upper bound
            fields[field] = bound
    inner = _with_meta(inner, which)
    if fields:
        return Annotated[(inner, *others, msgspec.Meta(**fields))]
    return Annotated[(inner, *others)] if others else inner


# ---------------------------------------------------------------- pydantic


class _Part:
    """Metadata that makes pydantic leave a part of a type to msgspec."""

    def __init__(self, key: str, convert: Callable[[Any], Any]) -> None:
        self._key = key
        self._convert = convert

    def _validate(self, value: Any) -> Any:
        try:
            return self._convert(value)
        except msgspec.ValidationError as exc:
            raise ValueError(str(exc)) from exc

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        return {PART: self._key}


def _checked(tp: Any, reason: str, convert: Callable[[Any], Callable[[Any], Any]], hooked: bool, lax: bool) -> Checked:
    if importlib.util.find_spec("pydantic") is None:
        if form := _tagged_form(tp, reason):
            raise TypeError(f"{reason}{form}, or install pydantic")
        raise TypeError(
            f"msgspec cannot enforce {reason}: use msgspec.Meta(...) or a class that checks itself in __post_init__, "
            "or install pydantic"
        )
    parts: dict[str, Any] = {}

    def translated(part: Any) -> Any:
        survey = _look(part, hooked)
        if survey.only_msgspec is None:
            return part
        if survey.foreign is None and not survey.has_simple and _msgspec_takes(part):
            key = str(next(_numbers))
            parts[key] = part
            return Annotated[Any, _Part(key, convert(part))]
        if get_origin(part) is Annotated:
            inner, *metadata = get_args(part)
            own = [each for each in metadata if isinstance(each, msgspec.Meta)]
            others = [each for each in metadata if not isinstance(each, msgspec.Meta)]
            if own:
                inner = Annotated[(inner, *own)]
            return Annotated[(translated(inner), *others)] if others else translated(inner)
        changed = _rebuilt(part, translated)
        if changed is part:
            raise TypeError(
                f"{_name(part)} has what only msgspec enforces ({survey.only_msgspec}) and what only pydantic does "
                f"({survey.foreign or reason}): write both for one of them"
            )
        return changed

    changed = translated(_with_meta(tp, frozenset({"Timezone"})))  # which pydantic ignores
    try:
        validate = type_validator(changed, strict=not lax)
    except Exception as exc:  # whatever pydantic raises for what it does not take
        if _look(tp, hooked).foreign is None:  # a union
            raise TypeError(f"{reason}{_tagged_form(tp, reason)}") from exc
        why = str(exc).partition("\n")[0]
        raise TypeError(f"msgspec cannot enforce {reason}, and pydantic does not take the type: {why}") from exc

    def validated(value: Any) -> Any:
        try:
            return validate(value)
        except ValueError as exc:
            raise ValueError(summary(exc, skip=1)) from exc

    members = {
        "annotation": tp,
        "translated": changed,
        "parts": parts,
        "validate": staticmethod(validated),
        "__module__": "builtins",
        "__qualname__": _name(tp),
    }
    return Checked(_name(tp), (), members)


def _msgspec_takes(tp: Any) -> bool:
    try:
        msgspec.json.Decoder(tp)
    except (TypeError, NameError):
        return False
    return True


def _name(tp: Any) -> str:
    return tp.__qualname__ if isinstance(tp, type) and not get_args(tp) else str(tp)


_CLASSES = ("dict-like", "dataclass or attrs", "TypedDict")
"""How msgspec calls the classes of which a union may have only one."""


def _is_union_of_classes(tp: Any, problem: str) -> bool:
    """Whether pydantic can decide a union that msgspec cannot, which said so in ``problem``.

    That is so for classes: pydantic compares their fields. Of several types that are text in JSON, ``str | datetime``
    for instance, pydantic would always take one, so these stay refused, as do Structs without a tag.
    """
    if "custom type" in problem:
        return True
    return any(kind in problem for kind in _CLASSES) and not any(map(_untagged, _members(tp)))


def _members(tp: Any) -> Iterator[Any]:
    """The members of all unions in a type, as far as they are written there."""
    for arg in get_args(tp):
        if get_origin(tp) in (Union, types.UnionType):
            yield arg
        yield from _members(arg)


def _untagged(tp: Any) -> bool:
    cls: Any = get_origin(tp) or tp
    return isinstance(cls, type) and (issubclass(cls, msgspec.Struct) or _is_attrs(cls))


def _tagged_form(tp: Any, problem: str) -> str:
    """What to write in place of a union of classes that cannot be decided; "" for any other problem."""
    if not any(kind in problem for kind in (*_CLASSES, "Struct types")):
        return ""
    classes: list[Any] = [get_origin(each) or each for each in _members(tp)]
    names: list[str] = [
        getattr(cls, "__name__", "Cat") for cls in classes if dataclasses.is_dataclass(cls) or _untagged(cls)
    ]
    return f": give each class of the union a tag, as in class {(*names, 'Cat')[0]}(msgspec.Struct, tag=True)"
