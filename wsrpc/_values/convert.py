"""Conversion of decoded values to types and back, with msgspec.

msgspec converts decoded JSON or MessagePack to the types that users write. This module finds the options that a type
needs for that, adds pydantic models without importing pydantic, and refuses types to which nothing can be converted.
"""

from __future__ import annotations

from collections import ChainMap, OrderedDict, UserDict, UserList, deque
from collections.abc import Awaitable, Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import inspect as mi

from .caching import memoized
from .older_names import has_older_names, with_present_names
from .pydantic_types import adapted, has_core_schema, is_pydantic, misfit, pydantic_dumper, pydantic_validator
from .type_survey import is_for_pydantic, problem_of

DecHook = Callable[[type[Any], Any], Any]
"""Function ``dec_hook(type, value)`` that returns an instance of ``type``, or raises `ValueError` or `TypeError`."""

EncHook = Callable[[Any], Any]
"""Function ``enc_hook(value)`` that returns a value that the codec can encode, or raises `TypeError` or
`NotImplementedError`."""

EXACT_TYPES: tuple[type[Any], ...] = (int, str, float, bool, bytes, list, dict)
"""A value whose type is exactly one of these needs no conversion to that type, so that msgspec is not called."""

_VIEWS = [type(view()) for each in ({0: 0}, OrderedDict({0: 0})) for view in (each.keys, each.values, each.items)]
_BUILTIN: dict[type[Any], type[Any]] = dict.fromkeys((range, deque, UserList, *_VIEWS), list)
_BUILTIN.update(dict.fromkeys((MappingProxyType, ChainMap, UserDict), dict))
"""For types of the standard library that msgspec does not know: list or dict. Their subclasses are left to the user's
hook."""


_MISTAKES: dict[type[Any], str] = {
    **dict.fromkeys((type(None), bool, tuple, frozenset), "a key of a mapping: use text or a number"),
    type: "encoded: to give the type of a response, use returns=",
    Awaitable: "encoded: `await` it first",
}
"""What values that are probably mistakes cannot be. msgspec asks a hook for values of the first types only as keys."""


def _refuse(value: Any) -> Any:
    texts = (text for kind, text in _MISTAKES.items() if isinstance(value, kind))
    text = next(texts, "encoded without an enc_hook that converts it")
    raise TypeError(f"{type_name(value.__class__)} cannot be {text}")


# The methods are those of the base, because a subclass may have overridden them: `str()` of some text is markup, or
# returns itself. A datetime is read by its attributes, because pandas' NaT is a datetime inside, but has no year.
_TO_BASE: dict[type[Any], Callable[[Any], Any]] = {
    str: str.__str__,
    bool: _refuse,  # asked for as a key of an object, which JSON does not have
    int: int.__int__,
    float: float.__float__,
    **dict.fromkeys((bytes, bytearray), lambda value: bytes(memoryview(value))),
    Decimal: Decimal,
    datetime: lambda value: datetime.combine(date(value.year, value.month, value.day), datetime.timetz(value)),
    date: lambda value: date(value.year, value.month, value.day),
    time: lambda value: datetime.combine(date.min, value).timetz(),
    timedelta: timedelta.__pos__,
}
"""For types of which msgspec encodes no subclasses: functions that return the value of a subclass as the type."""

# ---------------------------------------------------------------- hooks


def make_dec_hook(user: DecHook | None) -> DecHook:
    """Make the hook that msgspec calls for types that it does not know: pydantic's, then the user's hook."""

    def dec_hook(tp: Any, value: Any) -> Any:
        if tp is object:
            return value
        if is_pydantic(tp):
            try:
                return pydantic_validator(tp)(value)
            except ValueError as exc:
                raise misfit(exc, value) from exc
        if user is not None:
            return user(tp, value)
        raise TypeError(f"nothing can be converted to {type_name(tp)} without a dec_hook")

    return dec_hook


def make_enc_hook(user: EncHook | None) -> EncHook:
    """Make the hook that msgspec calls for values that it does not know.

    Pydantic models come first, then other list and dict types of the standard library, then the user's hook. Last, a
    value of a subclass of str, float, datetime and the like is encoded as a value of the type itself, and one of a
    class such as ``HttpUrl`` by pydantic.
    """

    def enc_hook(value: Any) -> Any:
        cls = value.__class__
        if is_pydantic(cls):
            return by_pydantic(value)
        if (builtin := _BUILTIN.get(cls)) is not None:
            return builtin(value)
        to_base = next((_TO_BASE[base] for base in type(value).__mro__ if base in _TO_BASE), _refuse)
        if to_base is _refuse and has_core_schema(cls):
            to_base = by_pydantic
        try:
            # A hook such as `str` may return the value itself, of which msgspec would ask the hook again.
            if user is not None and (encodable := user(value)) is not value:
                return encodable
        except (TypeError, NotImplementedError):
            if to_base is _refuse:
                raise
        return to_base(value)

    def by_pydantic(value: Any) -> Any:
        return pydantic_dumper(value.__class__)(value, for_pydantic)

    def for_pydantic(value: Any) -> Any:
        return msgspec.to_builtins(value, str_keys=True, enc_hook=enc_hook)

    return enc_hook


def type_name(tp: Any) -> str:
    """Return the name of a type for error messages, with its module unless the module is ``builtins``."""
    if not isinstance(tp, type):
        return str(tp)
    return tp.__qualname__ if tp.__module__ == "builtins" else f"{tp.__module__}.{tp.__qualname__}"


# ---------------------------------------------------------------- what a type needs


