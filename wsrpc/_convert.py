"""Values to types and back, where msgspec needs help.

msgspec converts what arrived (JSON or MessagePack, already decoded) to the types that users write.
This module says what a type needs for that, teaches msgspec pydantic models without importing
pydantic, and refuses early what could never be converted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
from msgspec import inspect as mi

__all__ = [
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
    "type_name",
]

DecHook = Callable[[type[Any], Any], Any]
"""``dec_hook(type, value)`` returns an instance of ``type``, or raises `ValueError` or `TypeError`."""

EncHook = Callable[[Any], Any]
"""``enc_hook(value)`` returns something that can be encoded."""

EXACT_TYPES: tuple[type[Any], ...] = (int, str, float, bool, bytes, list, dict)
"""A value whose type is exactly one of these needs no conversion to it, which saves calling msgspec."""

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


# ---------------------------------------------------------------- hooks


def is_pydantic(tp: Any) -> bool:
    """Whether this is a pydantic model, asked without importing pydantic."""
    return isinstance(tp, type) and hasattr(tp, "__pydantic_validator__") and hasattr(tp, "model_validate")


def _summary(exc: ValueError) -> str:
    """What pydantic found, in one line and without the values: they may be large, or somebody's secret."""
    if not hasattr(exc, "errors"):
        return str(exc)
    found: list[dict[str, Any]] = cast(Any, exc).errors(include_url=False, include_context=False, include_input=False)
    parts = [": ".join([*filter(None, [".".join(map(str, e["loc"]))]), str(e["msg"])]) for e in found[:3]]
    if len(found) > len(parts):
        parts.append(f"and {len(found) - len(parts)} more")
    return "; ".join(parts)


def make_dec_hook(user: DecHook | None) -> DecHook:
    """The hook that msgspec calls for types it does not know: pydantic models, then the user's hook."""

    def dec_hook(tp: type[Any], value: Any) -> Any:
        if tp is object:
            return value
        if is_pydantic(tp):
            try:
                return tp.model_validate(value)
            except ValueError as exc:
                raise ValueError(_summary(exc)) from exc
        if user is not None:
            return user(tp, value)
        raise TypeError(f"{type_name(tp)} cannot be converted to without a dec_hook")

    return dec_hook


def make_enc_hook(user: EncHook | None) -> EncHook:
    """The hook that msgspec calls for values it does not know: pydantic models, then the user's hook.

    Models are dumped by alias, because aliases are what `model_validate` on the other side reads.
    """

    def enc_hook(value: Any) -> Any:
        if is_pydantic(type(value)):
            return value.model_dump(by_alias=True)
        if user is not None:
            return user(value)
        raise TypeError(f"{type_name(type(value))} cannot be encoded without an enc_hook")

    return enc_hook


def type_name(tp: Any) -> str:
    """How a type is spelled in messages: with its module, unless that is ``builtins``."""
    if not isinstance(tp, type):
        return str(tp)
    return tp.__qualname__ if tp.__module__ == "builtins" else f"{tp.__module__}.{tp.__qualname__}"


# ---------------------------------------------------------------- what a type needs


class Needs(NamedTuple):
    """What must be given to msgspec to convert to a type. Each option costs time, so none is given idly."""

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
            # A call with an empty ** costs more than one without.
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
