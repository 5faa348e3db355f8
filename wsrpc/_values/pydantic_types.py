"""Validation and encoding of pydantic's types. pydantic is imported only when one of them is used.

In JSON and in MessagePack, a value is encoded as pydantic's own JSON, and validated by pydantic's rules for JSON. So a
model with ``strict=True`` accepts a datetime as text, and a tuple as an array.
"""

from __future__ import annotations

import sys
import warnings
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import is_
from typing import Any, NamedTuple, cast

# Bytes are the exception. By default, pydantic encodes bytes as UTF-8 text, but most bytes are not valid UTF-8. Here,
# bytes are base64, as everywhere else in wsrpc. A model can decide otherwise with its config (ser_json_bytes,
# val_json_bytes), and a field with a plain serializer of its own.
#
# Like msgspec's validation, this one stops at the first item of a collection that does not fit. pydantic by itself
# describes each wrong item: for one message of 3 MB, with 900,000 wrong items, it needs 4 seconds and 800 MB.

_MOST_TYPES = 4096
"""Maximum number of cached validators and serializers. Programs have fewer models."""


def has_core_schema(tp: Any) -> bool:
    """Whether a type is a class that defines how pydantic validates it, such as ``pydantic.HttpUrl``."""
    return isinstance(tp, type) and hasattr(tp, "__get_pydantic_core_schema__")


def is_pydantic(tp: Any) -> bool:
    """Whether a type is a pydantic model. Does not import pydantic."""
    return isinstance(tp, type) and hasattr(tp, "__pydantic_validator__") and hasattr(tp, "model_validate")


def is_of_pydantic_1(tp: Any) -> bool:
    """Whether a class, or metadata in an annotation, is of pydantic 1, which pydantic 2 ships as ``pydantic.v1``."""
    home = "pydantic." if getattr(sys.modules.get("pydantic"), "VERSION", "").startswith("1.") else "pydantic.v1."
    return any(base.__module__.startswith(home) for base in (tp if isinstance(tp, type) else type(tp)).__mro__)


_MOST_DESCRIBED = 100
"""With more errors than this, only their number is reported: pydantic describes all of them or none."""


class Misfit(ValueError):
    """A value does not fit a type that pydantic validates."""

    def __init__(self, text: str, path: str) -> None:
        super().__init__(text)
        self.path = path
        """The place of the first error in the value, in msgspec's form: ``.cups[0].size``."""


def misfit(exc: ValueError, value: Any, skip: int = 0) -> Misfit:
    """Return the error for an exception of pydantic: one line of text, without values, which may be large or secret.

    ``skip``: the number of steps at the beginning of each path that the user does not know.
    """
    if not hasattr(exc, "errors"):
        return Misfit(str(exc), "")
    error = cast(Any, exc)
    count: int = error.error_count()
    if count > _MOST_DESCRIBED:
        return Misfit(f"{count} errors", "")
    found = error.errors(include_url=False, include_context=False, include_input=False)[:3]
    paths = [".".join(map(str, each["loc"][skip:])) for each in found]
    parts = [f"{path}: {each['msg']}" if path else each["msg"] for path, each in zip(paths, found, strict=True)]
    if count > len(parts):
        parts.append(f"and {count - len(parts)} more")
    return Misfit("; ".join(parts), _place(found[0]["loc"][skip:], value))


def _place(steps: tuple[int | str, ...], value: Any) -> str:
    """Return the part of pydantic's path that is in the value, without missing fields and names of types in unions."""
    place = ""
    for step in steps:
        try:
            value = value[step]
        except (LookupError, TypeError):
            break
        place += f"[{step}]" if isinstance(step, int) else f".{step}"
    return place


@lru_cache(maxsize=_MOST_TYPES)
def pydantic_validator(tp: Any) -> Callable[[Any], Any]:
    """Make a function that converts decoded JSON or MessagePack to the model ``tp``.

    The function raises pydantic's own exception, which is a `ValueError`.

    Raises:
        TypeError: the installed pydantic is too old for this type.
    """
    if _overrides(tp, "model_validate"):
        validate: Callable[[Any], Any] = tp.model_validate
        return validate
    schema = core_schema_of(tp)
    validator = _validator(schema)
    if validator is None and _adapt(schema, _Scope()) is not schema:
        raise _too_old(tp)
    return _from_decoded(tp.model_validate_json if validator is None else validator.validate_json)


