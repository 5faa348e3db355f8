"""Choice of the library that validates a type, made once, when a handler is registered.

msgspec validates a type if it enforces all that the type says. Otherwise pydantic does, if it is installed. A type that
neither of them can enforce is refused. Nothing is ignored silently.

Two things are unknown to msgspec: constraints of annotated_types or pydantic, and classes of pydantic that are not
models. A constraint of annotated_types that msgspec also has becomes a `msgspec.Meta`. Unions that msgspec cannot
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
    is_constraint,
    is_sealed,
    is_tagged,
    restricts,
    survey_of,
    unaliased,
)
from .unions import misread_union

__all__ = ["PART", "Checked", "wire_type"]

PART = "x-part"
"""Marks a part that msgspec describes in a JSON Schema that pydantic makes. The value is a key of `Checked.parts`."""

_numbers = itertools.count()


class Checked(type):
    """Metaclass of the classes that stand for types that pydantic validates.

    Such a class takes the place of the type in annotations that msgspec reads. It is never instantiated: msgspec passes
    it to the ``dec_hook``, which calls `validate`.
    """

    annotation: Any
    """The type itself."""
    translated: Any
    """The type as pydantic reads it."""
    parts: dict[str, Any]
    """The parts of the type that msgspec validates, by key."""
    validate: Callable[[Any], Any]
    """Returns an instance of the type, or raises `ValueError` with one line of text."""

    def __instancecheck__(cls, instance: object, /) -> bool:
        return True  # msgspec asks for this after it has called the hook


# ---------------------------------------------------------------- the type that msgspec converts to


def wire_type(tp: Any, convert: Callable[[Any], Callable[[Any], Any]], *, hooked: bool, lax: bool) -> Any:
    """Return the type that msgspec converts to in place of ``tp``: itself, one with `msgspec.Meta`, or a `Checked`.

    Args:
        convert: makes the function that converts a value to a type that msgspec validates.
        hooked: the user has a ``dec_hook``.
        lax: use pydantic's lax rules instead of its strict ones. Models keep those of their own config.

    Raises:
        TypeError: no library enforces all that ``tp`` says; the text says which part and what to do.
    """
    survey = survey_of(tp, hooked)
    if survey.refused is not None:
        raise TypeError(survey.refused)
    reason = survey.needs_pydantic
    if reason is None:
        try:
            candidate = _with_meta(tp) if survey.needs_meta else tp
            problem = misread_union(candidate)
            if not problem:
                msgspec.json.Decoder(candidate)
        except NameError:
            return tp  # the caller reports names that cannot be resolved
        except KeyError as exc:  # msgspec, of a class of attrs
            raise TypeError(f"{_name(tp)}: field {exc} has no annotation: write {exc.args[0]}: Any") from exc
        except (TypeError, NotImplementedError, RecursionError, AssertionError) as exc:
            reason = str(exc) or f"{_name(tp)}: msgspec refuses it"  # a class that derives from Protocol[T]
            if not survey.needs_meta and not _is_union_of_classes(reason):
                raise TypeError(f"{reason}{_tagged_form(tp, reason)}") from exc
        except ValueError as exc:  # raised by Meta itself, for gt= and ge= at once for instance
            reason = str(exc)
        else:
            if problem:
                raise TypeError(problem)
            return candidate
    if survey.not_for_pydantic is not None:
        raise TypeError(f"{survey.not_for_pydantic}{_tagged_form(tp, survey.not_for_pydantic)}")
    return _checked(tp, reason, convert, hooked, lax)


def _rebuilt(tp: Any, change: Callable[[Any], Any]) -> Any:
    """Return a generic type with changed arguments; the same object if nothing changes."""
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
        return Union[new]  # noqa: UP007 - the types are known only at run time
    if isinstance(tp, types.GenericAlias):
        return types.GenericAlias(origin, new)
    return tp.copy_with(new)


def _with_meta(tp: Any, which: frozenset[str] = frozenset(META_FIELDS)) -> Any:
    """Return a type with `msgspec.Meta` in place of the constraints of annotated_types that are named in ``which``.

    Raises:
        ValueError: one kind of constraint is given twice, or `msgspec.Meta` does not take them together.
    """
    if get_origin(tp) is not Annotated:
        if not survey_of(tp, False).needs_meta:
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
        """Drop the function, and so the user's hook: `typing` caches types with the metadata in them."""
        self._convert = _as_it_is

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        return {PART: self._key}


