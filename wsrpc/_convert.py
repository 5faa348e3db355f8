"""Conversion between decoded values and types, where msgspec needs help.

msgspec converts decoded JSON or MessagePack to the types that users write. This module finds the options that a type
needs for that, adds pydantic models without importing pydantic, and refuses types that could never be converted to.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections import ChainMap, OrderedDict, UserDict, UserList, deque
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from operator import is_
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
from msgspec import inspect as mi

__all__ = [
    "BYTES_OPTIONS",
    "EXACT_TYPES",
    "DecHook",
    "EncHook",
    "Needs",
    "convert_options",
    "converter",
    "examine",
    "is_pydantic",
    "make_dec_hook",
    "make_enc_hook",
    "memoized",
    "nodes_of",
    "pydantic_validator",
    "type_name",
]

DecHook = Callable[[type[Any], Any], Any]
"""``dec_hook(type, value)`` returns an instance of ``type``, or raises `ValueError` or `TypeError`."""

EncHook = Callable[[Any], Any]
"""``enc_hook(value)`` returns something that can be encoded."""

EXACT_TYPES: tuple[type[Any], ...] = (int, str, float, bool, bytes, list, dict)
"""A value whose type is exactly one of these needs no conversion to it, which saves calling msgspec."""

_DICTS: tuple[dict[Any, Any], ...] = ({}, OrderedDict())
_VIEWS = [type(view()) for each in _DICTS for view in (each.keys, each.values, each.items)]
_LIKE_LISTS = frozenset({range, deque, UserList, *_VIEWS})
_LIKE_DICTS = frozenset({MappingProxyType, ChainMap, UserDict})
"""Types of the standard library that msgspec does not know. What derives from them is for the user's hook."""

_R = TypeVar("_R")


def memoized(function: Callable[..., _R]) -> Callable[..., _R]:
    """`lru_cache`, except that calls with unhashable arguments are simply not cached.

    Annotations may be unhashable (``Annotated[int, []]``), and handlers registered again and again (on
    each new channel, say) should not pay for the same introspection each time.
    """
    cached = lru_cache(maxsize=256)(function)

    def call(*args: Any) -> _R:
        try:
            hash(args)
        except TypeError:
            return function(*args)
        return cached(*args)

    return call


# ---------------------------------------------------------------- pydantic
#
# A model travels as pydantic's own JSON, in JSON and in MessagePack alike, and pydantic's rules for JSON validate it.
# So a model with `strict=True` takes a datetime or a tuple, which JSON has only as text and as an array.
#
# Bytes are the exception. Pydantic's default for them is text in UTF-8, which most bytes are not. Here they are base64,
# as everywhere else in wsrpc, unless the model's config says otherwise (ser_json_bytes, val_json_bytes) or the field
# has a plain serializer of its own.
#
# Validation stops at the first item of a collection that does not fit, as msgspec's does. Pydantic by itself describes
# each of them: one message of 3 MB, with 900,000 wrong items, then takes 4 seconds and 800 MB.

_MOST_TYPES = 4096
"""Models for which a validator and a serializer are remembered: more than a program has."""


def is_pydantic(tp: Any) -> bool:
    """Whether this is a pydantic model, asked without importing pydantic."""
    return isinstance(tp, type) and hasattr(tp, "__pydantic_validator__") and hasattr(tp, "model_validate")


_MOST_DESCRIBED = 100
"""With more errors than this, only their number is reported: pydantic describes all of them or none."""


def _summary(exc: ValueError) -> str:
    """What pydantic found, in one line and without the values: they may be large, or somebody's secret."""
    if not hasattr(exc, "errors"):
        return str(exc)
    error = cast(Any, exc)
    count: int = error.error_count()
    if count > _MOST_DESCRIBED:
        return f"{count} errors"
    found = error.errors(include_url=False, include_context=False, include_input=False)[:3]
    parts = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" if each["loc"] else each["msg"] for each in found]
    if count > len(parts):
        parts.append(f"and {count - len(parts)} more")
    return "; ".join(parts)