def type_validator(tp: Any) -> Callable[[Any], Any]:
    """Make a function that converts decoded JSON or MessagePack to ``tp``, which may be any type.

    The function is strict, except for models and pydantic's dataclasses, which have a config of their own.

    The function raises `ValueError` with one line of text if a value does not fit.

    Raises:
        Exception: anything that pydantic raises for a type that it refuses, or a `TypeError` if the installed pydantic
            is too old.
    """
    from pydantic import ConfigDict, TypeAdapter

    # The type is in a tuple, because an adapter refuses a config for a class that may have its own, such as a
    # dataclass.
    boxed: Any = tuple[(tp,)]
    with warnings.catch_warnings():
        # pydantic warns that it does not enforce `ReadOnly`. That is right: the handler owns and may change the items.
        warnings.filterwarnings("ignore", message=".*`ReadOnly`")
        warnings.filterwarnings("error", message="The '.*' attribute .* has no effect", category=UserWarning)
        adapter: Any = TypeAdapter(boxed, config=ConfigDict(strict=True))
    validator = _validator(adapter.core_schema, {"strict": True})
    if validator is None:
        raise TypeError("wsrpc needs pydantic 2.13 or newer for it: update pydantic")
    convert = _from_decoded(validator.validate_json)

    def validate(value: Any) -> Any:
        try:
            return convert((value,))[0]
        except ValueError as exc:
            raise misfit(exc, value, skip=1) from exc
        except TypeError as exc:
            text, found, _ = str(exc).partition(" to supplied value")
            if not found:  # a constraint cannot be compared with the value
                raise
            raise ValueError(text) from None

    return validate


def _validator(schema: dict[str, Any], config: Any = None) -> Any:
    """Make the validator of a core schema as wsrpc adapts it. Return None if pydantic is too old."""
    from pydantic_core import SchemaValidator

    return _build(SchemaValidator, _fail_fast(_adapt(schema, _Scope())), config)


def _from_decoded(validate_json: Callable[[bytes], Any]) -> Callable[[Any], Any]:
    """Turn a function that validates JSON into a function that validates a decoded value."""
    from pydantic_core import to_json

    # pydantic accepts JSON only as text, so the value is encoded again. Values that only MessagePack has (bytes,
    # datetimes, keys that are not text, NaN) are validated as their JSON.
    return lambda value: validate_json(to_json(value, bytes_mode="base64", inf_nan_mode="constants"))


@lru_cache(maxsize=_MOST_TYPES)
def pydantic_dumper(tp: Any) -> Callable[[Any, Callable[[Any], Any]], Any]:
    """Make a function that converts an instance of ``tp`` to decoded JSON.

    Its second argument is a function that converts values of other libraries, such as msgspec's Structs. Fields have
    the names that validation on the other side reads: their aliases, if they have any.

    Raises:
        TypeError: the installed pydantic is too old for this type.
    """
    schema = core_schema_of(tp)
    adapted = _adapt(schema, _Scope())
    if is_pydantic(tp) and (adapted is schema or _overrides(tp, "model_dump")):
        return lambda value, fallback: value.model_dump(mode="json", by_alias=True, fallback=fallback)
    from pydantic_core import SchemaSerializer

    serializer = _build(SchemaSerializer, adapted)
    if serializer is None:
        raise _too_old(tp)
    return lambda value, fallback: serializer.to_python(value, mode="json", by_alias=True, fallback=fallback)


def _overrides(tp: Any, method: str) -> bool:
    from pydantic import BaseModel

    return bool(getattr(tp, method).__qualname__ != getattr(BaseModel, method).__qualname__)


def core_schema_of(tp: Any) -> dict[str, Any]:
    """Return pydantic's core schema of a type."""
    from pydantic import TypeAdapter

    return cast("dict[str, Any]", TypeAdapter(tp).core_schema)