class _Translation:
    """Translates a type for pydantic: parts that only msgspec knows become a `_Part`."""

    def __init__(self, convert: Callable[[Any], Callable[[Any], Any]], hooked: bool, reason: str) -> None:
        self._convert = convert
        self._hooked = hooked
        self._reason = reason
        self.parts: dict[str, Any] = {}
        self.markers: list[_Part] = []

    def translate(self, part: Any) -> Any:
        survey = survey_of(part, self._hooked)
        if survey.needs_msgspec is None:
            return part
        if survey.needs_pydantic is None and not survey.needs_meta and _msgspec_takes(part):
            return self._marked(part)
        changed = self._inside(part)
        if changed is part:
            raise TypeError(
                f"{_name(part)} has something that only msgspec enforces ({survey.needs_msgspec}) and something that "
                f"only pydantic enforces ({survey.needs_pydantic or self._reason}): write both for one of them"
            )
        return changed

    def _marked(self, part: Any) -> Any:
        key = str(next(_numbers))
        self.parts[key] = part
        self.markers.append(_Part(key, self._convert(part)))
        return Annotated[Any, self.markers[-1]]

    def _inside(self, part: Any) -> Any:
        if get_origin(part) is Annotated:
            inner, *metadata = get_args(part)
            own = [each for each in metadata if isinstance(each, msgspec.Meta) and restricts(each)]
            others = [each for each in metadata if not isinstance(each, msgspec.Meta)]
            if own and not others:
                return part
            inner = self.translate(Annotated[(inner, *own)] if own else inner)
            return Annotated[(inner, *others)] if others else inner
        if len(tagged := [arg for arg in get_args(part) if is_tagged(arg)]) in range(2, len(get_args(part))):
            # Together, because a Struct alone needs no tag.
            others = [arg for arg in get_args(part) if not is_tagged(arg)]
            return Union[(self.translate(Union[tuple(tagged)]), *map(self.translate, others))]  # noqa: UP007
        return _rebuilt(part, self.translate)


def _checked(tp: Any, reason: str, convert: Callable[[Any], Callable[[Any], Any]], hooked: bool, lax: bool) -> Checked:
    """Make the class for a type that pydantic validates, for the ``reason`` why msgspec does not."""
    if importlib.util.find_spec("pydantic") is None:
        if form := _tagged_form(tp, reason):
            raise TypeError(f"{reason}{form}, or install pydantic")
        raise TypeError(
            f"msgspec cannot enforce {reason}: use msgspec.Meta(...) or a class that checks itself in __post_init__, "
            "or install pydantic"
        )
    translation = _Translation(convert, hooked, reason)
    try:
        changed = translation.translate(_with_meta(tp, frozenset({"Timezone"})))  # pydantic ignores Timezone
    except RecursionError as exc:
        raise TypeError(f"{_name(tp)} contains itself: write Field(...) in place of annotated_types there") from exc
    validate = _pydantic_validator(tp, changed, reason, hooked, lax)
    for marker in translation.markers:
        marker.forget()

    def validated(value: Any) -> Any:
        try:
            return validate(value)
        except ValueError as exc:
            raise ValueError(summary(exc, skip=1)) from exc

    members = {
        "annotation": tp,
        "translated": changed,
        "parts": translation.parts,
        "validate": staticmethod(validated),
        "__module__": "builtins",
        "__qualname__": _name(tp),
    }
    return Checked(_name(tp), (), members)


def _pydantic_validator(tp: Any, changed: Any, reason: str, hooked: bool, lax: bool) -> Callable[[Any], Any]:
    try:
        return type_validator(changed, strict=not lax)
    except TakesTooLong as exc:
        raise TypeError(f"{_name(tp)}: {exc}") from None
    except Exception as exc:  # anything that pydantic raises for a type that it refuses
        if survey_of(tp, hooked).needs_pydantic is None:  # a union
            raise TypeError(f"{reason}{_tagged_form(tp, reason)}") from exc
        why = one_line(" ".join(str(exc).split()), 300)
        raise TypeError(f"msgspec cannot enforce {reason}, and pydantic refuses the type: {why}") from exc


def _msgspec_takes(tp: Any) -> bool:
    if misread_union(tp):
        return False
    try:
        msgspec.json.Decoder(tp)
    except (TypeError, NameError):
        return False
    return True


def _name(tp: Any) -> str:
    return tp.__qualname__ if isinstance(tp, type) and not get_args(tp) else str(tp)


_CLASSES = ("dict-like", "dataclass or attrs", "TypedDict")
"""Words in msgspec's errors for the kinds of classes of which a union may have only one."""


def _is_union_of_classes(problem: str) -> bool:
    """Whether msgspec's ``problem`` is a union that pydantic can decide.

    pydantic can decide between classes, by their fields. (For classes that it cannot compare, see `Survey`.)
    """
    return any(kind in problem for kind in ("custom type", *_CLASSES))


def _members(tp: Any) -> Iterator[Any]:
    """Yield the members of all unions in a type, as far as they are written there."""
    for arg in get_args(tp):
        if get_origin(tp) in (Union, types.UnionType):
            yield arg
        yield from _members(arg)


def _tagged_form(tp: Any, problem: str) -> str:
    """Say what to write in place of a union of classes that cannot be decided; "" for any other problem."""
    if not any(kind in problem for kind in (*_CLASSES, "Struct types")):
        return ""
    classes: list[Any] = [get_origin(each) or each for each in _members(tp)]
    names: list[str] = [
        getattr(cls, "__name__", "Cat") for cls in classes if dataclasses.is_dataclass(cls) or is_sealed(cls)
    ]
    return f": give each class of the union a tag, as in class {(*names, 'Cat')[0]}(msgspec.Struct, tag=True)"
