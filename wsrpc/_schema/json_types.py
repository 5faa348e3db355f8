"""JSON Schemas of Python types, in two forms: as a value may be sent, and as it comes back.

They differ where fields have defaults: whoever sends may leave those out, and what comes back has them. msgspec knows
the first form, so the second is made of it here; pydantic knows both for its models.
"""

from __future__ import annotations

import enum
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect as mi

from .._conversion.convert import nodes_of, type_name
from .._conversion.validation import PART, Checked, wire_type
from .definitions import PREFIX, Form, Schema, named, reachable, renamed
from .models import Models, describe_models, models_in

__all__ = ["Schemas", "schemas_of"]

UNKNOWN = "x-unknown"
"""Marks a class without a schema, until it is known whether an annotation gives one."""


class Schemas(NamedTuple):
    """One for each type that was asked about, in order, and the definitions that they refer to."""

    sent: list[Schema]
    given: list[Schema]
    definitions: dict[str, Schema]
    notes: list[list[str]]
    """For each of ``sent`` and then of ``given``: what there is no schema for, and why."""


def schemas_of(sent: Sequence[Any], given: Sequence[Any], *, hooked: bool) -> Schemas:
    """The schemas of types. One that cannot be described is ``{}``, anything, and has a note; nothing is raised.

    ``hooked``: whether there is a ``dec_hook`` that may take the classes that neither msgspec nor pydantic knows.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydantic, about defaults that no schema can show
        return _schemas_of(sent, given, hooked)


def _schemas_of(sent: Sequence[Any], given: Sequence[Any], hooked: bool) -> Schemas:
    types = [*sent, *given]
    keys = [_key(tp) for tp in types]
    good: dict[Any, Any] = {}
    failures: dict[Any, str] = {}
    for key, tp in dict(zip(keys, types, strict=True)).items():  # handlers have many in common
        try:
            good[key] = _describable(tp, hooked)
        except Exception as exc:  # a default that cannot be encoded, an Enum of values that cannot be sorted, ...
            failures[key] = f"{type_name(tp)} has no JSON Schema: {exc}"
    for cls in [cls for tp in good.values() for cls in models_in(tp) if isinstance(cls, Checked)]:
        good.update((_PartKey(key), part) for key, part in cls.parts.items())
    models = describe_models(good.values())
    # All types in both forms, so that a class is called the same in both; what is not referred to is dropped.
    as_sent, definitions_sent = _components(good.values(), "sent", models)
    as_given, definitions_given = _components(good.values(), "given", models)
    definitions = {**models.definitions, **definitions_sent, **definitions_given}
    sent_by = dict(zip(good, as_sent, strict=True))
    given_by = dict(zip(good, as_given, strict=True))
    definitions = {
        key: _with_parts(schema, given_by if key.startswith("given:") else sent_by)
        for key, schema in definitions.items()
    }
    roots = [_with_parts(sent_by.get(key, {}), sent_by) for key in keys[: len(sent)]]
    roots += [_with_parts(given_by.get(key, {}), given_by) for key in keys[len(sent) :]]
    used = reachable(roots, definitions)
    names = named({key: definitions[key] for key in used})
    roots = [renamed(root, names) for root in roots]
    definitions = {names[key]: renamed(definitions[key], names) for key in used}
    notes = [
        [failures[key]] if key in failures else [f"{name} has no JSON Schema" for name in _unknown(root, definitions)]
        for root, key in zip(roots, keys, strict=True)
    ]
    return Schemas(roots[: len(sent)], roots[len(sent) :], dict(sorted(definitions.items())), notes)


def _key(tp: Any) -> Any:
    try:
        hash(tp)
    except TypeError:  # Annotated[int, []], say
        return id(tp)
    return tp


class _PartKey(NamedTuple):
    """A part of a type that pydantic validates, which msgspec describes."""

    key: str


def _with_parts(schema: Any, described: Mapping[Any, Schema]) -> Any:
    """A schema with those of its parts that msgspec describes."""
    if schema.__class__ is list:
        return [_with_parts(item, described) for item in schema]
    if schema.__class__ is not dict:
        return schema
    if PART in schema:
        others = {key: value for key, value in schema.items() if key != PART}
        return {**described[_PartKey(schema[PART])], **others}
    return {key: _with_parts(value, described) for key, value in schema.items()}


# ---------------------------------------------------------------- msgspec


def _describable(tp: Any, hooked: bool) -> Any:
    """The type that msgspec converts to in place of ``tp``. Raises an exception if it has no schema."""
    wire = tp
    if tp is not Any and tp is not object:
        wire = wire_type(tp, lambda part: lambda value: value, hooked=hooked, lax=False)
    msgspec.json.schema_components([wire], schema_hook=lambda cls: {UNKNOWN: ""})
    describe_models([wire])
    return wire


def _components(types: Collection[Any], form: Form, models: Models) -> tuple[list[Schema], dict[str, Schema]]:
    def hook(cls: type[Any]) -> Schema:
        if cls is object:
            return {}
        return models.schemas.get((cls, form), {UNKNOWN: type_name(cls)})

    infos = [{node.cls: node for node in nodes_of(mi.type_info(tp)) if isinstance(node, _CLASSES)} for tp in types]
    called = _class_names(cls for classes in infos for cls in classes)
    schemas: list[Schema] = []
    found: dict[str, Schema] = {}
    # One type at a time, and the classes in it beside it, which tells what msgspec calls them: of many types at once
    # it takes two classes of one name in one module for the same.
    for tp, classes in zip(types, infos, strict=True):
        (schema, *refs), components = msgspec.json.schema_components([tp, *classes], schema_hook=hook)
        keys = {
            ref["$ref"].removeprefix(PREFIX): f"{form}:msgspec:{called[cls]}"
            for ref, cls in zip(refs, classes, strict=True)
        }
        schemas.append(_marked(renamed(schema, keys)))
        for ref, info in zip(refs, classes.values(), strict=True):
            name = ref["$ref"].removeprefix(PREFIX)
            found[keys[name]] = component = _marked(renamed(components[name], keys))
            if isinstance(info, mi.EnumType) and issubclass(info.cls, enum.Flag):
                # msgspec names the single flags only, but takes and gives their sums, too.
                component.pop("enum", None)
                component["type"] = "integer"
            if form == "given" and not isinstance(info, mi.EnumType):
                _complete(component, info)
    return schemas, found


_CLASSES = (mi.StructType, mi.DataclassType, mi.TypedDictType, mi.NamedTupleType, mi.EnumType)


def _class_names(classes: Iterable[Any]) -> dict[Any, str]:
    """What each class is called: by its name; those that share it, with their module; else they are numbered."""

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
        free, number = name, 2
        while free in names.values():
            free, number = f"{name}_{number}", number + 1
        names[cls] = free
    return names


def _complete(schema: Schema, info: Any) -> None:
    """Make of what may be sent what comes back: fields with defaults are there."""
    always = [field.encode_name for field in info.fields if _always_there(field, info)]
    if schema["type"] == "array":
        schema["minItems"] = len(schema["prefixItems"])
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
    # Into a converted dataclass msgspec does not write simple defaults, and so does not find them when it encodes.
    plain = hasattr(cls, "__dataclass_fields__") and cls.__dictoffset__ != 0
    return not plain or field.default is msgspec.NODEFAULT


def _may_be_unset(cls: type[Any], name: str) -> bool:
    """msgspec itself does not tell, of fields without default."""
    try:
        hint = get_type_hints(cls).get(name)
    except NameError:  # msgspec looks up names in more places
        return True
    return msgspec.UnsetType in get_args(hint)


def _marked(schema: Any) -> Any:
    """The same, with each class that has no schema marked by a comment; where an annotation gives one, without."""
    if schema.__class__ is list:
        return [_marked(item) for item in schema]
    if schema.__class__ is not dict:
        return schema
    marked = {key: _marked(value) for key, value in schema.items()}
    name = marked.pop(UNKNOWN, None)
    if name is not None and not marked.keys() - {"description", "title", "examples", "deprecated"}:
        marked["$comment"] = f"{name} has no JSON Schema"
    return marked


def _unknown(root: Schema, definitions: dict[str, Schema]) -> list[str]:
    """The classes without a schema that a type holds."""
    found: dict[str, None] = {}

    def look(schema: Any) -> None:
        if schema.__class__ is list:
            for item in schema:
                look(item)
        elif schema.__class__ is dict:
            inner = schema
            if isinstance(comment := inner.get("$comment"), str) and comment.endswith(" has no JSON Schema"):
                found[comment.removesuffix(" has no JSON Schema")] = None
            for value in inner.values():
                look(value)

    look(root)
    for key in reachable([root], definitions):
        look(definitions[key])
    return list(found)
