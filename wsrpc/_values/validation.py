"""Choice of the library that validates a type, made once, when a handler is registered.

pydantic validates a type if the type contains a constraint of annotated_types, a union that only pydantic can decide,
or a part of pydantic that is not a model. msgspec validates every other type, and pydantic converts the models in it. A
type is refused if neither library can enforce all of it. Nothing is ignored silently.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, get_args

import msgspec

from ..errors import one_line
from .pydantic_types import type_validator
from .type_survey import survey_of


class Checked(type):
    """Metaclass of the classes that stand for types that pydantic validates.

    Such a class replaces the type in annotations that msgspec reads. The class is never instantiated: msgspec passes
    the class to the ``dec_hook``, which calls `validate`.
    """

    original: Any
    """The type for which the class stands."""
    validate: Callable[[Any], Any]
    """Returns an instance of the type, or raises `ValueError` with one line of text."""

    def __instancecheck__(cls, instance: object, /) -> bool:
        return True  # msgspec makes this check after it has called the hook


def wire_type(tp: Any, *, hooked: bool) -> Any:
    """Return the type that msgspec converts to: a `Checked` if pydantic validates ``tp``, otherwise ``tp`` itself.

    Args:
        hooked: the user has a ``dec_hook``.

    Raises:
        TypeError: no library enforces all that ``tp`` says. The text says which part is not enforced, and what to do.
    """
    try:
        survey = survey_of(tp, hooked)
        problem = survey.refused or (survey.not_for_pydantic if survey.needs_pydantic else survey.misread)
        if problem:
            raise TypeError(problem)
        if survey.needs_pydantic:
            if of_msgspec := survey.meta or survey.needs_msgspec:
                raise TypeError(
                    f"{_name(tp)} has something that only msgspec enforces ({of_msgspec}) and something that only "
                    f"pydantic enforces ({survey.needs_pydantic}): write both for one of them, or make them two "
                    "parameters"
                )
            return _checked(tp, hooked)
        msgspec.json.Decoder(tp)
    except NameError:
        pass  # the caller reports names that cannot be resolved
    except KeyError as exc:  # from msgspec, for a class of attrs
        raise TypeError(f"{_name(tp)}: field {exc} has no annotation: write {exc.args[0]}: Any") from exc
    except (
        NotImplementedError,
        RecursionError,
        AssertionError,
    ) as exc:  # for example for a class that derives from Protocol[T]
        raise TypeError(str(exc) or f"{_name(tp)}: msgspec refuses it") from exc
    return tp


def _name(tp: Any) -> str:
    return tp.__qualname__ if isinstance(tp, type) and not get_args(tp) else str(tp)


def _checked(tp: Any, hooked: bool) -> Checked:
    """Make the class for a type that pydantic validates."""
    survey = survey_of(tp, hooked)
    reason = survey.needs_pydantic
    if importlib.util.find_spec("pydantic") is None:
        raise TypeError(f"msgspec cannot enforce {reason}: {survey.instead}, or install pydantic")
    try:
        validate = type_validator(tp)
    except Exception as exc:  # anything that pydantic raises for a type that it refuses
        why = one_line(" ".join(str(exc).split()), 300)
        raise TypeError(f"msgspec cannot enforce {reason}, and pydantic refuses the type: {why}") from exc
    members = {
        "original": tp,
        "validate": staticmethod(validate),
        "__module__": "builtins",
        "__qualname__": _name(tp),
    }
    return Checked(_name(tp), (), members)