@lru_cache(maxsize=_MOST_TYPES)
def pydantic_validator(tp: Any) -> Callable[[Any], Any]:
    """A function that makes a ``tp`` of decoded JSON or MessagePack.

    It raises what pydantic raises, which is a `ValueError`.

    Raises:
        TypeError: the installed pydantic is too old for this type.
    """
    if _overrides(tp, "model_validate"):
        validate: Callable[[Any], Any] = tp.model_validate
        return validate
    from pydantic_core import SchemaValidator, to_json

    schema = _core_schema(tp)
    adapted = _adapt(schema, _Scope())
    failing_fast = _fail_fast(adapted)
    validator = None if failing_fast is schema else _build(SchemaValidator, failing_fast)
    if validator is None and adapted is not schema:
        raise _too_old(tp)
    validate_json: Callable[[bytes], Any] = tp.model_validate_json if validator is None else validator.validate_json

    def validate_as_json(value: Any) -> Any:
        # Pydantic takes JSON only as text, so the value is encoded again. That costs 1 to 2 microseconds, and what
        # MessagePack brought (bytes, datetimes, keys that are no text, NaN) is judged as its JSON is.
        return validate_json(to_json(value, bytes_mode="base64", inf_nan_mode="constants"))

    return validate_as_json


@lru_cache(maxsize=_MOST_TYPES)
def pydantic_dumper(tp: Any) -> Callable[[Any, Callable[[Any], Any]], Any]:
    """A function that makes decoded JSON of an instance of ``tp``.

    Its second argument is a function that does it for values of other libraries, msgspec's Structs for instance. Names
    are those that the other side's validation reads: aliases, where there are any.

    Raises:
        TypeError: the installed pydantic is too old for this type.
    """
    schema = _core_schema(tp)
    adapted = _adapt(schema, _Scope())
    if adapted is schema or _overrides(tp, "model_dump"):
        return lambda value, fallback: value.model_dump(mode="json", by_alias=True, fallback=fallback)
    from pydantic_core import SchemaSerializer

    serializer = _build(SchemaSerializer, adapted)
    if serializer is None:
        raise _too_old(tp)
    return lambda value, fallback: serializer.to_python(value, mode="json", by_alias=True, fallback=fallback)


def _overrides(tp: Any, method: str) -> bool:
    from pydantic import BaseModel

    return bool(getattr(tp, method).__qualname__ != getattr(BaseModel, method).__qualname__)


def _core_schema(tp: Any) -> dict[str, Any]:
    from pydantic import TypeAdapter

    return cast("dict[str, Any]", TypeAdapter(tp).core_schema)


def _build(make: Callable[..., Any], schema: Any) -> Any:
    """A validator or serializer of a changed schema; None if pydantic is older than 2.13, which cannot make one."""
    try:
        # Else pydantic takes what it has built for the models inside, and for this one, in place of the schema.
        return make(schema, _use_prebuilt=False)
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
        return value  # the user's own validator has made bytes of it, or it is wrong anyway
    try:
        # A bytearray, because pydantic counts that as a lesser fit than bytes. In a union of bytes with text, UUIDs or
        # enums, these then win, as it should be: most text with a length of 4, 8, 12 is base64, too.
        return bytearray(a2b_base64(value.replace("-", "+").replace("_", "/"), strict_mode=True))
    except ValueError:
        raise ValueError("invalid base64 text") from None


def _to_base64(value: Any) -> str:
    return b2a_base64(value, newline=False).decode("ascii")


_AS_BASE64: dict[str, Any] = {"type": "function-plain", "function": _to_base64, "when_used": "json"}


def _plain(value: Any) -> Any:
    """A value of no declared type, with base64 in place of the bytes that it is or holds."""
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
    raise TypeError(f"{type(value).__qualname__} cannot be encoded without an enc_hook")


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
"""Keys of a core schema under which there are others. (Values under ``default`` or ``expected`` are the user's.)"""

BYTES_OPTIONS = frozenset({"ser_json_bytes", "val_json_bytes"})
"""Options of a model's config for bytes in JSON. One of them counts for both ways: a model can read what it writes."""
_OF_ANY_TYPE = frozenset({"any", "is-instance", "function-plain"})
_NUMBERS = frozenset({"int", "float", "bool"})
_MODELS = frozenset({"model", "dataclass", "typed-dict"})
_AS_PLAIN: dict[str, Any] = {"type": "function-plain", "function": _plain, "when_used": "json"}
_ANYTHING: dict[str, Any] = {"type": "any", "serialization": _AS_PLAIN}


