"""Comparison of schemas: the types, fields, values and constraints that only one version of a contract has."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from .change_rules import Change, Place, change_at
from .definitions import FLAGS, MEMBER_NAMES, PREFIX, TIMEZONE, UNIT, Schema

_READ_AS = {("integer", "number"), ("integer", "text decimal"), ("number", "text decimal")}
"""Pairs of types: values of the first are read as values of the second. But a decimal is text in TypeScript."""
_LOWER = ("minimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "maxLength", "maxItems", "maxProperties")
_LIMITS = (*_LOWER, *_UPPER, "pattern", "multipleOf", TIMEZONE, "propertyNames", "additionalProperties")
_TYPE_NAMES = ("null", "boolean", "integer", "number", "string", "array", "object")
_JSON: dict[type, str] = dict(zip((type(None), bool, int, float, str, list, dict), _TYPE_NAMES, strict=True))


class Leaf(NamedTuple):
    """One alternative of a schema: the values of one type and format, or the objects with one tag."""

    schema: Schema
    name: str
    """The name of its definition. "" if it has none."""


Leaves = dict[tuple[str, Any], Leaf]
"""Alternatives by type (or format) and tag."""


# ---------------------------------------------------------------- alternatives


def leaves_of(schema: Schema, definitions: dict[str, Schema]) -> Leaves:
    """Return the alternatives of a schema."""
    found: Leaves = {}
    for kind, tag, leaf in _walk(schema, definitions, "", frozenset()):
        number = 2
        key = kind, tag
        while key in found:
            key, number = (kind, (tag, number)), number + 1
        found[key] = leaf
    return found


def _walk(
    schema: Any, definitions: dict[str, Schema], home: str, seen: frozenset[str]
) -> Iterator[tuple[str, Any, Leaf]]:
    schema = _as_enum(schema)
    shared = {UNIT: schema[UNIT]} if UNIT in schema else {}
    if (ref := schema.get("$ref")) is not None:
        name = ref.removeprefix(PREFIX)
        if name not in seen:
            yield from _walk({**shared, **definitions[name]}, definitions, name, seen | {name})
    elif members := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        for member in members:
            yield from _walk({**shared, **member}, definitions, home, seen)
    elif "enum" in schema:
        values = schema["enum"]
        names = [*schema.get(MEMBER_NAMES, ()), *[None] * len(values)]
        for kind in dict.fromkeys(_JSON[type(value)] for value in values):
            chosen = [number for number, value in enumerate(values) if _JSON[type(value)] == kind]
            part: Schema = {**shared, "enum": [values[n] for n in chosen], MEMBER_NAMES: [names[n] for n in chosen]}
            yield kind, None, Leaf({} if kind == "null" else part, home)
    else:
        kinds = schema.get("type") or _implied(schema)
        for kind in [kinds] if isinstance(kinds, str) else kinds:
            tag = None
            if kind == "string" and "contentEncoding" in schema:
                kind = "bytes"
            elif kind == "string" and "format" in schema:
                kind = f"text {schema['format']}"
            elif kind in ("object", "array"):
                tag = next((repr(each.schema["enum"]) for each in fields_of(schema).values() if each.constant), None)
            yield kind, tag, Leaf(schema, home)


def dict_and_class_changes(old: Schema, new: Schema, place: Place, named: str) -> Iterator[Change]:
    """Yield the changes from a dict to a class, or from a list to a tuple, and the reverse."""
    one = old if named in old else new
    if named == "properties" and not is_closed(one):
        yield change_at("class-to-dict" if one is old else "dict-to-class", place)
    if named == "prefixItems" or is_closed(one) or not all(each.may_be_missed for each in fields_of(one).values()):
        yield change_at("type-widened" if one is old else "type-narrowed", place, old, new)


def _implied(schema: Schema) -> str:
    """Return the type that a schema without ``type`` describes."""
    if schema.keys() & {"properties", "additionalProperties"}:
        return "object"
    return "array" if schema.keys() & {"items", "prefixItems"} else "any"


def shown_leaf(key: tuple[str, Any], leaf: Leaf) -> str:
    """Return the name of an alternative for people: of its class, or of its type."""
    return str(leaf.schema.get("title", leaf.name)) if leaf.name else key[0].removeprefix("text ")


def type_changes(olds: Leaves, news: Leaves, place: Place) -> Iterator[Change]:
    """Yield the changes for types that only one version reads."""
    lost = [key for key in olds if not _is_read(key, olds, news, place)]
    gained = [key for key in news if not _is_read(key, news, olds, place)]
    old, new = ({kind for kind, _ in side} for side in (olds, news))
    for rule, one, other in (("bytes-to-text", old, new), ("text-to-bytes", new, old)):
        if "bytes" in one - other and "string" in other - one:
            lost, gained = ([key for key in side if key[0] not in ("bytes", "string")] for side in (lost, gained))
            yield change_at(rule, place)
    for rule, here, there, side in (("integer-to-number", old, new, gained), ("number-to-integer", new, old, lost)):
        if ("number", None) in side and "integer" in here - there:
            side.remove(("number", None))
            yield change_at(rule, place)
    for rule, side in (("null-refused", lost), ("null-allowed", gained)):
        if ("null", None) in side:
            side.remove(("null", None))
            yield change_at(rule, place)
    for rule, side, leaves in (("variant-removed", lost, olds), ("variant-added", gained, news)):
        for key in [each for each in side if each[1] is not None and each[0] in old & new]:
            side.remove(key)
            yield change_at(rule, place.at(f"<{shown_leaf(key, leaves[key])}>"))
    others = [[shown_leaf(key, leaves[key]) for key in side] for side, leaves in ((lost, olds), (gained, news))]
    if all(others):
        yield change_at("type-changed", place, *map(" | ".join, others))
        return
    for rule, names in zip(("type-narrowed", "type-widened"), others, strict=True):
        for name in names:
            yield change_at(rule, place.at(f"<{name}>"))


def _is_read(key: tuple[str, Any], leaves: Leaves, readers: Leaves, place: Place) -> bool:
    """Return whether one of ``readers`` accepts the type of an alternative. Other types must have the same limits."""

    def limits(schema: Schema) -> set[str]:
        found = {keyword: _least_or_most(schema, keyword) for keyword in (*_LIMITS, "enum")}
        return {f"{keyword} {value}" for keyword, value in found.items() if value is not None}

    kind, own = key[0], limits(leaves[key].schema)
    pairs = {(kind, reader) for kind, reader in _READ_AS if place.reader == "this program" or reader == "number"}
    return key in readers or any(
        reader == "any"
        or (((kind, reader) in pairs or (kind[:5], reader) == ("text ", "string")) and limits(leaf.schema) <= own)
        for (reader, _), leaf in readers.items()
    )


_Members = dict[str, str | None]
"""The names of the values that a schema lists, by their JSON."""


def members_of(schema: Schema) -> _Members | None:
    if FLAGS in schema:
        return {str(value): name for name, value in schema[FLAGS].items()}
    return dict(zip(map(json.dumps, schema["enum"]), schema[MEMBER_NAMES], strict=True)) if "enum" in schema else None


def value_changes(olds: _Members, news: _Members, place: Place) -> Iterator[Change]:
    for value in {**olds, **news}:
        at = place.at(f"={value}")
        if value not in olds:
            yield change_at("enum-value-added", at)
        elif value not in news:
            yield change_at("enum-value-removed", at)
        elif (before := olds[value]) != (after := news[value]) and before and after:
            renumbered = before in news.values() or after in olds.values()
            yield change_at("enum-renumbered" if renumbered else "enum-member-renamed", at, before, after)


def _least_or_most(schema: Schema, keyword: str) -> Any:
    """Return what a schema says of a keyword. That a value is above 0 means, for an integer, that it is 1 or more."""
    bound = schema.get("exclusiveM" + keyword[1:])
    if not isinstance(bound, int | float):
        return schema.get(keyword)
    upwards = keyword in _LOWER
    if schema.get("type") != "integer":
        return math.nextafter(bound, math.inf if upwards else -math.inf)
    return bound // 1 + 1 if upwards else -(-bound // 1) - 1


def constraint_changes(old: Schema, new: Schema, place: Place, *, checked: bool) -> Iterator[Change]:
    classes = checked and "properties" in old and "properties" in new
    for keyword in _LIMITS:
        if keyword.endswith("Items") and ("prefixItems" in old or "prefixItems" in new):
            continue
        before, after = (_least_or_most(side, keyword) for side in (old, new))
        if keyword == "additionalProperties":  # whether a class forbids unknown fields
            before, after = (True if classes and is_closed(side) else None for side in (old, new))
        if before == after:
            continue
        ordered = keyword in (*_LOWER, *_UPPER) and isinstance(before, int | float) and isinstance(after, int | float)
        if not checked:
            rule = "constraint-unchecked"
        elif before is not None and after is not None and not ordered:
            rule = "constraint-changed"
        elif before is None or (after is not None and (after > before) == (keyword in _LOWER)):
            rule = "constraint-tightened"
        else:
            rule = "constraint-loosened"
        yield change_at(rule, place.at(f" {keyword}"), before, after)


# ---------------------------------------------------------------- fields


class Field(NamedTuple):
    """A field of an object, or an item of an array of fixed length."""

    schema: Schema
    may_be_absent: bool
    """Whether a sender may leave it out."""

    @property
    def may_be_missed(self) -> bool:
        """Whether a receiver accepts an object without it."""
        return self.may_be_absent or "default" in self.schema

    @property
    def deprecated(self) -> bool:
        """Whether its schema says so."""
        return self.schema.get("deprecated") is True

    @property
    def constant(self) -> bool:
        """Whether it is a tag."""
        return len(self.schema.get("enum", ())) == 1 and MEMBER_NAMES not in self.schema


Fields = dict[str, Field]


def fields_of(schema: Schema) -> Fields:
    if "prefixItems" in schema:
        least = schema.get("minItems", 0)
        return {str(n): Field(_as_enum(each), n >= least) for n, each in enumerate(schema["prefixItems"])}
    required = schema.get("required", ())
    return {name: Field(_as_enum(each), name not in required) for name, each in schema.get("properties", {}).items()}


def items_of(schema: Schema, fixed: str, others: str) -> list[Any]:
    """Return the schemas of the items of a tuple or a class, or the one for all items of a list or a dict."""
    return [each.schema for each in fields_of(schema).values()] if fixed in schema else [schema.get(others)]


def _as_enum(schema: Any) -> Schema:
    """Return a schema in which ``const`` is written as ``enum``. True, False and None are read as any value."""
    found: Schema = schema if schema.__class__ is dict else {}
    return {**found, "enum": [found["const"]]} if "const" in found else found


def is_closed(schema: Schema) -> bool:
    """Return whether a class refuses unknown fields."""
    return schema.get("additionalProperties") is False or ("prefixItems" in schema and "maxItems" in schema)


def one_sided_changes(old: Field | None, new: Field | None, place: Place, *, refused: bool) -> Iterator[Change]:
    """Yield the changes for a field that one version has. ``refused``: the other one refuses unknown fields."""
    field, number = (new, 0) if old is None else (old, 1)
    assert field is not None
    if not field.may_be_missed:
        rules = _RESULT_FIELD if place.is_result else _FIELD
    elif not place.is_result:
        rules = _OPTIONAL_FIELD
    else:  # null says that the field is missing, and another default could be a value
        rules = _OPTIONAL_RESULT_FIELD if field.schema.get("default") is None else _RESULT_FIELD_WITH_DEFAULT
    found = change_at(rules[number], place, old and old.schema, new and new.schema)
    if new is None and field.deprecated:
        found = msgspec.structs.replace(found, text=f"{found.text} It was deprecated.")
    yield found
    if refused:
        yield change_at("added-field-refused" if old is None else "removed-field-refused", place)


_FIELD = "field-added", "field-removed"
_OPTIONAL_FIELD = "field-added-optional", "field-removed-optional"
_RESULT_FIELD = "result-field-added", "result-field-removed"
_RESULT_FIELD_WITH_DEFAULT = "result-field-added-default", "result-field-removed-default"
_OPTIONAL_RESULT_FIELD = "result-field-added-optional", "result-field-removed-optional"