@memoized
def for_msgspec(tp: Any) -> Any:
    """Return the type itself or, if pydantic has to validate it, a class that stands for it.

    Raises:
        TypeError: neither of the two can enforce all that it says.
    """
    return adapted(tp, type_name(tp)) if is_for_pydantic(tp) else tp


def nodes_of(root: mi.Type) -> Iterator[mi.Type]:
    """Yield a type and every type inside it, each once. (Types may be recursive.)"""
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


@memoized
def _examine(tp: Any) -> tuple[bool, type[Any] | None, mi.Type | None]:
    """Return whether a type needs options, the first class in it that only a ``dec_hook`` can convert to, and the type
    as msgspec sees it, if it has fields with older names."""
    try:
        root = mi.type_info(tp)
        nodes = list(nodes_of(root))
    except NameError as exc:
        raise TypeError(f"{type_name(tp)} has a field whose type cannot be resolved: {exc}") from exc
    # `object` needs no hook: msgspec accepts any value for it, as the annotation says.
    custom: list[Any] = [node.cls for node in nodes if isinstance(node, mi.CustomType) and node.cls is not object]
    for cls in filter(is_pydantic, custom):
        try:  # now, not when the first message arrives
            pydantic_validator(cls)
        except RuntimeError as exc:  # pydantic cannot resolve a name
            why = str(exc).partition("\n")[0]
            raise TypeError(f"{type_name(cls)} has a field whose type cannot be resolved: {why}") from exc
    keys = [node.key_type for node in nodes if isinstance(node, mi.DictType)]
    needed = bool(custom) or not all(isinstance(key, mi.StrType | mi.AnyType) for key in keys)
    unknown = next((cls for cls in custom if not is_pydantic(cls)), None)
    return needed, unknown, root if has_older_names(root, nodes) else None


def older_names_in(tp: Any) -> mi.Type | None:
    """Return a type as msgspec sees it, if it has fields with older names. Otherwise return None."""
    return None if tp is Any or tp is object else _examine(tp)[2]


@memoized
def needs_options(tp: Any, has_hook: bool) -> bool:
    """Return whether the conversion to a type needs options.

    It does if msgspec calls the hook for a class in the type, or the type has mappings with keys that are text only in
    JSON. Options make msgspec slower, so they are passed only if they are needed.

    Raises:
        TypeError: msgspec does not accept the type, or would not enforce all that it says. Or it contains a class that
            neither msgspec nor pydantic knows, and there is no ``dec_hook``.
    """
    if tp is Any or tp is object:
        return False
    check_type(tp)
    needed, unknown, _ = _examine(tp)
    if unknown is not None and not has_hook:
        raise TypeError(
            f"values from the wire cannot be converted to {type_name(unknown)}: make it a dataclass, a msgspec.Struct "
            "or a pydantic model, or pass a dec_hook= that converts to it"
        )
    return needed


def check_type(tp: Any) -> None:
    """Raise TypeError if msgspec does not accept a type, or would not enforce all that it says."""
    try:
        if problem := problem_of(tp):
            raise TypeError(problem)
        msgspec.json.Decoder(tp)
    except NameError:
        pass  # the caller reports names that cannot be resolved
    except TypeError as exc:
        if "custom type" not in str(exc):
            raise
        raise TypeError(f"{exc}: put one of the two into a dataclass, or write a pydantic model of the union") from exc
    except KeyError as exc:  # from msgspec, for a class of attrs
        raise TypeError(f"{type_name(tp)}: field {exc} has no annotation: write {exc.args[0]}: Any") from exc
    except (NotImplementedError, RecursionError, AssertionError) as exc:  # such as for a class derived from Protocol[T]
        raise TypeError(str(exc) or f"{type_name(tp)}: msgspec refuses it") from exc


def convert_options(needed: bool, dec_hook: DecHook | None) -> dict[str, Any]:
    """Return the keyword arguments for `msgspec.convert`, only those that make a difference."""
    return {"dec_hook": make_dec_hook(dec_hook), "str_keys": True} if needed else {}


# ---------------------------------------------------------------- one value to one type


def _unboxed(exc: msgspec.ValidationError) -> msgspec.ValidationError:
    """Return the error with a path that begins at the value, instead of the tuple around the value."""
    text, found, path = str(exc).rpartition("`$[0]")
    if not found:
        return exc
    if path == "`" and text.endswith(" - at "):
        return msgspec.ValidationError(text.removesuffix(" - at "))
    return msgspec.ValidationError(f"{text}`${path}")


def _converter(tp: Any, dec_hook: DecHook | None = None) -> Callable[[Any], Any]:
    tp = for_msgspec(tp)
    if tp is Any or tp is object:
        return lambda value: value
    # msgspec caches its analysis of a Struct, but analyses `list[int]` anew in each call. If a Struct has a field of
    # type `list[int]`, the analysis is cached, too.
    options = convert_options(needs_options(tp, dec_hook is not None), dec_hook)
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

    if (node := older_names_in(tp)) is not None:
        return lambda value: convert_value(with_present_names(node, value))
    return convert_value


_cached_converter = memoized(_converter)


def converter(tp: Any, *, dec_hook: DecHook | None = None) -> Callable[[Any], Any]:
    """Make a function that converts decoded JSON or MessagePack to ``tp``. Without a hook the function is cached.

    The function raises `msgspec.ValidationError` if a value does not fit, with msgspec's path (``$`` is the value).
    Other exceptions of a ``dec_hook`` or of the type itself are passed on unchanged.

    Raises:
        TypeError: values cannot be converted to ``tp``. The text says why.
    """
    # A hook may be the method of an object, which a cache would keep alive.
    return _cached_converter(tp) if dec_hook is None else _converter(tp, dec_hook)
