"""Choice of the library that validates a type, made once, when a handler is registered.

pydantic validates a type if it holds something of pydantic or a constraint of annotated_types, or a union that only
pydantic can decide. msgspec validates every other type. A type that neither can enforce is refused. Nothing is ignored
silently.

Inside a type that pydantic validates, msgspec converts the parts that only msgspec knows. Inside a type that msgspec
validates, pydantic converts the models.
"""

from __future__ import annotations

import importlib.util
import itertools
import operator
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from ..errors import one_line
from .pydantic_types import type_validator
from .survey import UNIONS, is_tagged, survey_of

PART = "x-part"
"""Marks a part that msgspec describes in a JSON Schema that pydantic makes. The value is a key of `Checked.parts`."""

_numbers = itertools.count()

Convert = Callable[[Any], Callable[[Any], Any]]
"""Makes the function that converts a value to a type that msgspec validates."""


class Checked(type):
    """Metaclass of the classes that stand for types that pydantic validates.

    Such a class takes the place of the type in annotations that msgspec reads. It is never instantiated: msgspec passes
    it to the ``dec_hook``, which calls `validate`.
    """

    translated: Any
    """The type as pydantic reads it."""
    parts: dict[str, Any]
    """The parts of the type that msgspec validates, by key."""
    validate: Callable[[Any], Any]
    """Returns an instance of the type, or raises `ValueError` with one line of text."""

    def __instancecheck__(cls, instance: object, /) -> bool:
        return True  # msgspec asks for this after it has called the hook


def wire_type(tp: Any, convert: Convert, *, hooked: bool) -> Any:
    """Return the type that msgspec converts to in place of ``tp``: itself, or a `Checked` if pydantic validates it.

    Args:
        convert: used for the parts that only msgspec knows.
        hooked: the user has a ``dec_hook``.

    Raises:
        TypeError: no library enforces all that ``tp`` says; the text says which part and what to do.
    """
    try:
        survey = survey_of(tp, hooked)
        problem = survey.refused or (survey.not_for_pydantic if survey.needs_pydantic else survey.misread)
        if problem:
            raise TypeError(problem)
        if survey.needs_pydantic:
            if survey.meta:
                raise _both(tp, survey.meta, survey.needs_pydantic)
            return _checked(tp, convert, hooked)
        msgspec.json.Decoder(tp)
    except NameError:
        pass  # the caller reports names that cannot be resolved
    except KeyError as exc:  # msgspec, of a class of attrs
        raise TypeError(f"{_name(tp)}: field {exc} has no annotation: write {exc.args[0]}: Any") from exc
    except (
        NotImplementedError,
        RecursionError,
        AssertionError,
    ) as exc:  # such as of a class that derives from Protocol[T]
        raise TypeError(str(exc) or f"{_name(tp)}: msgspec refuses it") from exc
    return tp


def _name(tp: Any) -> str:
    return tp.__qualname__ if isinstance(tp, type) and not get_args(tp) else str(tp)


def _both(tp: Any, of_msgspec: str, of_pydantic: str) -> TypeError:
    return TypeError(
        f"{_name(tp)} has something that only msgspec enforces ({of_msgspec}) and something that only pydantic "
        f"enforces ({of_pydantic}): write both for one of them"
    )


# ---------------------------------------------------------------- pydantic


def _checked(tp: Any, convert: Convert, hooked: bool) -> Checked:
    """Make the class for a type that pydantic validates."""
    survey = survey_of(tp, hooked)
    reason = survey.needs_pydantic
    if importlib.util.find_spec("pydantic") is None:
        raise TypeError(f"msgspec cannot enforce {reason}: {survey.instead}, or install pydantic")
    translation = _Translation(convert, hooked)
    translated = translation.translate(tp)
    try:
        validate = type_validator(translated)
    except Exception as exc:  # anything that pydantic raises for a type that it refuses
        why = one_line(" ".join(str(exc).split()), 300)
        raise TypeError(f"msgspec cannot enforce {reason}, and pydantic refuses the type: {why}") from exc
    for marker in translation.markers.values():
        marker.forget()
    members = {
        "translated": translated,
        "parts": {key: marker.type for key, marker in translation.markers.items()},
        "validate": staticmethod(validate),
        "__module__": "builtins",
        "__qualname__": _name(tp),
    }
    return Checked(_name(tp), (), members)


class _Part:
    """Metadata that makes pydantic leave a part of a type to msgspec."""

    def __init__(self, key: str, tp: Any, convert: Callable[[Any], Any]) -> None:
        self.type = tp
        self._key = key
        self._convert: Callable[[Any], Any] | None = convert

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        convert = self._convert
        return core_schema.any_schema() if convert is None else core_schema.no_info_plain_validator_function(convert)

    def forget(self) -> None:
        """Drop the function, and so the user's hook: `typing` caches types with the metadata in them."""
        self._convert = None

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        return {PART: self._key}


class _Translation:
    """Translates a type for pydantic: parts that only msgspec knows become a `_Part`."""

    def __init__(self, convert: Convert, hooked: bool) -> None:
        self._convert = convert
        self._hooked = hooked
        self.markers: dict[str, _Part] = {}

    def translate(self, part: Any) -> Any:
        survey = survey_of(part, self._hooked)
        if not survey.needs_msgspec:
            return part
        if not survey.needs_pydantic:
            key = str(next(_numbers))
            self.markers[key] = _Part(key, part, self._convert(part))
            return Annotated[Any, self.markers[key]]
        changed = self._inside(part)
        if changed is part:
            raise _both(part, survey.needs_msgspec, survey.needs_pydantic)
        return changed

    def _inside(self, part: Any) -> Any:
        """Return a type with changed arguments; the same object if nothing changes."""
        origin, args = get_origin(part), get_args(part)
        if origin is Annotated:
            inner = self.translate(args[0])
            return part if inner is args[0] else Annotated[(inner, *args[1:])]
        if not args or origin is Literal:
            return part
        if origin in UNIONS and len(tagged := [arg for arg in args if is_tagged(arg)]) in range(2, len(args)):
            # Together, because a Struct alone needs no tag.
            args = (Union[tuple(tagged)], *(arg for arg in args if not is_tagged(arg)))  # noqa: UP007
        new = tuple(arg if arg is Ellipsis else self.translate(arg) for arg in args)
        if all(map(operator.is_, new, args)):
            return part
        generic: Any = Union if origin in UNIONS else origin
        return generic[new]