class _Scope(NamedTuple):
    """Settings that a part of a schema has from the class around it, or from its own serializer."""

    own: bool = False
    """The user has chosen how bytes travel."""
    extra: bool = False
    """Fields that are not declared are kept."""


def _adapt(schema: dict[str, Any], scope: _Scope) -> dict[str, Any]:
    """A core schema with bytes as base64; the same object if nothing changes."""
    kind: str = schema["type"]
    serialization: Any = schema.get("serialization") or {}
    config: dict[str, Any] = schema.get("config") or {}
    given = BYTES_OPTIONS.intersection(config)
    if config:  # a class of its own, whatever holds it
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
            "schema": {**schema, "strict": False},  # JSON has no bytes, and strict ones are no bytearray
            "serialization": changes.get("serialization", _AS_BASE64),
        }
    of_any_type = kind in _OF_ANY_TYPE or (kind == "call" and bool(changes))  # pydantic 2.13 calls a NamedTuple
    if kind == "union" and "choices" in changes and schema.get("mode", "smart") == "smart":
        changes["choices"] = sorted(changes["choices"], key=_rank)
    elif (not serialization and of_any_type) or serialization == {"type": "any"}:
        changes["serialization"] = _AS_PLAIN
    elif kind == "model-fields" and scope.extra and "extras_schema" not in schema:
        changes["extras_schema"] = _ANYTHING
    elif kind in _MODELS and changes and serialization.get("type") == "function-plain":
        changes["serialization"] = _returning_anything(serialization)
    return {**schema, **changes} if changes else schema


def _adapt_wrapping(schema: dict[str, Any], scope: _Scope) -> dict[str, Any]:
    """The wrap serializer of a schema, changed so that its handler, and what it returns, have bytes as base64."""
    serialization: dict[str, Any] = schema["serialization"]
    wrapped: dict[str, Any] | None = serialization.get("schema")
    if wrapped is None:
        wrapped = {key: value for key, value in schema.items() if key not in {"serialization", "ref"}}
    adapted = _adapt(wrapped, scope)
    return serialization if adapted is wrapped else _returning_anything({**serialization, "schema": adapted})


def _returning_anything(serialization: dict[str, Any]) -> dict[str, Any]:
    """A serializer by a function that may return bytes, or base64 text where it is declared to return bytes."""
    declared: dict[str, Any] = serialization.get("return_schema", {"type": "any"})
    holds_bytes = _adapt(declared, _Scope()) is not declared
    return {**serialization, "return_schema": _ANYTHING} if holds_bytes else serialization


def _rank(choice: Any) -> int:
    """Position of a type in a union with bytes. Of two that fit equally well pydantic takes the first."""
    schema = choice[0] if choice.__class__ is tuple else choice  # which has a label
    if schema["type"] in _NUMBERS:
        return 2  # "1234" is base64 rather than a number, which would be no text
    function = schema.get("function")
    return 1 if function.__class__ is dict and function.get("function") is _from_base64 else 0


_ITEMS = ("items_schema", "keys_schema", "values_schema")


def _fail_fast(schema: dict[str, Any]) -> dict[str, Any]:
    """A core schema whose collections are validated up to the first wrong item; the same object if it has none."""
    changes = _changes(schema, _fail_fast)
    if "fail_fast" not in schema and any(key in schema for key in _ITEMS):
        changes["fail_fast"] = True
    return {**schema, **changes} if changes else schema


