"""Check of a description that may come from elsewhere, before texts are made of it.

What makes texts of a description may rely on this: each keyword of a schema that it reads has the shape that JSON
Schema gives it, each reference leads to a definition, and nothing is nested deeply.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .._base.names import RESERVED_EVENTS, check_event, check_name
from .._schema.definitions import MEMBER_NAMES, PREFIX
from .._schema.description import Description, EventSchema

MOST_LEVELS = 40
"""How deep a schema may be nested. Python's parser takes 200 brackets in each other."""
MOST_TYPES = 7
"""JSON Schema has so many types."""

Check = Callable[[Any], bool]


class InvalidDescription(ValueError):
    """A description cannot be used, because it has a wrong shape or is too large."""


def _is_text(value: Any) -> bool:
    return value.__class__ is str


def _is_number(value: Any) -> bool:
    return value.__class__ in (int, float) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return value.__class__ is int and value >= 0


def _is_schema(value: Any) -> bool:
    return value.__class__ in (dict, bool)


def _is_list_of(is_item: Check) -> Check:
    return lambda value: value.__class__ in (list, tuple) and all(map(is_item, value))


def _is_object_of(is_item: Check) -> Check:
    return lambda value: value.__class__ is dict and all(map(is_item, value.values()))


_are_texts = _is_list_of(_is_text)
_are_schemas = _is_list_of(_is_schema)
_is_mapping = _is_object_of(_is_text)  # the tags of a discriminator, its keys, may be integers


def _is_shallow(value: Any) -> bool:
    todo = [(value, 1)]
    while todo:
        each, level = todo.pop()
        if level > MOST_LEVELS:
            return False
        if each.__class__ in (list, tuple, dict):
            todo.extend((inner, level + 1) for inner in (each.values() if each.__class__ is dict else each))
    return True


def _are_values(value: Any) -> bool:
    return value.__class__ in (list, tuple) and _is_shallow(value)


def _are_members(value: Any) -> bool:
    return _are_schemas(value) and bool(value)


def _is_discriminator(value: Any) -> bool:
    return value.__class__ is dict and _is_text(value.get("propertyName", "")) and _is_mapping(value.get("mapping", {}))


def _is_type(value: Any) -> bool:
    # Each type is written with the items of the schema. If one could be repeated, the text would double on each level.
    return _is_text(value) or (_are_texts(value) and 0 < len(value) <= MOST_TYPES and len(set(value)) == len(value))


_SHAPES: dict[str, tuple[str, Check]] = {
    keyword: (wanted, is_right)
    for wanted, is_right, keywords in (
        ("text", _is_text, ("$ref", "title", "description", "format", "contentEncoding", "pattern")),
        ("text, or a list of different texts", _is_type, ("type",)),
        ("a list of values", _are_values, ("enum",)),
        ("a value that is not nested deeply", _is_shallow, ("const", "default")),
        ("a list of texts", _are_texts, (MEMBER_NAMES, "required")),
        ("an object of schemas", _is_object_of(_is_schema), ("properties",)),
        ("a schema", _is_schema, ("additionalProperties", "items")),
        ("a list of schemas", _are_schemas, ("prefixItems",)),
        ("a list of schemas", _are_members, ("anyOf", "oneOf", "allOf")),
        ('an object with "propertyName" and "mapping"', _is_discriminator, ("discriminator",)),
        ("a number", _is_number, ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
        ("a number from 0 on", _is_count, ("minLength", "maxLength", "minItems", "maxItems")),
        ("a number from 0 on", _is_count, ("minProperties", "maxProperties")),
    )
    for keyword in keywords
}
"""The shape of each keyword, in words, and the function that checks it."""


def inner_schemas(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the schemas that are written directly in a schema."""
    yield from schema.get("properties", {}).values()
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield schema[key]
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        yield from schema.get(key, ())


def _check_schema(schema: Any, definitions: Iterable[str], where: str) -> None:
    """Check one schema.

    Args:
        definitions: the names that ``{"$ref": ...}`` may name; best a set or a dict.
        where: for the error: where the schema stands.

    Raises:
        InvalidDescription: it has a wrong shape; the text says where, and what was expected.
    """
    todo: list[tuple[Any, int]] = [(schema, 1)]
    while todo:
        each, level = todo.pop()
        if each.__class__ is bool:
            continue
        if each.__class__ is not dict:
            raise InvalidDescription(f"{where}: a schema is an object, got {_shown(each)}")
        if level > MOST_LEVELS:
            raise InvalidDescription(f"{where}: the schema is nested deeper than {MOST_LEVELS} levels")
        for key, (wanted, is_right) in _SHAPES.items():
            if key in each and not is_right(each[key]):
                raise InvalidDescription(f"{where}: {key!r} in a schema is {wanted}, got {_shown(each[key])}")
        ref: str = each.get("$ref", "")
        if "$ref" in each and (not ref.startswith(PREFIX) or ref.removeprefix(PREFIX) not in definitions):
            raise InvalidDescription(f"{where}: {_shown(ref)} refers to no definition of the description")
        todo.extend((inner, level + 1) for inner in inner_schemas(each))


def schemas_of_event(event: EventSchema) -> list[Any]:
    """Return the schemas of one event: of its parameters, and of what is sent and comes back."""
    found = [parameter.schema for parameter in event.parameters]
    return [*found, *(each for each in (event.sends, event.items, event.result) if each is not None)]


def is_answered(emitted: EventSchema) -> bool:
    """Return whether something that is sent has a response."""
    return emitted.kind != "value" or emitted.result is not None


def by_channel(events: Iterable[EventSchema]) -> dict[str | None, list[EventSchema]]:
    """Return the events of each channel."""
    channels: dict[str | None, list[EventSchema]] = {}
    for event in events:
        channels.setdefault(event.channel, []).append(event)
    return channels


def check_description(description: Description) -> None:
    """Check a description.

    Raises:
        InvalidDescription: it has a wrong shape, or describes what cannot be called; the text says where.
    """
    definitions = description.definitions
    for name, schema in definitions.items():
        _check_schema(schema, definitions, f"definition {_shown(name)}")
    for events in (description.events, description.emits):
        seen: set[tuple[str | None, str]] = set()
        for event in events:
            where = f"event {_shown(event.event)}"
            if (event.channel, event.event) in seen:
                raise InvalidDescription(f"{where} is there twice on one channel")
            seen.add((event.channel, event.event))
            _check_event(event, definitions, where)


def _check_event(event: EventSchema, definitions: Iterable[str], where: str) -> None:
    try:
        check_event(event.event)
        if event.channel is not None:
            check_name("a channel's name", event.channel)
    except (TypeError, ValueError) as exc:
        raise InvalidDescription(f"{where}: {exc}") from exc
    if event.channel is None and event.event in RESERVED_EVENTS:
        raise InvalidDescription(f"{where} is a lifecycle event on the main channel, and never sent")
    for schema in schemas_of_event(event):
        _check_schema(schema, definitions, where)
    if any(parameter.rest for parameter in event.parameters[:-1]):
        raise InvalidDescription(f"{where} has a parameter after the one that takes all further arguments")


def _shown(value: Any) -> str:
    """Return the beginning of a value in one line, for an error."""
    if value.__class__ in (list, tuple, dict):
        return f"a {value.__class__.__name__}"
    if value.__class__ is int and abs(value) >= 10**50:
        return "a large number"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
