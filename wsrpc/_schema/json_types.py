"""JSON Schemas of Python types, in two forms: for sent values ("sent"), and for returned values ("given").

The forms differ in fields with defaults: a sent value may lack these fields, and a returned value has them. msgspec
makes the first form, and this module makes the second form from it. pydantic makes both forms for its models.
"""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect as mi

from .._values.convert import check_type, for_msgspec, nodes_of, type_name
from .definitions import (
    FLAGS,
    MEMBER_NAMES,
    PREFIX,
    TIMEZONE,
    Form,
    Schema,
    named,
    objects,
    reachable,
    rebuilt,
    renamed,
    stores_no_defaults,
    unused,
)
from .pydantic_schemas import MODES, Models, describe_models

UNKNOWN_CLASS = "x-unknown"
"""Marks a class for which msgspec has no schema, with its name, until `_without_marks` has removed it."""
ANYTHING = "x-anything"
"""Stands for the schema of `object`, which is empty, until then: msgspec ignores an empty schema."""


class Described(NamedTuple):
    """The schema of one type."""

    schema: Schema
    notes: list[str]
    """The parts of the type without a schema, and why."""


def schemas_of(types: Sequence[tuple[Any, Form]]) -> tuple[list[Described], dict[str, Schema]]:
    """Return the schema of each type in the requested form, and the definitions to which the schemas refer.

    A type that cannot be described gets ``{}`` (any value) and a note.
    """
    keys = [_key(tp) for tp, _ in types]
    good: dict[Any, Any] = {}
    failures: dict[Any, str] = {}
    for key, (tp, _) in dict(zip(keys, types, strict=True)).items():  # many handlers use the same types
        try:
            adapted = for_msgspec(tp)
            _check_describable(adapted)
            good[key] = adapted
        except Exception as exc:  # for example for a default that cannot be encoded
            failures[key] = f"{type_name(tp)} has no JSON Schema: {exc}"
    models = describe_models(good.values())
    definitions = dict(models.definitions)
    described: dict[Form, dict[Any, Schema]] = {}
    # All types in both forms, so that a class has the same name in both. Unused definitions are dropped.
    for form in MODES:
        schemas, found = _components(good.values(), form, models)
        described[form] = dict(zip(good, schemas, strict=True))
        definitions.update(found)
    roots = [described[form].get(key, {}) for key, (_, form) in zip(keys, types, strict=True)]
    used = reachable(roots, definitions)
    names = named({key: definitions[key] for key in used})
    roots = [renamed(root, names) for root in roots]
    definitions = {names[key]: renamed(definitions[key], names) for key in used}
    notes = [
        [failures[key]] if key in failures else _unknown(root, definitions)
        for root, key in zip(roots, keys, strict=True)
    ]
    described_types = [Described(_without_marks(root), found) for root, found in zip(roots, notes, strict=True)]
    return described_types, {name: _without_marks(definitions[name]) for name in sorted(definitions)}


def _key(tp: Any) -> Any:
    try:
        hash(tp)
    except TypeError:  # for example for Annotated[int, []], which is unhashable
        return id(tp)
    return tp


# ---------------------------------------------------------------- msgspec


def _check_describable(tp: Any) -> None:
    """Raise an exception if a type has no schema."""
    if tp is not Any and tp is not object:
        check_type(tp)
    msgspec.json.schema_components([tp], schema_hook=lambda cls: {UNKNOWN_CLASS: ""})
    describe_models([tp])


def _components(types: Collection[Any], form: Form, models: Models) -> tuple[list[Schema], dict[str, Schema]]:
    def hook(cls: type[Any]) -> Schema:
        if cls is object:
            return {ANYTHING: ""}
        return models.schemas.get((cls, form), {UNKNOWN_CLASS: type_name(cls)})

    infos = [{node.cls: node for node in nodes_of(mi.type_info(tp)) if isinstance(node, _CLASSES)} for tp in types]
    called = _class_names(cls for classes in infos for cls in classes)
    schemas: list[Schema] = []
    found: dict[str, Schema] = {}
    # One type at a time, with the classes in it, so that the references show the names from msgspec. For many types
    # together, msgspec would confuse two classes that have the same name and the same module.
    for tp, classes in zip(types, infos, strict=True):
        (schema, *refs), components = msgspec.json.schema_components([tp, *classes], schema_hook=hook)
        keys = {
            ref["$ref"].removeprefix(PREFIX): f"{form}:msgspec:{called[cls]}"
            for ref, cls in zip(refs, classes, strict=True)
        }
        schemas.append(_with_formats(renamed(schema, keys), mi.type_info(tp)))
        for ref, info in zip(refs, classes.values(), strict=True):
            name = ref["$ref"].removeprefix(PREFIX)
            found[keys[name]] = component = renamed(components[name], keys)
            if isinstance(info, mi.EnumType):
                _describe_enum(component, info.cls)
                continue
            _describe_fields(component, info)
            if form == "given":
                _complete(component, info)
    return schemas, found


def _describe_enum(schema: Schema, cls: type[enum.Enum]) -> None:
    if issubclass(cls, enum.Flag):
        # msgspec's schema has only the single flags, but msgspec also accepts and returns their sums.
        schema.pop("enum", None)
        schema |= {"type": "integer", FLAGS: {member.name: member.value for member in cls}}
    elif "enum" in schema:
        names = {member.value: member.name for member in cls}
        schema[MEMBER_NAMES] = [names[value] for value in schema["enum"]]


