"""Older names of fields: an object that has one is read as if it had the present name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import inspect as mi

OLDER_NAMES = "x-older-names"
"""Keyword of a JSON Schema for the older names of a field or parameter."""
_WITH_NAMES = (mi.StructType, mi.DataclassType, mi.TypedDictType)


def older_names(*names: str) -> msgspec.Meta:
    """Declare older names of a field: ``humidity: Annotated[float, older_names("wetness")]``.

    Objects from remote peers may have one of these names in place of the present one. An object with two of the names
    does not fit. Objects are sent with the present name only. Works for fields of `msgspec.Struct`, dataclasses and
    `typing.TypedDict`, and for parameters where arguments have names: in the body of a URL. The fields of classes that
    are sent as arrays have no names in messages: there, only ``wsrpc diff`` reads the older names.

    Raises:
        TypeError: there is no name, or one is not a string.
    """
    if not names or {*map(type, names)} != {str}:
        raise TypeError(f'older_names() takes names of fields, such as older_names("wetness"); got {names!r}')
    return msgspec.Meta(extra_json_schema={OLDER_NAMES: list(names)})


def _names_of(node: mi.Type) -> list[str]:
    schema: dict[str, Any] | None = getattr(node, "extra_json_schema", None)
    return [] if schema is None else schema.get(OLDER_NAMES, [])


def older_names_of(tp: Any) -> list[str]:
    """Return the older names of a parameter with this type."""
    return _names_of(mi.type_info(tp))


def has_older_names(root: mi.Type, nodes: Iterable[mi.Type]) -> bool:
    """Return whether a field in a type has older names in messages.

    Args:
        nodes: all types in ``root``.

    Raises:
        TypeError: an older name is another name of the same class, or the older names do not belong to a field.
    """
    nodes = list(nodes)
    placed = [root, *(field.type for node in nodes for field in getattr(node, "fields", ()))]
    for node in nodes:
        if (names := _names_of(node)) and not any(node is each for each in placed):
            raise TypeError(
                f"older_names({str(names)[1:-1]}) belongs to the whole type of a field: Annotated[T | None, ...]"
            )
    found = False
    for node in nodes:
        if isinstance(node, _WITH_NAMES) and not getattr(node, "array_like", False):
            used = [field.encode_name for field in node.fields] + [getattr(node, "tag_field", None)]
            for field in node.fields:
                for name in _names_of(field.type):
                    if name in used:
                        raise TypeError(f"{node.cls.__qualname__}.{field.name}: {name!r} is the name of two fields")
                    used.append(name)
                    found = True
    return found


def with_present_names(node: mi.Type, value: Any) -> Any:
    """Return a decoded value that is to be converted to ``node``, with the present names of all fields.

    Raises:
        msgspec.ValidationError: an object has two names of one field.
    """
    match node:
        case mi.Metadata():
            return with_present_names(node.type, value)
        case mi.UnionType():
            for member in node.types:  # at most one member has the shape or the tag of the value
                value = with_present_names(member, value)
        case mi.CollectionType() if value.__class__ in (list, tuple):
            return [with_present_names(node.item_type, each) for each in value]
        case mi.TupleType() if value.__class__ in (list, tuple):
            return list(_by_place(node.item_types, value))
        case mi.DictType() if value.__class__ is dict:
            return {key: with_present_names(node.value_type, each) for key, each in value.items()}
        case mi.StructType(array_like=True) | mi.NamedTupleType() if value.__class__ in (list, tuple):
            tag = [node.tag] if isinstance(node, mi.StructType) and node.tag_field is not None else []
            if list(value[: len(tag)]) == tag:
                return [*tag, *_by_place([field.type for field in node.fields], value[len(tag) :])]
        case mi.StructType() | mi.DataclassType() | mi.TypedDictType() if value.__class__ is dict:
            return _renamed(node, value)
        case _:
            pass
    return value


def _by_place(nodes: Sequence[mi.Type], values: Sequence[Any]) -> Iterator[Any]:
    for number, value in enumerate(values):
        yield with_present_names(nodes[number], value) if number < len(nodes) else value


def _renamed(node: Any, value: dict[Any, Any]) -> dict[Any, Any]:
    if (tag_field := getattr(node, "tag_field", None)) is not None and value.get(tag_field, node.tag) != node.tag:
        return value  # an object of another class
    made = dict(value)
    for field in node.fields:
        sent = [name for name in (field.encode_name, *_names_of(field.type)) if name in value]
        if len(sent) > 1:
            raise msgspec.ValidationError(f"an object has {', '.join(map(repr, sent))}, which name the same field")
        if sent:
            made[field.encode_name] = with_present_names(field.type, made.pop(sent[0]))
    return made


def reading_arguments(convert: Callable[..., Any], nodes: Sequence[mi.Type | None]) -> Callable[..., Any]:
    """Return ``convert`` for an event's name and arguments, whose types are ``nodes``. None: without older names."""

    def convert_present(a: list[Any]) -> Any:
        a = a.copy()
        for number, node in enumerate(nodes, 1):
            if node is not None and number < len(a):
                a[number] = with_present_names(node, a[number])
        return convert(a)

    return convert_present
