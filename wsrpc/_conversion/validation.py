"""Which library validates a type. This is decided once, when a handler is registered.

msgspec validates a type if it enforces all that the type says. Otherwise pydantic does, if it is installed. A type that
neither of them can enforce is refused. Nothing is ignored silently.

Two things are foreign to msgspec: constraints of annotated_types or pydantic, and classes of pydantic's that are not
models. A constraint of annotated_types that msgspec has, too, becomes a `msgspec.Meta`. Unions that msgspec cannot
decide go to pydantic as well. pydantic then validates the whole type, except for the parts that only msgspec knows.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import operator
import types
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from ..errors import one_line
from .pydantic_types import TakesTooLong, summary, type_validator
from .survey import (
    META_FIELDS,
    expanded,
    is_alias,
    is_attrs,
    is_constraint,
    is_tagged,
    restricts,
    survey_of,
    unaliased,
)

__all__ = ["PART", "Checked", "wire_type"]

PART = "x-part"
"""Marks, in a JSON Schema that pydantic makes, a part that msgspec describes: the value is a key of `Checked.parts`."""

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
    survey = survey_of(tp, hooked)
    if survey.stuck is not None:
        raise TypeError(survey.stuck)
    reason = survey.foreign
    if reason is None:
        try:
            candidate = _with_meta(tp) if survey.has_simple else tp
            msgspec.json.Decoder(candidate)
        except NameError:
            return tp  # what cannot be resolved is reported by the caller
        except (TypeError, NotImplementedError, RecursionError, AssertionError) as exc:
            reason = str(exc) or f"{_name(tp)}: msgspec does not take it"  # a class that derives from Protocol[T]
            if not survey.has_simple and not _is_union_of_classes(reason):
                raise TypeError(f"{reason}{_tagged_form(tp, reason)}") from exc
        except ValueError as exc:  # of Meta itself: gt= and ge= at once, say
            reason = str(exc)
        else:
            return candidate
    if survey.beyond_pydantic is not None:
        raise TypeError(f"{survey.beyond_pydantic}{_tagged_form(tp, survey.beyond_pydantic)}")
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


def _with_meta(tp: Any, which: frozenset[str] = frozenset(META_FIELDS)) -> Any:
    """A type with `msgspec.Meta` in place of constraints of annotated_types, of those named in ``which``.

    Raises:
        ValueError: one kind of constraint is given twice, or `msgspec.Meta` does not take them together.
    """
    if get_origin(tp) is not Annotated:
        if not survey_of(tp, hooked=False).has_simple:
            return tp
        if is_alias(get_origin(tp) or tp):
            return _with_meta(unaliased(tp), which)
        if not isinstance(tp, type) and hasattr(tp, "__supertype__"):
            return _with_meta(tp.__supertype__, which)
        return _rebuilt(tp, lambda part: _with_meta(part, which))
    inner, *metadata = get_args(tp)
    fields: dict[str, Any] = {}
    others: list[Any] = []
    for each in expanded(metadata):
        attribute, field = META_FIELDS.get(type(each).__name__, ("", ""))
        if not field or type(each).__name__ not in which or not is_constraint(each):
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


def _as_it_is(value: Any) -> Any:
    return value


class _Part:
    """Metadata that makes pydantic leave a part of a type to msgspec."""

    def __init__(self, key: str, convert: Callable[[Any], Any]) -> None:
        self._key = key
        self._convert = convert

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        convert = self._convert

        def validate(value: Any) -> Any:
            try:
                return convert(value)
            except msgspec.ValidationError as exc:
                raise ValueError(str(exc)) from exc

        return core_schema.no_info_plain_validator_function(validate)

    def forget(self) -> None:
        """Let go of the function, and so of the user's hook: `typing` remembers types, and the metadata in them."""
        self._convert = _as_it_is

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
    markers: list[_Part] = []

    def translated(part: Any) -> Any:
        survey = survey_of(part, hooked)
        if survey.only_msgspec is None:
            return part
        if survey.foreign is None and not survey.has_simple and _msgspec_takes(part):
            key = str(next(_numbers))
            parts[key] = part
            markers.append(_Part(key, convert(part)))
            return Annotated[Any, markers[-1]]
        if get_origin(part) is Annotated:
            inner, *metadata = get_args(part)
            own = [each for each in metadata if isinstance(each, msgspec.Meta) and restricts(each)]
            others = [each for each in metadata if not isinstance(each, msgspec.Meta)]
            if others or not own:
                inner = translated(Annotated[(inner, *own)] if own else inner)
                return Annotated[(inner, *others)] if others else inner
            changed = part
        elif len(tagged := [arg for arg in get_args(part) if is_tagged(arg)]) in range(2, len(get_args(part))):
            # Together, because a Struct alone needs no tag.
            others = [arg for arg in get_args(part) if not is_tagged(arg)]
            return Union[(translated(Union[tuple(tagged)]), *map(translated, others))]  # noqa: UP007
        else:
            changed = _rebuilt(part, translated)
        if changed is part:
            raise TypeError(
                f"{_name(part)} has what only msgspec enforces ({survey.only_msgspec}) and what only pydantic does "
                f"({survey.foreign or reason}): write both for one of them"
            )
        return changed

    try:
        changed = translated(_with_meta(tp, frozenset({"Timezone"})))  # which pydantic ignores
    except RecursionError as exc:
        raise TypeError(f"{_name(tp)} holds itself: write Field(...) in place of annotated_types there") from exc
    try:
        validate = type_validator(changed, strict=not lax)
    except TakesTooLong as exc:
        raise TypeError(f"{_name(tp)}: {exc}") from None
    except Exception as exc:  # whatever pydantic raises for what it does not take
        if survey_of(tp, hooked).foreign is None:  # a union
            raise TypeError(f"{reason}{_tagged_form(tp, reason)}") from exc
        why = one_line(" ".join(str(exc).split()), 300)
        raise TypeError(f"msgspec cannot enforce {reason}, and pydantic does not take the type: {why}") from exc

    for marker in markers:
        marker.forget()

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


def _is_union_of_classes(problem: str) -> bool:
    """Whether it is for pydantic to decide a union that msgspec cannot, which said so in ``problem``.

    That is so for classes: pydantic compares their fields. (For those that it cannot compare, see `survey_of`.)
    """
    return any(kind in problem for kind in ("custom type", *_CLASSES))


def _members(tp: Any) -> Iterator[Any]:
    """The members of all unions in a type, as far as they are written there."""
    for arg in get_args(tp):
        if get_origin(tp) in (Union, types.UnionType):
            yield arg
        yield from _members(arg)


def _untagged(tp: Any) -> bool:
    cls: Any = get_origin(tp) or tp
    return isinstance(cls, type) and (issubclass(cls, msgspec.Struct) or is_attrs(cls))


def _tagged_form(tp: Any, problem: str) -> str:
    """What to write in place of a union of classes that cannot be decided; "" for any other problem."""
    if not any(kind in problem for kind in (*_CLASSES, "Struct types")):
        return ""
    classes: list[Any] = [get_origin(each) or each for each in _members(tp)]
    names: list[str] = [
        getattr(cls, "__name__", "Cat") for cls in classes if dataclasses.is_dataclass(cls) or _untagged(cls)
    ]
    return f": give each class of the union a tag, as in class {(*names, 'Cat')[0]}(msgspec.Struct, tag=True)"