def _describe_fields(schema: Schema, info: Any) -> None:
    """Add what msgspec's schema lacks: the formats of times, and the names of fields that are sent by position."""
    if schema["type"] == "object":
        for field in info.fields:
            _with_formats(schema["properties"][field.encode_name], field.type)
        return
    items = schema.get("prefixItems", [])
    for field, item in zip(info.fields, items[len(items) - len(info.fields) :], strict=True):  # after the tag
        _with_formats(item, field.type).setdefault("title", field.name)


def _with_formats(schema: Schema, node: mi.Type) -> Schema:
    """Add the format of each time without a time zone in a schema, and return the schema.

    Neither msgspec nor JSON Schema has a format for such times. This one is pydantic's.
    """
    while isinstance(node, mi.Metadata):
        node = node.type
    if isinstance(node, mi.DateTimeType | mi.TimeType):
        schema.setdefault("format", "date-time" if isinstance(node, mi.DateTimeType) else "time")
        if node.tz is not None:
            schema[TIMEZONE] = node.tz
    if isinstance(node, mi.DictType) and isinstance(node.key_type, mi.IntType):
        schema.setdefault("propertyNames", {"pattern": "^-?[0-9]+$"})
    match node:
        case mi.CollectionType() if schema.get("items"):
            _with_formats(schema["items"], node.item_type)
        case mi.TupleType():
            for item, inner in zip(schema.get("prefixItems", ()), node.item_types, strict=False):
                _with_formats(item, inner)
        case mi.DictType() if schema.get("additionalProperties"):
            _with_formats(schema["additionalProperties"], node.value_type)
        case mi.UnionType():
            for member in schema.get("anyOf", ()):
                # A union has at most one member that is text, one that is an array, and one that is an object.
                for inner in node.types:
                    if "$ref" not in member and _json_kind(inner) == member.get("type"):
                        _with_formats(member, inner)
        case _:
            pass
    return schema


def _json_kind(node: mi.Type) -> str:
    while isinstance(node, mi.Metadata):
        node = node.type
    match node:
        case mi.DateTimeType() | mi.TimeType():
            return "string"
        case mi.CollectionType() | mi.TupleType():
            return "array"
        case mi.DictType():
            return "object"
        case _:
            return ""


_CLASSES = (mi.StructType, mi.DataclassType, mi.TypedDictType, mi.NamedTupleType, mi.EnumType)


def _class_names(classes: Iterable[Any]) -> dict[Any, str]:
    """Return the name of each class. Classes of the same name get the names of their modules, or numbers."""

    def short(cls: Any) -> str:
        if not isinstance(cls, type) and get_args(cls):
            return "_".join(short(part) for part in (get_origin(cls), *get_args(cls)))
        return re.sub(r"\W+", "_", getattr(cls, "__name__", str(cls)))

    distinct = list(dict.fromkeys(classes))
    shorts = Counter(map(short, distinct))
    names: dict[Any, str] = {}
    for cls in distinct:
        name = short(cls)
        if shorts[name] > 1:
            home: Any = get_origin(cls) or cls
            name = f"{home.__module__}.{home.__qualname__ if home is cls else name}".replace(".<locals>", "")
        names[cls] = unused(name, names.values())
    return names


def _complete(schema: Schema, info: Any) -> None:
    """Change the schema of a sent value to that of a returned value, in which fields with defaults are required."""
    always = [field.encode_name for field in info.fields if _always_there(field, info)]
    if schema["type"] == "array":
        schema["minItems"] = len(schema.get("prefixItems", ()))
    else:
        first = schema["required"][: len(schema["required"]) - sum(field.required for field in info.fields)]  # the tag
        schema["required"] = [*first, *always]


def _always_there(field: mi.Field, info: Any) -> bool:
    cls: Any = get_origin(info.cls) or info.cls
    if isinstance(info, mi.TypedDictType):
        return field.required
    if _may_be_unset(cls, field.name):
        return False
    if field.required:
        return True
    if isinstance(info, mi.StructType):
        return not cls.__struct_config__.omit_defaults
    return not stores_no_defaults(cls) or field.default is msgspec.NODEFAULT


def _may_be_unset(cls: type[Any], name: str) -> bool:
    """Whether a field may be UNSET. msgspec reports this only for fields with a default."""
    try:
        hint = get_type_hints(cls).get(name)
    except NameError:  # msgspec has found the name, because it searches more namespaces
        return True
    return msgspec.UnsetType in get_args(hint)


def _unknown_class(schema: Schema) -> str | None:
    """Return the name of the class for which neither msgspec nor an annotation has a schema."""
    described = schema.keys() - {UNKNOWN_CLASS, "description", "title", "examples", "deprecated"}
    return None if described else schema.get(UNKNOWN_CLASS)


def _unknown(root: Schema, definitions: dict[str, Schema]) -> list[str]:
    """Return a note for each class without a schema in a type."""
    schemas = [root, *(definitions[key] for key in reachable([root], definitions))]
    names = filter(None, map(_unknown_class, objects(schemas)))
    return [f"{name} has no JSON Schema" for name in dict.fromkeys(names)]


def _without_marks(schema: Schema) -> Schema:
    """Return a schema in which a class without a schema has a comment that says so."""

    def change(each: Schema, key: str) -> Schema:
        if (name := _unknown_class(each)) is not None:
            each["$comment"] = f"{name} has no JSON Schema"
        each.pop(UNKNOWN_CLASS, None)
        each.pop(ANYTHING, None)
        return each

    made: Schema = rebuilt(schema, change)
    return made