def _build(make: Callable[..., Any], *args: Any) -> Any:
    """Make a validator or serializer of a changed schema. Return None if pydantic is older than 2.13 and cannot."""
    try:
        # Otherwise pydantic uses the validators that it has already built for the models, in place of the schema.
        return make(*args, _use_prebuilt=False)
    except TypeError as exc:
        if "_use_prebuilt" not in str(exc):
            raise
        return None


def _too_old(tp: Any) -> TypeError:
    return TypeError(
        f"{tp.__qualname__} may hold bytes, for which wsrpc needs pydantic 2.13 or newer: update pydantic, or give "
        'the model ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")'
    )


def _from_base64(value: Any) -> Any:
    if value.__class__ is not str:
        return value  # bytes from the user's own validator, or a wrong type anyway
    try:
        # For pydantic, a bytearray fits bytes less well than bytes do. So in a union of bytes with text, UUIDs or
        # enums, the other types win. They should: most text with a length of 4, 8 or 12 is also valid base64.
        return bytearray(a2b_base64(value.replace("-", "+").replace("_", "/"), strict_mode=True))
    except ValueError:
        raise ValueError("invalid base64 text") from None


def _to_base64(value: Any) -> str:
    return b2a_base64(value, newline=False).decode("ascii")


_AS_BASE64: dict[str, Any] = {"type": "function-plain", "function": _to_base64, "when_used": "json"}