def _changes(schema: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """The parts of a core schema that differ when ``change`` is applied to each schema directly inside."""
    inside = {key: _changed(schema[key], change) for key in _INNER if key in schema}
    return {key: value for key, value in inside.items() if value is not schema[key]}


def _changed(part: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A part after ``change``: a schema, a list of schemas, or a mapping by a field's name or a union's tag."""
    cls = part.__class__
    if cls is list or cls is tuple:
        items: list[Any] = [_changed(item, change) for item in part]
        if all(map(is_, items, part)):
            return part
        return items if cls is list else tuple(items)
    if cls is not dict:
        return part  # a union's label
    if isinstance(part.get("type"), str):
        return change(part)
    by_name = {name: _changed(item, change) for name, item in part.items()}
    return part if all(map(is_, by_name.values(), part.values())) else by_name


# ---------------------------------------------------------------- hooks


def make_dec_hook(user: DecHook | None) -> DecHook:
    """The hook that msgspec calls for types it does not know: pydantic models, then the user's hook."""

    def dec_hook(tp: Any, value: Any) -> Any:
        if tp is object:
            return value
        if is_pydantic(tp):
            try:
                return pydantic_validator(tp)(value)
            except ValueError as exc:
                raise ValueError(_summary(exc)) from exc
        if user is not None:
            return user(tp, value)
        raise TypeError(f"{type_name(tp)} cannot be converted to without a dec_hook")

    return dec_hook


def make_enc_hook(user: EncHook | None) -> EncHook:
    """The hook that msgspec calls for values it does not know.

    Pydantic models come first, then what the standard library has besides `list` and `dict`, then the user's hook.
    """

    def enc_hook(value: Any) -> Any:
        cls = value.__class__
        if is_pydantic(cls):
            return pydantic_dumper(cls)(value, for_pydantic)
        if cls in _LIKE_LISTS:
            return list(value)
        if cls in _LIKE_DICTS:
            return dict(value)
        if user is not None:
            return user(value)
        raise TypeError(f"{type_name(cls)} cannot be encoded without an enc_hook")

    def for_pydantic(value: Any) -> Any:
        return msgspec.to_builtins(value, str_keys=True, enc_hook=enc_hook)

    return enc_hook


def type_name(tp: Any) -> str:
    """How a type is spelled in messages: with its module, unless that is ``builtins``."""
    if not isinstance(tp, type):
        return str(tp)
    return tp.__qualname__ if tp.__module__ == "builtins" else f"{tp.__module__}.{tp.__qualname__}"


# ---------------------------------------------------------------- what a type needs


class Needs(NamedTuple):
    """Options that msgspec needs to convert to a type. Each costs time, so only those are given that are needed."""

    dec_hook: bool
    str_keys: bool  # mappings with other than text keys: JSON has only text keys
    scalar: bool  # never holds another object, so it cannot be part of a reference cycle


_SCALARS = (
    mi.NoneType,
    mi.BoolType,
    mi.IntType,
    mi.FloatType,
    mi.StrType,
    mi.BytesType,
    mi.DateTimeType,
    mi.DateType,
    mi.TimeType,
    mi.TimeDeltaType,
    mi.UUIDType,
    mi.DecimalType,
    mi.EnumType,
    mi.LiteralType,
)
_WRAPPERS = (mi.Metadata, mi.UnionType)
# msgspec makes these from text anyway (Any stays text; a custom class is the hook's business).
_TEXT_KEYS = (
    mi.AnyType,
    mi.StrType,
    mi.BytesType,
    mi.DateTimeType,
    mi.DateType,
    mi.TimeType,
    mi.TimeDeltaType,
    mi.UUIDType,
    mi.DecimalType,
    mi.CustomType,
)


def nodes_of(root: mi.Type) -> Iterator[mi.Type]:
    """Every type inside a type, itself included, each once (types may be recursive)."""
    seen: set[int] = set()
    todo: list[object] = [root]
    while todo:
        node = todo.pop()
        if isinstance(node, tuple):
            todo.extend(node)  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(node, mi.Type | mi.Field) and id(node) not in seen:
            seen.add(id(node))
            if isinstance(node, mi.Type):
                yield node
            todo.extend(getattr(node, name) for name in node.__struct_fields__)


def _is_text_key(node: mi.Type) -> bool:
    if isinstance(node, mi.EnumType):
        return all(isinstance(member.value, str) for member in node.cls)
    if isinstance(node, mi.LiteralType):
        return all(isinstance(value, str) for value in node.values)
    return isinstance(node, _TEXT_KEYS + _WRAPPERS)


@memoized
def _examine(tp: Any) -> tuple[Needs, type[Any] | None]:
    try:
        nodes = list(nodes_of(mi.type_info(tp)))
    except NameError as exc:
        raise TypeError(f"{type_name(tp)} has a field whose type cannot be resolved: {exc}") from exc
    # Without a hook msgspec takes any value for an `object`, which is what the annotation says.
    custom = [node.cls for node in nodes if isinstance(node, mi.CustomType) and node.cls is not object]
    for cls in custom:
        if is_pydantic(cls) and getattr(cls, "__pydantic_complete__", False):
            pydantic_validator(cls)  # now, rather than when the first message comes
    keys = [key for node in nodes if isinstance(node, mi.DictType) for key in nodes_of(node.key_type)]
    needs = Needs(
        dec_hook=bool(custom),
        str_keys=not all(map(_is_text_key, keys)),
        scalar=all(isinstance(node, _SCALARS + _WRAPPERS) for node in nodes),
    )
    return needs, next((cls for cls in custom if not is_pydantic(cls)), None)


def examine(tp: Any, has_hook: bool) -> Needs:
    """What converting to ``tp`` needs.

    Raises:
        TypeError: it cannot work: msgspec does not take the type, or it holds a class that neither
            msgspec nor pydantic knows while there is no hook (``has_hook``) that may.
    """
    needs, unknown = _examine(tp)
    if unknown is not None and not has_hook:
        raise TypeError(
            f"{type_name(unknown)} cannot be made from what arrives: make it a dataclass, a msgspec.Struct "
            "or a pydantic model, or give a dec_hook= that converts to it"
        )
    return needs


def convert_options(needs: Needs, dec_hook: DecHook | None, lax: bool) -> dict[str, Any]:
    """The keyword arguments for `msgspec.convert`, only those that make a difference."""
    options: dict[str, Any] = {}
    if needs.dec_hook:
        options["dec_hook"] = make_dec_hook(dec_hook)
    if needs.str_keys:
        options["str_keys"] = True
    if lax:
        options["strict"] = False
    return options


# ---------------------------------------------------------------- one value to one type


def _unboxed(exc: msgspec.ValidationError) -> msgspec.ValidationError:
    """The same error with its path counted from the value, not from the box that it was put into."""
    text, found, path = str(exc).rpartition("`$[0]")
    if not found:
        return exc
    if path == "`" and text.endswith(" - at "):
        return msgspec.ValidationError(text.removesuffix(" - at "))
    return msgspec.ValidationError(f"{text}`${path}")


def _converter(tp: Any, dec_hook: DecHook | None, lax: bool) -> Callable[[Any], Any]:
    if tp is Any or tp is object:
        return lambda value: value
    # msgspec remembers what it found out about a Struct, but works out `list[int]` anew in each call.
    # In a Struct of one field it is remembered too.
    options = convert_options(examine(tp, dec_hook is not None), dec_hook, lax)
    box = msgspec.defstruct("Box", [("value", tp)], array_like=True)
    convert: Callable[..., Any] = msgspec.convert
    exact: type[Any] | None = tp if tp in EXACT_TYPES else None

    def convert_value(value: Any) -> Any:
        if type(value) is exact:
            return value
        try:
            # A call with an empty `**options` costs more than one without.
            boxed = convert((value,), box, **options) if options else convert((value,), box)
        except msgspec.ValidationError as exc:
            raise _unboxed(exc) from exc.__cause__
        return boxed.value

    return convert_value


def converter(tp: Any, *, dec_hook: DecHook | None = None, lax: bool = False) -> Callable[[Any], Any]:
    """A function that converts decoded JSON or MessagePack to ``tp``.

    It raises `msgspec.ValidationError` for what does not fit, with msgspec's path (``$`` is the value).
    Whatever else a ``dec_hook`` or the type itself raises comes through as it is. Without a hook the
    function is kept and given out again for the same arguments.

    Raises:
        TypeError: ``tp`` is a type that cannot be converted to.
    """
    # A hook may be the method of an object that is not to be kept alive by a cache.
    return _plain_converter(tp, lax) if dec_hook is None else _converter(tp, dec_hook, lax)


@memoized
def _plain_converter(tp: Any, lax: bool) -> Callable[[Any], Any]:
    return _converter(tp, None, lax)
