"""Decisions about the classes of a Python module that is generated from a description.

The decisions are made before any text is generated: which definitions become one class, what kind of class each
definition becomes, and which field distinguishes the members of a union.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from .._schema.definitions import MEMBER_NAMES, PREFIX, Schema, objects, refs_in, renamed
from ._name_table import NameTable
from ._python_text import IMPORTS, class_name, is_plain, member_name

ClassKind = Literal["struct", "array", "enum", "alias"]
"""The kind of class for a definition: ``"array"`` is a Struct that is encoded as an array, ``"alias"`` names a type."""

_NOTES = frozenset({"title", "description", "default", "examples", "deprecated"})
"""Keywords that do not restrict values."""
_FIELD_NAME = re.compile(r'[^\\"\x00-\x1f]*')
"""Names of fields that msgspec encodes correctly, because it does not escape names."""


class Tag(NamedTuple):
    """The field that distinguishes the classes of a union, and the value of the field in one class."""

    field: str
    value: str | int


# ---------------------------------------------------------------- one class for both forms


def merged(definitions: Mapping[str, Schema]) -> dict[str, str]:
    """Return each definition that becomes the class of another definition: ``{"CupInput": "Cup"}``.

    A returned ``Cup`` has all its properties, and a sent ``CupInput`` may lack the properties with defaults. The two
    become one class if they have the same properties, of the same types. Two enumerations also become one class if they
    have the same title and the same values: msgspec has described one of them, and pydantic the other.
    """
    same = _enumerations(definitions)
    definitions = {name: renamed(schema, same) for name, schema in definitions.items()}
    return {**same, **_forms(definitions)}


def _enumerations(definitions: Mapping[str, Schema]) -> dict[str, str]:
    first: dict[tuple[str, tuple[Any, ...]], str] = {}
    same: dict[str, str] = {}
    for name, schema in definitions.items():
        if (values := schema.get("enum")) and "title" in schema and is_enumeration(values):
            known = first.setdefault((schema["title"], tuple(sorted(values))), name)
            if known != name:
                same[name] = known
    return same


def _forms(definitions: Mapping[str, Schema]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for name in definitions:
        if found := re.fullmatch(r"(.+)Input(_\d+)?", name, re.DOTALL):
            wanted = [f"{found[1]}{found[2] or ''}", found[1]]
            given = next((each for each in wanted if each in definitions and each not in pairs.values()), None)
            if given is not None:
                pairs[name] = given
    users: dict[str, list[str]] = {name: [] for name in pairs}
    for name in pairs:
        for ref in set(refs_in(definitions[name])):
            if ref in users:
                users[ref].append(name)
    todo = list(pairs)
    while todo:  # if two classes differ, all classes that have them as fields differ, too
        name = todo.pop()
        if name in pairs and not _are_forms(renamed(definitions[name], pairs), definitions[pairs[name]]):
            del pairs[name]
            todo.extend(users[name])
    return pairs


def _are_forms(sent: Schema, given: Schema) -> bool:
    """Whether two schemas are the two forms of one class."""
    if {**sent, **_NO_FIELDS} != {**given, **_NO_FIELDS}:
        return False
    if (sent.get("properties") is None) != (given.get("properties") is None):
        return False
    properties, others = sent.get("properties", {}), given.get("properties", {})
    computed = computed_fields(sent, given)
    if properties.keys() != others.keys() - computed or (computed and sent.get("additionalProperties") is False):
        return False
    items, other_items = sent.get("prefixItems", ()), given.get("prefixItems", ())
    return len(items) == len(other_items) and all(
        _covers(one, other)
        for one, other in (
            *((properties[key], others[key]) for key in properties),
            *zip(items, other_items, strict=True),
        )
    )


def computed_fields(sent: Schema, given: Schema) -> dict[str, Any]:
    """Return the fields that only returned values have, because the server computes them (with pydantic)."""
    known, fields = sent.get("properties", {}), given.get("properties", {})
    new = {name: each for name, each in fields.items() if name not in known and each.__class__ is dict}
    return {name: each for name, each in new.items() if each.get("readOnly") is True}


_NO_FIELDS: Schema = dict.fromkeys(("properties", "prefixItems", "required", "minItems"))


def _covers(sent: Any, given: Any) -> bool:
    """Whether each returned value also fits the type of sent values."""
    if sent == given:
        return True
    if sent.__class__ is not dict or given.__class__ is not dict:
        return False
    members = [_without_notes(each) for each in sent.get("anyOf", (sent,))]
    return all(_without_notes(each) in members for each in given.get("anyOf", (given,)))


def _without_notes(schema: Any) -> Any:
    if schema.__class__ is not dict:
        return schema
    return {key: value for key, value in schema.items() if key not in _NOTES}


# ---------------------------------------------------------------- kinds and tags


class Plan:
    """The kind of class for each definition, and the tags of unions."""

    def __init__(self, definitions: Mapping[str, Schema], types: Iterable[Any], names: NameTable) -> None:
        """
        Args:
            types: the schemas of parameters and results.
            names: the names in use in the module.
        """
        self.definitions = definitions
        self.kinds: dict[str, ClassKind] = {name: _kind(schema) for name, schema in definitions.items()}
        self.names = {name: names.unique(class_name(name, "Model")) for name in definitions}
        """The name of each definition in Python."""
        self.reserved = frozenset({*IMPORTS, "deprecated", *self.names.values()})
        """Names that fields cannot have."""
        self.enumerations: dict[str, dict[Any, str]] = {
            name: _members_of(self.names[name], schema["enum"], schema.get(MEMBER_NAMES, ()))
            for name, schema in definitions.items()
            if self.kinds[name] == "enum"
        }
        """The values of each enumeration, with its members, such as ``Colour.RED``."""
        self.tags: dict[str, Tag] = {}
        """Tags of Structs, by definition."""
        for members, field in self._unions((*types, *definitions.values())):
            for kind in ("struct", "array"):
                self._assign_tags([name for name in members if self.kinds[name] == kind], field)
        for name in definitions:
            if self.kinds[name] == "struct" and name not in self.tags:
                self._tag_alone(name)

    def members(self, schemas: Iterable[Any]) -> list[str]:
        """Return the classes in a union, including the classes in members that are unions or aliases."""
        found: dict[str, None] = {}
        seen: set[str] = set()
        todo = list(reversed(list(schemas)))
        while todo:
            each = todo.pop()
            if each.__class__ is not dict:
                continue
            if "$ref" in each:
                name = each["$ref"].removeprefix(PREFIX)
                if self.kinds[name] != "alias":
                    found[name] = None
                elif name not in seen:
                    seen.add(name)
                    todo.append(self.definitions[name])
            else:
                todo.extend(reversed(_members(each)))
        return list(found)

    def is_tagged(self, names: Sequence[str]) -> bool:
        """Whether tags distinguish these classes."""
        tags = [self.tags[name] for name in names if name in self.tags]
        return len(tags) == len(names) and _are_distinct(tags)

    def _unions(self, schemas: Iterable[Any]) -> Iterator[tuple[list[str], str | None]]:
        """Yield the classes of each union, and the field that distinguishes them according to the schema."""
        for schema in schemas:
            for part in objects(schema):
                if members := _members(part):
                    yield self.members(members), part.get("discriminator", {}).get("propertyName")

    def _assign_tags(self, names: Sequence[str], preferred: str | None) -> None:
        """Give each of these classes a tag, if they have a field that distinguishes them."""
        if len(names) < 2 or self.is_tagged(names):
            return
        values = [_single_values(self.definitions[name]) for name in names]
        common = [field for field in values[0] if all(field in each for each in values)]
        for field in sorted(common, key=lambda field: field != preferred):
            tags = [Tag(field, each[field]) for each in values]
            if _are_distinct(tags) and all(
                self.tags.get(name, tag) == tag for name, tag in zip(names, tags, strict=True)
            ):
                self.tags.update(zip(names, tags, strict=True))
                return

    def _tag_alone(self, name: str) -> None:
        """Give a class a tag if it most likely has a tag on the server. Users then need not pass the tag."""
        schema = self.definitions[name]
        first: str = next(iter(schema["properties"]), "")
        if first in schema.get("required", ()) and (value := _single_values(schema).get(first)) is not None:
            self.tags[name] = Tag(first, value)


def _are_distinct(tags: Sequence[Tag]) -> bool:
    """Whether msgspec can distinguish classes with these tags."""
    fields, types, values = (
        {*each} for each in zip(*((tag.field, type(tag.value), tag.value) for tag in tags), strict=True)
    )
    return len(fields) == len(types) == 1 and len(values) == len(tags)


def _members(schema: Schema) -> list[Any]:
    """Return the members of a union. An empty list for any other schema."""
    return list(schema.get("anyOf") or schema.get("oneOf") or ())


def _kind(schema: Any) -> ClassKind:
    if schema.__class__ is not dict or "$ref" in schema or _members(schema) or "allOf" in schema:
        return "alias"
    values = schema.get("enum")
    if values:
        return "enum" if is_enumeration(values) else "alias"
    kind = schema.get("type", "object" if "properties" in schema else "")
    if kind == "object" and "properties" in schema and all(map(_FIELD_NAME.fullmatch, schema["properties"])):
        return "struct"
    return "array" if kind == "array" and schema.get("prefixItems") else "alias"


def is_enumeration(values: Sequence[Any]) -> bool:
    """Whether msgspec accepts an Enum with these values."""
    classes = {value.__class__ for value in values}
    return classes == {str} or (classes == {int} and all(-(2**63) <= value < 2**63 for value in values))


def _members_of(enumeration: str, values: Sequence[Any], called: Sequence[str]) -> dict[Any, str]:
    """Return the name of each member by its value: the name on the server if known, else a name like the value."""
    table = NameTable(("mro", "name", "value"))
    known = dict(zip(values, called, strict=False))
    names: dict[Any, str] = {}
    for value in dict.fromkeys(values):
        name = known.get(value, "")
        names[value] = f"{enumeration}.{table.unique(name if is_plain(name) else member_name(value))}"
    return names


def _single_values(schema: Schema) -> dict[str, str | int]:
    """Return the required fields that have only one possible value, with this value."""
    if "prefixItems" in schema:
        return _single({"": schema["prefixItems"][0]}, [""])
    return _single(schema.get("properties", {}), schema.get("required", ()))


def _single(properties: Mapping[str, Any], required: Iterable[str]) -> dict[str, str | int]:
    always = set(required)
    found: dict[str, str | int] = {}
    for field, schema in properties.items():
        if schema.__class__ is not dict:
            continue
        values = [schema["const"]] if "const" in schema else schema.get("enum", ())
        if len(values) != 1 or not is_enumeration(values):
            continue
        if (field in always or schema.get("default") == values[0]) and _FIELD_NAME.fullmatch(str(values[0])):
            found[field] = values[0]
    return found