def _plain(value: Any) -> Any:
    """Return a value without a declared type, with base64 in place of bytes."""
    cls = value.__class__
    if issubclass(cls, (bytes, bytearray, memoryview)):
        return _to_base64(value)
    if issubclass(cls, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if issubclass(cls, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if is_pydantic(cls):
        return pydantic_dumper(cls)(value, _refuse)
    return value


def _refuse(value: Any) -> Any:
    raise TypeError(f"{type(value).__qualname__} cannot be encoded without an enc_hook that converts it")


_INNER = (
    "schema",
    "items_schema",
    "keys_schema",
    "values_schema",
    "extras_schema",
    "return_schema",
    "json_schema",
    "python_schema",
    "lax_schema",
    "strict_schema",
    "fields",
    "computed_fields",
    "arguments_schema",
    "var_args_schema",
    "var_kwargs_schema",
    "choices",
    "steps",
    "definitions",
)
"""Keys of a core schema that hold other schemas. (Values under ``default`` or ``expected`` are the user's.)"""

BYTES_OPTIONS = frozenset({"ser_json_bytes", "val_json_bytes"})
"""Options of a model's config for bytes in JSON. If a model has only one of them, it applies to both directions, so
that the model can read what it writes."""
_OF_ANY_TYPE = frozenset({"any", "is-instance", "function-plain"})
_NUMBERS = frozenset({"int", "float", "bool"})
_MODELS = frozenset({"model", "dataclass", "typed-dict"})
_AS_PLAIN: dict[str, Any] = {"type": "function-plain", "function": _plain, "when_used": "json"}
_ANYTHING: dict[str, Any] = {"type": "any", "serialization": _AS_PLAIN}


class _Scope(NamedTuple):
    """Settings of a part of a schema, which are from the class around it or from its own serializer."""

    own: bool = False
    """Whether the user has chosen the encoding of bytes."""
    extra: bool = False
    """Whether fields that are not declared are kept."""


def _adapt(schema: dict[str, Any], scope: _Scope) -> dict[str, Any]:
    """Return a core schema with bytes as base64. Return the same object if nothing changes."""
    kind: str = schema["type"]
    serialization: Any = schema.get("serialization") or {}
    config: dict[str, Any] = schema.get("config") or {}
    given = BYTES_OPTIONS.intersection(config)
    if config:  # a class with its own config, wherever it is used
        scope = _Scope(bool(given), config.get("extra_fields_behavior") == "allow")
    elif serialization.get("type") == "function-plain":
        scope = _Scope(own=True)
    changes = _changes(schema, lambda part: _adapt(part, scope))
    if scope.own:
        if len(given) == 1:
            [way] = given
            changes["config"] = {**config, **dict.fromkeys(BYTES_OPTIONS, config[way])}
        return {**schema, **changes} if changes else schema
    if serialization.get("type") == "function-wrap":
        serialization = _adapt_wrapping(schema, scope)
        if serialization is not schema["serialization"]:
            changes["serialization"] = serialization
    if kind == "bytes":
        return {
            "type": "function-before",
            "function": {"type": "no-info", "function": _from_base64},
            "schema": {**schema, "strict": False},  # JSON has no bytes, and strict bytes accept no bytearray
            "serialization": changes.get("serialization", _AS_BASE64),
        }
    of_any_type = kind in _OF_ANY_TYPE or (kind == "call" and bool(changes))  # "call" is a NamedTuple in pydantic 2.13
    if kind == "union" and "choices" in changes and schema.get("mode", "smart") == "smart":
        if any(_holds_bytes(*pair) for pair in zip(schema["choices"], changes["choices"], strict=True)):
            changes["choices"] = sorted(changes["choices"], key=_rank)
    elif (not serialization and of_any_type) or serialization == {"type": "any"}:
        changes["serialization"] = _AS_PLAIN
    elif kind == "model-fields" and scope.extra and "extras_schema" not in schema:
        changes["extras_schema"] = _ANYTHING
    elif kind in _MODELS and changes and serialization.get("type") == "function-plain":
        changes["serialization"] = _returning_anything(serialization)
    return {**schema, **changes} if changes else schema


def _adapt_wrapping(schema: dict[str, Any], scope: _Scope) -> dict[str, Any]:
    """Return the wrap serializer of a schema, with bytes as base64 in its handler and in its result."""
    serialization: dict[str, Any] = schema["serialization"]
    wrapped: dict[str, Any] | None = serialization.get("schema")
    if wrapped is None:
        wrapped = {key: value for key, value in schema.items() if key not in {"serialization", "ref"}}
    adapted = _adapt(wrapped, scope)
    return serialization if adapted is wrapped else _returning_anything({**serialization, "schema": adapted})


def _returning_anything(serialization: dict[str, Any]) -> dict[str, Any]:
    """Return a function serializer whose result may be bytes. If it is declared to return bytes, they become base64."""
    declared: dict[str, Any] = serialization.get("return_schema", {"type": "any"})
    holds_bytes = _adapt(declared, _Scope()) is not declared
    return {**serialization, "return_schema": _ANYTHING} if holds_bytes else serialization


def _holds_bytes(choice: Any, adapted: Any) -> bool:
    """Whether a member of a union was adapted because of bytes in it, not only because it may be of any type."""
    return adapted is not choice and _without_label(choice)["type"] not in _OF_ANY_TYPE


def _without_label(choice: Any) -> Any:
    return choice[0] if choice.__class__ is tuple else choice


def _rank(choice: Any) -> int:
    """Return the position of a type in a union with bytes. pydantic chooses the first of two types that fit equally."""
    schema = _without_label(choice)
    if schema["type"] in _NUMBERS:
        return 2  # after bytes: "1234" is base64, because a number would not be encoded as text
    function = schema.get("function")
    return 1 if function.__class__ is dict and function.get("function") is _from_base64 else 0


_ITEMS = ("items_schema", "keys_schema", "values_schema")


def _fail_fast(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a core schema that validates collections up to the first wrong item. The same object if none changes."""
    changes = _changes(schema, _fail_fast)
    if "fail_fast" not in schema and any(key in schema for key in _ITEMS):
        changes["fail_fast"] = True
    return {**schema, **changes} if changes else schema


def _changes(schema: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Apply ``change`` to each schema directly inside a core schema. Return the parts that differ afterwards."""
    inside = {key: _changed(schema[key], change) for key in _INNER if key in schema}
    return {key: value for key, value in inside.items() if value is not schema[key]}


def _changed(part: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Return a part after ``change``: a schema, a list of them, or a mapping by name of a field or tag of a union."""
    cls = part.__class__
    if cls is list or cls is tuple:
        items: list[Any] = [_changed(item, change) for item in part]
        if all(map(is_, items, part)):
            return part
        return items if cls is list else tuple(items)
    if cls is not dict:
        return part  # the label of a union's member
    if isinstance(part.get("type"), str):
        return change(part)
    by_name = {name: _changed(item, change) for name, item in part.items()}
    return part if all(map(is_, by_name.values(), part.values())) else by_name
